"""A second attempt elsewhere when the first is late: who serves, and what becomes of the other."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from asgi_llm_gateway import Failover, Relay
from tests.asgi import Driver
from tests.failover.late import (
    LATE,
    all_given_back,
    late,
    plain,
    relay_of,
    streamed,
    told,
    under_way,
)
from tests.upstreams import (
    ASK,
    DONE,
    HANG,
    SSE,
    FakeUpstream,
    Reply,
    ask,
    ask_stream,
    channel_to,
    chunk,
    nothing_left,
    sse,
    until,
)


@pytest.mark.parametrize("stream", [False, True])
async def test_when_the_first_is_late_a_second_is_asked_and_may_win(stream: bool) -> None:
    good = streamed("b") if stream else plain("b")
    first, second = FakeUpstream(late(good)), FakeUpstream(good)
    relay = await relay_of(first, second)
    answer = await (ask_stream(relay) if stream else ask(relay))
    assert answer.status == 200
    assert b'"b"' in answer.body
    assert told(answer) == [("a", "lost"), ("b", "ok")]
    assert answer.header("x-llm-channel") == "b"
    assert answer.header("x-llm-attempts") == "2"
    assert answer.exchange.outcome == "ok"
    await all_given_back(relay, answer)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_first_may_win_after_all(stream: bool) -> None:
    good = streamed if stream else plain
    first, second = FakeUpstream(late(good("a"), LATE * 5)), FakeUpstream(late(good("b")))
    relay = await relay_of(first, second)
    answer = await (ask_stream(relay) if stream else ask(relay))
    assert b'"a"' in answer.body
    assert told(answer) == [("a", "ok"), ("b", "lost")]
    assert answer.header("x-llm-channel") == "a"
    assert len(second.asked) == 1
    await all_given_back(relay, answer)


STAGES = {
    "before the head": [Reply(head=[HANG])],
    "in a plain body": [Reply(steps=[b'{"choices"', HANG])],
    "before the first event": [Reply(200, SSE, [b": hi\n\n", HANG])],
    "in the body of a refusal": [Reply(500, steps=[HANG])],
}


@pytest.mark.parametrize("stage", STAGES)
async def test_wherever_the_slower_one_is_its_connection_is_closed(stage: str) -> None:
    first, second = FakeUpstream(*STAGES[stage]), FakeUpstream(streamed("b"))
    relay = await relay_of(first, second)
    answer = await ask_stream(relay)
    assert told(answer) == [("a", "lost"), ("b", "ok")]
    assert (first.sending, len(first.open)) == (0, 0)
    await all_given_back(relay, answer)


async def test_the_slower_one_is_ended_before_the_answer_goes_on() -> None:
    """Not only when a long stream is over."""
    first = FakeUpstream(Reply(head=[HANG]))
    second = FakeUpstream(Reply.stream(sse(chunk("b")), HANG))
    relay = await relay_of(first, second)
    body = json.dumps({**ASK, "stream": True}).encode()
    driver = Driver(relay, "POST", "/v1/chat/completions", body=body, may_cut=True)
    async with driver.open() as running:
        await running.started()
        assert first.sending == 0
        assert under_way(relay) == {"a": 0, "b": 1}
    await nothing_left(relay)


async def test_when_both_answer_at_once_one_serves_and_the_others_usage_is_kept() -> None:
    gate = asyncio.Event()

    class Gated(FakeUpstream):
        async def send(self, request: Any) -> Any:
            answer = await super().send(request)
            await gate.wait()
            return answer

    first, second = Gated(plain("a")), Gated(plain("b"))
    relay = await relay_of(first, second)
    asking = asyncio.ensure_future(ask(relay))
    await until(lambda: first.open and second.open)
    gate.set()
    answer = await asking
    assert answer.status == 200
    assert sorted(outcome for _, outcome in told(answer)) == ["lost", "ok"]
    assert [a.usage is not None for a in answer.exchange.attempts] == [True, True]
    await all_given_back(relay, answer)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_in_time_is_the_only_attempt(stream: bool) -> None:
    good = streamed("a") if stream else plain("a")
    first, second = FakeUpstream(good), FakeUpstream()
    relay = await relay_of(first, second)
    answer = await (ask_stream(relay) if stream else ask(relay))
    assert told(answer) == [("a", "ok")]
    assert not second.asked
    await all_given_back(relay, answer)


async def test_once_the_first_event_is_there_nothing_is_late() -> None:
    first = FakeUpstream(Reply.stream(sse(chunk("a")), LATE * 5, sse(chunk(finish="stop")), DONE))
    second = FakeUpstream()
    relay = await relay_of(first, second)
    assert told(await ask_stream(relay)) == [("a", "ok")]
    assert not second.asked


async def test_without_the_switch_nothing_is_asked_twice() -> None:
    first, second = FakeUpstream(late(plain("a"), LATE * 5)), FakeUpstream()
    relay = await relay_of(first, second, hedge=False)
    assert told(await ask(relay)) == [("a", "ok")]
    assert not second.asked


async def test_without_another_channel_the_first_is_waited_for() -> None:
    upstream = FakeUpstream(late(plain("a"), LATE * 5))
    relay = await relay_of(upstream, keys=3)
    answer = await ask(relay)
    assert told(answer) == [("a", "ok")]
    assert len(upstream.asked) == 1
    await all_given_back(relay, answer)


async def test_other_keys_of_the_late_channel_do_not_keep_it_from_going_elsewhere() -> None:
    first, second = FakeUpstream(late(plain("a"))), FakeUpstream(plain("b"))
    relay = await relay_of(first, second, keys=3)
    answer = await ask(relay)
    assert told(answer) == [("a", "lost"), ("b", "ok")]
    await all_given_back(relay, answer)


async def test_a_channel_that_is_not_known_yet_is_not_late() -> None:
    first, second = FakeUpstream(late(plain("a"), LATE * 5)), FakeUpstream()
    relay = Relay(
        [channel_to(first, name="a", priority=1), channel_to(second, name="b")],
        failover=Failover(hedge=True),
    )
    assert told(await ask(relay)) == [("a", "ok")]
    assert not second.asked


async def test_with_one_attempt_allowed_there_is_no_second_beside_it() -> None:
    first, second = FakeUpstream(late(plain("a"), LATE * 5)), FakeUpstream()
    relay = await relay_of(first, second, max_attempts=1)
    assert told(await ask(relay)) == [("a", "ok")]
    assert not second.asked


@pytest.mark.parametrize("failing", ["a", "b"])
@pytest.mark.parametrize("failure", [Reply.error(500), Reply.error(429), Reply.error(401)])
async def test_when_one_fails_the_other_goes_on(failing: str, failure: Reply) -> None:
    good = plain("good")
    replies = {"a": late(good, LATE * 8), "b": late(good, LATE * 4)}
    replies[failing] = late(failure, LATE * 3)
    first, second = FakeUpstream(replies["a"]), FakeUpstream(replies["b"])
    relay = await relay_of(first, second)
    answer = await ask(relay)
    assert answer.status == 200
    assert told(answer) == [(name, "failed" if name == failing else "ok") for name in "ab"]
    assert [len(first.asked), len(second.asked)] == [1, 1]
    await all_given_back(relay, answer)


async def test_when_both_fail_the_call_goes_on_from_there() -> None:
    first = FakeUpstream(late(Reply.error(429), LATE * 3))
    second = FakeUpstream(late(Reply.error(429), LATE * 2))
    third = FakeUpstream(plain("c"))
    relay = await relay_of(first, second, third)
    answer = await ask(relay)
    assert told(answer) == [("a", "failed"), ("b", "failed"), ("c", "ok")]
    await all_given_back(relay, answer)


async def test_when_everything_fails_the_last_error_is_told_and_both_were_attempts() -> None:
    first = FakeUpstream(late(Reply.error(429, "first"), LATE * 2))
    second = FakeUpstream(late(Reply.error(429, "second"), LATE * 4))
    relay = await relay_of(first, second, max_attempts=2, keys=3)
    answer = await ask(relay)
    assert (answer.status, answer.json["error"]["message"]) == (429, "second")
    assert told(answer) == [("a", "failed"), ("b", "failed")]
    await all_given_back(relay, answer)


@pytest.mark.parametrize("faulty", ["a", "b"])
async def test_an_error_that_is_the_callers_ends_both(faulty: str) -> None:
    replies = {"a": late(plain("a")), "b": late(plain("b"))}
    replies[faulty] = late(Reply.error(400, "yours"), LATE * 3)
    first, second = FakeUpstream(replies["a"]), FakeUpstream(replies["b"])
    relay = await relay_of(first, second)
    answer = await ask(relay)
    assert (answer.status, answer.json["error"]["message"]) == (400, "yours")
    outcomes = dict(told(answer))
    assert outcomes.pop(faulty) == "failed"
    assert list(outcomes.values()) == ["left"]
    await all_given_back(relay, answer)
