"""The tables of a settings file: which there are, what each may hold, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ..auth.token import AccessToken
from ..channels.channel import Channel
from ..channels.health.rules import HealthRules
from ..state import OnFailure
from . import kinds
from .kinds import Kind

Rows = Mapping[str, Kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How `llm-gateway serve` listens; a change needs a restart.

    `trusted_proxies` are addresses and networks whose X-Forwarded-For is believed. `log_dir` gets
    a `gateway.log`. `max_body_mb` is counted after inflating, `shutdown_timeout` is seconds that
    streams under way may take to end. `root_path` is a prefix that a proxy in front takes off.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    cors_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    log_dir: str | None = None
    log_level: str = "info"
    max_body_mb: float = 32
    shutdown_timeout: float = 30
    root_path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSettings:
    """Who may call. `check_mapped_models`: a token's models are checked once more, as the
    provider will see them, after alias and mapping. `bypass` are endpoints ("files") that a token
    with a list of models may use although it cannot be seen which model they use."""

    anonymous: bool = False
    check_mapped_models: bool = True
    bypass: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverSettings:
    """How far a call that fails goes on: the fields of `Failover`, with the waits between two
    tries of one channel written out."""

    max_attempts: int = 4
    time_budget: float | None = 300.0
    first_wait: float = 0.5
    wait_factor: float = 2.0
    longest_wait: float = 8.0
    retry_after_max: float = 600.0
    retry_budget: float = 0.1
    fallback_models: Mapping[str, Sequence[str]] = field(default_factory=dict)
    context_fallbacks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    content_fallbacks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    errors: str = "default"
    strategy: str = "weighted"
    affinity: tuple[str, ...] = ()
    stream_recovery: str = "error"
    keep_alive: float | None = None
    hedge: bool = False
    tell: bool = True
    test_every: float | None = None
    test_all: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSettings:
    """Where what several processes share is kept: `memory://`, `redis://…`, `rediss://…`,
    `redis+cluster://…` or `redis+sentinel://…`. `timeout` is for how many seconds it is waited
    for. `on_failure` is what happens to calls while it is away: "open" goes on with the settings'
    keys without limits, "closed" refuses them."""

    store: str = field(default="memory://", repr=False)
    timeout: float = 1.0
    on_failure: OnFailure = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysSettings:
    """How keys are looked after: every `sweep` seconds (None: never) each is asked whether it is
    still good, `concurrency` at a time. `state_file` keeps access tokens, and refresh tokens that
    rotate, over a restart where there is no shared store."""

    sweep: float | None = 60.0
    concurrency: int = 4
    state_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CryptoSettings:
    """`keys` (32 bytes each, base64) seal the secrets in a store: the first seals, all open."""

    keys: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSettings:
    """What holds for every channel that does not say otherwise; `proxy = ""` in a channel is none.

    `timeouts` are taken one by one: a channel may replace a single one of them.
    """

    timeouts: Mapping[str, Any] = field(default_factory=dict)
    proxy: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything `llm-gateway serve` and `Gateway.from_settings` act on."""

    server: ServerSettings = ServerSettings()
    auth: AuthSettings = AuthSettings()
    failover: FailoverSettings = FailoverSettings()
    health: Mapping[str, Any] = field(default_factory=dict)
    """Numbers of the breaker that differ from the preset's (channels/health/rules.py)."""
    error_rules: tuple[Mapping[str, Any], ...] = ()
    """What single errors mean, above the preset (channels/error_rows.py)."""
    state: StateSettings = StateSettings()
    keys: KeysSettings = KeysSettings()
    crypto: CryptoSettings = CryptoSettings()
    upstream: UpstreamSettings = field(default_factory=UpstreamSettings)
    channels: tuple[Channel, ...] = ()
    access_tokens: tuple[AccessToken, ...] = field(default=(), repr=False)
    aliases: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    default_models: Mapping[str, str] = field(default_factory=dict)
    source: str = "settings"
    """What errors call the place these came from: the file's name."""
    folder: str | None = None
    """Where that file is; None without one."""


