"""The breakers of what failed lately, bounded in number."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Final

from .breaker import Breaker
from .events import HealthState, Name
from .rules import HealthRules

_LONGEST_MODEL: Final = 256
"""Characters; callers choose names, and no provider has one as long."""
_LOOKED_AT: Final = 8
_TIDY_EVERY: Final = 1.0
_CANDIDATES: Final = 64


@dataclass(frozen=True, slots=True)
class Probe:
    """Which breakers a call was let through as a probe of; ORDINARY for a call that is none."""

    channel: int = 0
    model: int = 0


ORDINARY: Final = Probe()


class Entries:
    """`all` holds them, those unheard of for longest first."""

    def __init__(self, rules: HealthRules, rng: Random, limit: int) -> None:
        self.all: dict[Name, Breaker] = {}
        self._rules = rules
        self._rng = rng
        self._limit = limit
        self._tidied = 0.0

    def entry(self, name: Name) -> Breaker:
        """The breaker of this name; a new one is well."""
        breaker = self.all.pop(name, None) or Breaker(self._rules, self._rng)
        if name[1] is not None and len(name[1]) > _LONGEST_MODEL:
            return breaker  # judged, and forgotten
        if len(self.all) >= self._limit:
            self._make_room()
        self.all[name] = breaker
        return breaker

    def both(
        self, channel: str, model: str, probe: Probe = ORDINARY
    ) -> list[tuple[Name, Breaker, int]]:
        """The breakers a call has to do with, and its numbers as their probe."""
        numbered: tuple[tuple[Name, int], ...] = (
            ((channel, None), probe.channel),
            ((channel, model), probe.model),
        )
        return [
            (name, breaker, number)
            for name, number in numbered
            if (breaker := self.all.get(name)) is not None
        ]

    def states(self, now: float, wall: float) -> list[HealthState]:
        """Everything that is not simply well; `wall` is the unix time that `now` is."""
        found = [
            HealthState(
                *name,
                breaker.state,
                breaker.reason,
                wall + breaker.until - now if breaker.state == "open" else None,
            )
            for name, breaker in list(self.all.items())
            if breaker.state != "closed"
        ]
        return sorted(found, key=lambda state: (state.channel, state.model or ""))

    def of(self, channel: str) -> list[tuple[Name, Breaker]]:
        """Those of a channel and of the models on it."""
        return [item for item in list(self.all.items()) if item[0][0] == channel]

    def tidy(self, now: float) -> None:
        """Forget a few of those that are well again; the next time it looks at others."""
        if now - self._tidied < _TIDY_EVERY and len(self.all) > _LOOKED_AT:
            return
        self._tidied = now
        for name, breaker in list(islice(self.all.items(), _LOOKED_AT)):
            self.all.pop(name, None)
            if not breaker.well(now):
                self.all[name] = breaker

    def _make_room(self) -> None:
        """Forget the oldest that is in use, else the oldest that comes back by itself; never what
        somebody has to bring back."""
        oldest = list(islice(self.all.items(), _CANDIDATES))
        for conditions in (("closed",), ("closed", "half_open", "open")):
            for name, breaker in oldest:
                if breaker.state in conditions:
                    self.all.pop(name, None)
                    return
