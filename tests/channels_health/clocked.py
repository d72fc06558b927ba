"""A clock that tests move, and a Health that goes by it."""

from __future__ import annotations

from random import Random
from typing import Any

from asgi_llm_gateway.channels.error_class import ErrorClass
from asgi_llm_gateway.channels.health import Health, HealthEvent, HealthRules

OFFSET = 1_800_000_000.0
"""Unix time at 0 on the clock."""


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def wall(self) -> float:
        return OFFSET + self.now


class Watched(Health):
    """A Health whose clock stands still until `clock.now` is changed, and whose events are kept."""

    def __init__(self, rules: HealthRules | None = None, **more: Any) -> None:
        self.clock = Clock()
        self.events: list[HealthEvent] = []
        super().__init__(
            rules or HealthRules(jitter=0),
            clock=self.clock,
            wall=self.clock.wall,
            rng=Random(0),
            **more,
        )
        self.on_change.append(self.events.append)

    def fails(self, verdict: ErrorClass, *, times: int = 1, model: str = "m", **more: Any) -> None:
        for _ in range(times):
            self.ended("a", model, verdict=verdict, **{"seconds": 0.0, **more})

    @property
    def changes(self) -> list[tuple[str, str | None, str]]:
        """Channel, model and new condition of each event."""
        return [(e.channel, e.model, e.new) for e in self.events]
