"""What was exchanged, and where it is kept: the contract, and the store of one process."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from ...errors import ConfigurationError
from ..sealing import Seal

log = logging.getLogger("asgi_llm_gateway.keys")

KEPT = 400 * 86_400.0
"""Seconds a rotated refresh token is kept after its last use."""
LEASE = 30.0
"""Seconds after which the claim of a process that died is void."""
_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Grant:
    """What a key has been exchanged for; its repr shows no token. Times are unix seconds.

    `secret` is the access token, used until `renew_at` without a thought, and until `expires_at`
    while no other can be had. `refresh` is the refresh token to show next; None: the key itself.
    `terms` is what was asked for (TokenExchange.terms).
    """

    secret: str = field(repr=False)
    expires_at: float
    renew_at: float
    refresh: str | None = field(default=None, repr=False)
    terms: str = ""

    def kept_until(self, now: float, kept: float = KEPT) -> float:
        """How long a store keeps it: a refresh token outlives its access token by far."""
        return self.expires_at + _DAY if self.refresh is None else now + kept


@dataclass(frozen=True, slots=True)
class Found:
    """What a store has under a name. `serial` counts how often it was saved; `mine`: who asked
    now has the claim, and nobody else may exchange until it is freed or its lease is over."""

    grant: Grant | None = None
    serial: int = 0
    mine: bool = False


class TokenStore(Protocol):
    """Where grants are kept. Names are hashes. Raises StateUnavailable when it does not answer.

    A claim is a lease: it is freed by `save` and `free`, and void when its process died.
    """

    durable: bool
    """Whether it outlives the process: only then may refresh tokens rotate."""

    async def load(self, name: str) -> Found:
        """What is there."""
        ...

    async def claim(self, name: str, owner: str) -> Found:
        """What is there, and the claim if nobody else has it. Does not wait."""
        ...

    async def save(self, name: str, owner: str, grant: Grant, serial: int) -> bool:
        """Keep the grant and free the claim. False, and nothing is changed, when another one was
        saved since `serial` was read."""
        ...

    async def free(self, name: str, owner: str) -> None:
        """Give the claim up, if it is still the owner's."""
        ...


class MemoryTokens:
    """Grants of one process, the latest `most`. Loop-free: loops and threads may share it."""

    durable = False

    def __init__(
        self,
        *,
        most: int = 10_000,
        lease: float = LEASE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._lease = lease
        self._clock = clock
        self._grants: dict[str, tuple[Grant, int]] = {}
        self._claims: dict[str, tuple[str, float]] = {}

    async def load(self, name: str) -> Found:
        """What is there."""
        grant, serial = self._grants.get(name, (None, 0))
        return Found(grant, serial)

    async def claim(self, name: str, owner: str) -> Found:
        """What is there, and the claim if nobody else has it."""
        now = self._clock()
        held = self._claims.get(name)
        if held is not None and now >= held[1] and self._claims.get(name) is held:
            self._claims.pop(name, None)
        # setdefault is one step for every thread: of two that ask at once, one gets it.
        mine = self._claims.setdefault(name, (owner, now + self._lease))[0] == owner
        if mine:
            self._claims[name] = (owner, now + self._lease)
        grant, serial = self._grants.get(name, (None, 0))
        return Found(grant, serial, mine)

    async def save(self, name: str, owner: str, grant: Grant, serial: int) -> bool:
        """Keep the grant and free the claim."""
        await self.free(name, owner)
        if self._grants.get(name, (None, 0))[1] > serial:
            return False
        self._grants.pop(name, None)
        if len(self._grants) >= self._most:
            del self._grants[next(iter(self._grants))]
        self._grants[name] = (grant, serial + 1)
        return True

    async def free(self, name: str, owner: str) -> None:
        """Give the claim up, if it is still the owner's."""
        held = self._claims.get(name)
        if held is not None and held[0] == owner:
            del self._claims[name]


class _Kept(msgspec.Struct, frozen=True):
    """A grant as it is stored, with the name it belongs to."""

    name: str
    secret: str
    expires_at: float
    renew_at: float
    refresh: str | None = None
    terms: str = ""


_kept_of = msgspec.json.Decoder(_Kept).decode
_VERSION = b"1"
_ROTATED, _REPEATABLE = b"r", b"-"
_SEALED, _PLAIN = b"s", b"p"


def stored(name: str, grant: Grant, seal: Seal | None) -> bytes:
    """The bytes a grant is stored as: the version, whether it holds a refresh token that nothing
    else has, whether it is sealed, and the grant."""
    kept = _Kept(name, grant.secret, grant.expires_at, grant.renew_at, grant.refresh, grant.terms)
    payload = msgspec.json.encode(kept)
    kind = _REPEATABLE if grant.refresh is None else _ROTATED
    if seal is None:
        return _VERSION + kind + _PLAIN + payload
    return _VERSION + kind + _SEALED + seal.seal(payload, about=name.encode())


def restored(name: str, value: bytes, seal: Seal | None) -> Grant | None:
    """The grant of those bytes. One that cannot be read (sealed with another key, of another
    version) is a miss and logged; but where it holds the only copy of a refresh token that is a
    ConfigurationError, since going on without it would make the token host revoke the key. For that
    reason alone such a one is also taken unsealed where there is a seal: it was stored before."""
    try:
        kept = _opened(name, value, seal)
    except (ConfigurationError, msgspec.DecodeError) as exc:
        if value[1:2] == _ROTATED:
            raise ConfigurationError(
                "a stored refresh token cannot be read: was the [crypto] key changed, or was it "
                "stored by a newer version? Put the old one back, or remove the stored token"
            ) from exc
        log.warning("a stored access token cannot be read and is fetched anew: %s", exc)
        return None
    return Grant(kept.secret, kept.expires_at, kept.renew_at, kept.refresh, kept.terms)


def _opened(name: str, value: bytes, seal: Seal | None) -> _Kept:
    if value[:1] != _VERSION:
        raise ConfigurationError("it is of an unknown version")
    payload = value[3:]
    if value[2:3] == _SEALED:
        if seal is None:
            raise ConfigurationError("it is sealed, and no [crypto] key is given")
        payload = seal.open(payload, about=name.encode())
    elif seal is not None and value[1:2] != _ROTATED:
        raise ConfigurationError("it is stored unsealed although [crypto] is given")
    kept = _kept_of(payload)
    if kept.name != name:
        raise ConfigurationError("it belongs to another key")
    return kept
