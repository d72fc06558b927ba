"""A caller who leaves: whatever is under way for it is given up within a second."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from asgi_llm_gateway import Failover, Relay
from asgi_llm_gateway.keys.pool import MemoryKeyPool
from tests.asgi import STYLES, Driver, Style, call
from tests.upstreams import (
    ASK,
    HANG,
    SSE,
    FakeUpstream,
    Reply,
    ask,
    called_by,
    channel_to,
    chunk,
    guarded_by,
    left_open,
    nothing_left,
    relay_to,
    sse,
    until,
)


class SlowPool(MemoryKeyPool):
    """Has no key for anybody for a long time."""

    waiting = 0

    async def take(self, exchange: Any, tried: Any = (), **how: Any) -> Any:
        self.waiting += 1
        await asyncio.sleep(30)


class SlowGuard:
    """A part that thinks long about each attempt."""

    begun = 0
    over = 0

    async def before(self, attempt: Any) -> None:
        self.begun += 1
        await asyncio.sleep(30)

    def after(self, attempt: Any) -> None:
        self.over += 1


PHASES = {
    "waiting for the head": [Reply(head=[HANG])],
    "waiting for a plain body": [Reply(steps=[HANG])],
    "in a plain body": [Reply(steps=[b'{"choices"', HANG])],
    "waiting for an error's body": [Reply(500, steps=[HANG])],
    "waiting for the first event": [Reply(200, SSE, [b": hi\n\n", HANG])],
    "between events": [Reply(200, SSE, [sse(chunk("a")), HANG])],
    "within an event": [Reply(200, SSE, [sse(chunk("a")), b"data: {", HANG])],
    "while events come": [Reply(200, SSE, [sse(chunk("a")), *([0.02, sse(chunk("b"))] * 400)])],
    "in the second try": [Reply.error(500), Reply(head=[HANG])],
    "while failing over again and again": [Reply(500, head=[0.3])],
}


async def leave_when(
    app: Any, style: Style, happened: Any, *, path: str = "/v1/chat/completions", **how: Any
) -> Any:
    body = how.pop("body", json.dumps({**ASK, "stream": True, "input": "hi"}).encode())
    driver = Driver(app, "POST", path, body=body, style=style, **how)
    async with driver.open() as stream:
        await until(happened)
        await asyncio.sleep(0.05)
        stream.leave()
        assert driver.task is not None
        await asyncio.wait({driver.task}, timeout=1.0)
        assert driver.task.done()
    return driver.answer


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("phase", PHASES)
async def test_leaving_ends_the_providers_work_within_a_second(phase: str, style: Style) -> None:
    upstream = FakeUpstream(*PHASES[phase])
    relay = Relay(
        [channel_to(upstream, keys=[f"sk-key-{n:06}" for n in range(9)])],
        failover=Failover(max_attempts=9),
    )
    wanted = len(PHASES[phase])

    answer = await leave_when(relay, style, lambda: len(upstream.asked) >= wanted)

    assert not left_open(relay)
    assert answer.exchange.outcome == "client_left"
    assert len(upstream.asked) < 9
    await nothing_left(relay)


@pytest.mark.parametrize("style", STYLES)
async def test_leaving_while_waiting_for_a_key(style: Style) -> None:
    pool, upstream = SlowPool(["sk-a-11111111"]), FakeUpstream()
    relay = relay_to(upstream, keys=pool)
    answer = await leave_when(relay, style, lambda: pool.waiting)
    assert answer.exchange.outcome == "client_left"
    assert not upstream.asked
    await nothing_left(relay)


@pytest.mark.parametrize("style", STYLES)
async def test_leaving_while_a_guard_thinks(style: Style) -> None:
    guard, upstream = SlowGuard(), FakeUpstream()
    relay = relay_to(upstream)
    await leave_when(guarded_by(relay, guard), style, lambda: guard.begun)
    assert (guard.begun, guard.over) == (1, 1)
    assert not upstream.asked
    await nothing_left(relay)


@pytest.mark.parametrize("style", STYLES)
async def test_leaving_while_bytes_come_that_are_no_events(style: Style) -> None:
    upstream = FakeUpstream(Reply(200, [(b"content-type", b"audio/mpeg")], [b"ID3", HANG]))
    relay = relay_to(upstream)
    await leave_when(relay, style, lambda: upstream.open, path="/v1/audio/speech")
    await nothing_left(relay)


@pytest.mark.parametrize("style", STYLES)
async def test_leaving_a_passed_through_answer(style: Style) -> None:
    upstream = FakeUpstream(Reply(200, [], [b"x", HANG]))
    relay = relay_to(upstream, passthrough=True)
    driver = Driver(called_by(relay), "GET", "/v1/files/f/content", style=style)
    async with driver.open() as stream:
        await anext(stream)
    await nothing_left(relay)


FORM = {"content-type": "multipart/form-data; boundary=b"}
FORM_HEAD = (
    b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n'
    b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
)


async def slow_form() -> AsyncIterator[bytes]:
    yield FORM_HEAD
    while True:
        yield b"x" * 100
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/files"])
async def test_leaving_in_the_middle_of_an_upload(style: Style, path: str) -> None:
    upstream = FakeUpstream(Reply.json({"text": "hi"}))
    relay = relay_to(upstream, passthrough=True)
    headers = {**FORM, "transfer-encoding": "chunked"}
    answer = await leave_when(
        called_by(relay),
        style,
        lambda: upstream.asked and len(upstream.asked[0].body) > 300,
        path=path,
        body=slow_form(),
        headers=headers,
    )
    assert answer.exchange.outcome == "client_left"
    await nothing_left(relay)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/files"])
async def test_leaving_while_the_provider_takes_nothing_of_an_upload(
    style: Style, path: str
) -> None:
    upstream = FakeUpstream(Reply(head=[HANG]))
    upstream.read_bodies = False
    relay = relay_to(upstream, passthrough=True)
    headers = {**FORM, "transfer-encoding": "chunked"}
    app, asked = called_by(relay), lambda: upstream.asked
    answer = await leave_when(app, style, asked, path=path, body=slow_form(), headers=headers)
    assert answer.exchange.outcome == "client_left"
    await nothing_left(relay)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("leave_after", ["before body", "during body"])
async def test_leaving_before_the_body_is_in_asks_no_provider(
    style: Style, leave_after: Any, caplog: pytest.LogCaptureFixture
) -> None:
    upstream = FakeUpstream()
    relay = relay_to(upstream)
    async with relay.resources:
        caplog.clear()
        body = [b'{"model": "m", ', b'"messages": [1]}']
        how: dict[str, Any] = {"style": style, "leave_after": leave_after}
        answer = await call(relay, "POST", "/v1/chat/completions", body=body, **how)
        assert not upstream.asked
        assert answer.exchange.outcome == "client_left"
        assert not caplog.records
        await nothing_left(relay)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("leave_after", ["before first byte", 1, 2, "after the end"])
async def test_leaving_at_each_message_of_a_stream_gives_everything_back(
    style: Style, leave_after: Any
) -> None:
    upstream = FakeUpstream(
        Reply.stream(sse(chunk("a")), 0.01, sse(chunk("b")), 0.01, sse(chunk(finish="stop")))
    )
    relay = relay_to(upstream)
    await ask(relay, {**ASK, "stream": True}, style=style, leave_after=leave_after)
    await nothing_left(relay)


async def test_a_send_that_raises_ends_the_call_quietly(caplog: pytest.LogCaptureFixture) -> None:
    upstream = FakeUpstream(Reply.stream(*[sse(chunk("a"))] * 50))
    relay = relay_to(upstream)
    async with relay.resources:
        caplog.clear()
        answer = await ask(relay, {**ASK, "stream": True}, style="strict", leave_after=1)
        assert answer.exchange.outcome == "client_left"
        assert answer.exchange.usage is None
        assert not [record for record in caplog.records if record.levelname != "INFO"]
        await nothing_left(relay)


async def test_usage_that_was_seen_before_the_leaving_is_kept() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 1}
    upstream = FakeUpstream(Reply.stream(sse(chunk("a", usage=usage)), HANG))
    answer = await leave_when(relay_to(upstream), "uvicorn", lambda: upstream.open)
    assert answer.exchange.usage.input == 3
