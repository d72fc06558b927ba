"""What becomes of a provider's stream on its way to the caller."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from asgi_llm_gateway import Relay
from asgi_llm_gateway.errors import ConnectionLost
from asgi_llm_gateway.upstream.contract import Timeouts
from tests.asgi import Driver
from tests.upstreams import (
    ASK,
    DONE,
    HANG,
    FakeUpstream,
    Reply,
    ask_stream,
    channel_to,
    chunk,
    nothing_left,
    openai_error,
    relay_to,
    split_everywhere,
    sse,
    until,
)

STOP = chunk(finish="stop")


WHOLE = sse(chunk("a"), chunk("b"), STOP) + DONE


def events_of(body: bytes) -> list[str]:
    """The data of each event, which must all be whole."""
    text = body.decode().replace("\r\n", "\n")
    assert text.endswith("\n\n"), text[-80:]
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    return [block.partition("data: ")[2] for block in blocks]


def open_stream(relay: Any, **how: Any) -> Driver:
    body = json.dumps({**ASK, "stream": True}).encode()
    return Driver(relay, "POST", "/v1/chat/completions", body=body, **how)


async def test_status_and_headers_are_held_until_the_first_real_event() -> None:
    upstream = FakeUpstream(Reply.stream(b": one\n\n", b": two\n\n", 0.1, WHOLE))
    relay = relay_to(upstream)
    async with open_stream(relay).open() as stream:
        await until(lambda: upstream.open)
        await asyncio.sleep(0.03)
        assert stream.answer.status is None
        assert await stream.started() == 200
        body = b"".join([piece async for piece in stream])
    assert body == b": one\n\n: two\n\n" + WHOLE


async def test_only_comments_then_a_failure_leaves_the_call_free_to_go_elsewhere() -> None:
    upstream = FakeUpstream(
        Reply.stream(b": OPENROUTER PROCESSING\n\n", 0.01, ConnectionLost("reset")),
        Reply.stream(WHOLE),
    )
    relay = Relay([channel_to(upstream), channel_to(upstream, name="other")])
    answer = await ask_stream(relay)
    assert answer.body == WHOLE
    assert answer.header("x-llm-attempts") == "2"


async def test_a_provider_that_sends_no_event_in_time_is_given_up() -> None:
    upstream = FakeUpstream(Reply.stream(b": a\n\n", HANG), Reply.stream(WHOLE))
    timeouts = Timeouts(first_token=0.05)
    relay = Relay(
        [channel_to(upstream, timeouts=timeouts), channel_to(upstream, name="b", timeouts=timeouts)]
    )
    answer = await ask_stream(relay)
    assert answer.body == WHOLE
    assert answer.exchange.attempts[0].failure.phase == "first_token"
    await nothing_left(relay)


async def test_a_stream_says_that_nobody_may_hold_it_back() -> None:
    answer = await ask_stream(relay_to(FakeUpstream(Reply.stream(WHOLE))))
    assert answer.header("content-type") == "text/event-stream"
    assert answer.header("cache-control") == "no-cache"
    assert answer.header("x-accel-buffering") == "no"
    assert answer.header("content-length") is None


async def test_a_plain_answer_to_a_streamed_call_is_passed_on_as_it_is() -> None:
    answer = await ask_stream(relay_to(FakeUpstream(Reply.chat("whole"))))
    assert answer.header("content-type") == "application/json"
    assert answer.header("content-length") == str(len(answer.body))
    assert answer.json["choices"][0]["message"]["content"] == "whole"


BORDERS = {"lf": b"\n\n", "crlf": b"\r\n\r\n", "cr": b"\r\r"}


@pytest.mark.parametrize("border", BORDERS)
async def test_every_message_holds_whole_events_for_every_split(border: str) -> None:
    end = BORDERS[border]
    data = b": hi" + end + sse({"choices": [{"finish_reason": "stop"}], "é": 1}, end=end)
    data += b"data: [DONE]" + end
    for pieces in split_everywhere(data):
        answer = await ask_stream(relay_to(FakeUpstream(Reply.stream(*pieces))))
        assert answer.body == data
        for message in answer.messages:
            assert message == b"" or message.strip(b"\r\n") == b"" or message.endswith((end, b"\r"))


async def test_events_of_several_lines_are_not_cut() -> None:
    event = b'event: x\nid: 1\ndata: {"choices":\ndata:  [{"finish_reason": "stop"}]}\n\n'
    for pieces in split_everywhere(event):
        answer = await ask_stream(relay_to(FakeUpstream(Reply.stream(*pieces))))
        assert answer.body == event + DONE
        assert [m for m in answer.messages if m] == [event, DONE]


async def test_a_caller_who_takes_nothing_holds_the_provider_up() -> None:
    pieces = [sse(chunk("x" * 1000)) for _ in range(100)]
    upstream = FakeUpstream(Reply.stream(*pieces, sse(STOP)))
    relay = relay_to(upstream)
    async with open_stream(relay, paced=True).open() as stream:
        await anext(stream)
        await asyncio.sleep(0.05)
        (answer,) = upstream.open
        assert answer.taken <= 4
        rest = [piece async for piece in stream]
    assert len(rest) >= 100
    await nothing_left(relay)


UNTAKEN = {
    "a whole answer": Reply.json({"choices": [], "x": "y" * 100_000}),
    "an event": Reply.stream(sse(chunk("a")), HANG),
    "the error event at the end": Reply.stream(sse(chunk("a"))),
    "bytes": Reply(200, [(b"content-type", b"audio/mpeg")], [b"ID3", HANG]),
}


@pytest.mark.parametrize("what", UNTAKEN)
async def test_a_caller_who_takes_nothing_for_too_long_counts_as_gone(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asgi_llm_gateway.relay.watch._WRITE_TIMEOUT", 0.1)
    relay = relay_to(FakeUpstream(UNTAKEN[what]))
    body = json.dumps({**ASK, "stream": True, "input": "hi"}).encode()
    messages = [{"type": "http.request", "body": body}]

    async def receive() -> Any:
        return messages.pop() if messages else await asyncio.Event().wait()

    async def stuck(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    path = "/v1/audio/speech" if what == "bytes" else "/v1/chat/completions"
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": path, "headers": []}
    await asyncio.wait_for(relay(scope, receive, stuck), 3)
    assert scope["asgi_llm_gateway"].outcome == "client_left"
    await nothing_left(relay)


@pytest.mark.parametrize("split", [1, 7, 64])
async def test_memory_and_time_stay_linear_in_many_small_events(split: int) -> None:
    data = sse(*[chunk("x")] * 300, STOP) + DONE
    pieces = [data[at : at + split] for at in range(0, len(data), split)]
    answer = await ask_stream(relay_to(FakeUpstream(Reply.stream(*pieces))))
    assert answer.body == data


async def test_a_stream_whose_first_event_is_of_another_dialect_is_a_bad_answer() -> None:
    reply = Reply.stream(sse({"type": "message_start", "message": {}}))
    answer = await ask_stream(relay_to(FakeUpstream(reply)))
    assert answer.status == 502
    assert openai_error(answer)["code"] == "bad_upstream_answer"


async def test_a_byte_order_mark_before_the_first_event_is_dropped() -> None:
    stream = sse(chunk("a"), chunk(finish="stop")) + DONE
    for steps in ([b"\xef\xbb\xbf" + stream], [b"\xef", b"\xbb\xbf", stream]):
        answer = await ask_stream(relay_to(FakeUpstream(Reply.stream(*steps))))
        assert answer.body == stream
