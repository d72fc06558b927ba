"""What choosing knows of a channel: calls under way, how soon it answers, how much it may do."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

from .ratelimits import lowest

_BLEND = 0.3
"""Share of the newest call in the latency."""
_HALF_LIFE = 30.0
"""Seconds unasked after which a latency counts half: what was slow is tried again in the end."""
_SLOWEST = 60.0
"""Seconds a failure may count as at most."""
_MEASURED = 100
"""Recent calls whose first byte is remembered."""
_ENOUGH = 20
"""Calls before anything is said of the slowest of them."""
_ASKED_AND_SILENT = float("inf")


class ChannelStats:
    """The measures of one channel in this process; cheap to keep, read by the strategies.

    `clock` is monotonic seconds. Loop-free: several loops may share it.
    """

    __slots__ = ("_clock", "_firsts", "_left", "_touched", "_until", "in_flight", "latency")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._touched = 0.0
        self._left, self._until = 1.0, 0.0
        self._firsts: deque[float] = deque(maxlen=_MEASURED)
        self.in_flight = 0
        """Calls that have begun and not ended."""
        self.latency: float | None = None
        """Seconds to the first byte, newer calls counting more (EWMA); None before the first."""

    def begun(self) -> None:
        """A call goes out."""
        self.in_flight += 1
        self._touched = self._clock()

    def ended(self, first_byte: float | None) -> None:
        """A call is over; its first byte came after so many seconds, or never (None).

        One that never came counts as twice the latency, and as a second at the least: a channel
        that fails fast must not look like a fast one.
        """
        self.in_flight -= 1
        self._touched = self._clock()
        known = self.latency
        if first_byte is not None:
            self._firsts.append(first_byte)
        else:
            first_byte = min(max(2 * (known or 0.0), 1.0), _SLOWEST)
        self.latency = first_byte if known is None else known + _BLEND * (first_byte - known)

    def abandoned(self) -> None:
        """A call is over and says nothing of the channel: its caller left before it answered."""
        self.in_flight -= 1

    def outrun(self, seconds: float) -> None:
        """A call was given up unanswered after so many seconds, since another was quicker.

        It would have taken longer, so it counts as one that took as long, if that says anything:
        were the slowest calls left out, what counts as late would come down and down.
        """
        if self.latency is None or seconds < self.latency:
            self.abandoned()
        else:
            self.ended(seconds)

    @property
    def late_after(self) -> float | None:
        """Seconds within which 95 of 100 recent calls had their first byte; None before there are
        enough to say."""
        firsts = self._firsts
        if len(firsts) < _ENOUGH:
            return None
        return sorted(firsts)[int(len(firsts) * 0.95)]

    def expected(self) -> float:
        """Seconds to the first byte as a choice should count them.

        0 where nothing was measured yet, so that it soon is. While nobody asks, an old measure
        fades towards 0; one call under way ends that, so a channel that was slow is tried with
        one call and not with all of them.
        """
        known = self.latency
        if known is None:
            return _ASKED_AND_SILENT if self.in_flight > 0 else 0.0
        idle = self._clock() - self._touched
        if self.in_flight > 0 or idle < 1.0:
            return known
        return float(known * 0.5 ** (idle / _HALF_LIFE))

    def now(self) -> float:
        """What its clock says."""
        return self._clock()

    def headroom(self, now: float) -> float:
        """The share of its provider's rate limits that is left, from 0 to 1.

        1 where the provider has told none, and after the reset it told.
        """
        return 1.0 if now >= self._until else self._left

    def limits_seen(
        self, headers: Iterable[tuple[bytes, bytes]], now: float, wall: float | None = None
    ) -> None:
        """What an answer's headers say of the limits; `now` by `clock`, `wall` in unix seconds.

        A channel may have many keys, each with limits of its own, and an answer tells of one: so
        what was told last counts half.
        """
        told = lowest(headers, wall)
        if told is None:
            return
        fresh = now < self._until
        self._left = (self._left + told.left) / 2 if fresh else told.left
        self._until = now + told.resets
