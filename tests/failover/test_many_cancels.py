"""A server that cancels again and again, while streams are held, restarted or kept alive."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest

from asgi_llm_gateway import Failover, Relay
from asgi_llm_gateway.channels.retrying import Backoff
from asgi_llm_gateway.channels.stats import ChannelStats
from asgi_llm_gateway.errors import (
    BadAnswer,
    ConnectionLost,
)
from asgi_llm_gateway.relay.keepalive import kept_alive
from asgi_llm_gateway.runtime import kept_tasks
from tests.asgi import Driver
from tests.upstreams import (
    ASK,
    DONE,
    HANG,
    SSE,
    FakeUpstream,
    Reply,
    ask_stream,
    channel_to,
    chunk,
    left_open,
    nothing_left,
    sse,
    until,
)

AT_ONCE = Backoff(first=0)
BUG: dict[str, Any] = {"may_raise": True, "may_cut": True}


def stats_of(relay: Relay, name: str = "main") -> ChannelStats:
    assert relay.channels is not None
    return relay.channels.by_name[name].stats


async def test_a_restart_that_finds_nobody_leaves_the_first_failure_as_it_was() -> None:
    first = Reply.stream(sse(chunk("The ")), ConnectionLost("reset"))
    upstream = FakeUpstream(first, Reply.error(429, "no more"))
    relay = Relay(
        [channel_to(upstream, keys=["sk-a-11111111", "sk-b-22222222"])],
        failover=Failover(stream_recovery="splice", backoff=AT_ONCE),
    )
    answer = await ask_stream(relay)
    one, two = answer.exchange.attempts
    assert isinstance(one.failure, ConnectionLost)
    assert two.status == 429
    assert two.failure is not one.failure
    assert answer.exchange.outcome == "truncated"
    assert DONE not in answer.body
    await nothing_left(relay)


async def test_a_restart_that_goes_astray_closes_both() -> None:
    upstream = FakeUpstream(
        Reply.stream(sse(chunk("The ")), ConnectionLost("reset")),
        Reply.stream(sse(chunk("A sea")), HANG),
    )
    relay = Relay(
        [channel_to(upstream, keys=["sk-a-11111111", "sk-b-22222222"])],
        failover=Failover(stream_recovery="splice", backoff=AT_ONCE),
    )
    answer = await ask_stream(relay)
    assert answer.exchange.outcome == "truncated"
    assert [a.outcome for a in answer.exchange.attempts] == ["failed", "truncated"]
    assert not left_open(relay)
    await nothing_left(relay)


@pytest.mark.parametrize("cancels", [1, 2, 3])
@pytest.mark.parametrize("how", [{"keep_alive": 0.01}, {"stream_recovery": "buffer"}, {}])
@pytest.mark.parametrize("steps", [[HANG], [sse(chunk("a")), HANG], [0.02, sse(chunk("a")), HANG]])
async def test_many_cancels_are_as_good_as_one(how: Any, steps: Any, cancels: int) -> None:
    class Slow(FakeUpstream):
        """Its requests take a moment to be given up."""

        async def send(self, request: Any) -> Any:
            try:
                return await super().send(request)
            except asyncio.CancelledError:
                await asyncio.sleep(0.02)
                raise

    for reply in (Reply(200, SSE, steps), Reply(200, SSE, steps, [HANG])):
        upstream = Slow(reply)
        relay = Relay([channel_to(upstream)], failover=Failover(**how))
        body = json.dumps({**ASK, "stream": True}).encode()
        driver = Driver(relay, "POST", "/v1/chat/completions", body=body, **BUG)
        async with driver.open() as stream:
            await until(lambda u=upstream: u.sending or u.open)
            await asyncio.sleep(0.03)
            for _ in range(cancels):
                stream.cancel()
                await asyncio.sleep(0)
        assert isinstance(driver.answer.exception, asyncio.CancelledError)
        await nothing_left(relay)
        assert stats_of(relay).in_flight == 0


# Comments, while something is under way.


async def test_what_fails_beside_a_comment_that_cannot_be_sent_is_seen() -> None:
    unseen: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    failed = asyncio.Event()

    async def work() -> str:
        try:
            await asyncio.sleep(0.02)
            raise BadAnswer("no")
        finally:
            failed.set()

    async def say() -> None:
        await failed.wait()
        await asyncio.sleep(0)
        raise OSError("the caller is gone")

    with pytest.raises(OSError, match="gone"):
        await kept_alive(work(), say, 0.01)
    await asyncio.sleep(0)
    assert not unseen


@pytest.mark.parametrize("cancels", [1, 2, 3])
async def test_work_beside_comments_ends_however_often_it_is_cancelled(cancels: int) -> None:
    ended: list[str] = []

    async def work() -> str:
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0.02)
            ended.append("whole")
        return ""

    async def say() -> None:
        await asyncio.sleep(0)

    task = asyncio.ensure_future(kept_alive(work(), say, 0.005))
    await asyncio.sleep(0.02)
    for _ in range(cancels):
        task.cancel()
        await asyncio.sleep(0)
    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
    await until(lambda: not len(kept_tasks()))
    assert ended == ["whole"]


async def test_a_bug_beside_comments_is_raised_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def bug() -> str:
        await asyncio.sleep(0.02)
        raise ZeroDivisionError

    async def say() -> None:
        await asyncio.sleep(0)

    with pytest.raises(ZeroDivisionError):
        await kept_alive(bug(), say, 0.005)

    async def late_bug() -> str:
        try:
            await asyncio.sleep(30)
        finally:
            raise ZeroDivisionError

    async def gone() -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await kept_alive(late_bug(), gone, 0.005)
    assert "ZeroDivisionError" in caplog.text
