"""Each fault of a provider, once: where the call went, how long it took, what the caller got.

Channel `a` has two keys and fails once, channel `b` is good and lower in priority. `where` are the
channels of the attempts: "aa" is once more at the same provider with its other key.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.failover.world import SHORT, SLACK, Got, world
from tests.faults import (
    TEXT,
    TOKENS,
    against_policy,
    bad_key,
    cut,
    date_in,
    empty,
    error_after,
    error_with_200,
    good,
    late,
    malformed,
    plain_error_with_200,
    rate_limited,
    refusal,
    reset,
    silence,
    stall,
    too_long,
    web_page,
    without_done,
)
from tests.faulty_peer import Fault

BEGINNING = "".join(TOKENS[:3])
QUOTA = {"code": "insufficient_quota", "message": "You exceeded your current quota"}


@dataclass(frozen=True)
class Case:
    """A fault, and what is expected of a plain and of a streamed call."""

    fault: Fault
    plain: str
    streamed: str
    plain_end: str = "whole"
    stream_end: str = "whole"
    status: int = 200
    stream_text: str = TEXT
    waits: float = 0.0
    """The time limit that has to run out first, in seconds."""


def refused(fault: Fault, status: int, code: str) -> Case:
    """An error that is the caller's to mend: it is told at once, and nothing else is tried."""
    return Case(fault, "a", "a", code, code, status)


CASES = {
    "no fault": Case(good(), "a", "a"),
    "429": Case(rate_limited(), "aa", "aa"),
    "429 with seconds": Case(rate_limited("retry-after: 20"), "aa", "aa"),
    "429 with a date": Case(rate_limited(date_in(20)), "aa", "aa"),
    "429 with milliseconds": Case(rate_limited("retry-after-ms: 20000"), "aa", "aa"),
    "429 with nonsense": Case(rate_limited("retry-after: soon"), "aa", "aa"),
    "429 for want of money": Case(refusal(429, **QUOTA), "aa", "aa"),
    "401": Case(bad_key(), "aa", "aa"),
    "402": Case(refusal(402), "aa", "aa"),
    "403": Case(refusal(403), "aa", "aa"),
    "500": Case(refusal(500), "aa", "aa"),
    "503": Case(refusal(503), "aa", "aa"),
    "529": Case(refusal(529), "aa", "aa"),
    "502 as a web page": Case(web_page(502), "aa", "aa"),
    "reset before the head": Case(reset(), "aa", "aa"),
    "silence": Case(silence(), "ab", "ab", waits=SHORT["first_byte"]),
    "a late first token": Case(late(9), "ab", "ab", waits=SHORT["first_token"]),
    "a late first token after pings": Case(
        late(9, pings=0.05), "ab", "ab", waits=SHORT["first_token"]
    ),
    "a first token in time": Case(late(0.1, pings=0.05), "a", "a"),
    "cut": Case(cut(), "aa", "a", stream_end="upstream_connection_lost", stream_text=BEGINNING),
    "cut before the first token": Case(
        cut(0), "aa", "a", stream_end="upstream_connection_lost", stream_text=""
    ),
    "stall": Case(
        stall(),
        "ab",
        "a",
        stream_end="upstream_timeout",
        stream_text=BEGINNING,
        waits=SHORT["idle"],
    ),
    "a malformed event": Case(malformed(), "ab", "a"),
    "no end": Case(without_done(), "a", "a"),
    "200 with an error body": Case(plain_error_with_200(), "aa", "aa"),
    "200 with an error body, a stream's first event": Case(error_with_200(), "aa", "aa"),
    "a rate limit with 200": Case(error_with_200(code=429), "aa", "aa"),
    "an error event in mid-stream": Case(
        error_after(), "aa", "a", stream_end="None", stream_text=BEGINNING
    ),
    "a web page": Case(web_page(), "ab", "ab"),
    "an empty answer": Case(empty(), "ab", "ab"),
    "400": refused(refusal(400, code="bad"), 400, "bad"),
    "404": refused(refusal(404, code="not_found"), 404, "not_found"),
    "404 for the model": Case(refusal(404, code="model_not_found"), "ab", "ab"),
    "409": Case(refusal(409), "aa", "aa"),
    "422": refused(refusal(422, code="bad"), 422, "bad"),
    "a prompt that is too long": refused(too_long(), 400, "context_length_exceeded"),
    "a prompt against the rules": refused(against_policy(), 400, "content_policy_violation"),
}


