"""Another model instead: in order, each with its own attempts, only where it was asked for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.failover.world import SLACK, World, world
from tests.faults import TEXT, against_policy, good, refusal, silence, too_long
from tests.faulty_peer import Fault, Tried

ANY: dict[str, Any] = {"fallback_models": {"m": ["n", "o"]}}
CONTEXT: dict[str, Any] = {"context_fallbacks": {"m": ["large"]}}
CONTENT: dict[str, Any] = {"content_fallbacks": {"m": ["tolerant"]}}


def fails(there: World, fault: Fault, *models: str) -> None:
    """These models fail at both providers, all others are served."""

    def chosen(tried: Tried) -> Fault:
        return fault if tried.model in models else good()

    there.a.script = there.b.script = chosen


@pytest.mark.parametrize("stream", [False, True])
async def test_when_a_model_fails_everywhere_the_next_one_is_asked(stream: bool) -> None:
    async with world(failover=ANY) as there:
        fails(there, refusal(503), "m")
        got = await there.ask(stream=stream)
        assert (got.text, got.end) == (TEXT, "whole")
        assert got.header("x-llm-fallback") == "n"
        assert (there.a.models + there.b.models).count("n") == 1
        assert "o" not in there.a.models
        assert got.seconds < SLACK
        await there.nothing_left()


async def test_they_are_asked_in_order_each_with_attempts_of_its_own() -> None:
    async with world(failover={**ANY, "max_attempts": 2}) as there:
        fails(there, refusal(503), "m", "n")
        got = await there.ask()
        models = [attempt.model for attempt in got.answer.exchange.attempts]
        assert models == ["m", "m", "n", "n", "o"]
        assert got.header("x-llm-fallback") == "o"
        assert got.text == TEXT


async def test_when_all_of_them_fail_the_last_error_comes_back() -> None:
    async with world(failover=ANY) as there:
        fails(there, refusal(503, code="down"), "m", "n", "o")
        got = await there.ask()
        assert (got.status, got.end) == (503, "down")
        assert len(got.where) <= 12
        assert got.seconds < SLACK
        await there.nothing_left()


async def test_a_model_that_serves_needs_no_fallback() -> None:
    async with world(failover=ANY) as there:
        got = await there.ask()
        assert (got.where, got.text, got.header("x-llm-fallback")) == ("a", TEXT, None)


async def test_without_a_list_there_is_no_other_model() -> None:
    async with world() as there:
        fails(there, refusal(503), "m")
        assert (await there.ask()).status == 503
        assert set(there.a.models + there.b.models) == {"m"}


@pytest.mark.parametrize("fault", [refusal(400), refusal(422), too_long(), against_policy()])
async def test_what_is_the_callers_to_mend_is_no_reason_for_another_model(fault: Fault) -> None:
    async with world(failover=ANY) as there:
        fails(there, fault, "m")
        got = await there.ask()
        assert got.status in (400, 422)
        assert got.where == "a"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fault", "lists", "model"),
    [(too_long(), CONTEXT, "large"), (against_policy(), CONTENT, "tolerant")],
)
async def test_a_refusal_of_its_kind_goes_to_the_model_for_it(
    fault: Fault, lists: dict[str, Any], model: str, stream: bool
) -> None:
    async with world(failover={**ANY, **lists}) as there:
        fails(there, fault, "m")
        got = await there.ask(stream=stream)
        assert (got.text, got.end) == (TEXT, "whole")
        assert got.header("x-llm-fallback") == model
        assert [attempt.model for attempt in got.answer.exchange.attempts] == ["m", model]
        await there.nothing_left()


@pytest.mark.parametrize(
    ("fault", "lists", "code"),
    [
        (too_long(), CONTENT, "context_length_exceeded"),
        (against_policy(), CONTEXT, "content_policy_violation"),
    ],
)
async def test_a_refusal_of_another_kind_is_told(
    fault: Fault, lists: dict[str, Any], code: str
) -> None:
    async with world(failover=lists) as there:
        fails(there, fault, "m")
        got = await there.ask()
        assert (got.status, got.end, got.where) == (400, code, "a")


async def test_a_failure_is_no_reason_for_a_model_with_more_context() -> None:
    async with world(failover={**CONTEXT, **CONTENT}) as there:
        fails(there, refusal(503), "m")
        assert (await there.ask()).status == 503
        assert set(there.a.models + there.b.models) == {"m"}


async def test_a_provider_silent_for_one_model_may_be_asked_for_another() -> None:
    async with world(failover=ANY, other=False) as there:
        fails(there, silence(), "m")
        got = await there.ask()
        assert there.a.models == ["m", "n"]
        assert (got.text, got.header("x-llm-fallback")) == (TEXT, "n")
        await there.nothing_left()
