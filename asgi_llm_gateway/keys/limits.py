"""Limits of one key, counted. Pure: the time is an argument.

A minute slides in buckets of one second, and a bucket counts until its last moment is a minute
old: within any 60 seconds there are never more than the limit, and room comes back at most a
second late. A limit day begins at a wall-clock hour of a time zone.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import date, datetime, time
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ..errors import ConfigurationError
from .key import DayUse

MINUTE = 60
_ALIVE = MINUTE + 1
"""A bucket of second s counts while now < s + 61."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """What one key may do; None is no limit.

    `concurrency` calls at once, `rpm` requests and `tpm` tokens a minute, `rpd` and `tpd` a day
    that begins at `reset_hour` in `time_zone` (an IANA name). `wait` is how long a call waits for
    a free key, `lease` how long a shared slot outlives the process that held it, both in seconds.
    Raises ConfigurationError for values that cannot work.
    """

    concurrency: int | None = None
    rpm: int | None = None
    tpm: int | None = None
    rpd: int | None = None
    tpd: int | None = None
    reset_hour: int = 0
    time_zone: str = "UTC"
    wait: float = 10.0
    lease: float = 30.0
    counted: bool = field(init=False, repr=False, compare=False)
    """Whether anything is limited by time."""
    any: bool = field(init=False, repr=False, compare=False)
    """Whether anything is limited at all."""
    counts_tokens: bool = field(init=False, repr=False, compare=False)
    """Whether tokens must be estimated when a key is taken."""

    def __post_init__(self) -> None:
        for name in ("concurrency", "rpm", "tpm", "rpd", "tpd"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not value >= 1):
                raise ConfigurationError(f"{name} of a key must be at least 1")
        if not 0 <= self.reset_hour <= 23:
            raise ConfigurationError("reset_hour is an hour from 0 to 23")
        if not 0 <= self.wait <= 3600:
            raise ConfigurationError("a call waits from 0 to 3600 seconds for a key")
        if not 1 <= self.lease <= 3600:
            raise ConfigurationError("the lease of a key's slot is from 1 to 3600 seconds")
        _zone(self.time_zone)
        tokens = self.tpm is not None or self.tpd is not None
        object.__setattr__(self, "counts_tokens", tokens)
        counted = tokens or self.rpm is not None or self.rpd is not None
        object.__setattr__(self, "counted", counted)
        object.__setattr__(self, "any", counted or self.concurrency is not None)


@dataclass(frozen=True, slots=True)
class LimitDay:
    """A day of limits: its number (days since the year 1), and where it begins and ends (unix)."""

    number: int
    since: float
    until: float


def limit_day(now: float, limits: KeyLimits) -> LimitDay:
    """The limit day of a unix time.

    Days follow each other without gap or overlap where clocks are changed: a reset hour that does
    not exist that day is the moment it would have been, one that comes twice is the first.
    """
    zone = _zone(limits.time_zone)
    number = datetime.fromtimestamp(now, zone).toordinal()
    while now < (since := _begin(number, limits.reset_hour, zone)):
        number -= 1
    while now >= (until := _begin(number + 1, limits.reset_hour, zone)):
        number, since = number + 1, until
    return LimitDay(number, since, until)


def _begin(number: int, hour: int, zone: ZoneInfo) -> float:
    return datetime.combine(date.fromordinal(number), time(hour), zone).timestamp()


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise ConfigurationError(
            f"time_zone {name!r} is not known here; write an IANA name such as Europe/Berlin "
            "(a system without time zones needs: pip install tzdata)"
        ) from exc


class Window:
    """How much there was in the last minute."""

    __slots__ = ("_buckets", "total")

    def __init__(self) -> None:
        self._buckets: deque[list[int]] = deque()
        self.total = 0

    def slide(self, now: float) -> None:
        """Forget what is more than a minute old."""
        oldest, buckets = int(now) - MINUTE, self._buckets
        while buckets and buckets[0][0] < oldest:
            self.total -= buckets.popleft()[1]

    def add(self, now: float, count: int) -> None:
        """Count something that happens now."""
        second, buckets = int(now), self._buckets
        self.total += count
        if buckets and buckets[-1][0] >= second:
            buckets[-1][1] += count
        else:
            buckets.append([second, count])

    def correct(self, at: float, by: int) -> None:
        """Change what was counted at a time, if that still counts."""
        for bucket in reversed(self._buckets):
            if bucket[0] <= int(at):
                if bucket[0] == int(at):
                    bucket[1] += by
                    self.total += by
                return

    def opens(self, need: int, limit: int) -> float:
        """The earliest time at which `need` more fit; 0 when they do now.

        More than the limit itself fits when nothing else counts any more: else it never would.
        """
        over = self.total + min(need, limit) - limit
        at = 0
        for second, count in self._buckets:
            if over <= 0:
                break
            over -= count
            at = second + _ALIVE
        return float(at)


class Meter:
    """What one key has done by minute and by day, held against its limits.

    `now` is a clock for durations, `day` the limit day of the moment and `wall` its unix time.
    """

    __slots__ = ("_limits", "_requests", "_tokens", "day", "day_requests", "day_tokens")

    def __init__(self, limits: KeyLimits) -> None:
        self._limits = limits
        self._requests = Window()
        self._tokens = Window()
        self.day: LimitDay | None = None
        self.day_requests = 0
        self.day_tokens = 0

    def under(self, limits: KeyLimits) -> Meter:
        """Go on with what was counted under other limits."""
        if limits is not self._limits:
            self._limits, self.day = limits, None
        return self

    def opens(self, now: float, wall: float, day: LimitDay, tokens: int = 1) -> float:
        """The earliest time (by the clock of `now`) at which a call of so many tokens may go; 0
        when it may now."""
        self._turn(day)
        limits = self._limits
        at = 0.0
        if limits.rpm is not None:
            self._requests.slide(now)
            at = self._requests.opens(1, limits.rpm)
        if limits.tpm is not None:
            self._tokens.slide(now)
            at = max(at, self._tokens.opens(tokens, limits.tpm))
        if _is_over(self.day_requests, 1, limits.rpd) or _is_over(
            self.day_tokens, tokens, limits.tpd
        ):
            at = max(at, now + day.until - wall)
        return at

    def take(self, now: float, day: LimitDay, tokens: int) -> None:
        """Count a call."""
        self._turn(day)
        limits = self._limits
        if limits.rpm is not None:
            self._requests.add(now, 1)
        if limits.tpm is not None:
            self._tokens.add(now, tokens)
        self.day_requests += 1
        self.day_tokens += tokens

    def correct(self, at: float, tokens: int, requests: int = 0) -> None:
        """Change what was counted at a time: its tokens, or that there was a request at all.

        What began yesterday and ends today is corrected today.
        """
        if tokens:
            self._tokens.correct(at, tokens)
        if requests:
            self._requests.correct(at, requests)
        self.day_tokens = max(0, self.day_tokens + tokens)
        self.day_requests = max(0, self.day_requests + requests)

    def use(self, day: LimitDay) -> DayUse:
        """What was counted in the day."""
        self._turn(day)
        return DayUse(self.day_requests, self.day_tokens, day.since, day.until)

    def _turn(self, day: LimitDay) -> None:
        """A new day begins with nothing; a clock that was set back does not bring an old one."""
        if self.day is None or day.number > self.day.number:
            if self.day is not None:
                self.day_requests = self.day_tokens = 0
            self.day = day


def _is_over(used: int, need: int, limit: int | None) -> bool:
    return limit is not None and used + min(need, limit) > limit
