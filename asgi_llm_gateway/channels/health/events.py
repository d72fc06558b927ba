"""What hooks and logs are told of health."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final, Literal

Condition = Literal["closed", "open", "half_open", "out", "disabled"]
"""closed: in use. open: not asked until a time. half_open: one call at a time is let through to
see. out: taken out by the rules until a test or a hand brings it back. disabled: by hand."""

Name = tuple[str, str | None]
"""A channel, and a model on it or None for the whole channel."""

log = logging.getLogger("asgi_llm_gateway.channels.health")

_LONGEST_NAME: Final = 100
_LONGEST_REASON: Final = 200
_LEVELS: Final = {"half_open": logging.DEBUG, "closed": logging.INFO}


@dataclass(frozen=True, slots=True)
class Change:
    """One step of a breaker; `until` is the breaker's clock time at which an opening ends."""

    old: Condition
    new: Condition
    reason: str
    until: float | None = None


@dataclass(frozen=True, slots=True)
class HealthEvent:
    """A change of a channel's health, or of one model's on it. Times are unix times."""

    channel: str
    model: str | None
    old: Condition
    new: Condition
    reason: str
    until: float | None
    at: float


@dataclass(frozen=True, slots=True)
class HealthState:
    """How a channel or a model on it is; what is well and was well lately is not listed."""

    channel: str
    model: str | None
    condition: Condition
    reason: str
    until: float | None
    """Unix time at which it may be asked again."""


@dataclass(frozen=True, slots=True)
class Record:
    """A state as other processes are told it; `left` is for how many seconds it stays open."""

    condition: Condition
    reason: str
    left: float = 0.0
    by_hand: bool = False


def tell_log(event: HealthEvent) -> None:
    """One line for a change: what is no longer asked is a warning."""
    model = event.model
    if model is None:
        about = f"channel {event.channel}"
    else:
        shown = model if len(model) <= _LONGEST_NAME else f"{model[:_LONGEST_NAME]}..."
        about = f"channel {event.channel}, model {shown!r}"
    level = _LEVELS.get(event.new, logging.WARNING)
    # A reason given by hand may hold line ends, and what no terminal can show.
    reason = repr(event.reason[:_LONGEST_REASON])[1:-1]
    log.log(level, "%s: %s -> %s (%s)", about, event.old, event.new, reason)
