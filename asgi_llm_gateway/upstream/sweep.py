"""Deadlines of everything one event loop has under way, kept by one timer instead of one each."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from typing import Protocol

from ..errors import UpstreamTimeout
from .answer import Answer
from .faults import timed_out

__all__ = ["Queue", "Sweep", "overdue"]

TICK = 0.1
"""Seconds between two sweeps while anything is busy: how late a time limit may be."""


class Queue(Protocol):
    """What a pool lets the sweep do to it."""

    def expire(self, now: float) -> float:
        """End what has waited or idled too long; say when to look again (inf: never)."""
        ...


class Sweep:
    """Looks ten times a second while something is busy, at the next expiry while all is idle."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        queues: Callable[[], Iterable[Queue]],
    ) -> None:
        self.busy: set[Answer] = set()
        self.fast = False
        """Whether the next look is at most a tick away: what asks for one checks this first."""
        self._loop = loop
        self._clock = clock
        self._queues = queues
        self._handle: asyncio.TimerHandle | None = None

    def hurry(self) -> None:
        """Something has become busy: look again within a tick."""
        self._schedule(TICK)
        self.fast = True

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self.fast = False

    def _schedule(self, delay: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_later(delay, self._look)

    def _look(self) -> None:
        # First of all the next look: were this one to fail, limits would still be kept.
        self._schedule(TICK)
        now = self._clock()
        for answer in tuple(self.busy):
            error = overdue(answer, now)
            if error is not None:
                answer.fail(error)
        again = min((queue.expire(now) for queue in tuple(self._queues())), default=math.inf)
        if self.busy or again - now <= TICK:
            return
        self.stop()
        if again < math.inf:
            self._schedule(again - now)


def overdue(answer: Answer, now: float) -> UpstreamTimeout | None:
    """Which limit has run out, if any; notes on the answer what has moved since the last look."""
    timeouts = answer.timeouts
    if now >= answer.total_at:
        return timed_out("total", timeouts.total)
    carrier = answer.carrier
    if carrier is None:
        return None
    if not answer.status and (carrier.uploading or carrier.write_paused):
        # A peer that takes nothing is silent; a caller that sends slowly is not the peer's fault.
        unsent = carrier.unsent()
        moved = unsent != answer.swept or not carrier.write_paused
        answer.swept = unsent
        phase, limit = "idle", timeouts.idle
    elif not answer.status:
        moved, phase, limit = False, "first_byte", timeouts.first_byte
    else:
        moved = answer.seen != answer.swept or carrier.paused
        answer.swept = answer.seen
        phase, limit = "idle", timeouts.idle
    if moved:
        answer.since = now
        return None
    if limit is not None and now - answer.since >= limit:
        return timed_out(phase, limit)
    return None
