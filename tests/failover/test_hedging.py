"""A second attempt elsewhere when the first is late: who serves, and what becomes of the other."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest

from asgi_llm_gateway import Failover, Relay
from asgi_llm_gateway.channels.retrying import Backoff
from asgi_llm_gateway.errors import ConnectionLost, PermissionDenied
from asgi_llm_gateway.relay.hedging import hedged
from tests.asgi import Driver, call
from tests.upstreams import (
    ASK,
    DONE,
    HANG,
    SSE,
    FakeUpstream,
    Reply,
    ask,
    ask_stream,
    called_by,
    channel_to,
    chunk,
    guarded_by,
    nothing_left,
    sse,
    until,
    with_steps,
)

LATE = 0.03
"""Seconds within which the channels here usually begin to answer."""
AT_ONCE = Backoff(first=0)


def streamed(text: str, *before: Any) -> Reply:
    """A whole stream, after some steps."""
    return Reply.stream(*before, sse(chunk(text)), sse(chunk(finish="stop")), DONE)


def plain(text: str, *before: Any) -> Reply:
    """A whole plain answer, its body after some steps."""
    reply = Reply.chat(text)
    return with_steps(reply, *before, *reply.steps)


def late(reply: Reply, seconds: float | str = HANG) -> Reply:
    """The same reply, its head late or never there."""
    return Reply(reply.status, reply.headers, reply.steps, [seconds, *reply.head])


async def relay_of(*upstreams: FakeUpstream, keys: int = 1, **rules: Any) -> Relay:
    """Channels a, b, … in this order of priority; all of them used to be quick."""
    channels = [
        channel_to(upstream, name="abc"[at], priority=-at, keys=keys_of("abc"[at], keys))
        for at, upstream in enumerate(upstreams)
    ]
    how = {"hedge": True, "backoff": AT_ONCE, **rules}
    relay = Relay(channels, failover=Failover(**how))
    await relay.resources.get()
    assert relay.channels is not None
    for channel in relay.channels.channels:
        used_to_take(channel, LATE)
    return relay


def keys_of(name: str, count: int) -> list[str]:
    return [f"sk-{name}-{n}1111111" for n in range(count)]


def used_to_take(channel: Any, seconds: float) -> None:
    for _ in range(20):
        channel.stats.begun()
        channel.stats.ended(seconds)


class Stubborn(FakeUpstream):
    """Takes its time to notice that it was cancelled."""

    ending = False

    async def send(self, request: Any) -> Any:
        try:
            return await super().send(request)
        finally:
            self.ending = True
            await asyncio.sleep(0.1)


def told(answer: Any) -> list[tuple[str, str]]:
    """The attempts: where, and what became of each."""
    return [(attempt.channel, attempt.outcome) for attempt in answer.exchange.attempts]


def under_way(relay: Relay) -> dict[str, int]:
    assert relay.channels is not None
    return {c.name: c.stats.in_flight for c in relay.channels.channels}


async def all_given_back(relay: Relay, answer: Any) -> None:
    await nothing_left(relay)
    assert set(under_way(relay).values()) == {0}
    attempts = answer.exchange.attempts
    assert [attempt.number for attempt in attempts] == list(range(1, len(attempts) + 1))
    assert all(attempt.ended is not None for attempt in attempts)


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


@pytest.mark.parametrize("cancels", [0, 1, 2, 3])
async def test_leaving_and_cancelling_end_both(cancels: int) -> None:
    """However often: the second and third cancel come while the first is being acted on."""
    first, second = Stubborn(Reply(head=[HANG])), FakeUpstream(Reply(200, SSE, [HANG]))
    relay = await relay_of(first, second)
    body = json.dumps({**ASK, "stream": True}).encode()
    how: dict[str, Any] = {"may_raise": True, "may_cut": True}
    driver = Driver(relay, "POST", "/v1/chat/completions", body=body, **how)
    async with driver.open() as stream:
        await until(lambda: first.sending and second.open)
        if not cancels:
            stream.leave()
        for _ in range(cancels):
            stream.cancel()
            await asyncio.sleep(0)
        assert driver.task is not None
        await asyncio.wait({driver.task}, timeout=2.0)
        assert driver.task.done()
    await all_given_back(relay, driver.answer)
    assert [outcome for _, outcome in told(driver.answer)] == ["left", "left"]
    assert driver.answer.exchange.outcome == ("cancelled" if cancels else "client_left")


async def test_a_cancel_while_the_slower_one_is_ended_loses_nothing_of_either() -> None:
    first, second = Stubborn(Reply(head=[HANG])), FakeUpstream(Reply.stream(sse(chunk("b")), HANG))
    relay = await relay_of(first, second)
    body = json.dumps({**ASK, "stream": True}).encode()
    how: dict[str, Any] = {"may_raise": True, "may_cut": True}
    driver = Driver(relay, "POST", "/v1/chat/completions", body=body, **how)
    async with driver.open() as stream:
        await until(lambda: first.ending)
        assert len(second.open) == 1
        stream.cancel()
    await all_given_back(relay, driver.answer)
    assert not second.open


async def test_leaving_while_the_second_waits_for_its_key() -> None:
    first, second = FakeUpstream(Reply(head=[HANG])), FakeUpstream()
    relay = await relay_of(first, second)
    assert relay.channels is not None
    pool: Any = relay.channels.by_name["b"].pool
    taking = asyncio.Event()

    async def slow(*_: Any, **__: Any) -> Any:
        taking.set()
        await asyncio.sleep(30)

    pool.take = slow
    body = json.dumps(ASK).encode()
    driver = Driver(relay, "POST", "/v1/chat/completions", body=body, may_cut=True)
    async with driver.open() as stream:
        await asyncio.wait_for(taking.wait(), 5)
        stream.leave()
    await all_given_back(relay, driver.answer)


async def test_a_key_that_is_slow_to_come_does_not_keep_the_first_answer_waiting() -> None:
    first, second = FakeUpstream(late(plain("a"), LATE * 4)), FakeUpstream()
    relay = await relay_of(first, second)
    assert relay.channels is not None
    pool: Any = relay.channels.by_name["b"].pool

    async def never(*_: Any, **__: Any) -> Any:
        await asyncio.sleep(30)

    pool.take = never
    answer = await asyncio.wait_for(ask(relay), 5)
    assert told(answer) == [("a", "ok")]
    await all_given_back(relay, answer)


async def test_keys_at_their_limits_elsewhere_are_not_waited_for() -> None:
    first, second = FakeUpstream(late(plain("a"), LATE * 4)), FakeUpstream(Reply(head=[HANG]))
    relay = Relay(
        [
            channel_to(first, name="a", priority=1),
            channel_to(second, name="b", key_limits={"concurrency": 1, "wait": 10}),
        ],
        failover=Failover(hedge=True),
    )
    await relay.resources.get()
    assert relay.channels is not None
    used_to_take(relay.channels.by_name["a"], LATE)
    busy = await relay.channels.by_name["b"].pool.take(None)
    assert busy is not None
    answer = await ask(relay)
    assert told(answer) == [("a", "ok")]
    assert not second.asked
    relay.channels.by_name["b"].pool.report(busy, "ok")


async def test_guards_are_asked_and_told_of_both() -> None:
    class Guard:
        def __init__(self) -> None:
            self.seen: list[str] = []

        async def before(self, attempt: Any) -> None:
            self.seen.append(f"before {attempt.channel}")

        def after(self, attempt: Any) -> None:
            assert attempt.ended is not None
            self.seen.append(f"after {attempt.channel} {attempt.outcome}")

    guard = Guard()
    first, second = FakeUpstream(Reply(head=[HANG])), FakeUpstream(plain("b"))
    relay = await relay_of(first, second)
    answer = await ask(guarded_by(relay, guard))
    assert guard.seen == ["before a", "before b", "after a lost", "after b ok"]
    await all_given_back(relay, answer)


async def test_a_guard_that_refuses_the_second_leaves_the_first() -> None:
    class Guard:
        async def before(self, attempt: Any) -> None:
            if attempt.channel == "b":
                raise PermissionDenied("not there")

        def after(self, attempt: Any) -> None:
            """Told of both."""

    first, second = FakeUpstream(late(plain("a"), LATE * 4)), FakeUpstream()
    relay = await relay_of(first, second)
    answer = await ask(guarded_by(relay, Guard()))
    assert told(answer) == [("a", "ok")]
    assert not second.asked
    await all_given_back(relay, answer)


async def test_a_guard_of_the_slower_one_that_fails_loses_no_key_and_no_connection() -> None:
    class Guard:
        async def before(self, attempt: Any) -> None:
            """Lets everything by."""

        def after(self, attempt: Any) -> None:
            if attempt.channel == "a":
                raise ZeroDivisionError

    first, second = FakeUpstream(Reply(200, SSE, [HANG])), FakeUpstream(streamed("b", 0.05))
    relay = await relay_of(first, second)
    body = {**ASK, "stream": True}
    answer = await ask(guarded_by(relay, Guard()), body, may_raise=True, may_cut=True)
    await all_given_back(relay, answer)


async def test_a_bug_of_the_slower_one_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Buggy(FakeUpstream):
        async def send(self, request: Any) -> Any:
            try:
                return await super().send(request)
            except asyncio.CancelledError:
                raise LookupError("a bug") from None

    first, second = Buggy(Reply(head=[HANG])), FakeUpstream(plain("b"))
    relay = await relay_of(first, second)
    caplog.clear()
    answer = await ask(relay)
    assert answer.status == 200
    assert "LookupError" in caplog.text
    await all_given_back(relay, answer)


async def test_the_slow_count_as_slow_so_that_late_does_not_come_to_mean_usual() -> None:
    first, second = FakeUpstream(Reply(head=[HANG])), FakeUpstream(plain("b"))
    relay = await relay_of(first, second)
    assert relay.channels is not None
    stats = relay.channels.by_name["a"].stats
    for _ in range(40):
        await ask(relay)
    assert stats.late_after is not None
    assert stats.late_after > LATE
    assert len(first.asked) == 40


async def test_an_upload_is_sent_once() -> None:
    form = {"content-type": "multipart/form-data; boundary=b"}
    head = (
        b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n'
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    )
    body = [head, b"x" * 1000, b"\r\n--b--\r\n"]
    first = FakeUpstream(late(Reply.json({"text": "a"}), LATE * 4))
    first.read_bodies = False
    second = FakeUpstream(Reply.json({"text": "b"}))
    relay = await relay_of(first, second)
    answer = await call(relay, "POST", "/v1/audio/transcriptions", headers=form, body=body)
    assert answer.json == {"text": "a"}
    assert not second.asked
    await all_given_back(relay, answer)


async def test_what_is_passed_through_is_done_once() -> None:
    first, second = FakeUpstream(late(Reply.json({}), LATE * 4)), FakeUpstream()
    relay = Relay(
        [
            channel_to(first, name="a", priority=1, passthrough=True),
            channel_to(second, name="b", passthrough=True),
        ],
        failover=Failover(hedge=True),
    )
    await relay.resources.get()
    assert relay.channels is not None
    used_to_take(relay.channels.by_name["a"], LATE)
    answer = await call(called_by(relay), "POST", "/v1/batches/b1/cancel", body=b"")
    assert answer.status == 200
    assert (len(first.asked), len(second.asked)) == (1, 0)


async def test_a_stream_that_breaks_later_is_not_gone_on_with_by_the_one_that_lost() -> None:
    """It was tried in this call."""
    first = FakeUpstream(Reply(head=[HANG]))
    second = FakeUpstream(Reply.stream(sse(chunk("The ")), ConnectionLost("reset")))
    third = FakeUpstream(Reply.stream(sse(chunk("The sky")), sse(chunk(finish="stop")), DONE))
    relay = await relay_of(first, second, third, stream_recovery="splice", max_attempts=3)
    second.replies.append(third.replies[0])
    answer = await ask_stream(relay)
    assert answer.body.endswith(DONE)
    assert told(answer)[:2] == [("a", "lost"), ("b", "failed")]
    assert len(first.asked) == 1
    assert len(answer.exchange.attempts) == 3
    await all_given_back(relay, answer)


@pytest.mark.parametrize("cancels", [1, 2, 3])
async def test_whatever_answers_in_spite_of_its_cancel_is_given_back(cancels: int) -> None:
    """A host's guard may swallow a cancel; nobody is left then to take what was opened."""
    lost: list[str] = []

    async def deaf(name: str) -> str | None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(30)
        await asyncio.sleep(0.02)
        return name

    async def give_back(name: str) -> None:
        await asyncio.sleep(0.01)
        lost.append(name)

    work = hedged(deaf("one"), 0.01, lambda: deaf("two"), lost.append, give_back)
    task = asyncio.ensure_future(work)
    await asyncio.sleep(0.05)
    for _ in range(cancels):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: len(lost) == 2)
    assert sorted(lost) == ["one", "two"]


async def test_a_result_at_the_moment_of_a_cancel_is_given_back() -> None:
    lost: list[str] = []

    async def quick() -> str | None:
        await asyncio.sleep(0)
        task.cancel()
        return "one"

    async def give_back(name: str) -> None:
        lost.append(name)

    async def none() -> str | None:
        return None

    task = asyncio.ensure_future(hedged(quick(), 5.0, none, lost.append, give_back))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert lost == ["one"]
