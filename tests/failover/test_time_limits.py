"""Time: of each phase, by channel, by model, and as short as the caller wishes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.failover.world import SHORT, SLACK, world
from tests.faults import TEXT, drip, late, silence, stall
from tests.faulty_peer import Fault

PATIENT: dict[str, Any] = {
    "timeouts": dict.fromkeys(("connect", "first_byte", "first_token", "idle", "total"), 20.0)
}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_may_shorten_the_whole_call(stream: bool) -> None:
    async with world(silence(), channel=PATIENT, other=False) as there:
        got = await there.ask(stream=stream, headers={"x-llm-timeout": "0.3"})
        assert got.status in (503, 504)
        assert 0.2 < got.seconds < 0.3 + SLACK
        await there.nothing_left()


async def test_a_caller_may_shorten_the_wait_for_the_first_token() -> None:
    async with world(late(9, pings=0.05), channel=PATIENT) as there:
        got = await there.ask(stream=True, headers={"x-llm-first-token-timeout": "0.2"})
        assert (got.where, got.text) == ("ab", TEXT)
        assert 0.1 < got.seconds < 0.2 + SLACK
        await there.nothing_left()


@pytest.mark.parametrize("name", ["x-llm-timeout", "x-llm-first-token-timeout"])
async def test_a_caller_cannot_lengthen_a_limit(name: str) -> None:
    async with world(late(9)) as there:
        got = await there.ask(stream=True, headers={name: "3600"})
        assert (got.where, got.text) == ("ab", TEXT)
        assert got.seconds < SHORT["first_token"] + SLACK


@pytest.mark.parametrize("value", ["-1", "0", "nan", "inf", "soon", "", "1e999", "9" * 400, "٣"])
async def test_a_limit_that_is_none_changes_nothing_or_is_refused(value: str) -> None:
    headers = [(b"x-llm-timeout", value.encode())]
    async with world() as there:
        got = await there.ask(headers=headers)
        assert got.status in (200, 400)
        assert got.seconds < SLACK


async def test_the_callers_limits_are_no_business_of_the_providers() -> None:
    async with world() as there:
        got = await there.ask(headers={"x-llm-timeout": "5"})
        assert got.text == TEXT
        assert not [name for name in there.a.tried[0].headers if name.startswith(b"x-llm")]


async def test_a_model_may_have_limits_of_its_own() -> None:
    slow_starters = {"model_timeouts": {"o*": {"first_token": 5.0, "first_byte": 5.0}}}
    async with world(late(1.0, pings=0.1), channel=slow_starters) as there:
        for stream in (False, True):
            assert (await there.ask(stream=stream, model="o1")).where == "a"
        assert (await there.ask(stream=True, model="m")).where == "ab"
        await there.nothing_left()


@pytest.mark.parametrize(
    ("fault", "limit"), [(silence(), "first_byte"), (late(9), "first_token"), (stall(0), "idle")]
)
async def test_each_phase_of_a_stream_has_a_limit_of_its_own(fault: Fault, limit: str) -> None:
    channel = {"timeouts": {**PATIENT["timeouts"], limit: 0.3}}
    async with world(fault, channel=channel, other=False) as there:
        got = await there.ask(stream=True)
        assert got.end == "upstream_timeout"
        assert 0.2 < got.seconds < 0.3 + SLACK
        assert got.answer.exchange.attempts[0].outcome in ("failed", "truncated")
        await there.nothing_left()


async def test_a_stream_that_never_ends_is_ended_by_the_total_limit() -> None:
    channel = {"timeouts": {**PATIENT["timeouts"], "total": 0.5}}
    async with world(drip(0.05), channel=channel, other=False) as there:
        got = await there.ask(stream=True)
        assert got.end == "upstream_timeout"
        assert got.text.startswith("The on on")
        assert 0.4 < got.seconds < 0.5 + SLACK
        await there.nothing_left()


async def test_a_callers_limit_for_the_first_token_runs_while_there_is_no_head_either() -> None:
    limits = ("connect", "first_byte", "first_token", "idle", "total")
    slow = {"timeouts": dict.fromkeys(limits, 20.0)}
    async with world(silence(), channel=slow, other=slow) as there:
        got = await there.ask(stream=True, headers={"x-llm-first-token-timeout": "0.2"})
        assert got.where == "ab"
        assert got.seconds < 0.2 + SLACK
        assert there.relay.health.states() == []
        await there.nothing_left()
