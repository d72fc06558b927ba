"""How long one attempt may take: the channel's limits, which a caller may only shorten."""

from __future__ import annotations

from dataclasses import replace

from ..channels.live import LiveChannel
from ..errors import Headers, InvalidRequest
from ..upstream.contract import Timeouts

TOTAL = b"x-llm-timeout"
"""A caller's header: seconds the whole answer may take."""
FIRST_TOKEN = b"x-llm-first-token-timeout"
"""A caller's header: seconds until the first event of a stream."""
_LONGEST = 86_400.0


class Times:
    """What a caller's headers ask for; without them the limits are the channel's own.

    Raises InvalidRequest for a value that is no number of seconds above 0.
    """

    total: float | None = None
    first_token: float | None = None

    def __init__(self, headers: Headers) -> None:
        for name, value in headers:
            if name == TOTAL:
                self.total = _seconds(name, value)
            elif name == FIRST_TOKEN:
                self.first_token = _seconds(name, value)

    def until(self, started: float, budget: float | None) -> float | None:
        """When an answer must have begun, by the call's budget and the caller's wish."""
        seconds = _shorter(budget, self.total)
        return None if seconds is None else started + seconds

    def of(self, channel: LiveChannel, model: str) -> Timeouts:
        """The limits of one attempt on this channel."""
        limits = channel.timeouts_for(model)
        if self.total is None and self.first_token is None:
            return limits
        return replace(
            limits,
            total=_shorter(limits.total, self.total),
            first_byte=_shorter(limits.first_byte, self.total),
            first_token=_shorter(limits.first_token, self.first_token or self.total),
        )


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
