"""Keys of a shared pool, taken and given back by this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable
from random import Random

from ..errors import StateUnavailable
from ..exchange.ids import new_id
from ..runtime import PerLoop, kept_tasks
from .desk import Answer, Desk
from .key import FINGERPRINT, Key
from .limits import KeyLimits
from .places import LONGEST_REST, Clock
from .redis_store import Give, PoolStore, Taken
from .stand_in import StandIn
from .waiting import Waiter

log = logging.getLogger("asgi_llm_gateway.keys")

_UNREADABLE = 60.0
"""Seconds until a key that could not be read is tried again."""


class Lender:
    """Asks the store for keys, and knows which it was given. Raises StateUnavailable."""

    def __init__(
        self,
        store: PoolStore,
        given: Iterable[Key],
        stand_in: StandIn,
        *,
        limits: KeyLimits,
        rng: Random,
        clock: Clock,
    ) -> None:
        self._store = store
        self._given = tuple(given)
        self._stand_in = stand_in
        self._limits = limits
        self._rng = rng
        self._clock = clock
        self._known = {key.id: key for key in self._given}
        self._unreadable: dict[str, float] = {}
        self._seeds = 0
        self._saving: asyncio.Task[None] | None = None
        self._desks = PerLoop(lambda: Desk(store, limits, self._ask_for, self.undo))

    @property
    def desk(self) -> Desk:
        """The running loop's."""
        return self._desks.get()

    async def ask(self, tried: Collection[str], tokens: int) -> Answer:
        """A key, why there is none free, or None for none to try."""
        await self.seed_once()
        while True:
            seeds = self._seeds
            lease = new_id() if self._store.leased else ""
            try:
                answer = await self._store.take(
                    lease, self._unwanted(tried), tokens, self._rng.random()
                )
            except (StateUnavailable, asyncio.CancelledError):
                if lease:  # it may have been taken all the same
                    self.desk.give(Give("", lease))
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

    async def _ask_for(self, waiter: Waiter) -> Answer:
        return await self.ask(waiter.tried, waiter.tokens)

    async def _lend(self, taken: Taken, lease: str, tokens: int) -> Key | None:
        """The key for one call; None for one that this process cannot read."""
        base = None
        try:
            base = await self.known(taken.id)
        finally:
            if base is None:
                self._give_unused(taken.id, lease, taken.at, tokens)
        if base is None:
            self._unreadable[taken.id[:FINGERPRINT]] = self._clock() + _UNREADABLE
            return None
        base.uses += 1
        base.in_flight += 1
        if lease:
            self.desk.hold(lease, base.id)
        return base.lend(lease, tokens, taken.at)

    async def known(self, identity: str) -> Key | None:
        """The key of that id, its secret read from the store at most once."""
        key = self._known.get(identity) or await self._store.key(identity)
        return None if key is None else self._known.setdefault(identity, key)

    def learn(self, keys: Iterable[Key]) -> None:
        """Keys that were put in use by this process."""
        for key in keys:
            self._known.setdefault(key.id, key)
            self._unreadable.pop(key.fingerprint, None)
            self._stand_in.forget(key)

    async def has_untried(self, tried: Collection[str]) -> bool:
        """Whether the store has a key that was not tried, free or not; True for an empty one, of
        which `ask` finds out why."""
        unwanted, found = set(self._unwanted(tried)), await self._store.ids()
        return not found or any(identity[:FINGERPRINT] not in unwanted for identity in found)

    def _unwanted(self, tried: Collection[str]) -> list[str]:
        unwanted = [*tried]
        if self._unreadable:
            now = self._clock()
            self._unreadable = {f: until for f, until in self._unreadable.items() if until > now}
            unwanted += self._unreadable
        if self._stand_in.unsaved:
            unwanted += (identity[:FINGERPRINT] for identity in self._stand_in.unsaved)
        return unwanted

    def give_back(self, key: Key, *, tokens: int | None, cooldown: float) -> None:
        """The call that took `key` is over; a second time changes nothing."""
        if key.origin is None or key.lease is None:
            return
        lease, key.lease = key.lease, None
        key.origin.in_flight -= 1
        more = tokens - key.tokens if tokens is not None and self._limits.counted else 0
        if lease or more or cooldown > 0:
            rest = min(cooldown, LONGEST_REST) if cooldown > 0 else 0.0
            self.desk.give(Give(key.id, lease, key.taken, tokens=more, rest=rest))

    def undo(self, key: Key) -> None:
        """Take back a key whose call is gone: it was never used."""
        if key.origin is None or key.lease is None:
            return
        lease, key.lease = key.lease, None
        key.origin.in_flight -= 1
        key.origin.uses -= 1
        self._give_unused(key.id, lease, key.taken, key.tokens)

    def _give_unused(self, identity: str, lease: str, at: float, tokens: int) -> None:
        if lease or self._limits.counted:
            self.desk.give(Give(identity, lease, at, requests=-1, tokens=-tokens))

    async def seed_once(self) -> None:
        """Put the given keys in, if that was not done yet."""
        if not self._seeds:
            await self._seed(0)

    def look_on(self) -> None:
        """Leave it to others to put keys in: the settings read here may not be theirs."""
        self._seeds = 1

    async def _seed(self, seeds: int) -> None:
        """Put the given keys in, unless that was done again since it had been done so often."""
        async with self.desk.seeding:
            if self._seeds != seeds:
                return
            shut = set(await self._store.seed(self._given))
            for key in self._given:
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
