"""x-llm-timeout bounds the whole call: every attempt, the waits between them, and the stream."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from asgi_llm_gateway import Failover, Relay
from asgi_llm_gateway.channels.retrying import Backoff
from asgi_llm_gateway.errors import ConnectionLost, UpstreamTimeout
from asgi_llm_gateway.keys.limits import KeyLimits
from asgi_llm_gateway.upstream.contract import UpstreamRequest
from tests.asgi import Answer
from tests.failover.world import SLACK
from tests.upstreams import (
    ASK,
    DONE,
    FakeUpstream,
    Reply,
    ask,
    channel_to,
    chunk,
    nothing_left,
    sse,
)

LONG: dict[str, Any] = {"first_byte": 20.0, "first_token": 20.0, "idle": 20.0, "total": 20.0}
AT_ONCE = Backoff(first=0)


class Punctual(FakeUpstream):
    """Keeps the total limit of a request, as every upstream does."""

    async def send(self, request: UpstreamRequest) -> Any:
        try:
            async with asyncio.timeout(request.timeouts.total):
                return await super().send(request)
        except TimeoutError:
            raise UpstreamTimeout("too late", phase="total") from None

    @property
    def totals(self) -> list[float]:
        return [asked.request.timeouts.total or 0.0 for asked in self.asked]


def relay_of(*upstreams: FakeUpstream, timeouts: Any = None, **rules: Any) -> Relay:
    channels = [
        channel_to(upstream, name="abc"[at], priority=-at, timeouts=timeouts or LONG)
        for at, upstream in enumerate(upstreams)
    ]
    return Relay(channels, failover=Failover(**{"backoff": AT_ONCE, **rules}))


async def asking(relay: Relay, seconds: float, **members: Any) -> tuple[Answer, float]:
    loop = asyncio.get_running_loop()
    began = loop.time()
    headers = {"x-llm-timeout": str(seconds)}
    answer = await ask(relay, {**ASK, **members}, headers=headers)
    return answer, loop.time() - began


def where(answer: Answer) -> str:
    return "".join(attempt.channel for attempt in answer.exchange.attempts)


async def test_a_later_attempt_has_what_is_left() -> None:
    first = Punctual(Reply(500, head=[0.4]))
    second = Punctual(Reply.chat())
    relay = relay_of(first, second, max_attempts=3)
    answer, _ = await asking(relay, 5)
    assert (answer.status, where(answer)) == (200, "aab")
    assert 4.9 < first.totals[0] <= 5.0
    assert 4.0 < first.totals[1] < 4.7
    assert 3.0 < second.totals[0] < 4.3
    for asked in (*first.asked, *second.asked):
        limits = asked.request.timeouts
        assert limits.first_byte == limits.total
        assert limits.idle == LONG["idle"]
    await nothing_left(relay)


async def test_a_channels_shorter_limits_stay() -> None:
    upstream = Punctual(Reply.chat())
    relay = relay_of(upstream, timeouts={**LONG, "total": 2.0, "first_byte": 1.0})
    await asking(relay, 5)
    limits = upstream.asked[0].request.timeouts
    assert (limits.total, limits.first_byte) == (2.0, 1.0)


async def test_when_the_time_is_over_nobody_else_is_asked() -> None:
    first, second = Punctual(Reply(head=[30.0])), Punctual(Reply.chat())
    relay = relay_of(first, second)
    answer, seconds = await asking(relay, 0.2)
    assert (answer.status, where(answer)) == (504, "a")
    assert answer.exchange.attempts[0].outcome in ("failed", "left")
    assert 0.1 < seconds < 0.2 + SLACK
    assert not second.asked
    assert relay.health.quiet, "the caller's haste is not the channel's fault"
    await nothing_left(relay)


@pytest.mark.parametrize("stream", [False, True])
async def test_nobody_waits_for_a_retry_that_would_come_too_late(stream: bool) -> None:
    """The other channel is asked at once instead."""
    good = Reply.stream(sse(chunk("b", finish="stop")), DONE) if stream else Reply.chat()
    first, second = Punctual(Reply.error(500)), Punctual(good)
    relay = Relay(
        [
            channel_to(first, name="a", timeouts=LONG, keys=["sk-a-11111111", "sk-b-22222222"]),
            channel_to(second, name="b", timeouts=LONG, priority=-1),
        ],
        failover=Failover(backoff=Backoff(first=8.0, factor=1.0, cap=8.0)),
        rng=Halfway(),
    )
    answer, seconds = await asking(relay, 2.0, stream=stream)
    assert (answer.status, where(answer)) == (200, "ab")
    assert seconds < SLACK
    await nothing_left(relay)


class Halfway(Random):
    """Every wait is half of its bound."""

    def random(self) -> float:
        return 0.5


async def test_a_stream_that_breaks_when_the_time_is_over_is_not_begun_anew() -> None:
    over = UpstreamTimeout("too late", phase="total")
    first = Punctual(Reply.stream(sse(chunk("The ")), 0.3, over))
    second = Punctual(Reply.stream(sse(chunk("The sky", finish="stop")), DONE))
    relay = relay_of(first, second, stream_recovery="splice")
    answer, seconds = await asking(relay, 0.25, stream=True)
    assert where(answer) == "a"
    assert b"upstream_timeout" in answer.body
    assert DONE not in answer.body
    assert answer.exchange.outcome == "truncated"
    assert seconds < 0.25 + SLACK
    assert not second.asked
    await nothing_left(relay)


async def test_a_stream_that_breaks_in_time_goes_on_with_what_is_left() -> None:
    first = Punctual(Reply.stream(sse(chunk("The ")), 0.3, ConnectionLost("reset")))
    second = Punctual(Reply.stream(sse(chunk("The sky"), chunk(finish="stop")), DONE))
    first.replies.append(second.replies[0])
    relay = relay_of(first, second, stream_recovery="splice")
    answer, _ = await asking(relay, 5, stream=True)
    assert answer.body.endswith(DONE)
    later = (first.totals + second.totals)[-1]
    assert 3.0 < later < 4.8
    await nothing_left(relay)


async def test_a_first_token_has_its_time_at_each_attempt_within_what_is_left() -> None:
    first = FakeUpstream(Reply.stream(30.0))
    second = FakeUpstream(Reply.stream(0.1, sse(chunk("b", finish="stop")), DONE))
    relay = relay_of(first, second)
    headers = {"x-llm-first-token-timeout": "0.3", "x-llm-timeout": "5"}
    answer = await ask(relay, {**ASK, "stream": True}, headers=headers)
    assert (answer.status, where(answer)) == (200, "ab")
    await nothing_left(relay)


async def test_the_last_error_is_told_when_the_time_is_over() -> None:
    upstream = FakeUpstream(Reply(503, head=[0.15]))
    relay = relay_of(upstream, FakeUpstream(Reply(503, head=[0.15])), max_attempts=9)
    answer, seconds = await asking(relay, 0.2)
    assert answer.status in (503, 504)
    assert seconds < 0.2 + SLACK
    assert len(answer.exchange.attempts) <= 2
    await nothing_left(relay)


async def test_hedging_keeps_within_it_too() -> None:
    first, second = Punctual(Reply(head=[30.0])), Punctual(Reply(head=[30.0]))
    relay = relay_of(first, second, hedge=True)
    await relay.resources.get()
    assert relay.channels is not None
    for _ in range(20):
        relay.channels.by_name["a"].stats.begun()
        relay.channels.by_name["a"].stats.ended(0.05)
    answer, seconds = await asking(relay, 0.4)
    assert answer.status == 504
    assert seconds < 0.4 + SLACK
    assert first.totals[0] - second.totals[0] > 0.03
    await nothing_left(relay)


async def test_a_stream_is_not_gone_on_with_after_a_wait_for_a_key_that_is_too_long() -> None:
    broken = FakeUpstream(Reply.stream(sse(chunk("a")), ConnectionLost("reset")))
    busy = FakeUpstream(Reply.stream(sse(chunk("a")), 5.0))
    channels = [
        channel_to(broken, priority=5),
        channel_to(busy, name="b", key_limits=KeyLimits(concurrency=1, wait=4.0)),
    ]
    relay = Relay(channels, failover=Failover(stream_recovery="splice", backoff=AT_ONCE))
    await relay.resources.get()
    assert relay.channels is not None
    pool = relay.channels.by_name["b"].pool
    held = await pool.take(None)
    assert held is not None
    answer, seconds = await asking(relay, 0.5, stream=True)
    assert answer.exchange.outcome == "truncated"
    assert seconds < 0.5 + SLACK
    pool.report(held, "left")
    await nothing_left(relay)
