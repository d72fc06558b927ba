"""Health by other rules than the default's, and what test calls do."""

from __future__ import annotations

from asgi_llm_gateway.channels.error_class import ErrorClass
from asgi_llm_gateway.channels.error_table import ErrorTable
from asgi_llm_gateway.channels.health import HealthRules, health_rules
from asgi_llm_gateway.channels.preset_default import SERVER_ERROR
from tests.channels_health.clocked import Watched
from tests.channels_health.refusals import ONE_API

FAILURES = {case[0]: case[1] for case in ONE_API}


def test_slow_calls_are_watched_only_if_a_rule_says_so() -> None:
    health = Watched(HealthRules(slow_call=5, slow_above=0.5, least_calls=3, jitter=0))
    assert not health.quiet
    for _ in range(3):
        health.ended("a", "m", verdict=None, seconds=100, first=1)
    assert health.states() == []
    for _ in range(3):
        health.ended("a", "m", verdict=None, seconds=100, first=6)
    assert not health.admits("a", "m")


def test_one_api_takes_a_channel_out_when_less_than_eight_of_ten_calls_go_well() -> None:
    health = Watched(health_rules("one-api"))
    failed = ErrorTable("one-api").classify(FAILURES["500"])
    for n in range(9):
        health.ended("a", f"m{n}", verdict=failed if n < 3 else None, seconds=0.1)
    assert health.admits("a", "m")
    health.ended("a", "m", verdict=None, seconds=0.1)
    assert not health.admits("a", "m")
    health.clock.now += 1e6
    assert not health.admits("a", "m")
    assert health.changes == [("a", None, "out")]
    health.tested("a", verdict=None, seconds=0.1)
    assert health.admits("a", "m")


def test_one_api_takes_a_channel_out_for_one_error_of_a_dead_account() -> None:
    health = Watched(health_rules("one-api"))
    dead = ErrorTable("one-api").classify(FAILURES["401"])
    health.ended("a", "m", verdict=dead, seconds=0.1)
    assert not health.admits("a", "any")


def test_a_test_call_slower_than_the_rule_takes_out_and_a_quicker_one_brings_back() -> None:
    health = Watched(health_rules("one-api"))
    health.tested("a", verdict=None, seconds=5.1)
    assert health.events[-1].reason == "a test call took 5.1 s"
    assert not health.admits("a", "m")
    health.tested("a", verdict=None, seconds=5.1)
    assert not health.admits("a", "m")
    health.tested("a", verdict=None, seconds=4.9)
    assert health.admits("a", "m")


def test_a_failed_test_call_counts_against_the_channel() -> None:
    health = Watched()
    for _ in range(5):
        health.tested("a", verdict=SERVER_ERROR, seconds=0)
    assert health.changes == [("a", None, "open")]
    health.tested("a", verdict=None, seconds=0.1)
    assert health.admits("a", "m")


def test_a_test_call_brings_models_back_that_are_out_and_leaves_open_ones_to_real_calls() -> None:
    health = Watched()
    health.fails(ErrorClass("gone", health="remove", scope="model"), model="out")
    health.fails(SERVER_ERROR, times=5, model="open")
    health.tested("a", verdict=None, seconds=0.1)
    assert health.admits("a", "out")
    assert not health.admits("a", "open")
