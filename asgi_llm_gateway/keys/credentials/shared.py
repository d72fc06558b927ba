"""Grants in Redis, shared by every worker: one of them exchanges, all of them use it."""

from __future__ import annotations

import time
from collections.abc import Callable

from ...state import Script, State
from ..sealing import Seal
from .store import KEPT, LEASE, Found, Grant, restored, stored


class SharedTokens:
    """A TokenStore in the shared state: a hash per key, and beside it a claim (SET NX PX).

    Without a `seal` tokens stand there as they are. `kept` is for how many seconds a rotated
    refresh token is kept after its last use. The store must not evict (`maxmemory-policy
    noeviction`): an evicted refresh token is lost.
    """

    durable = True

    def __init__(
        self,
        state: State,
        *,
        seal: Seal | None = None,
        lease: float = LEASE,
        kept: float = KEPT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._state = state
        self._seal = seal
        self._lease = max(1, round(lease * 1000))
        self._kept = kept
        self._clock = clock
        self._claim = Script.of(__package__, "claim.lua")
        self._save = Script.of(__package__, "save.lua")

    async def load(self, name: str) -> Found:
        """What is there."""
        reply = await self._state.command("HMGET", self._keys(name)[0], "grant", "serial")
        return self._found(name, False, reply[0], reply[1])

    async def claim(self, name: str, owner: str) -> Found:
        """What is there, and the claim if nobody else has it."""
        reply = await self._state.run(self._claim, self._keys(name), [owner, self._lease])
        return self._found(name, bool(reply[0]), reply[1], reply[2])

    async def save(self, name: str, owner: str, grant: Grant, serial: int) -> bool:
        """Keep the grant and free the claim."""
        now = self._clock()
        milliseconds = max(1, round((grant.kept_until(now, self._kept) - now) * 1000))
        value = stored(name, grant, self._seal)
        return await self._run_save(name, owner, str(serial), value, milliseconds)

    async def free(self, name: str, owner: str) -> None:
        """Give the claim up, if it is still the owner's."""
        await self._run_save(name, owner, "0", b"", 1)

    async def _run_save(self, name: str, *args: bytes | str | int) -> bool:
        return bool(await self._state.run(self._save, self._keys(name), args))

    def _keys(self, name: str) -> list[str]:
        tag = f"{{{name}}}"  # a hash tag: in a cluster both are in one place
        return [self._state.name("token", tag), self._state.name("token", tag, "claim")]

    def _found(self, name: str, mine: bool, value: bytes | None, serial: object) -> Found:
        grant = restored(name, value, self._seal) if value else None
        return Found(grant, int(serial or 0), mine)  # type: ignore[call-overload]
