"""The numbers of the breaker: presets, changes, and what cannot work."""

from __future__ import annotations

from math import inf
from random import Random
from typing import Any

import pytest

from asgi_llm_gateway.channels.health.rules import PRESETS, HealthRules, health_rules
from asgi_llm_gateway.errors import ConfigurationError


def test_jitter_spreads_openings_and_stays_within_its_share() -> None:
    rules = HealthRules()
    rng = Random(1)
    lasted = [rules.opening(9, rng) for _ in range(200)]
    assert min(lasted) < 17
    assert max(lasted) > 23
    assert all(16 <= seconds <= 24 for seconds in lasted)


@pytest.mark.parametrize(
    "wrong",
    [
        {"failures": -1},
        {"success_below": 1.5},
        {"jitter": 2},
        {"factor": 0.5},
        {"first_open": 0},
        {"probe_lease": 0},
        {"longest_open": inf},
        {"least_calls": 60},
        {"recovery": "prayer"},
        {"calm": True},
        {"calm": "60s"},
    ],
)
def test_rules_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"^health: "):
        health_rules(changes=wrong)


def test_presets_can_be_changed_and_unknown_names_are_told() -> None:
    rules = health_rules("one-api", {"slow_test": 9})
    assert (rules.window_calls, rules.success_below, rules.slow_test) == (10, 0.8, 9)
    assert PRESETS["one-api"].slow_test == 5
    assert PRESETS["one-api"].recovery == "test"
    with pytest.raises(ConfigurationError, match="default, one-api, new-api, not 'x'"):
        health_rules("x")
    with pytest.raises(ConfigurationError, match="'slowness' is no rule; known are calm"):
        health_rules(changes={"slowness": 1})
