"""How long one attempt may take: the channel's limits, which a caller may only shorten."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..channels.live import LiveChannel
from ..errors import GatewayError, Headers, InvalidRequest, UpstreamTimeout
from ..upstream.contract import Timeouts

TOTAL = b"x-llm-timeout"
"""A caller's header: seconds the whole answer may take."""
FIRST_TOKEN = b"x-llm-first-token-timeout"
"""A caller's header: seconds until the first event of a stream."""
NAMES = frozenset({TOTAL, FIRST_TOKEN})
_LONGEST = 86_400.0
_TOO_LITTLE = 0.01
"""Seconds nobody need begin anything in; timers may be early by less."""


@dataclass(frozen=True, slots=True)
class Times:
    """What a caller's headers ask for: `ends` is the loop's time by which the whole answer must be
    there, whoever gives it; `first_token` the seconds an attempt may take until its first event."""

    ends: float | None = None
    first_token: float | None = None
    streamed: bool = False
    """A stream was asked for: then the head, too, must be there within `first_token`."""

    def over(self, now: float) -> bool:
        """Whether the caller wants no answer any more."""
        return self.ends is not None and now > self.ends - _TOO_LITTLE

    def left(self, now: float) -> float | None:
        """Seconds of the call that are left; None for no limit."""
        return None if self.ends is None else max(self.ends - now, 0.0)


def wished(headers: Headers, started: float, *, streamed: bool = False) -> Times | None:
    """The limits a caller asks for, of a call that began at `started` (loop time); None for most,
    who leave them to the channels.

    Raises InvalidRequest for a value that is no number of seconds above 0.
    """
    found = [header for header in headers if header[0] in NAMES]
    if not found:
        return None
    seconds = {name: _seconds(name, value) for name, value in found}
    total = seconds.get(TOTAL)
    ends = None if total is None else started + total
    return Times(ends, seconds.get(FIRST_TOKEN), streamed)


def until(started: float, budget: float | None, wish: Times | None) -> float | None:
    """When an answer must have begun, by the call's budget and the caller's wish."""
    ends = None if budget is None else started + budget
    return ends if wish is None else _shorter(ends, wish.ends)


def limits_of(channel: LiveChannel, model: str, wish: Times | None, now: float) -> Timeouts:
    """The limits of one attempt on this channel that begins now (loop time)."""
    limits = channel.timeouts_for(model)
    if wish is None:
        return limits
    left = wish.left(now)
    first = _shorter(left, wish.first_token)
    return replace(
        limits,
        total=_shorter(limits.total, left),
        first_byte=_shorter(limits.first_byte, first if wish.streamed else left),
        first_token=_shorter(limits.first_token, first),
    )


def hurried(
    failure: GatewayError, channel: LiveChannel, model: str, wish: Times, began: float, now: float
) -> bool:
    """Whether the limit that has run out now for an attempt that began then (loop times) was the
    caller's, and the channel's own would not have."""
    if not isinstance(failure, UpstreamTimeout):
        return False
    kept, own = limits_of(channel, model, wish, began), channel.timeouts_for(model)
    shortened = getattr(kept, failure.phase, None) != getattr(own, failure.phase, None)
    return shortened or wish.over(now)


def _shorter(limit: float | None, wanted: float | None) -> float | None:
    if limit is None or wanted is None:
        return wanted if limit is None else limit
    return min(limit, wanted)


def _seconds(name: bytes, value: bytes) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _LONGEST:
        raise InvalidRequest(f"{name.decode()} is a number of seconds above 0", param=name.decode())
    return seconds
