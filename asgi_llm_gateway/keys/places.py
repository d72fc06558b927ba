"""Where each key of one process stands: free, free later, or busy. Pure but for its two clocks.

A key in use is in one of three places: `ready` (a call may take it now), later (a cool-down or a
window of its limits passes by itself, so it is known when), or busy (every slot is held; only a
report frees it). So taking looks at no key that cannot be had.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from enum import Enum
from heapq import heappop, heappush
from operator import attrgetter

from .key import Key
from .limits import KeyLimits, LimitDay, Meter, limit_day

Clock = Callable[[], float]
LONGEST_REST = 366 * 86_400.0
"""Seconds; a cool-down beyond it, or one without end, is this long."""
_order = attrgetter("seat.order")


class Place(Enum):
    """Where a key is."""

    OUT = "out"
    READY = "ready"
    LATER = "later"
    BUSY = "busy"


class Seat:
    """What is noted of a key; `key.seat`."""

    __slots__ = ("at", "by_hand", "cooled", "meter", "order", "place")

    def __init__(self, limits: KeyLimits, *, by_hand: bool) -> None:
        self.place = Place.OUT
        self.order = 0
        self.at = 0.0
        """When it is no longer in `later`."""
        self.cooled = 0.0
        """Until when it rests."""
        self.meter = Meter(limits)
        self.by_hand = by_hand
        """Added while running, so it stays when the settings do not name it."""


class Places:
    """The three places. `sooner` is called when a key in `later` will be free before all others."""

    def __init__(
        self, limits: KeyLimits, clock: Clock, wall: Clock, sooner: Callable[[], None]
    ) -> None:
        self.limits = limits
        self.clock = clock
        self.wall = wall
        self.ready: list[Key] = []
        """In the order the keys were put in use."""
        self.later: list[tuple[float, int, Key]] = []
        """A heap; entries of keys that were moved since are skipped."""
        self._orders = 0
        self._day: LimitDay | None = None
        self._sooner = sooner

    def clear(self, limits: KeyLimits) -> None:
        """Begin again under other limits; whoever sat has left before."""
        self.limits, self._day, self.ready, self.later = limits, None, [], []

    def sit(self, key: Key, *, rested: bool = False) -> None:
        """Put a key in use, behind the others; `rested`: whatever it had been cooled for."""
        seat: Seat = key.seat
        self._orders += 1
        seat.order = self._orders
        if rested:
            seat.cooled = 0.0
        seat.meter.under(self.limits)
        self._move(key, Place.BUSY)
        self.settle(key, self.clock())

    def leave(self, key: Key) -> None:
        """Take a key out of use."""
        self._move(key, Place.OUT)

    def settle(self, key: Key, now: float) -> None:
        """Move a key to where it belongs now; one that is out stays out."""
        seat: Seat = key.seat
        if seat.place is Place.OUT:
            return
        at = max(seat.cooled, self.opens(key))
        most = self.limits.concurrency
        if at > now:
            self._move(key, Place.LATER, at)
        elif most is not None and key.in_flight >= most:
            self._move(key, Place.BUSY)
        elif seat.place is not Place.READY:
            self._move(key, Place.READY)

    def promote(self) -> bool:
        """Move what time alone has made free; whether that was any."""
        later = self.later
        if not later or later[0][0] > (now := self.clock()):
            return False
        moved = False
        while later and later[0][0] <= now:
            at, _, key = heappop(later)
            if key.seat.place is Place.LATER and key.seat.at == at:  # else it was moved since
                key.seat.at = 0.0
                self.settle(key, now)
                moved = True
        return moved

    @property
    def next(self) -> float | None:
        """In how many seconds `promote` may have something to do; None: never."""
        return self.later[0][0] - self.clock() if self.later else None

    def opens(self, key: Key, tokens: int = 1) -> float:
        """When the key's windows have room for a call of so many tokens; 0: they have."""
        if not self.limits.counted:
            return 0.0
        meter: Meter = key.seat.meter
        return meter.opens(self.clock(), self.wall(), self.day(), max(tokens, 1))

    def day(self) -> LimitDay:
        """The limit day of the moment."""
        now, day = self.wall(), self._day
        if day is None or not day.since <= now < day.until:
            day = self._day = limit_day(now, self.limits)
        return day

    def _move(self, key: Key, place: Place, at: float = 0.0) -> None:
        seat: Seat = key.seat
        ready = self.ready
        if seat.place is Place.READY:
            del ready[bisect_left(ready, seat.order, key=_order)]
        if place is Place.READY:
            ready.insert(bisect_left(ready, seat.order, key=_order), key)
        sooner = False
        if place is Place.LATER and not (seat.place is Place.LATER and seat.at == at):
            sooner = not self.later or at < self.later[0][0]
            heappush(self.later, (at, seat.order, key))
        seat.place, seat.at = place, at
        if sooner:
            self._sooner()
