"""When a channel or a model on it counts as ill, and how it comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import inf, isfinite
from random import Random
from types import MappingProxyType
from typing import Any, Final, Literal

from ...errors import ConfigurationError

Recovery = Literal["probe", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRules:
    """Numbers of the breaker. Times are seconds; 0 switches a rule off.

    It opens after `failures` failures in a row, or when less than `success_below` of the last
    `window_calls` calls (within `window_seconds`; at least `least_calls` of them) went well, or
    when more than `slow_above` of them took `slow_call` or longer. It stays open for `first_open`,
    `factor` times as long every further time, at most `longest_open`, give or take the share
    `jitter`; then one call at a time goes through as a probe, and a good one closes it. A probe
    that is not heard of for `probe_lease` no longer keeps others from trying. Closed for `calm`,
    it begins with `first_open` again. What a provider asks for with Retry-After is honoured up to
    `longest_asked`.

    `recovery = "test"`: it does not open but goes out, and only a test call or a hand brings it
    back. `slow_test`: a test call that takes longer takes the channel out. Raises
    ConfigurationError for numbers that cannot work.
    """

    failures: int = 5
    window_calls: int = 50
    window_seconds: float = 60.0
    least_calls: int = 20
    success_below: float = 0.5
    slow_call: float = 0.0
    slow_above: float = 0.8
    first_open: float = 2.0
    factor: float = 2.0
    longest_open: float = 20.0
    jitter: float = 0.2
    probe_lease: float = 10.0
    calm: float = 60.0
    longest_asked: float = 60.0
    recovery: Recovery = "probe"
    slow_test: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "recovery":
                good = value in ("probe", "test")
            elif isinstance(value, bool) or not isinstance(value, int | float):
                good = False
            else:
                good = value >= 0 and (isfinite(value) or field.name == "window_seconds")
            if not good:
                raise ConfigurationError(f"health: {field.name} cannot be {value!r}")
        for name in ("success_below", "slow_above", "jitter"):
            if getattr(self, name) > 1:
                raise ConfigurationError(f"health: {name} is a share, from 0 to 1")
        if self.factor < 1 or not self.probe_lease or not self.first_open:
            raise ConfigurationError(
                "health: factor is from 1, first_open and probe_lease are above 0"
            )
        if self.least_calls > self.window_calls:
            raise ConfigurationError("health: least_calls cannot be above window_calls")

    def opening(self, times: int, rng: Random) -> float:
        """For how long it opens when it has opened `times` times before."""
        # Past 64 doublings every opening is the longest one, and floats would overflow.
        whole = min(self.longest_open, self.first_open * self.factor ** min(times, 64))
        return whole * (1 + self.jitter * (2 * rng.random() - 1))


PRESETS: Final[Mapping[str, HealthRules]] = MappingProxyType(
    {
        "default": HealthRules(),
        # The last 10 calls, out below 0.8; there is no breaker, and nothing but a test that goes
        # well (those are off unless switched on) brings a channel back by itself.
        "one-api": HealthRules(
            failures=0,
            window_calls=10,
            window_seconds=inf,
            least_calls=10,
            success_below=0.8,
            recovery="test",
            slow_test=5.0,
        ),
        "new-api": HealthRules(failures=0, success_below=0.0, recovery="test", slow_test=5.0),
    }
)


def health_rules(preset: str = "default", changes: Mapping[str, Any] | None = None) -> HealthRules:
    """A preset with some numbers changed; raises ConfigurationError for a name nobody knows."""
    if preset not in PRESETS:
        known = ", ".join(PRESETS)
        raise ConfigurationError(f"the health presets are {known}, not {preset!r}")
    given = dict(changes or {})
    known_names = {field.name for field in fields(HealthRules)}
    if unknown := sorted(set(given) - known_names):
        names = ", ".join(sorted(known_names))
        raise ConfigurationError(f"health: {unknown[0]!r} is no rule; known are {names}")
    return replace(PRESETS[preset], **given)
