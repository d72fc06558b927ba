"""The health of channels and of models on them, as calls see it."""

from __future__ import annotations

import logging
from math import inf

import pytest

from asgi_llm_gateway.channels.error_class import ErrorClass
from asgi_llm_gateway.channels.health import (
    ORDINARY,
    Health,
    HealthEvent,
    Probe,
)
from asgi_llm_gateway.channels.preset_default import (
    CALLER,
    LOST,
    RATE_LIMITED,
    SERVER_ERROR,
    UNREACHABLE,
)
from tests.channels_health.clocked import OFFSET, Watched
from tests.channels_health.refusals import ONE_API

FAILURES = {case[0]: case[1] for case in ONE_API}
GONE = ErrorClass("gone", health="remove", scope="channel")


def test_what_never_failed_costs_nothing_and_is_quiet() -> None:
    health = Watched()
    assert health.quiet
    assert health.admits("a", "m")
    assert health.begun("a", "m") is ORDINARY
    health.answered("a", "m", ORDINARY)
    health.ended("a", "m", verdict=None, seconds=1)
    assert health.quiet
    assert health.states() == []
    assert health.retry_at("a", "m") is None


def test_a_failing_model_is_left_alone_and_the_others_of_its_channel_are_not() -> None:
    health = Watched()
    health.fails(SERVER_ERROR, times=5)
    assert not health.quiet
    assert not health.admits("a", "m")
    assert health.begun("a", "m") is None
    assert health.admits("a", "other")
    assert health.admits("b", "m")
    assert health.retry_at("a", "m") == 1002
    assert health.changes == [("a", "m", "open")]


def test_a_channel_that_cannot_be_reached_is_left_alone_for_every_model() -> None:
    health = Watched()
    health.fails(UNREACHABLE, times=3, model="m")
    health.fails(UNREACHABLE, times=2, model="n")
    assert not health.admits("a", "m")
    assert not health.admits("a", "never seen")
    assert health.changes == [("a", None, "open")]


@pytest.mark.parametrize("verdict", [CALLER, RATE_LIMITED], ids=["the caller's", "the key's"])
def test_what_is_not_the_channels_fault_says_nothing_of_it(verdict: ErrorClass) -> None:
    health = Watched()
    health.fails(verdict, times=50)
    assert health.quiet


def test_after_its_time_one_call_goes_through_and_the_others_when_it_went_well() -> None:
    health = Watched()
    health.fails(SERVER_ERROR, times=5)
    health.clock.now += 2
    assert health.admits("a", "m")
    probe = health.begun("a", "m")
    assert probe == Probe(0, 1)
    assert not health.admits("a", "m")
    assert health.begun("a", "m") is None
    health.ended("a", "m", verdict=None, seconds=0.5, probe=probe or ORDINARY)
    assert health.admits("a", "m")
    assert health.begun("a", "m") is ORDINARY
    assert [e.new for e in health.events] == ["open", "half_open", "closed"]


def test_a_stream_that_begins_well_lets_the_others_through_at_once() -> None:
    health = Watched()
    health.fails(SERVER_ERROR, times=5)
    health.clock.now += 2
    probe = health.begun("a", "m")
    assert probe is not None
    health.answered("a", "m", probe)
    assert health.admits("a", "m")
    health.ended("a", "m", verdict=LOST, seconds=0.5, probe=probe)
    assert health.admits("a", "m")  # one failure since


def test_a_caller_who_leaves_gives_the_probe_back() -> None:
    health = Watched()
    health.fails(SERVER_ERROR, times=5)
    health.clock.now += 2
    probe = health.begun("a", "m")
    assert probe is not None
    health.given_back("a", "m", probe)
    assert health.admits("a", "m")
    again = health.begun("a", "m")
    assert again is not None
    health.ended("a", "m", verdict=CALLER, seconds=0.1, probe=again)
    assert health.admits("a", "m")
    assert health.changes[-1] == ("a", "m", "half_open")


def test_a_model_that_fails_shows_that_its_channel_can_be_reached() -> None:
    health = Watched()
    health.fails(UNREACHABLE, times=5)
    health.clock.now += 2
    probe = health.begun("a", "m")
    assert probe is not None
    health.ended("a", "m", verdict=SERVER_ERROR, seconds=0.1, probe=probe)
    assert health.changes[-1] == ("a", None, "closed")
    assert health.admits("a", "m")