TABLES: Final[Mapping[str, tuple[type[Any], Rows]]] = {
    "server": (
        ServerSettings,
        {
            "host": kinds.TEXT,
            "port": kinds.PORT,
            "workers": kinds.COUNT,
            "cors_origins": kinds.TEXTS,
            "trusted_proxies": kinds.TEXTS,
            "log_dir": kinds.TEXT,
            "log_level": kinds.LEVEL,
            "max_body_mb": kinds.ABOVE_0,
            "shutdown_timeout": kinds.SECONDS,
            "root_path": kinds.PATH,
        },
    ),
    "auth": (
        AuthSettings,
        {
            "anonymous": kinds.FLAG,
            "check_mapped_models": kinds.FLAG,
            "bypass": kinds.TEXTS,
        },
    ),
    "failover": (
        FailoverSettings,
        {
            "max_attempts": kinds.COUNT,
            "time_budget": kinds.DURATION,
            "first_wait": kinds.TIME,
            "wait_factor": kinds.ABOVE_0,
            "longest_wait": kinds.TIME,
            "retry_after_max": kinds.TIME,
            "retry_budget": kinds.SHARE,
            "fallback_models": kinds.LISTS,
            "context_fallbacks": kinds.LISTS,
            "content_fallbacks": kinds.LISTS,
            "errors": kinds.TEXT,
            "strategy": kinds.TEXT,
            "affinity": kinds.TEXTS,
            "stream_recovery": kinds.TEXT,
            "keep_alive": kinds.DURATION,
            "hedge": kinds.FLAG,
            "tell": kinds.FLAG,
            "test_every": kinds.DURATION,
            "test_all": kinds.FLAG,
        },
    ),
    "health": (
        HealthRules,
        {
            "failures": kinds.FROM_0,
            "window_calls": kinds.FROM_0,
            "window_seconds": kinds.TIME,
            "least_calls": kinds.FROM_0,
            "success_below": kinds.SHARE,
            "slow_call": kinds.TIME,
            "slow_above": kinds.SHARE,
            "first_open": kinds.TIME,
            "factor": kinds.ABOVE_0,
            "longest_open": kinds.TIME,
            "jitter": kinds.SHARE,
            "probe_lease": kinds.TIME,
            "calm": kinds.TIME,
            "longest_asked": kinds.TIME,
            "recovery": kinds.TEXT,
            "slow_test": kinds.TIME,
        },
    ),
    "state": (
        StateSettings,
        {
            "store": kinds.SECRET,
            "timeout": kinds.ABOVE_0,
            "on_failure": kinds.OPEN_OR_CLOSED,
        },
    ),
    "keys": (
        KeysSettings,
        {"sweep": kinds.DURATION, "concurrency": kinds.COUNT, "state_file": kinds.TEXT},
    ),
    "crypto": (CryptoSettings, {"keys": kinds.SECRETS}),
    "upstream": (UpstreamSettings, {"timeouts": kinds.LIMITS, "proxy": kinds.SECRET}),
}
"""Tables that stand once. Of [health] only what was written counts: the rest is the preset's."""

LISTS: Final[Mapping[str, Rows]] = {
    "channels": {
        "name": kinds.TEXT,
        "provider": kinds.TEXT,
        "base_url": kinds.TEXT,
        "keys": kinds.KEYS,
        "models": kinds.TEXTS,
        "model_mapping": kinds.NAMES,
        "priority": kinds.WHOLE,
        "weight": kinds.ABOVE_0,
        "groups": kinds.TEXTS,
        "timeouts": kinds.LIMITS,
        "choose_key": kinds.TEXT,
        "passthrough": kinds.FLAG,
        "paths": kinds.NAMES,
        "headers": kinds.HEADERS,
        "proxy": kinds.SECRET,
        "key_limits": kinds.TABLE,
        "credential": kinds.TEXT,
        "token_exchange": kinds.SECRETS_TABLE,
        "cost": kinds.NUMBER,
        "model_timeouts": kinds.LIMITS_BY_MODEL,
        "billing": kinds.TEXT,
        "billing_urls": kinds.NAMES,
        "test_model": kinds.TEXT,
        "enabled": kinds.FLAG,
    },
    "access_tokens": {
        "name": kinds.TEXT,
        "token": kinds.SECRET,
        "sha256": kinds.SECRET,
        "user": kinds.TEXT,
        "group": kinds.TEXT,
        "groups": kinds.TEXTS,
        "models": kinds.TEXTS,
        "channels": kinds.TEXTS,
        "ips": kinds.TEXTS,
        "expires": kinds.MOMENT,
        "enabled": kinds.FLAG,
        "pin": kinds.FLAG,
        "previous": kinds.SECRET,
        "previous_until": kinds.MOMENT,
    },
    "error_rules": {
        "name": kinds.TEXT,
        "status": kinds.STATUSES,
        "kind": kinds.ONE_OR_MORE,
        "code": kinds.ONE_OR_MORE,
        "type": kinds.ONE_OR_MORE,
        "message": kinds.ONE_OR_MORE,
        "here": kinds.FLAG,
        "elsewhere": kinds.FLAG,
        "health": kinds.TEXT,
        "scope": kinds.TEXT,
        "billable": kinds.FLAG,
        "fallback": kinds.TEXT,
        "cooldown": kinds.TIME,
    },
}
"""Tables that stand any number of times: `[[channels]]`."""

MAPS: Final[Mapping[str, Kind]] = {
    "aliases": kinds.ALIASES,
    "default_models": kinds.NAMES,
}
"""Tables whose keys are the operator's own names."""
