"""Calls that wait for a free key: callers in turn, and within a caller who came first."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import suppress
from typing import Any, Generic, TypeVar

from ..errors import GatewayError
from .key import Key

T = TypeVar("T")


class FairQueue(Generic[T]):
    """A line in which no caller's many calls stand in front of another caller's one. Pure."""

    def __init__(self) -> None:
        self._callers: OrderedDict[Hashable, OrderedDict[T, int]] = OrderedDict()
        self._size = 0
        self._arrived = 0

    def __len__(self) -> int:
        return self._size

    def arrival(self) -> int:
        """A number for one who comes now and may stand in line later."""
        self._arrived += 1
        return self._arrived

    def add(self, caller: Hashable, item: T, arrived: int | None = None) -> None:
        """Stand in the caller's own line, behind who came before (`arrival`; default: all those
        there); a new caller comes after those there."""
        line = self._callers.setdefault(caller, OrderedDict())
        number = self.arrival() if arrived is None else arrived
        late = bool(line) and number < next(reversed(line.values()))
        line[item] = number
        if late:
            ordered = sorted(line.items(), key=lambda one: one[1])
            line.clear()
            line.update(ordered)
        self._size += 1

    def discard(self, caller: Hashable, item: T) -> bool:
        """Leave, served or not; whether it stood there. The caller keeps its turn."""
        line = self._callers.get(caller)
        if line is None or item not in line:
            return False
        del line[item]
        self._size -= 1
        if not line:
            del self._callers[caller]
        return True

    def turn_over(self, caller: Hashable) -> None:
        """One of a caller's was served: its next turn comes after everybody else's."""
        if caller in self._callers:
            self._callers.move_to_end(caller)

    def in_turn(self) -> Iterator[tuple[Hashable, T]]:
        """Everybody in the order they would be served; nothing may change while it is walked."""
        lines = []
        for caller, line in self._callers.items():
            left = iter(line)
            yield caller, next(left)
            lines.append((caller, left))
        while lines:
            longer = []
            for caller, left in lines:
                for item in left:
                    yield caller, item
                    longer.append((caller, left))
                    break
            lines = longer


def caller_of(exchange: Any) -> Hashable:
    """Whose call it is: its access token; all calls without one are one caller's."""
    caller = getattr(exchange, "caller", None)
    return None if caller is None else caller.token_id


class Waiter:
    """One call in line. Lives in one event loop; may be served from any thread."""

    __slots__ = ("_woken", "caller", "key", "loop", "refusal", "tokens", "tried")

    def __init__(self, caller: Hashable, tried: Collection[str], tokens: int) -> None:
        self.loop = asyncio.get_running_loop()
        self._woken: asyncio.Future[None] = self.loop.create_future()
        self.caller = caller
        self.tried = tried
        self.tokens = tokens
        self.key: Key | None = None
        """The key it was handed."""
        self.refusal: GatewayError | None = None
        """Why it has none."""

    def wake(self) -> bool:
        """End its waiting, from any thread; False when its loop is gone, and so is the call."""
        try:
            self.loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop is closed
            return False
        return True

    def _wake(self) -> None:
        if not self._woken.done():
            self._woken.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Until it is woken, or so many seconds are over."""
        timer = self.loop.call_later(seconds, self._wake)
        try:
            await self._woken
        finally:
            timer.cancel()


class Bell:
    """One loop's timer that rings when time alone makes a key free; for loops with waiters."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], float | None]) -> None:
        self._loop = loop
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self.waiters = 0

    def set(self, seconds: float | None) -> None:
        """Ring in so many seconds instead of whenever it would have; None: not at all."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None:
            self._timer = self._loop.call_later(max(seconds, 0.0), self._rung)

    def look(self) -> None:
        """Have it rung soon, from any thread."""
        with suppress(RuntimeError):  # the loop is closed, and its waiters gone
            self._loop.call_soon_threadsafe(self._rung)

    def _rung(self) -> None:
        self.set(self._ring() if self.waiters else None)
