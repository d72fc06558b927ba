"""One configured way out."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from ..errors import ConfigurationError
from ..keys.choosing import CHOOSERS
from ..keys.limits import KeyLimits
from ..keys.pool import KeyPool
from ..upstream.contract import Timeouts, Upstream

_TIMEOUTS = Timeouts()
_KEY_LIMITS = KeyLimits()
CREDENTIALS = ("key", "refresh_token", "client_credentials", "exchange", "caller")
"""What a channel's keys may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A provider, its base URL, its keys and the models it serves.

        Channel(name="main", provider="openai", keys=["env:OPENAI_API_KEY"], models=["gpt-*"])

    keys are secrets, `env:NAME` or `file:PATH`, or a KeyPool of your own. `models` are globs of
    what callers may ask this channel for; `model_mapping` renames on the way out. Higher
    `priority` is asked first, `weight` is the share among equals, `groups` are the caller groups
    it serves. `passthrough` lets files and any other path through to it. `proxy` (a URL) and
    `upstream` (your own Upstream) replace the direct connection.

    `key_limits` hold for each key. `credential` says what a key is: `key` (the secret itself),
    `refresh_token` or `client_credentials` (exchanged at `token_exchange` for an access token), or
    `caller` (each caller's own bearer is its key; `keys` are none then). `cost` is any number to
    compare channels by, `model_timeouts` are limits for models that match a glob. `billing` names
    how a key's balance is asked for (keys/probes.py) or is an async callable, `billing_urls` where.
    `test_model` is what a scheduled test asks for. `enabled = False` takes the channel out by hand.

    Raises ConfigurationError for values that cannot work; nothing is read or opened before the
    gateway starts.
    """

    name: str
    provider: str = "custom"
    base_url: str | None = None
    keys: Sequence[str] | KeyPool = field(default=(), repr=False)
    models: Sequence[str] = ()
    model_mapping: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    weight: float = 1
    groups: Sequence[str] = ("default",)
    timeouts: Timeouts | Mapping[str, float | None] = _TIMEOUTS
    choose_key: str = "random"
    passthrough: bool = False
    paths: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    proxy: str | None = field(default=None, repr=False)
    upstream: Upstream | None = None
    key_limits: KeyLimits | Mapping[str, Any] = _KEY_LIMITS
    credential: str = "key"
    token_exchange: Any = field(default=None, repr=False)
    cost: float = 0.0
    model_timeouts: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    billing: str | Callable[..., Any] | None = None
    billing_urls: Mapping[str, str] = field(default_factory=dict)
    test_model: str | None = None
    enabled: bool = True

    def __post_init__(self) -> None:
        where = f"channel {self.name!r}"
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", self.name):
            raise ConfigurationError(
                f"{where}: a name is 1 to 64 letters, digits, dots, dashes or underscores"
            )
        for what in ("models", "groups", "keys"):
            if isinstance(getattr(self, what), str):
                raise ConfigurationError(f"{where}: {what} is a list; put the name in [ ]")
        if not 0 < self.weight < math.inf:
            raise ConfigurationError(f"{where}: weight must be above 0 and finite")
        if self.choose_key not in CHOOSERS:
            raise ConfigurationError(f"{where}: choose_key is one of {', '.join(sorted(CHOOSERS))}")
        if not (self.models or self.model_mapping or self.passthrough):
            raise ConfigurationError(f"{where}: models is empty; name what it serves, or ['*']")
        _check_headers(self.headers, where)
        _check_proxy(self.proxy, where)
        if isinstance(self.timeouts, Mapping):
            object.__setattr__(self, "timeouts", limits_of(self.timeouts, where))
        for glob, limits in self.model_timeouts.items():
            limits_of(limits, f"{where}: model_timeouts of {glob!r}")
        if isinstance(self.key_limits, Mapping):
            object.__setattr__(self, "key_limits", key_limits_of(self.key_limits, where))
        if not 0 <= self.cost < math.inf:
            raise ConfigurationError(f"{where}: cost must be a number from 0")
        if self.credential not in CREDENTIALS:
            known = ", ".join(CREDENTIALS)
            raise ConfigurationError(f"{where}: credential is one of {known}")
        if self.credential == "caller" and self.keys:
            raise ConfigurationError(f'{where}: credential = "caller" has no keys of its own')


_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_FRAMING = frozenset({"connection", "content-length", "host", "transfer-encoding"})


def _check_headers(headers: Mapping[str, str], where: str) -> None:
    """Refuse what RFC 9110 section 5 does not allow; a value may be a secret and is not shown."""
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or name.lower() in _FRAMING:
            raise ConfigurationError(f"{where}: {name!r} is no header you can set")
        if not _VALUE.fullmatch(value):
            raise ConfigurationError(f"{where}: no HTTP header can carry the value of {name!r}")


_PROXIES = ("http", "https", "socks5", "socks5h")


def _check_proxy(proxy: str | None, where: str) -> None:
    """Refuse what no proxy is reached by; its URL may hold a password and is not shown."""
    if proxy is None:
        return
    try:
        parts = urlsplit(proxy)
        good = parts.scheme in _PROXIES and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port or an address that is none
        good = False
    if not good:
        raise ConfigurationError(
            f"{where}: proxy is a URL like http://host:3128 or socks5://host:1080"
        )
    if parts.scheme.startswith("socks") and find_spec("socksio") is None:
        raise ConfigurationError(
            f"{where}: a SOCKS proxy needs a package more: pip install 'httpx[socks]'"
        )


def limits_of(given: Mapping[str, float | None], where: str) -> Timeouts:
    """Limits as settings write them; ConfigurationError, naming `where`, for one that is none."""
    unknown = set(given) - set(Timeouts.__slots__)
    if unknown:
        known = ", ".join(Timeouts.__slots__)
        raise ConfigurationError(f"{where}: timeouts has {sorted(unknown)[0]!r}; known are {known}")
    for name, value in given.items():
        good = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
        if value is not None and not good:
            raise ConfigurationError(f"{where}: timeouts.{name} must be above 0 seconds")
    return Timeouts(**given)


_WHOLE: tuple[str, tuple[type, ...]] = ("a whole number", (int,))
_LIMIT_KINDS: Mapping[str, tuple[str, tuple[type, ...]]] = {
    "time_zone": ("a text", (str,)),
    "wait": ("a number of seconds", (int, float)),
    "lease": ("a number of seconds", (int, float)),
}


def key_limits_of(given: Mapping[str, Any], where: str) -> KeyLimits:
    """Limits of a key as settings write them; ConfigurationError for one that is none."""
    known = [one.name for one in fields(KeyLimits) if one.init]
    for name, value in given.items():
        if name not in known:
            raise ConfigurationError(
                f"{where}: key_limits has {name!r}; known are {', '.join(known)}"
            )
        expected, kinds = _LIMIT_KINDS.get(name, _WHOLE)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise ConfigurationError(f"{where}: key_limits.{name} must be {expected}")
    try:
        return KeyLimits(**given)
    except ConfigurationError as problem:
        raise ConfigurationError(f"{where}: key_limits: {problem.message}") from problem
