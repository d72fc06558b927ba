"""What a channel is built from beside its own values: where secrets are read and state is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ConfigurationError
from ..keys.key import Key
from ..keys.pool import KeyPool
from ..keys.pool_of import pool_of
from ..keys.sealing import Seal
from ..keys.sources import resolve_all
from ..providers.row import Provider, auth_headers
from ..state import State
from ..upstream.contract import Upstream
from .channel import Channel

if TYPE_CHECKING:
    from ..keys.credentials import Credentials, TokenExchange

KEYLESS = "no-key"
"""Stands for the one key of a provider that needs none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Given to every channel of a relay.

    `environ` is where `env:` keys are read, `state` what several processes share, `seal` what
    seals secrets in it, `state_file` what keeps tokens over a restart without it. `on_removed` is
    told of every key that is taken out, `retry_budget` is the share of a channel's recent calls
    that may be retries there.
    """

    environ: Mapping[str, str]
    state: State | None = None
    seal: Seal | None = None
    state_file: str | None = None
    on_removed: tuple[Callable[[Key, str], None], ...] = ()
    retry_budget: float = 0.1

    def pool(self, config: Channel, provider: Provider) -> KeyPool:
        """The channel's keys: a pool of the user's own, the callers' bearers, or its secrets."""
        if not isinstance(config.keys, (list, tuple)):
            return config.keys  # type: ignore[return-value]  # a KeyPool of the user's own
        where, limits = f"channel {config.name!r}", config.key_limits
        assert not isinstance(limits, Mapping)
        if config.credential == "caller":
            if limits.counted:
                raise ConfigurationError(
                    f"{where}: of key_limits only concurrency can hold for callers' own keys"
                )
            from ..keys.credentials import CallerKeys

            return CallerKeys(concurrency=limits.concurrency)
        secrets = resolve_all(config.keys, self.environ, where=where)
        if config.keys and not secrets:
            empty = ", ".join(key for key in config.keys if key.startswith("file:")) or "its keys"
            raise ConfigurationError(f"{where}: there is no key in {empty}; write one a line")
        if not secrets and provider.key_required:
            auth_headers(provider, None)  # says which key is missing
        secrets = secrets or [KEYLESS]
        pool = pool_of(
            config.name,
            secrets,
            choose=config.choose_key,
            limits=limits,
            state=self.state,
            seal=self.seal,
        )
        pool.on_removed.extend(self.on_removed)
        return pool

    def credentials(self, config: Channel, upstream: Upstream) -> Credentials | None:
        """What becomes of a key on the wire; None where it is the key itself."""
        given, where = config.token_exchange, f"channel {config.name!r}"
        if config.credential in ("key", "caller") and given is None:
            return None
        from ..keys.credentials import credentials_of, tokens_of
        from ..keys.credentials.choosing import exchange_of

        exchange: TokenExchange | None = given
        if isinstance(given, Mapping):
            exchange = exchange_of(given, where=f"{where}: token_exchange")
        callers = config.credential == "caller"
        store = tokens_of(self.state, self.state_file, seal=self.seal, callers=callers)
        return credentials_of(config.credential, exchange, upstream, store, where=where)
