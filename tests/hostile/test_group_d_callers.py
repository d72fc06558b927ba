"""Group D of the hostile inputs: how callers take what they are sent."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.asgi import STYLES, Driver, Style
from tests.hostile.world import ASK, CHAT, TOKEN, World, world
from tests.upstreams import DONE, HANG, USAGE, Reply, chunk, sse, until

STREAM = ASK | {"stream": True}
STOP = chunk(finish="stop")
WHEN: dict[str, tuple[list[Any], Any, int | None]] = {
    "before the first byte": ([HANG], "before first byte", None),
    "mid-stream": ([sse(chunk("a", usage=USAGE)), HANG], 1, 7),
    "before [DONE]": ([sse(chunk("a")), sse(chunk(finish="stop", usage=USAGE)), HANG, DONE], 2, 7),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("when", WHEN)
async def test_d1_leaving_closes_the_providers_answer_and_keeps_what_was_seen(
    when: str, style: Style, caplog: pytest.LogCaptureFixture
) -> None:
    steps, leave, seen = WHEN[when]
    async with world(caplog) as here:
        here.upstream.replies = [Reply.stream(*steps)]
        loop = asyncio.get_running_loop()
        begun = loop.time()
        answer = await here.post(STREAM, style=style, leave_after=leave)
        assert loop.time() - begun < 2
        assert not here.upstream.open
        assert answer.exchange.outcome == "client_left"
        usage = answer.exchange.usage
        assert (usage.total_input if usage else None) == seen
        await here.after(answer)


def driver(here: World, **how: Any) -> Driver:
    body = json.dumps(STREAM).encode()
    headers = {"authorization": f"Bearer {TOKEN}"}
    return Driver(here.gateway, "POST", CHAT, body=body, headers=headers, **how)


async def test_d3_a_send_that_raises_ends_the_call_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world(caplog) as here:
        here.upstream.replies = [Reply.stream(*[sse(chunk("a"))] * 100, sse(STOP))]
        answer = await here.post(STREAM, style="strict", leave_after=1)
        assert answer.exception is None
        assert answer.exchange.outcome == "client_left"
        await here.after(answer)


async def test_d3_a_cancel_in_the_middle_gives_everything_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world(caplog) as here:
        here.upstream.replies = [Reply.stream(sse(chunk("a")), HANG)]
        running = driver(here, may_raise=True, may_cut=True)
        async with running.open() as stream:
            await anext(stream)
            stream.cancel()
        assert isinstance(stream.answer.exception, asyncio.CancelledError)
        await here.after(stream.answer)


async def test_d3_a_shutdown_during_a_stream_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    here = World(caplog, shutdown_timeout=0.3)
    async with here.gateway:
        here.upstream.replies = [Reply.stream(sse(chunk("a")), HANG)]
        running = driver(here, may_raise=True, may_cut=True)
        running.begin()
        await until(lambda: running.answer.messages)
        loop = asyncio.get_running_loop()
        begun = loop.time()
    assert loop.time() - begun < 3
    refused = await here.post(ASK)
    assert refused.status == 503
    assert running.task is not None
    running.task.cancel()
    await asyncio.wait({running.task})
    assert not here.upstream.open


async def test_d3_a_stream_that_ends_in_time_is_drained(caplog: pytest.LogCaptureFixture) -> None:
    here = World(caplog, shutdown_timeout=5)
    async with here.gateway:
        here.upstream.replies = [Reply.stream(sse(chunk("a")), 0.2, sse(STOP))]
        running = driver(here)
        running.begin()
        await until(lambda: running.answer.messages)
    answer = await running.finish()
    assert answer.body == sse(chunk("a"), STOP) + DONE
