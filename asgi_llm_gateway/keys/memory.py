"""The keys of one process, and the calls that wait for one.

Belongs to no event loop: every method runs to its end under one lock, so it may be called from
any thread, and those who wait are woken in their own loops.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable
from random import Random
from threading import RLock
from typing import NamedTuple

from ..errors import KeysBusy
from .billing import Balance
from .choosing import Chooser
from .key import DayUse, Key, Quarantined
from .limits import KeyLimits
from .places import LONGEST_REST, Clock, Place, Places, Seat
from .waiting import Bell, FairQueue, Waiter

BUSY_RETRY = 1.0
"""Seconds a caller is told to wait when only calls under way keep keys busy: nobody knows."""
_HELD = "held"
"""The lease of every slot here: who holds the Key holds the slot."""


class Kept(NamedTuple):
    """A key in quarantine."""

    key: Key
    told: Quarantined


class Keyring:
    """See above. `clock` is for durations, `wall` is unix time."""

    def __init__(
        self, choose: Chooser, limits: KeyLimits, rng: Random, clock: Clock, wall: Clock = time.time
    ) -> None:
        self.choose = choose
        self.lock = RLock()
        self.in_use: dict[str, Key] = {}
        """By id."""
        self.quarantine: dict[str, Kept] = {}
        """By fingerprint."""
        self.balances: dict[str, Balance] = {}
        """By fingerprint."""
        self.limits = limits
        """What each key may do."""
        self._places = Places(limits, clock, wall, self._sooner)
        self._rng = rng
        self._turn = 0
        self._line: FairQueue[Waiter] = FairQueue()
        self._bells: dict[asyncio.AbstractEventLoop, Bell] = {}

    def add(self, secrets: Iterable[str], *, by_hand: bool) -> None:
        """Put keys in use; one in quarantine comes back, one in use stays as it is."""
        with self.lock:
            for secret in dict.fromkeys(secrets):
                key = Key(secret)
                known = self.in_use.get(key.id)
                if known is not None:
                    known.seat.by_hand |= by_hand
                    continue
                kept = self.quarantine.pop(key.fingerprint, None)
                if kept is not None:
                    key = kept.key
                    key.seat.by_hand |= by_hand
                else:
                    key.seat = Seat(self.limits, by_hand=by_hand)
                self._use(key)
            self._serve()

    def restore(self, fingerprint: str) -> bool:
        """Bring a key back from quarantine; whether it was there."""
        with self.lock:
            kept = self.quarantine.pop(fingerprint, None)
            if kept is not None:
                self._use(kept.key)
                self._serve()
            return kept is not None

    def _use(self, key: Key) -> None:
        self.in_use[key.id] = key
        self._places.sit(key, rested=True)

    def remove(self, key: Key, reason: str) -> bool:
        """Put a key into quarantine; whether it was in use. Calls that hold it go on."""
        with self.lock:
            found = self.in_use.pop(key.id, None)
            if found is None:
                return False
            self._places.leave(found)
            told = Quarantined(found.fingerprint, reason, self._places.wall())
            self.quarantine[found.fingerprint] = Kept(found, told)
            self._dismiss()
            return True

    def change(self, choose: Chooser, limits: KeyLimits, secrets: Iterable[str]) -> None:
        """Go on under other settings: their keys, without those in quarantine, and those that were
        added by hand. What was counted and who waits stays."""
        with self.lock:
            old = self.in_use
            wanted = {key.id: key for key in map(Key, secrets)}
            by_hand = {key.id: key for key in old.values() if key.seat.by_hand}
            self.choose, self.in_use = choose, {}
            for key in old.values():
                self._places.leave(key)
            self.limits = limits
            self._places.clear(limits)
            for identity, fresh in {**wanted, **by_hand}.items():
                if fresh.fingerprint not in self.quarantine:
                    key = old.get(identity, fresh)
                    key.seat = key.seat or Seat(limits, by_hand=False)
                    self.in_use[identity] = key
                    self._places.sit(key)
            self._dismiss()
            self._serve()

    def draw(self, tried: Collection[str], tokens: int) -> Key | None:
        """A free key, taken, for a call that just came; None when none is free for it.

        The lock must be held.
        """
        places = self._places
        if places.later and places.promote() and len(self._line):
            self._serve()
        return self._draw(tried, tokens) if places.ready else None

    def _draw(self, tried: Collection[str], tokens: int) -> Key | None:
        places = self._places
        ready = places.ready
        key = self.choose(ready, self._turn, self._rng)
        if (tried and key.fingerprint in tried) or (tokens > 1 and places.opens(key, tokens)):
            ready = [
                other
                for other in ready
                if other.fingerprint not in tried
                and not (tokens > 1 and places.opens(other, tokens))
            ]
            if not ready:
                return None
            key = self.choose(ready, self._turn, self._rng)
        self._turn += 1
        key.uses += 1
        key.in_flight += 1
        limits = self.limits
        if not limits.any:
            return key
        now = places.clock()
        lent = key.lend(_HELD, tokens, now)
        if limits.counted:
            key.seat.meter.take(now, places.day(), tokens)
        places.settle(key, now)
        return lent

    def give_back(self, key: Key, *, tokens: int | None, cooldown: float = 0.0) -> None:
        """The call that took `key` is over and used so many tokens (None: nobody knows); the key
        rests for `cooldown` seconds. Giving back twice changes nothing where slots are counted."""
        if key.origin is None and cooldown <= 0 and not self.limits.any:
            key.in_flight -= 1  # from the look at the limits to here nothing gives the GIL away
            return
        with self.lock:
            base = key.origin or key
            if key.origin is not None:
                if key.lease is None:
                    return
                key.lease = None
            base.in_flight -= 1
            seat: Seat | None = base.seat
            if seat is None or (cooldown <= 0 and not self.limits.any):
                return
            now = self._places.clock()
            if tokens is not None and key.origin is not None and self.limits.counted:
                seat.meter.correct(key.taken, tokens - key.tokens)
            if cooldown > 0:
                seat.cooled = max(seat.cooled, now + min(cooldown, LONGEST_REST))
            self._places.settle(base, now)
            self._serve()

    def undo(self, key: Key) -> None:
        """Take back a key that was handed to a call that is gone: it was never used."""
        with self.lock:
            base = key.origin or key
            base.uses -= 1
            if key.origin is not None and self.limits.counted:
                base.seat.meter.correct(key.taken, -key.tokens, requests=-1)
            self.give_back(key, tokens=None)
            self._serve()

    def has_untried(self, tried: Collection[str]) -> bool:
        """Whether there is a key in use that was not tried, free or not."""
        if len(tried) < len(self.in_use):
            return True
        return any(key.fingerprint not in tried for key in self.in_use.values())

    def join(self, waiter: Waiter) -> None:
        """Stand in line. The lock must be held, and `part` called in the end."""
        self._line.add(waiter.caller, waiter)
        bell = self._bells.get(waiter.loop)
        if bell is None:
            bell = self._bells[waiter.loop] = Bell(waiter.loop, self._rung)
            bell.set(self._places.next)
        bell.waiters += 1

    def part(self, waiter: Waiter) -> None:
        """Stand in line no more, served or not."""
        with self.lock:
            self._line.discard(waiter.caller, waiter)
            bell = self._bells[waiter.loop]
            bell.waiters -= 1
            if not bell.waiters:
                bell.set(None)
                del self._bells[waiter.loop]

    def busy(self, tried: Collection[str], tokens: int) -> Busy:
        """Why there is no key for a call although there are untried ones."""
        with self.lock:
            now, by_itself, held = self._places.clock(), float("inf"), False
            for key in self.in_use.values():
                if key.fingerprint not in tried:
                    opens = max(key.seat.cooled, self._places.opens(key, tokens))
                    if opens <= now and key.seat.place is Place.BUSY:
                        held = True
                    else:
                        by_itself = min(by_itself, max(opens - now, 0.0))
            return Busy(by_itself, held)

    def day_use(self, key: Key) -> DayUse:
        """What a key did today."""
        with self.lock:
            day = self._places.day()
            kept = self.quarantine.get(key.fingerprint)
            found = kept.key if kept is not None else self.in_use.get(key.id)
            if found is None:
                return DayUse(0, 0, day.since, day.until)
            seat: Seat = found.seat
            return seat.meter.use(day)

    def _serve(self) -> None:
        """Hand free keys to those who wait, in turn."""
        line = self._line
        while len(line) and self._places.ready:
            for _, waiter in line.in_turn():
                key = self._draw(waiter.tried, waiter.tokens)
                if key is not None:
                    break
            else:
                return
            line.discard(waiter.caller, waiter)
            line.turn_over(waiter.caller)
            waiter.key = key
            if not waiter.wake():  # its loop is gone
                waiter.key = None
                self.undo(key)

    def _dismiss(self) -> None:
        """Send those away for whom there is no key at all any more."""
        for caller, waiter in list(self._line.in_turn()):
            if not self.has_untried(waiter.tried):
                self._line.discard(caller, waiter)
                waiter.wake()

    def _sooner(self) -> None:
        for bell in self._bells.values():
            bell.look()

    def _rung(self) -> float | None:
        with self.lock:
            if self._places.promote():
                self._serve()
            return self._places.next


class Busy(NamedTuple):
    """No untried key is free: in how many seconds time alone frees one, and whether one is only
    held by a call, which may end at any moment."""

    by_itself: float
    held: bool

    def refusal(self) -> KeysBusy:
        """What the caller is told."""
        known = self.by_itself < float("inf") and not self.held
        soonest = self.by_itself if known else min(self.by_itself, BUSY_RETRY)
        return KeysBusy(
            "every key that could serve this call is at one of its limits; try again later",
            retry_after=max(soonest, 0.001),
        )
