"""A pool whose keys, slots, windows and cool-downs all processes share."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Literal

from ..errors import ConfigurationError, StateUnavailable
from ..exchange.ids import new_id
from ..runtime import PerLoop, Resources, kept_tasks
from ..state import State
from ..wire.usage import Usage
from .accounted import Accounted
from .billing import Balance
from .desk import Answer, Desk
from .estimating import input_tokens
from .key import FINGERPRINT, DayUse, Key, Quarantined
from .limits import KeyLimits
from .memory import Busy
from .places import Clock
from .pool import Hook, chooser, tell_removed, used_tokens
from .redis_store import Give, PoolStore, Taken
from .sealing import Seal
from .stand_in import StandIn
from .waiting import Waiter, caller_of

log = logging.getLogger("asgi_llm_gateway.keys")

OnStateFailure = Literal["open", "closed"]
_NO_LIMITS = KeyLimits()
_UNREADABLE = 60.0
"""Seconds until a key that could not be read is tried again."""


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
        on_state_failure: OnStateFailure = "open",
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
        self._clock = clock
        self._rng = rng or Random()  # noqa: S311 - spreads load, guards nothing
        self._store = PoolStore(state, name, choose=choose, limits=limits, seal=seal)
        self._given = {key.id: key for key in map(Key, keys)}
        self._known = dict(self._given)
        self._seeds = 0
        self._stand_in = StandIn(
            name,
            self._given.values(),
            choose=chooser(choose),
            rng=self._rng,
            clock=clock,
            open_=on_state_failure == "open",
        )
        self._unreadable: dict[str, float] = {}
        self._saving: asyncio.Task[None] | None = None
        self._desks = PerLoop(lambda: Desk(self._store, limits, self._ask_for, self._undo))

    @property
    def keys(self) -> tuple[Key, ...]:
        """The keys this pool was given; which are in use only the store knows (`all`)."""
        return tuple(self._given.values())

    async def take(
        self, exchange: Any, tried: Collection[str] = (), *, wait: float = 0.0
    ) -> Key | None:
        """A key that was not tried yet: at once, or within `wait` seconds, callers in turn."""
        tokens = input_tokens(exchange) if self.limits.counts_tokens else 0
        desk = self._desks.get()
        arrived = desk.line.arrival()
        try:
            answer: Answer = Busy(math.inf, held=True)
            if wait <= 0 or not len(desk.line):
                answer = await self._ask(tried, tokens)
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

    async def _ask_for(self, waiter: Waiter) -> Answer:
        return await self._ask(waiter.tried, waiter.tokens)

    async def _ask(self, tried: Collection[str], tokens: int) -> Answer:
        """What the store says: a key, why there is none free, None for none to try."""
        await self._seed_once()
        while True:
            seeds = self._seeds
            lease = new_id() if self._store.leased else ""
            try:
                answer = await self._store.take(
                    lease, self._unwanted(tried), tokens, self._rng.random()
                )
            except (StateUnavailable, asyncio.CancelledError):
                if lease:  # it may have been taken all the same
                    self._desks.get().give(Give("", lease))
                raise
            self._is_back()
            if isinstance(answer, Taken):
                key = await self._lend(answer, lease, tokens)
                if key is not None:
                    return key
            elif answer is True:  # the store has lost everything
                await self._seed(seeds)
            else:
                return answer or None

    async def _lend(self, taken: Taken, lease: str, tokens: int) -> Key | None:
        """The key for one call; None for one that this process cannot read."""
        base = self._known.get(taken.id)
        if base is None:
            try:
                base = await self._store.key(taken.id)
            finally:
                if base is None:
                    self._give_unused(taken.id, lease, taken.at, tokens)
            if base is None:
                self._unreadable[taken.id[:FINGERPRINT]] = self._clock() + _UNREADABLE
                return None
            self._known[base.id] = base
        base.uses += 1
        base.in_flight += 1
        if lease:
            self._desks.get().hold(lease, base.id)
        return base.lend(lease, tokens, taken.at)

    def _unwanted(self, tried: Collection[str]) -> list[str]:
        unwanted = [*tried]
        if self._unreadable:
            now = self._clock()
            self._unreadable = {f: until for f, until in self._unreadable.items() if until > now}
            unwanted += self._unreadable
        if self._stand_in.unsaved:
            unwanted += (identity[:FINGERPRINT] for identity in self._stand_in.unsaved)
        return unwanted

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
            return
        if key.lease is None:
            return
        lease, key.lease = key.lease, None
        key.origin.in_flight -= 1
        used = used_tokens(usage) if self.limits.counted else None
        more = 0 if used is None else used - key.tokens
        if lease or more or cooldown > 0:
            self._desks.get().give(
                Give(key.id, lease, key.taken, tokens=more, rest=max(cooldown, 0.0))
            )

    def _undo(self, key: Key) -> None:
        """Take back a key whose call is gone: it was never used."""
        lease, key.lease = key.lease, None
        if lease is not None and key.origin is not None:
            key.origin.in_flight -= 1
            key.origin.uses -= 1
            self._give_unused(key.id, lease, key.taken, key.tokens)

    def _give_unused(self, identity: str, lease: str, at: float, tokens: int) -> None:
        if lease or self.limits.counted:
            self._desks.get().give(Give(identity, lease, at, requests=-1, tokens=-tokens))

    async def add(self, keys: Iterable[str]) -> None:
        """Add secrets, for every process at once; also brings back what was removed."""
        added = [Key(secret) for secret in dict.fromkeys(keys)]
        await self._store.add(added)
        for key in added:
            self._known.setdefault(key.id, key)
            self._unreadable.pop(key.fingerprint, None)
            self._stand_in.forget(key)

    async def all(self) -> list[Key]:
        """Every key in use that this process can read."""
        await self._seed_once()
        found = []
        for identity in await self._store.ids():
            key = self._known.get(identity) or await self._store.key(identity)
            if key is not None:
                found.append(self._known.setdefault(identity, key))
        return found

    async def remove(self, key: Key, reason: str) -> None:
        """Put a key into quarantine, for every process at once; calls that hold it go on."""
        try:
            await self._seed_once()
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
        for key in self._given.values():
            if key.fingerprint == fingerprint:
                self._stand_in.forget(key)
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

    async def _seed_once(self) -> None:
        if not self._seeds:
            await self._seed(0)

    async def _seed(self, seeds: int) -> None:
        """Put the given keys in, unless that was done again since it had been done so often."""
        async with self._desks.get().seeding:
            if self._seeds != seeds:
                return
            shut = set(await self._store.seed(self._given.values()))
            for key in self._given.values():
                if key.fingerprint in shut:
                    self._stand_in.shut(key, "in quarantine")
            self._seeds += 1

    def _is_back(self) -> None:
        self._stand_in.retire()
        if self._stand_in.unsaved and self._saving is None:
            self._saving = kept_tasks().keep(self._save())

    async def _save(self) -> None:
        """Tell the store what died while it was away."""
        unsaved = self._stand_in.unsaved
        try:
            for identity, reason in list(unsaved.items()):
                await self._store.remove(identity, reason)
                unsaved.pop(identity, None)
        except StateUnavailable:
            log.info("%d keys are still to be put into quarantine", len(unsaved))
        finally:
            self._saving = None

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        async with self._state.resources:
            try:
                await self._seed_once()
            except StateUnavailable as failure:
                log.warning("keys of pool %s are not in the store yet: %s", self.name, failure)
            try:
                yield
            finally:
                await self._desks.get().close()
