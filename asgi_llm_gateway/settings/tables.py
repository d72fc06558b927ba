"""The tables of a settings file: which there are, what each may hold, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..auth.token import AccessToken
from ..channels.channel import Channel
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
    """How far a call that fails before its first event goes on."""

    max_attempts: int = 4


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
    upstream: UpstreamSettings = field(default_factory=UpstreamSettings)
    channels: tuple[Channel, ...] = ()
    access_tokens: tuple[AccessToken, ...] = field(default=(), repr=False)
    aliases: Mapping[str, str] = field(default_factory=dict)
    default_models: Mapping[str, str] = field(default_factory=dict)
    source: str = "settings"
    """What errors call the place these came from: the file's name."""


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
    "failover": (FailoverSettings, {"max_attempts": kinds.COUNT}),
    "upstream": (UpstreamSettings, {"timeouts": kinds.LIMITS, "proxy": kinds.SECRET}),
}
"""Tables that stand once."""

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
    },
    "access_tokens": {
        "name": kinds.TEXT,
        "token": kinds.SECRET,
        "sha256": kinds.SECRET,
        "user": kinds.TEXT,
        "group": kinds.TEXT,
        "models": kinds.TEXTS,
        "channels": kinds.TEXTS,
        "ips": kinds.TEXTS,
        "expires": kinds.MOMENT,
        "enabled": kinds.FLAG,
        "previous": kinds.SECRET,
        "previous_until": kinds.MOMENT,
    },
}
"""Tables that stand any number of times: `[[channels]]`."""

MAPS: Final[Mapping[str, Kind]] = {"aliases": kinds.NAMES, "default_models": kinds.NAMES}
"""Tables whose keys are the operator's own names."""
