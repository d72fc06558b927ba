"""When to stop asking a store that does not answer, and when to try again; pure."""

from __future__ import annotations

__all__ = ["FAILURES", "Breaker"]

FAILURES = 5
"""In a row, after which nothing is asked for a while."""


class Breaker:
    """Closed, until `failures` come in a row; then open; then half open, for one call at a time.

    Open lasts `cooldown` seconds, twice as long after each probe that failed, at most `longest`.
    A probe of which nothing is heard for `patience` seconds counts for nothing, and the next call
    is one. Times are seconds of any one clock.
    """

    __slots__ = (
        "_cooldown",
        "_failures",
        "_in_row",
        "_longest",
        "_patience",
        "_pause",
        "_probing",
        "_until",
        "closed",
    )

    def __init__(
        self,
        *,
        failures: int = FAILURES,
        cooldown: float = 1.0,
        longest: float = 10.0,
        patience: float = 5.0,
    ) -> None:
        self._failures = failures
        self._cooldown = self._pause = cooldown
        self._longest = longest
        self._patience = patience
        self._in_row = 0
        self._probing = False
        self._until = 0.0
        self.closed = True
        """Whether everything is let through; who finds this True need not ask `admits`."""

    def admits(self, now: float) -> bool:
        """Whether a call may go out; when half open, saying yes makes that call the probe."""
        if self.closed:
            return True
        if now < self._until:
            return False
        self._probing = True
        self._until = now + self._patience
        return True

    def retry_after(self, now: float) -> float:
        """Seconds until the next call is let through; 0 when one is now."""
        return 0.0 if self.closed else max(0.0, self._until - now)

    def succeeded(self) -> bool:
        """An answer has come in time; True when that has closed the breaker."""
        self._in_row = 0
        self._probing = False
        self._pause = self._cooldown
        was_closed, self.closed = self.closed, True
        return not was_closed

    def failed(self, now: float, count: int = 1) -> bool:
        """`count` failures have been seen; True when that has opened the breaker, or opened it
        again after a probe."""
        if self.closed:
            self._in_row += count
            if self._in_row < self._failures:
                return False
            self.closed = False
        elif self._probing:
            self._pause = min(self._pause * 2, self._longest)
        else:  # what was under way when it opened says nothing new
            return False
        self._probing = False
        self._until = now + self._pause
        return True