@pytest.mark.parametrize("name", CASES)
async def test_a_fault_of_a_plain_call(name: str) -> None:
    case = CASES[name]
    async with world(case.fault, good()) as there:
        got = await there.ask()

        assert got.where == case.plain
        assert (got.status, got.end) == (case.status, case.plain_end)
        assert got.text == (TEXT if case.plain_end == "whole" else "")
        assert got.seconds < SLACK + case.waits
        assert got.header("x-llm-attempts") == str(len(case.plain))
        assert got.header("x-llm-channel") == {"a": "a", "b": "b"}[case.plain[-1]]
        assert [len(p.tried) for p in (there.a, there.b)] == [*map(case.plain.count, "ab")]
        assert len(set(there.a.keys)) == len(there.a.keys)
        await there.nothing_left()

        again = await there.ask()
        assert (again.text, again.seconds < SLACK) == (TEXT, True)
        assert (await there.ask(stream=True)).end == "whole"
        await there.nothing_left()


@pytest.mark.parametrize("name", CASES)
async def test_a_fault_of_a_streamed_call(name: str) -> None:
    case = CASES[name]
    async with world(case.fault, good()) as there:
        got = await there.ask(stream=True)

        assert got.where == case.streamed
        assert (got.status, got.end) == (case.status, case.stream_end)
        assert got.text == (case.stream_text if case.status == 200 else "")
        assert got.seconds < SLACK + case.waits
        assert got.header("x-llm-attempts") == str(len(case.streamed))
        assert [len(p.tried) for p in (there.a, there.b)] == [*map(case.streamed.count, "ab")]
        assert len(set(there.a.keys)) == len(there.a.keys)
        await there.nothing_left()

        again = await there.ask(stream=True)
        assert (again.text, again.seconds < SLACK) == (TEXT, True)
        assert (await there.ask()).end == "whole"
        await there.nothing_left()


async def test_a_malformed_event_is_left_out_and_counted() -> None:
    async with world(malformed(), other=False) as there:
        got = await there.ask(stream=True)
        assert (got.text, got.end) == (TEXT, "whole")
        assert got.answer.exchange.skipped_events == 1


async def test_a_provider_that_cannot_be_reached_is_asked_once() -> None:
    nobody = {"base_url": "http://127.0.0.1:1/v1"}
    async with world(channel=nobody) as there:
        for stream in (False, True):
            got = await there.ask(stream=stream)
            assert (got.where[-1], got.text) == ("b", TEXT)
            assert got.where.count("a") <= 1
            assert got.seconds < SLACK
        await there.nothing_left()


@pytest.mark.parametrize("stream", [False, True])
async def test_each_attempt_is_listed_with_its_times_key_and_outcome(stream: bool) -> None:
    async with world(refusal(500), good()) as there:
        got = await there.ask(stream=stream)
        first, second = got.answer.exchange.attempts
        assert [a.number for a in (first, second)] == [1, 2]
        assert (first.status, second.status) == (500, 200)
        assert (first.outcome, second.outcome) == ("failed", "ok")
        assert first.failure is not None
        assert second.failure is None
        assert first.key != second.key
        assert first.started <= first.ended <= second.started <= second.ended
        assert second.usage is not None
        assert (second.usage.total_input, second.usage.total_output) == (7, 2)
        assert got.answer.exchange.usage == second.usage
        assert got.answer.exchange.outcome == "ok"


def test_every_case_is_asked_about_at_most_twice_at_one_provider() -> None:
    """The table itself: one retry at the same provider is the most there may be."""
    for case in CASES.values():
        assert case.plain.count("a") <= 2
        assert case.streamed.count("a") <= 2


def nothing_was_cut_off_silently(got: Got) -> bool:
    """A stream that is not whole says so."""
    return got.text == TEXT or got.end != "whole"


@pytest.mark.parametrize("tokens", range(len(TOKENS) + 1))
@pytest.mark.parametrize("fault", [cut, stall, error_after])
async def test_wherever_a_stream_breaks_its_end_never_looks_complete(
    fault: type[Fault], tokens: int
) -> None:
    quick = {"timeouts": {**SHORT, "idle": 0.05}}
    async with world(fault(tokens), other=False, channel=quick) as there:
        got = await there.ask(stream=True)
        assert got.end != "whole"
        assert nothing_was_cut_off_silently(got)
        assert got.text == "".join(TOKENS[:tokens])
        await there.nothing_left()
