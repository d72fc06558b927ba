"""A channel at work: its keys resolved, its provider looked up, its requests built."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import Headers
from ..exchange.caller import Caller, matches
from ..keys.key import Key
from ..keys.pool import KeyPool, MemoryKeyPool
from ..keys.sources import resolve_all
from ..providers.row import Provider, auth_headers
from ..providers.rows import provider as provider_row
from ..providers.urls import endpoint_url
from ..upstream.contract import Origin, Timeouts, Upstream
from .channel import Channel

_REMEMBERED = 1024
_KEYLESS = "no-key"
"""Stands for the one key of a provider that needs none."""


class LiveChannel:
    """What the relay asks of a channel. Building one reads `env:` and `file:` keys.

    Raises ConfigurationError for an unknown provider, a base URL that cannot be joined, or keys
    that cannot be read or sent.
    """

    def __init__(self, config: Channel, upstream: Upstream, environ: Mapping[str, str]) -> None:
        self.config = config
        self.name = config.name
        self.provider: Provider = provider_row(config.provider)
        self.upstream = upstream
        timeouts = config.timeouts
        self.timeouts = timeouts if isinstance(timeouts, Timeouts) else Timeouts(**timeouts)
        self.label = config.name.encode("ascii")
        self.pool = self._pool(environ)
        self._plain_models = frozenset(m for m in config.models if not _is_glob(m))
        self._globs = tuple(m for m in config.models if _is_glob(m))
        self._targets: dict[tuple[str, str], tuple[Origin, str]] = {}
        self._signed: dict[str, tuple[tuple[bytes, bytes], ...]] = {}
        self._fixed = (
            *self.provider.headers,
            *((k.lower().encode("ascii"), v.encode("latin-1")) for k, v in config.headers.items()),
        )
        for key in self.pool.all():
            self.sign(key)
        if self.provider.endpoints:
            self.target("/models", "model")

    def _pool(self, environ: Mapping[str, str]) -> KeyPool:
        config = self.config
        if not isinstance(config.keys, (list, tuple)):
            return config.keys  # type: ignore[return-value]  # a KeyPool of the user's own
        where = f"channel {config.name!r}"
        secrets = resolve_all(config.keys, environ, where=where)
        if not secrets and not self.provider.key_required:
            secrets = [_KEYLESS]
        elif not secrets:
            auth_headers(self.provider, None)
        return MemoryKeyPool(secrets, choose=config.choose_key)

    def serves(self, model: str) -> bool:
        """Whether callers may ask this channel for `model`."""
        return (
            model in self._plain_models
            or model in self.config.model_mapping
            or matches(model, self._globs)
        )

    def open_to(self, group: str, caller: Caller | None) -> bool:
        """Whether the caller's group and the channels its token is bound to allow this one."""
        if caller is not None and caller.channels is not None and self.name not in caller.channels:
            return False
        return group in self.config.groups

    def upstream_model(self, model: str) -> str:
        """The provider's name of a model."""
        return self.config.model_mapping.get(model, model)

    def listed(self) -> list[str]:
        """Model names for a listing: plain names and mapping keys, and for a glob the provider
        row's known models that match it."""
        known = [m for m in self.provider.models if matches(m, self._globs)]
        plain = [m for m in self.config.models if not _is_glob(m)]
        return list(dict.fromkeys([*plain, *self.config.model_mapping, *known]))

    def target(self, path: str, model: str) -> tuple[Origin, str]:
        """Where an endpoint of the API is at this provider; remembered."""
        found = self._targets.get((path, model))
        if found is None:
            found = self.url(path, model)
            if len(self._targets) >= _REMEMBERED:  # callers choose models: it must not stay full
                self._targets.clear()
            self._targets[(path, model)] = found
        return found

    def url(self, path: str, model: str) -> tuple[Origin, str]:
        """Where any path (percent-encoded, with its query) is at this provider."""
        config = self.config
        base = config.base_url
        if base is None and self.provider.quirks.in_process:
            base = "http://in-process"
        url = endpoint_url(self.provider, base, path, paths=config.paths, model=model)
        return Origin.split(url)

    def sign(self, key: Key) -> tuple[tuple[bytes, bytes], ...]:
        """The headers every call with this key carries."""
        found = self._signed.get(key.fingerprint)
        if found is None:
            if len(self._signed) >= _REMEMBERED:  # a pool may make a new key for every call
                self._signed.clear()
            secret = None if key.secret == _KEYLESS else key.secret
            signed: Headers = auth_headers(self.provider, secret)
            found = self._signed[key.fingerprint] = (*signed, *self._fixed)
        return found

    def adopt(self, old: LiveChannel) -> None:
        """After a reload: keys that were dead in the old channel stay dead in this one.

        Not so when it leads elsewhere now: a key sent to the wrong place was refused for that.
        """
        same = old.provider is self.provider and old.config.base_url == self.config.base_url
        if same and isinstance(self.pool, MemoryKeyPool) and isinstance(old.pool, MemoryKeyPool):
            self.pool.adopt(old.pool)


def _is_glob(name: str) -> bool:
    return any(char in name for char in "*?[")
