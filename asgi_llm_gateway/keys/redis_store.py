"""A pool's keys in the shared store: what is kept there, and the scripts that change it.

The layout is written down in take.lua. Stored values carry a version; one of an unknown version
counts as missing, and is logged. Raises StateUnavailable, as `State` does.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

import msgspec

from ..state import Script, State
from .billing import Balance
from .key import FINGERPRINT, DayUse, Key, Quarantined
from .limits import KeyLimits, LimitDay, limit_day
from .memory import Busy
from .places import Clock
from .sealing import Seal, SealError

log = logging.getLogger("asgi_llm_gateway.keys")

VERSION = 1
_PLAIN, _SEALED = b"p", b"s"


class Taken(NamedTuple):
    """A key was taken, at a time of the store's clock (unix seconds)."""

    id: str
    at: float


class Give(NamedTuple):
    """One slot to give back. Without an id: whichever key the lease holds, if it holds any."""

    id: str
    lease: str
    at: float = 0.0
    requests: int = 0
    tokens: int = 0
    rest: float = 0.0
    since: float = 0.0
    """When the store did not take it the first time, in its loop's time; not told to the store."""

    def after(self, now: float) -> Give:
        """The same as it is to be told now, when part of the rest may be over."""
        return self._replace(rest=max(self.rest - (now - self.since), 0.0)) if self.since else self


class _Told(msgspec.Struct):
    v: int
    reason: str
    at: float


class _Kept(msgspec.Struct):
    v: int
    balance: Balance


_Stored = TypeVar("_Stored", _Told, _Kept)


@cache
def _script(file: str) -> Script:
    return Script.of("asgi_llm_gateway.keys", file)


