"""A channel at work: its keys resolved, its provider looked up, its requests built."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace

from ..errors import ConfigurationError, Headers
from ..exchange.caller import matches
from ..keys.limits import KeyLimits
from ..keys.pool import KeyPool, ManagedPool, MemoryKeyPool
from ..providers.row import Provider, auth_headers
from ..providers.rows import provider as provider_row
from ..providers.urls import endpoint_url
from ..upstream.contract import Origin, Timeouts, Upstream
from .channel import Channel
from .mapping import chained, is_glob
from .retrying import RetryBudget
from .stats import ChannelStats
from .surroundings import KEYLESS, Surroundings

_REMEMBERED = 1024


class LiveChannel:
    """What the relay asks of a channel. Building one reads `env:` and `file:` keys.

    Raises ConfigurationError for an unknown provider, a base URL that cannot be joined, keys that
    cannot be read or sent, or a model mapping that goes in a circle.
    """

    retired = False
    """A reload took it away, or leads its name elsewhere: how its last calls end says nothing."""

    def __init__(self, config: Channel, upstream: Upstream, around: Surroundings) -> None:
        self.config = config
        self.name = config.name
        self.provider: Provider = provider_row(config.provider)
        self.upstream = upstream
        timeouts = config.timeouts
        self.timeouts = timeouts if isinstance(timeouts, Timeouts) else Timeouts(**timeouts)
        self._model_timeouts = tuple(
            (glob, replace(self.timeouts, **limits))
            for glob, limits in config.model_timeouts.items()
        )
        self.label = config.name.encode("ascii")
        self.pool: KeyPool = around.pool(config, self.provider)
        self.counts_tokens = not isinstance(self.pool, ManagedPool) or self.pool.limits.counted
        """The pool wants to know what each call used."""
        self.credentials = around.credentials(config, upstream)
        self.patience = config.key_limits.wait if isinstance(config.key_limits, KeyLimits) else 0.0
        """Seconds a call waits for a free key at most."""
        self.mapping = chained(config.model_mapping, f"channel {config.name!r}: model_mapping")
        self.plain_models = dict.fromkeys(
            [*(m for m in config.models if not is_glob(m)), *self.mapping]
        )
        """Names it serves as they stand: those of `models` that are no globs, then the mapped."""
        self.globs = tuple(m for m in config.models if is_glob(m))
        self.stats = ChannelStats()
        self.budget = RetryBudget(around.retry_budget)
        self._targets: dict[tuple[str, str], tuple[Origin, str]] = {}
        self._signed: dict[str, tuple[tuple[bytes, bytes], ...]] = {}
        self._fixed = (
            *self.provider.headers,
            *((k.lower().encode("ascii"), v.encode("latin-1")) for k, v in config.headers.items()),
        )
        if self.provider.key_required:
            for key in getattr(self.pool, "keys", ()):
                self.sign(key.secret)  # refuses at the start what no header can carry
        if self.provider.endpoints:
            self.target("/models", "model")

    @classmethod
    def built(cls, config: Channel, upstream: Upstream, around: Surroundings) -> LiveChannel:
        """One whose errors always name the channel."""
        try:
            return cls(config, upstream, around)
        except ConfigurationError as problem:
            where = f"channel {config.name!r}: "
            said = problem.message.removeprefix(where)
            raise ConfigurationError(where + said) from problem

    def serves(self, model: str) -> bool:
        """Whether callers may ask this channel for `model`."""
        return model in self.plain_models or matches(model, self.globs)

    def upstream_model(self, model: str) -> str:
        """The provider's name of a model: the end of its chain in the mapping."""
        return self.mapping.get(model, model)

    def listed(self) -> list[str]:
        """Model names for a listing: plain names and mapping keys, and for a glob the provider
        row's known models that match it."""
        known = [m for m in self.provider.models if matches(m, self.globs)]
        return list(dict.fromkeys([*self.plain_models, *known]))

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
        return Origin.split(self._joined(path, model))

    def _joined(self, path: str, model: str) -> str:
        config = self.config
        base = config.base_url
        if base is None and self.provider.quirks.in_process:
            base = "http://in-process"
        return endpoint_url(self.provider, base, path, paths=config.paths, model=model)

    def timeouts_for(self, model: str) -> Timeouts:
        """The limits of a try for a model, as callers name it."""
        if self._model_timeouts:
            for glob, limits in self._model_timeouts:
                if matches(model, (glob,)):
                    return limits
        return self.timeouts

    def sign(self, secret: str) -> tuple[tuple[bytes, bytes], ...]:
        """The headers every call with this secret carries; those of the channel's own keys are
        remembered, what keys are exchanged for and what callers bring is not."""
        found = self._signed.get(secret)
        if found is None:
            found = (*self._signature(secret), *self._fixed)
            if self.credentials is None and self.config.credential != "caller":
                if len(self._signed) >= _REMEMBERED:  # a pool may make a new key for every call
                    self._signed.clear()
                self._signed[secret] = found
        return found

    def _signature(self, secret: str) -> Headers:
        return auth_headers(self.provider, None if secret == KEYLESS else secret)

    async def open(self, stack: AsyncExitStack) -> None:
        """What is to be open while calls go here; closed with the stack."""
        resources = getattr(self.pool, "resources", None)
        if resources is not None:
            await stack.enter_async_context(resources)
        if self.credentials is not None:
            stack.push_async_callback(self.credentials.aclose)

    def goes_on(self, old: LiveChannel) -> bool:
        """Whether this is what became of the old channel by a reload: one of the same name that
        leads to the same place."""
        return (
            old.name == self.name
            and old.provider is self.provider
            and old.config.base_url == self.config.base_url
        )

    def adopt(self, old: LiveChannel) -> None:
        """After a reload: keys that were dead stay dead, what was measured stays, and tokens that
        were fetched are still good.

        Nothing from one that led elsewhere: a key sent to the wrong place was refused for that.
        """
        if not self.goes_on(old):
            return
        self.stats, self.budget = old.stats, old.budget  # calls under way end there
        if isinstance(self.pool, MemoryKeyPool) and isinstance(old.pool, MemoryKeyPool):
            self.pool.adopt(old.pool)
        mine, its = self.config, old.config
        exchanged = (mine.credential, mine.token_exchange) == (its.credential, its.token_exchange)
        if exchanged and self.upstream is old.upstream:
            self.credentials = old.credentials
