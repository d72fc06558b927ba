"""The access token: what the gateway knows about a caller's secret, which is never the secret."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256 as _sha256
from hmac import compare_digest
from typing import Any, Required, TypedDict, Unpack

from ..errors import ConfigurationError
from ..exchange.caller import Caller
from .client_ip import Address, Network, contains, parse_networks
from .credential import MAX_BYTES

Moment = datetime | float
"""A datetime with a time zone, or seconds since 1970 (UTC)."""

MIN_LENGTH = 3
"""Of a secret somebody wrote by hand; `new_token` makes ones of 256 random bits."""

_FAR = 1e11  # seconds: the year 5138; more than that was meant as milliseconds
_HASH = re.compile(r"[0-9a-f]{64}")
_OF_NOTHING = _sha256(b"").hexdigest()


class TokenFields(TypedDict, total=False):
    """What an access token has beside its secret; see `AccessToken`."""

    name: Required[str]
    user: str | None
    group: str
    groups: Sequence[str] | None
    expires: Moment | None
    enabled: bool
    models: Sequence[str] | None
    channels: Sequence[str] | None
    ips: Sequence[str | Network] | None
    previous: str | None
    previous_until: Moment | None
    pin: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessToken:
    """One access token, its secret known only by its SHA-256.

        AccessToken.of("sk-alice", name="alice", models=["gpt-*"], ips=["10.0.0.0/8"])

    `models` are globs of what the caller may ask for, `channels` the names of the channels it is
    bound to, `ips` the addresses and CIDR blocks it may call from; None allows all. Channels are
    looked for in `group`, or in several `groups` in order. With `pin` the caller may name the one
    channel to use by adding it to the secret (`sk-alice-main`), whatever groups that one serves.
    While a secret is being replaced, the one before it (`previous`, its SHA-256) is good until
    `previous_until`; `rotated` sets both. Raises ConfigurationError, naming token and field, for
    what cannot work.
    """

    name: str
    sha256: str = field(repr=False)
    user: str | None = None
    group: str = "default"
    groups: Sequence[str] | None = None
    expires: Moment | None = None
    enabled: bool = True
    models: Sequence[str] | None = None
    channels: Sequence[str] | None = None
    ips: Sequence[str | Network] | None = None
    previous: str | None = field(default=None, repr=False)
    previous_until: Moment | None = None
    pin: bool = False
    networks: tuple[Network, ...] | None = field(init=False, repr=False, compare=False)
    """`ips`, parsed."""
    _caller: Caller | None = field(init=False, repr=False, compare=False)
    _expires: float = field(init=False, repr=False, compare=False)
    _previous_until: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        where = f"access token {self.name!r}"
        _text(self.name, f"{where}: name")
        _text(self.group, f"{where}: group")
        if self.user is not None:
            _text(self.user, f"{where}: user")
        for what in ("enabled", "pin"):
            if not isinstance(getattr(self, what), bool):
                raise ConfigurationError(f"{where}: {what} is true or false")
        if (self.previous is None) != (self.previous_until is None):
            raise ConfigurationError(
                f"{where}: previous and previous_until come together: a replaced secret is good "
                "until a date"
            )
        put = object.__setattr__
        put(self, "sha256", _hash(self.sha256, f"{where}: sha256"))
        if self.previous is not None:
            put(self, "previous", _hash(self.previous, f"{where}: previous"))
        put(self, "groups", _groups(self.group, self.groups, where))
        put(self, "group", self.groups[0] if self.groups else self.group)
        put(self, "models", _names(self.models, f"{where}: models"))
        put(self, "channels", _names(self.channels, f"{where}: channels"))
        put(self, "networks", _networks(self.ips, f"{where}: ips"))
        put(self, "_expires", _seconds(self.expires, f"{where}: expires"))
        put(self, "_previous_until", _seconds(self.previous_until, f"{where}: previous_until"))
        put(self, "_caller", None)

    @property
    def caller(self) -> Caller:
        """What every part sees of the owner of this token; one object for all its calls.

        Made by the first: of many thousand tokens few call, and the garbage collector looks at
        every object there is.
        """
        caller = self._caller
        if caller is None:
            caller = self._as_caller()
            object.__setattr__(self, "_caller", caller)
        return caller

    @classmethod
    def of(cls, secret: str, **fields: Unpack[TokenFields]) -> AccessToken:
        """An access token by its secret, of which only the hash is kept."""
        return cls(sha256=hash_of(secret, where=f"access token {fields.get('name')!r}"), **fields)

    @classmethod
    def from_mapping(cls, secret: str | None, mapping: Mapping[str, Any]) -> AccessToken:
        """An access token as settings and `access_tokens=` write it.

            AccessToken.from_mapping("sk-alice", {"name": "alice"})
            AccessToken.from_mapping(None, {"name": "bob", "sha256": "9f86d0…"})

        `secret` may also be `sha256:` and the hash; without it the mapping has `token` (the secret
        itself, `env:` and `file:` resolved) or `sha256`. Raises ConfigurationError naming the
        field that is unknown, missing or wrong.
        """
        fields = dict(mapping)
        where = f"access token {fields.get('name')!r}"
        if "name" not in fields:
            raise ConfigurationError('an access token has no name; add name = "…"')
        given = [key for key in ("token", "sha256") if key in fields]
        if secret is not None:
            if given:
                raise ConfigurationError(f"{where}: the secret is given twice; drop {given[0]}")
            prefix, _, digest = str(secret).partition(":")
            fields |= {"sha256": digest} if prefix == "sha256" else {"token": secret}
        elif len(given) != 1:
            fault = "has both token and sha256; drop one" if given else "needs token or sha256"
            raise ConfigurationError(f"{where} {fault}")
        if "token" in fields:
            fields["sha256"] = hash_of(fields.pop("token"), where=where)
        known = {"sha256", *TokenFields.__annotations__}
        if unknown := sorted(map(str, set(fields) - known)):
            raise ConfigurationError(
                f"{where}: there is no field {unknown[0]!r}; known are "
                f"{', '.join(sorted({*known, 'token'}))}"
            )
        return cls(**fields)

    def _as_caller(self) -> Caller:
        return Caller(
            name=self.name,
            token_id=self.sha256,
            user=self.user,
            group=self.group,
            models=None if self.models is None else tuple(self.models),
            channels=None if self.channels is None else tuple(self.channels),
            groups=tuple(self.groups or ()),
        )

    def is_good(self, now: float) -> bool:
        """Whether the token is switched on and has not expired at `now` (unix seconds)."""
        return self.enabled and now < self._expires

    def belongs_to(self, digest: str, now: float) -> bool:
        """Whether `digest` is the SHA-256 of the secret, or of the one before it in its grace."""
        if compare_digest(self.sha256, digest):
            return True
        return (
            self.previous is not None
            and now < self._previous_until
            and compare_digest(self.previous, digest)
        )

    def may_call_from(self, address: Address | None) -> bool:
        """Whether `ips` allows the address; one that is not known is allowed nowhere."""
        networks = self.networks
        return networks is None or (address is not None and contains(networks, address))

    def rotated(self, secret: str, *, until: Moment) -> AccessToken:
        """This token with a new secret; the present one stays good until then."""
        digest = hash_of(secret, where=f"access token {self.name!r}")
        return replace(self, sha256=digest, previous=self.sha256, previous_until=until)


def new_token(prefix: str = "sk-") -> str:
    """A new secret: the prefix and 256 random bits in URL-safe letters."""
    return prefix + secrets.token_urlsafe(32)


def hash_of(secret: object, *, where: str) -> str:
    """The SHA-256 of a secret in hex, as it is kept.

    Raises ConfigurationError, naming `where` and never the secret, for one that is too short or
    that no HTTP header can carry.
    """
    if not isinstance(secret, str) or len(secret) < MIN_LENGTH or len(secret) > MAX_BYTES:
        raise ConfigurationError(
            f"{where}: a token is a text of {MIN_LENGTH} to {MAX_BYTES} characters; make one with "
            "`llm-gateway token new`"
        )
    if secret.startswith(("env:", "file:")):
        raise ConfigurationError(
            f"{where}: {secret.partition(':')[0]}: is read in settings only; hand in the secret "
            "itself"
        )
    if not all("!" <= char <= "~" for char in secret):
        raise ConfigurationError(
            f"{where}: the token holds a space or a character that no HTTP header can carry"
        )
    return _sha256(secret.encode()).hexdigest()


def _text(value: object, what: str) -> None:
    if not isinstance(value, str) or not 0 < len(value) <= 200 or not value.isprintable():
        raise ConfigurationError(f"{what} is a text of 1 to 200 printable characters")


def _hash(value: object, what: str) -> str:
    if isinstance(value, str) and _HASH.fullmatch(value.lower()):
        if value.lower() == _OF_NOTHING:
            raise ConfigurationError(f"{what} is the hash of an empty text; hash a secret")
        return value.lower()
    raise ConfigurationError(f"{what} is the SHA-256 of the secret as 64 hexadecimal digits")


def _groups(group: str, groups: object, where: str) -> tuple[str, ...] | None:
    """The groups in order, each once; a group given beside them must be the first."""
    names = _names(groups, f"{where}: groups", without="give group alone, or nothing")
    if names is not None and group not in ("default", names[0]):
        raise ConfigurationError(f"{where}: group is the first of groups; give groups alone")
    return names and tuple(dict.fromkeys(names))


def _names(
    values: object, what: str, *, without: str = "leave it out to allow all"
) -> tuple[str, ...] | None:
    if values is None:
        return None
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigurationError(f"{what} is a list of names; put the name in [ ]")
    names = tuple(values)
    if not names:
        raise ConfigurationError(f"{what} is empty; {without}")
    for name in names:
        _text(name, f"{what}: {name!r}")
    return names


def _networks(values: Iterable[str | Network] | None, what: str) -> tuple[Network, ...] | None:
    if values is None:
        return None
    networks = parse_networks(values, where=what)
    if not networks:
        raise ConfigurationError(f"{what} is empty; leave it out to allow all")
    return networks


def _seconds(value: object, what: str) -> float:
    """Unix seconds; never ending for None."""
    if value is None:
        return float("inf")
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as exc:
            raise ConfigurationError(f"{what}: {value!r} is no date; {_AS_DATE}") from exc
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ConfigurationError(f"{what}: {value} has no time zone; {_AS_DATE}")
        return value.timestamp()
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _FAR:
        raise ConfigurationError(f"{what}: {value!r} is no date; {_AS_DATE}")
    return float(value)


_AS_DATE = "write it like 2030-12-31T23:59:59Z, or as seconds since 1970"
