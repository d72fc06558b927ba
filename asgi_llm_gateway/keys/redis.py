"""A pool whose keys, slots, windows and cool-downs all processes share."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from ..errors import ConfigurationError, StateUnavailable
from ..runtime import Resources
from ..state import OnFailure, State
from ..wire.usage import Usage
from .accounted import Accounted
from .billing import Balance
from .desk import Answer
from .estimating import input_tokens
from .key import DayUse, Key, Quarantined
from .lending import Lender
from .limits import KeyLimits
from .memory import Busy
from .places import Clock
from .pool import Hook, chooser, tell_removed, used_tokens
from .redis_store import PoolStore
from .sealing import Seal
from .sources import sendable
from .stand_in import StandIn
from .waiting import Waiter, caller_of

log = logging.getLogger("asgi_llm_gateway.keys")

_NO_LIMITS = KeyLimits()


class RedisKeyPool(Accounted):
    """Keys of one channel in the shared store, for every process that names the pool so.

        pool = RedisKeyPool("main", ["sk-1", "sk-2"], state=State("redis://localhost"))

    The keys given (the settings') are put in at first use, and those put in so before that are not
    given any more are taken out. What is in quarantine stays there through every restart; what was
    added by `add` stays until it is removed.

    A slot is a lease: it is renewed while the call runs, and expires `limits.lease` seconds after
    its process has died. Callers take turns within a process; which process comes first is chance.

    on_state_failure says what happens while the store is away: "open" (the default) goes on with
    the given keys, without limits, and says so once in the log; keys that are known to be in
    quarantine stay out, and one that dies meanwhile is put there as soon as the store is back.
    "closed" raises StateUnavailable.
    """

    def __init__(
        self,
        name: str,
        keys: Iterable[str] = (),
        *,
        state: State,
        choose: str = "random",
        limits: KeyLimits = _NO_LIMITS,
        seal: Seal | None = None,
        on_state_failure: OnFailure = "open",
        rng: Random | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        if not state.shared:
            raise ConfigurationError("RedisKeyPool needs a store that processes share: redis://…")
        if not name or any(char in name for char in "{}\r\n"):
            raise ConfigurationError(f"{name!r} cannot name a pool of keys")
        if on_state_failure not in ("open", "closed"):
            raise ConfigurationError('on_state_failure is "open" or "closed"')
        self.name = name
        self.limits = limits
        self.on_removed: list[Hook] = []
        self.resources: Resources[Any] | None = Resources(self._open, started_by="gateway.lifespan")
        self._state = state
        self._given = tuple(Key(secret) for secret in dict.fromkeys(sendable(keys)))
        rng = rng or Random()  # noqa: S311 - spreads load, guards nothing
        self._store = PoolStore(state, name, choose=choose, limits=limits, seal=seal)
        self._stand_in = StandIn(
            name,
            self._given,
            choose=chooser(choose),
            rng=rng,
            clock=clock,
            open_=on_state_failure == "open",
        )
        self._lender = Lender(
            self._store, self._given, self._stand_in, limits=limits, rng=rng, clock=clock
        )

    @property
    def keys(self) -> tuple[Key, ...]:
        """The keys this pool was given; which are in use only the store knows (`all`)."""
        return self._given

    async def take(
        self, exchange: Any, tried: Collection[str] = (), *, wait: float = 0.0
    ) -> Key | None:
        """A key that was not tried yet: at once, or within `wait` seconds, callers in turn."""
        tokens = input_tokens(exchange) if self.limits.counts_tokens else 0
        desk = self._lender.desk
        arrived = desk.line.arrival()
        try:
            answer: Answer = Busy(math.inf, held=True)
            # Who does not wait overtakes only those who want no key that is free.
            if not desk.crowd if wait <= 0 else not len(desk.line):
                answer = await self._lender.ask(tried, tokens)
            elif tried and not await self._lender.has_untried(tried):
                return None  # its turn would not bring it one, so it waits for none
            if not isinstance(answer, Busy):
                return answer
            if wait <= 0 or (answer.by_itself > wait and not answer.held):
                raise answer.refusal()
            waiter = Waiter(caller_of(exchange), tried, tokens)
            waiter.refusal = answer.refusal()
            await desk.stand_in_line(waiter, arrived, wait)
            if waiter.key is None and waiter.refusal is not None:
                raise waiter.refusal
        except StateUnavailable as away:
            return self._stand_in.take(tried, away)
        return waiter.key

    def report(
        self,
        key: Key,
        outcome: str,  # noqa: ARG002 - health is judged by whoever sets `cooldown`
        *,
        usage: Usage | None = None,
        cooldown: float = 0.0,
    ) -> None:
        """Give a taken key back, in the event loop it was taken in; a second time changes nothing.

        Told to the store by a task the runtime keeps, with all others of the tick.
        """
        if key.origin is None:
            self._stand_in.give_back(key, cooldown)
        else:
            self._lender.give_back(key, tokens=used_tokens(usage), cooldown=cooldown)

    async def add(self, keys: Iterable[str]) -> None:
        """Add secrets, for every process at once; also brings back what was removed."""
        added = [Key(secret) for secret in dict.fromkeys(sendable(keys))]
        await self._store.add(added)
        self._lender.learn(added)

    async def all(self) -> list[Key]:
        """Every key in use that this process can read."""
        await self._lender.seed_once()
        found = [await self._lender.known(identity) for identity in await self._store.ids()]
        return [key for key in found if key is not None]

    async def remove(self, key: Key, reason: str) -> None:
        """Put a key into quarantine, for every process at once; calls that hold it go on."""
        try:
            await self._lender.seed_once()
            removed = await self._store.remove(key.id, reason)
            self._stand_in.shut(key, reason)
        except StateUnavailable as away:
            removed = self._stand_in.remember(key, reason, away)
        if removed:
            tell_removed(self.on_removed, key, reason)

    async def quarantined(self) -> list[Quarantined]:
        """What was taken out, when and why; the oldest first."""
        return await self._store.quarantined()

    async def restore(self, fingerprint: str) -> bool:
        """Bring a key back from quarantine; whether it was there."""
        restored = await self._store.restore(fingerprint)
        self._lender.learn(key for key in self._given if key.fingerprint == fingerprint)
        return restored

    async def day_use(self, key: Key) -> DayUse:
        """What a key did in the limit day of the moment, in all processes."""
        return await self._store.day_use(key)

    async def save_balance(self, key: Key, balance: Balance) -> None:
        """Keep what a key's provider says is left on it."""
        await self._store.save_balance(key, balance)

    async def balances(self) -> dict[str, Balance]:
        """What was kept, by fingerprint."""
        return await self._store.balances()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        async with self._state.resources:
            try:
                await self._lender.seed_once()
            except StateUnavailable as failure:
                # The store's own room has warned of it, once and not for every channel.
                log.info("keys of pool %s are not in the store yet: %s", self.name, failure)
            try:
                yield
            finally:
                await self._lender.desk.close()
