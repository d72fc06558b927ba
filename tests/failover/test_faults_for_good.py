"""Faults that stay: how often a call tries, what bounds it, and what its caller is told."""

from __future__ import annotations

import asyncio

import pytest

from tests.failover.world import SHORT, SLACK, Backoff, world
from tests.faults import (
    TEXT,
    bad_key,
    empty,
    error_with_200,
    good,
    rate_limited,
    refusal,
    reset,
    silence,
    web_page,
)
from tests.faulty_peer import Fault

FOR_GOOD: dict[str, tuple[Fault, str]] = {
    "429": (rate_limited(), "aab"),
    "429 with seconds": (rate_limited("retry-after: 20"), "aab"),
    "401": (bad_key(), "aab"),
    "403": (refusal(403), "aab"),
    "500": (refusal(500), "aab"),
    "503": (refusal(503), "aab"),
    "reset before the head": (reset(), "aab"),
    "silence": (silence(), "ab"),
    "200 with an error": (error_with_200(), "aab"),
    "a web page": (web_page(), "ab"),
    "an empty answer": (empty(), "ab"),
}
"""A fault of channel `a`, and the channels a call tries until the good one."""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", FOR_GOOD)
async def test_one_channel_that_stays_faulty_is_passed_by(name: str, stream: bool) -> None:
    fault, where = FOR_GOOD[name]
    async with world(fault) as there:
        got = await there.ask(stream=stream)
        assert (got.where, got.text, got.end) == (where, TEXT, "whole")
        assert got.seconds < SLACK
        for _ in range(3):
            again = await there.ask(stream=stream)
            assert (again.text, again.seconds < SLACK) == (TEXT, True)
        await there.nothing_left()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", FOR_GOOD)
async def test_when_all_stay_faulty_the_call_ends_soon_with_an_error(
    name: str, stream: bool
) -> None:
    fault, _ = FOR_GOOD[name]
    async with world(fault, b=(fault,)) as there:
        got = await there.ask(stream=stream)
        assert got.end not in ("", "whole")
        assert got.status is not None
        assert got.status >= 400
        assert 2 <= len(got.where) <= 4
        assert got.where.count("a") <= 2
        assert got.where.count("b") <= 2
        assert got.seconds < SLACK + 2 * SHORT["first_byte"]
        assert got.header("x-request-id")
        await there.nothing_left()


async def test_the_last_providers_own_error_comes_back() -> None:
    first = refusal(503, message="first is down", code="one")
    last = refusal(503, message="last is down", code="two", type="overloaded")
    async with world(first, b=(last,)) as there:
        got = await there.ask()
        assert got.status == 503
        assert got.answer.json["error"]["message"] == "last is down"
        assert got.answer.json["error"]["type"] == "overloaded"
        assert got.header("x-llm-channel") == "b"


async def test_that_a_key_of_ours_is_dead_is_no_business_of_the_callers() -> None:
    async with world(bad_key(), b=(bad_key(),)) as there:
        got = await there.ask()
        assert (got.status, got.end) == (503, "no_healthy_channel")
        assert b"API key" not in got.answer.body


@pytest.mark.parametrize("most", [1, 2, 3, 6])
async def test_a_call_tries_as_often_as_it_may(most: int) -> None:
    many = {"keys": [f"sk-a-key-{n}" for n in range(9)]}
    async with world(
        rate_limited(), b=(rate_limited(),), channel=many, failover={"max_attempts": most}
    ) as there:
        got = await there.ask()
        assert len(got.where) == most
        assert got.status == 429
        assert len(set(there.a.keys)) == len(there.a.keys)


async def test_a_pair_of_channel_and_key_is_tried_once_but_for_one_more_after_a_5xx() -> None:
    one_key = {"keys": ["sk-a-key-1"]}
    for fault, times in ((rate_limited(), 1), (refusal(500), 2), (reset(), 2), (silence(), 1)):
        async with world(
            fault, other=False, channel=one_key, failover={"max_attempts": 9}
        ) as there:
            await there.ask()
            assert len(there.a.tried) == times
            await there.nothing_left()


async def test_the_time_budget_bounds_the_whole_call() -> None:
    slow = {"timeouts": {**SHORT, "first_byte": 20.0, "total": 20.0}}
    budget = {"time_budget": 0.4, "max_attempts": 9}
    async with world(silence(), b=(silence(),), channel=slow, other=slow, failover=budget) as there:
        for stream in (False, True):
            got = await there.ask(stream=stream)
            assert got.status in (503, 504)
            assert 0.3 < got.seconds < 0.4 + SLACK
        await there.nothing_left()


async def test_the_time_budget_bounds_waits_between_attempts_too() -> None:
    slow = {"backoff": Backoff(first=30.0, factor=1.0, cap=30.0), "time_budget": 0.3}
    async with world(refusal(500), b=(refusal(500),), failover=slow) as there:
        got = await there.ask()
        assert got.status in (500, 504)
        assert got.seconds < 0.3 + SLACK
        await there.nothing_left()


async def test_a_long_retry_after_is_told_and_not_waited_for() -> None:
    told = rate_limited("retry-after: 3000")
    async with world(told, other=False) as there:
        got = await there.ask()
        assert got.status == 429
        assert got.seconds < SLACK
        assert int(got.header("retry-after") or 0) > 0
        await there.nothing_left()


async def test_retries_do_not_multiply_a_storm() -> None:
    calls = 120
    # Time enough, so that a busy machine's silence is not taken for the provider's.
    limits = ("connect", "first_byte", "first_token", "idle", "total")
    calm = {"timeouts": dict.fromkeys(limits, 20.0)}
    rules = {"retry_budget": 0.1}
    async with world(
        refusal(503), b=(refusal(503),), failover=rules, channel=calm, other=calm
    ) as there:
        answers = await asyncio.gather(*[there.ask(stream=n % 2 == 0) for n in range(calls)])
        assert all(got.status == 503 for got in answers)
        assert max(got.seconds for got in answers) < 5 * SLACK
        assert len(there.a.tried) <= calls * 1.1 + 10
        assert len(there.b.tried) <= calls * 1.1 + 10
        await there.nothing_left()


@pytest.mark.parametrize("status", [400, 404, 413, 422])
async def test_what_is_the_callers_to_mend_is_tried_once(status: int) -> None:
    """And it takes nobody out of service."""
    async with world(refusal(status, code="yours")) as there:
        for _ in range(8):
            got = await there.ask()
            assert (got.status, got.end, got.where) == (status, "yours", "a")
        there.a.script = (good(),)
        assert (await there.ask()).where == "a"


async def test_one_error_takes_no_channel_out_of_service() -> None:
    async with world(refusal(500), good()) as there:
        await there.ask()
        assert [(await there.ask()).where for _ in range(5)] == ["a"] * 5
