"""What parts may say about each attempt, and that everything taken for one is given back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asgi_llm_gateway import Relay
from asgi_llm_gateway.errors import (
    BadAnswer,
    ConnectionLost,
    PermissionDenied,
    RateLimited,
)
from tests.asgi import Driver
from tests.upstreams import (
    HANG,
    SSE,
    FakeUpstream,
    Reply,
    ask,
    ask_stream,
    channel_to,
    chunk,
    guarded_by,
    nothing_left,
    relay_to,
    sse,
    until,
)

OUTCOMES = {
    "plain": Reply.chat(),
    "refused": Reply.error(400),
    "failed": Reply.error(500),
    "lost": Reply.fails(ConnectionLost("reset")),
    "bad": Reply.fails(BadAnswer("no HTTP")),
    "stream": Reply.stream(sse(chunk("a"), chunk(finish="stop"))),
    "cut": Reply.stream(sse(chunk("a"))),
    "cut hard": Reply.stream(sse(chunk("a")), ConnectionLost("reset")),
    "a bug": Reply.fails(ZeroDivisionError()),
    "a bug midway": Reply.stream(sse(chunk("a")), ZeroDivisionError()),
}


@pytest.mark.parametrize("name", OUTCOMES)
async def test_the_key_is_given_back_whatever_happens(name: str) -> None:
    relay = relay_to(FakeUpstream(OUTCOMES[name]))
    await (_bug(relay) if "bug" in name else ask_stream(relay))
    await nothing_left(relay)


async def _bug(relay: Relay) -> None:
    body = b'{"model": "m", "stream": true, "messages": [{}]}'
    how: dict[str, Any] = {"may_raise": True, "may_cut": True}
    answer = await ask(relay, body, **how)
    assert isinstance(answer.exception, ZeroDivisionError)


@pytest.mark.parametrize("cancels", [1, 2])
@pytest.mark.parametrize(
    "reply",
    [
        Reply(head=[HANG]),
        Reply(steps=[HANG]),
        Reply(200, SSE, [HANG]),
        Reply(200, SSE, [sse(chunk("a")), HANG]),
    ],
)
async def test_the_key_is_given_back_when_the_server_cancels(reply: Reply, cancels: int) -> None:
    seen: list[str] = []
    upstream = FakeUpstream(reply)
    relay = relay_to(upstream)
    body = b'{"model": "m", "stream": true, "messages": [{}]}'
    app = guarded_by(relay, Guard(seen))
    driver = Driver(app, "POST", "/v1/chat/completions", body=body, may_raise=True, may_cut=True)
    async with driver.open() as stream:
        await until(lambda: upstream.sending or upstream.open)
        await asyncio.sleep(0.01)
        for _ in range(cancels):
            stream.cancel()
    assert isinstance(stream.answer.exception, asyncio.CancelledError)
    assert seen == ["before 1", "after 1"]
    await nothing_left(relay)


class Guard:
    """Notes what it is told; raises `refusals` in turn."""

    def __init__(self, seen: list[str], *refusals: Exception | None, name: str = "") -> None:
        self.seen, self.refusals, self.name = seen, list(refusals), name

    async def before(self, attempt: Any) -> None:
        self.seen.append(f"before {self.name}{attempt.number}")
        if self.refusals and (refusal := self.refusals.pop(0)):
            raise refusal

    def after(self, attempt: Any) -> None:
        assert attempt.ended is not None
        self.seen.append(f"after {self.name}{attempt.number}")


async def test_a_guard_that_raises_sends_the_call_to_the_next_candidate() -> None:
    upstream = FakeUpstream()
    relay = Relay([channel_to(upstream), channel_to(upstream, name="other")])
    seen: list[str] = []
    answer = await ask(guarded_by(relay, Guard(seen, PermissionDenied("not this one"))))
    assert answer.status == 200
    assert len(upstream.asked) == 1
    assert answer.header("x-llm-attempts") == "1"
    assert seen == ["before 1", "after 1", "before 1", "after 1"]
    await nothing_left(relay)


async def test_a_guard_that_always_raises_is_what_the_caller_is_told() -> None:
    upstream = FakeUpstream()
    relay = Relay([channel_to(upstream), channel_to(upstream, name="other")])
    refusals = [
        RateLimited("the bucket is empty", retry_after=3),
        RateLimited("empty", retry_after=9),
    ]
    answer = await ask(guarded_by(relay, Guard([], *refusals)))
    assert answer.status == 429
    assert answer.header("retry-after") == "9"
    assert not upstream.asked
    await nothing_left(relay)


async def test_after_is_called_for_each_before_and_for_no_other() -> None:
    seen: list[str] = []
    upstream = FakeUpstream(Reply.error(500), Reply.error(400))
    relay = relay_to(upstream, keys=["sk-a-11111111", "sk-b-22222222"])
    guards = [Guard(seen, name="a"), Guard(seen, None, RateLimited("no"), name="b")]
    await ask(guarded_by(relay, *guards, Guard(seen, name="c")))
    assert seen == [
        *("before a1", "before b1", "before c1", "after a1", "after b1", "after c1"),
        *("before a2", "before b2", "after a2", "after b2"),
    ]
    assert len(upstream.asked) == 1


async def test_the_guards_see_the_usage_of_the_attempt_that_served() -> None:
    seen: list[Any] = []

    class Asking(Guard):
        def after(self, attempt: Any) -> None:
            seen.append(attempt.usage)

    relay = relay_to(
        FakeUpstream(
            Reply.stream(
                sse(
                    chunk("a"),
                    chunk(finish="stop", usage={"prompt_tokens": 3, "completion_tokens": 4}),
                )
            )
        )
    )
    await ask_stream(guarded_by(relay, Asking([])))
    assert (seen[0].input, seen[0].output) == (3, 4)


async def test_a_guards_refusals_use_up_no_attempts() -> None:
    upstream = FakeUpstream()
    relay = Relay([channel_to(upstream, name=f"c{n}", priority=-n) for n in range(6)])
    refusals = [PermissionDenied("not this one")] * 5
    answer = await ask(guarded_by(relay, Guard([], *refusals)))
    assert answer.status == 200
    assert answer.header("x-llm-channel") == "c5"