def test_a_channel_lost_again_leaves_the_models_probe_undecided() -> None:
    health = Watched()
    health.fails(SERVER_ERROR, times=5)
    health.fails(UNREACHABLE, times=5)
    health.clock.now += 2
    probe = health.begun("a", "m")
    assert probe == Probe(1, 1)
    health.ended("a", "m", verdict=UNREACHABLE, seconds=0.1, probe=probe or ORDINARY)
    assert health.states()[0].condition == "open"
    assert health.states()[1].condition == "half_open"
    health.clock.now += 4
    assert health.begun("a", "m") == Probe(2, 2)


def test_retry_after_opens_at_once() -> None:
    health = Watched()
    health.fails(SERVER_ERROR, cooldown=20.0)
    assert health.retry_at("a", "m") == 1020
    assert health.events[0].until == OFFSET + 1020


def test_hands_take_out_and_bring_back_whatever_else_happens() -> None:
    health = Watched()
    health.fails(SERVER_ERROR, times=5)
    health.disable("a", "on holiday")
    health.disable("a")
    assert not health.admits("a", "any")
    assert health.retry_at("a", "any") == inf
    health.clock.now += 1000
    health.tested("a", verdict=None, seconds=0.1)
    assert not health.admits("a", "any")
    health.enable("a")
    assert health.quiet
    assert health.admits("a", "m")
    assert [e.reason for e in health.events if e.model is None] == ["on holiday", "enabled by hand"]
    health.enable("nobody")


def test_states_list_what_is_ill_in_order() -> None:
    health = Watched()
    health.disable("b", "x")
    health.fails(SERVER_ERROR, times=5)
    health.fails(SERVER_ERROR, model="fine")
    found = [(s.channel, s.model, s.condition, s.until) for s in health.states()]
    assert found == [("a", "m", "open", OFFSET + 1002), ("b", None, "disabled", None)]


def test_every_change_is_told_to_hooks_and_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "asgi_llm_gateway.channels.health")
    told: list[HealthEvent] = []

    def broken(event: HealthEvent) -> None:
        raise ValueError(event)

    health = Watched(on_change=[broken, told.append])
    health.fails(SERVER_ERROR, times=5, model="m\n" + "x" * 200)
    assert told == health.events
    assert told == [
        HealthEvent(
            "a",
            "m\n" + "x" * 200,
            "closed",
            "open",
            "5 failures in a row, the last: server_error",
            OFFSET + 1002,
            OFFSET + 1000,
        )
    ]
    line, failure = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "\n" not in line.getMessage()
    assert len(line.getMessage()) < 250
    assert failure.getMessage() == "a hook for changes of health failed"


def test_wellness_is_forgotten_so_that_it_becomes_quiet_again() -> None:
    health = Watched()
    health.fails(SERVER_ERROR)
    health.ended("a", "m", verdict=None, seconds=0.1)
    assert not health.quiet
    health.clock.now += 61
    health.ended("b", "other", verdict=None, seconds=0.1)
    assert health.quiet


def test_many_that_are_well_again_are_forgotten_few_at_a_time() -> None:
    health = Watched()
    for n in range(100):
        health.fails(SERVER_ERROR, model=f"m{n}")
    health.clock.now += 61
    for _ in range(40):
        health.clock.now += 1
        for n in range(100):
            health.ended("a", f"m{n}", verdict=None, seconds=0.1)
    assert health.quiet


def test_names_of_callers_do_not_fill_the_memory() -> None:
    health = Watched(limit=50)
    health.disable("kept")
    health.ended("dead", "m", verdict=GONE, seconds=0)
    for n in range(1000):
        health.fails(SERVER_ERROR, times=5, model=f"made-up-{n}")
    health.fails(SERVER_ERROR, times=5, model="x" * 10_000)
    assert len(health.states()) <= 50
    assert not health.admits("kept", "m")
    assert not health.admits("dead", "m")
    assert health.admits("a", "x" * 10_000)


def test_a_model_in_use_makes_room_before_one_that_is_ill() -> None:
    health = Watched(limit=3)
    health.fails(SERVER_ERROR, times=5, model="ill")
    health.fails(SERVER_ERROR, model="fine")
    health.fails(SERVER_ERROR, model="third")
    health.fails(SERVER_ERROR, model="fourth")
    assert not health.admits("a", "ill")


def test_two_healths_share_nothing() -> None:
    one, two = Watched(), Health()
    one.fails(SERVER_ERROR, times=5)
    assert two.quiet