class PoolStore:
    """One pool in the store. Belongs to no event loop."""

    def __init__(
        self,
        state: State,
        name: str,
        *,
        choose: str,
        limits: KeyLimits,
        seal: Seal | None,
        wall: Clock = time.time,
    ) -> None:
        self._state = state
        self._base = state.name(f"{{keys:{name}}}")
        self._choose = choose
        self._limits = limits
        self._seal = seal
        self._wall = wall
        self._day: LimitDay | None = None
        self.leased = limits.concurrency is not None or choose == "least_used"
        """Whether the store must know which calls hold which key."""
        self._limit_args = (
            int(limits.lease * 1000),
            *(getattr(limits, name) or 0 for name in ("concurrency", "rpm", "tpm", "rpd", "tpd")),
        )

    async def take(
        self, lease: str, tried: Iterable[str], tokens: int, point: float
    ) -> Taken | Busy | bool:
        """A key; or why there is none: Busy, False for no key left to try, True for a store into
        which nothing was ever put. `point` is a random number in [0, 1)."""
        day = self.day()
        answer = await self._run(
            "take.lua",
            self._choose,
            repr(point),
            lease,
            *self._limit_args,
            tokens,
            day.number,
            int(day.until * 1000),
            *tried,
        )
        kind = answer[0]
        if kind == b"taken":
            return Taken(answer[1].decode(), answer[2] / 1000)
        if kind == b"busy":
            return Busy(float("inf") if answer[1] < 0 else answer[1] / 1000, bool(answer[2]))
        return bool(kind == b"empty")

    async def give(self, gives: Sequence[Give]) -> None:
        """Give slots back."""
        args: list[str | int] = []
        for one in gives:
            args += [one.id, one.lease, int(one.at), one.requests, one.tokens]
            args.append(int(one.rest * 1000))
        await self._run("give.lua", *args)

    async def renew(self, held: Iterable[tuple[str, str]]) -> int:
        """Hold slots (id, lease) for longer; how many had been lost, and are held again."""
        args = [part for pair in held for part in pair]
        lost: int = await self._run("renew.lua", int(self._limits.lease * 1000), *args)
        return lost

    async def seed(self, keys: Iterable[Key]) -> list[str]:
        """Put the settings' keys in, and take out those that were there from settings before and
        are not any more. The fingerprints of those that stay out since they are in quarantine."""
        shut = await self._run("members.lua", "seed", *self._pairs(keys))
        return [fingerprint.decode() for fingerprint in shut]

    async def add(self, keys: Iterable[Key]) -> None:
        """Put keys in by hand, out of quarantine too."""
        if pairs := self._pairs(keys):
            await self._run("members.lua", "add", *pairs)

    async def remove(self, identity: str, reason: str) -> bool:
        """Put a key into quarantine; whether it was in use."""
        return bool(await self._run("members.lua", "remove", identity, reason))

    async def restore(self, fingerprint: str) -> bool:
        """Bring a key back from quarantine; whether it was there."""
        return bool(await self._run("members.lua", "restore", fingerprint))

    async def ids(self) -> list[str]:
        """The keys in use."""
        found = await self._state.command("SMEMBERS", f"{self._base}:ids")
        return sorted(identity.decode() for identity in found)

    async def key(self, identity: str) -> Key | None:
        """A key in use or in quarantine; None, and a log line, for one that cannot be read."""
        name = f"{self._base}:key:{identity}"
        version, stored = await self._state.command("HMGET", name, "v", "secret")
        try:
            key = Key(self._opened(identity, version, stored))
        except (SealError, UnicodeDecodeError) as problem:
            log.warning(
                "key %s cannot be used by this process: %s", identity[:FINGERPRINT], problem
            )
            return None
        if key.id != identity:
            log.warning(
                "key %s cannot be used: another secret is stored for it", identity[:FINGERPRINT]
            )
            return None
        return key

    def _opened(self, identity: str, version: bytes | None, stored: bytes | None) -> str:
        if stored is None or version != b"%d" % VERSION:
            raise SealError("what is stored for it is missing or of an unknown version")
        if stored[:1] == _PLAIN and self._seal is None:
            return stored[1:].decode()
        if stored[:1] == _PLAIN:
            # Else whoever can write to the store could have calls made with a key of their own.
            raise SealError("it is stored unsealed although [crypto] is given; add it again")
        if self._seal is None:
            raise SealError("it is stored sealed, and no [crypto] key is given")
        return self._seal.open(stored[1:], about=identity.encode()).decode()

    def _pairs(self, keys: Iterable[Key]) -> list[str | bytes]:
        pairs: list[str | bytes] = []
        for key in keys:
            secret = key.secret.encode()
            if self._seal is None:
                pairs += [key.id, _PLAIN + secret]
            else:
                pairs += [key.id, _SEALED + self._seal.seal(secret, about=key.id.encode())]
        return pairs

    async def quarantined(self) -> list[Quarantined]:
        """What was taken out, when and why; the oldest first."""
        found = []
        for fingerprint, told in await self._hash("quarantine"):
            known = _decoded(told, _Told, fingerprint)
            if known is not None:
                found.append(Quarantined(fingerprint, known.reason, known.at))
        return sorted(found, key=lambda one: one.at)

    async def day_use(self, key: Key) -> DayUse:
        """What a key did in the limit day of the moment."""
        day = self.day()
        name = f"{self._base}:use:{key.id}"
        number, requests, tokens = await self._state.command("HMGET", name, "day", "dr", "dt")
        if number is None or int(number) != day.number:
            requests = tokens = None
        return DayUse(int(requests or 0), max(int(tokens or 0), 0), day.since, day.until)

    async def save_balance(self, key: Key, balance: Balance) -> None:
        """Keep what a key's provider says is left on it."""
        told = msgspec.json.encode({"v": VERSION, "balance": dataclasses.asdict(balance)})
        await self._state.command("HSET", f"{self._base}:balances", key.fingerprint, told)

    async def balances(self) -> dict[str, Balance]:
        """What was kept, by fingerprint."""
        read = {}
        for fingerprint, told in await self._hash("balances"):
            known = _decoded(told, _Kept, fingerprint)
            if known is not None:
                read[fingerprint] = known.balance
        return read

    def day(self) -> LimitDay:
        """The limit day of the moment."""
        now, day = self._wall(), self._day
        if day is None or not day.since <= now < day.until:
            day = self._day = limit_day(now, self._limits)
        return day

    async def _hash(self, name: str) -> list[tuple[str, bytes]]:
        flat = await self._state.command("HGETALL", f"{self._base}:{name}")
        return [(flat[i].decode(), flat[i + 1]) for i in range(0, len(flat), 2)]

    async def _run(self, script: str, *args: bytes | str | int | float) -> Any:
        return await self._state.run(_script(script), [self._base], args)


def _decoded(told: bytes, shape: type[_Stored], fingerprint: str) -> _Stored | None:
    """A stored value; None, and a log line, for one of another version."""
    try:
        known = msgspec.json.decode(told, type=shape)
    except msgspec.DecodeError as problem:
        log.warning("what is stored of key %s is ignored: %s", fingerprint, problem)
        return None
    if known.v != VERSION:
        log.warning("what is stored of key %s is of unknown version %d", fingerprint, known.v)
        return None
    return known
