"""How long to wait before a retry, and whether there may be one. Pure: clock and rng are given."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite
from random import Random
from typing import Final

from ..errors import ConfigurationError, GatewayError, ProviderRefused
from ..wire.retryafter import clamped, retry_after
from .error_class import ErrorClass

_DELAY: Final = re.compile(rb'"retryDelay"\s*:\s*"(\d{1,6}(?:\.\d{1,9})?)s"')
_LOOKED_AT: Final = 16 * 1024


def asked_for(failure: GatewayError, now_wall: float) -> float | None:
    """The seconds after which a failed attempt may be made again, as far as anybody said.

    A provider's headers, or its body (google.rpc.RetryInfo); for other failures what they carry.
    """
    if isinstance(failure, ProviderRefused):
        said = retry_after(failure.headers, now_wall)
        if said is not None:
            return said
        # A caller's words cannot look like this: inside a JSON string the quotes are escaped.
        delay = _DELAY.search(failure.body, 0, _LOOKED_AT)
        if delay is not None:
            return clamped(float(delay[1]))
    return None if failure.retry_after is None else clamped(failure.retry_after)


def key_cooldown(verdict: ErrorClass, asked: float | None, *, longest: float = 3600.0) -> float:
    """For how many seconds a key rests after this failure: 0 unless the verdict is about the key.

    What the provider asked for counts, else the verdict's own time; never more than `longest`.
    """
    if verdict.scope != "key" or verdict.health != "cooldown":
        return 0.0
    return min(verdict.cooldown if asked is None else asked, longest)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter: any time from 0 to the bound is as likely.

    Full jitter spreads callers that failed together best (AWS, "Exponential Backoff And Jitter").
    Raises ConfigurationError for numbers that cannot work.
    """

    first: float = 0.5
    factor: float = 2.0
    cap: float = 8.0

    def __post_init__(self) -> None:
        good = all(isfinite(v) for v in (self.first, self.factor, self.cap))
        if not good or self.first < 0 or self.cap < 0 or self.factor < 1:
            raise ConfigurationError(
                "backoff: first and cap are seconds from 0, factor is a number from 1"
            )

    def bound(self, n: int) -> float:
        """The longest wait before the n-th retry; the first is 1."""
        # Past 64 doublings every bound is the cap, and floats would overflow.
        return min(self.cap, self.first * self.factor ** min(max(n - 1, 0), 64))

    def wait(self, n: int, rng: Random) -> float:
        """Seconds to wait before the n-th retry."""
        return rng.random() * self.bound(n)


class RetryBudget:
    """How many retries one channel may get: a share of its recent calls, and never below a floor.

    The floor lets a channel with little traffic be retried at all. What counts as recent slides
    with a tenth of the window; every call costs the same however many there were.
    """

    __slots__ = (
        "_calls",
        "_calls_in",
        "_floor",
        "_ratio",
        "_retries",
        "_retries_in",
        "_slot",
        "_tick",
    )

    _SLOTS: Final = 10

    def __init__(self, ratio: float = 0.1, *, window: float = 10.0, floor: int = 10) -> None:
        if not (0 <= ratio <= 1 and isfinite(window) and window > 0 and floor >= 0):
            raise ConfigurationError(
                "retry budget: ratio is from 0 to 1, window above 0 seconds, floor from 0"
            )
        self._ratio = ratio
        self._floor = floor
        self._slot = window / self._SLOTS
        self._tick = 0
        self._calls = [0] * self._SLOTS
        self._retries = [0] * self._SLOTS
        self._calls_in = 0
        self._retries_in = 0

    def called(self, now: float) -> None:
        """A first attempt of a call was made on this channel."""
        tick = int(now / self._slot)
        at = tick % self._SLOTS if tick == self._tick else self._at(now)
        self._calls[at] += 1
        self._calls_in += 1

    def may_retry(self, now: float) -> bool:
        """Whether there is a retry left; if so, it is taken."""
        at = self._at(now)
        if self._retries_in >= max(self._floor, self._ratio * self._calls_in):
            return False
        self._retries[at] += 1
        self._retries_in += 1
        return True

    def _at(self, now: float) -> int:
        tick = int(now / self._slot)
        for passed in range(min(tick - self._tick, self._SLOTS)):
            old = (tick - passed) % self._SLOTS
            self._calls_in -= self._calls[old]
            self._retries_in -= self._retries[old]
            self._calls[old] = self._retries[old] = 0
        self._tick = max(self._tick, tick)
        return self._tick % self._SLOTS
