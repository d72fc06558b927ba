"""Answers that are no events, and those that come compressed."""

from __future__ import annotations

import gzip
import json
from typing import Any

import brotli
import pytest

from asgi_llm_gateway import Relay
from asgi_llm_gateway.errors import ConnectionLost
from tests.upstreams import (
    DONE,
    FakeUpstream,
    Reply,
    ask,
    ask_stream,
    channel_to,
    chunk,
    nothing_left,
    relay_to,
    sse,
)

STOP = chunk(finish="stop")


WHOLE = sse(chunk("a"), chunk("b"), STOP) + DONE


def events_of(body: bytes) -> list[str]:
    """The data of each event, which must all be whole."""
    text = body.decode().replace("\r\n", "\n")
    assert text.endswith("\n\n"), text[-80:]
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    return [block.partition("data: ")[2] for block in blocks]


SAY = "/v1/audio/speech", {"model": "m", "input": "hi"}


MP3 = [(b"content-type", b"audio/mpeg")]


async def test_audio_is_passed_on_as_it_comes() -> None:
    path, body = SAY
    relay = relay_to(FakeUpstream(Reply(200, MP3, [b"ID3", 0.01, b"\x00\xff"])))
    answer = await ask(relay, body, path)
    assert (answer.header("content-type"), answer.body) == ("audio/mpeg", b"ID3\x00\xff")
    assert answer.exchange.outcome == "ok"
    await nothing_left(relay)


async def test_audio_cut_midway_has_no_last_message() -> None:
    path, body = SAY
    relay = relay_to(FakeUpstream(Reply(200, MP3, [b"ID3", ConnectionLost("reset")])))
    answer = await ask(relay, body, path, may_cut=True)
    assert answer.cut
    assert answer.body == b"ID3"
    assert answer.exchange.outcome == "truncated"
    await nothing_left(relay)


@pytest.mark.parametrize("steps", [[], [b""], [ConnectionLost("reset")]])
async def test_audio_that_fails_before_its_first_byte_goes_on(steps: list[Any]) -> None:
    path, body = SAY
    upstream = FakeUpstream(Reply(200, MP3, steps), Reply(200, MP3, [b"ID3"]))
    relay = Relay([channel_to(upstream), channel_to(upstream, name="other")])
    answer = await ask(relay, body, path)
    assert answer.body == b"ID3"
    assert answer.header("x-llm-attempts") == "2"


CODINGS = {b"gzip": gzip.compress, b"br": brotli.compress}


@pytest.mark.parametrize("coding", CODINGS)
async def test_answers_that_come_compressed_all_the_same_are_inflated(coding: bytes) -> None:
    encode, headers = CODINGS[coding], [(b"content-encoding", coding)]
    packed = encode(WHOLE)
    stream = Reply.stream(
        *[packed[at : at + 7] for at in range(0, len(packed), 7)], headers=headers
    )
    answer = await ask_stream(relay_to(FakeUpstream(stream)))
    assert answer.body == WHOLE
    assert answer.header("content-encoding") is None

    plain = Reply.json(encode(b'{"choices": []}'), headers=headers)
    answer = await ask(relay_to(FakeUpstream(plain)))
    assert answer.body == b'{"choices": []}'
    assert answer.header("content-encoding") is None

    refused = Reply.json(encode(b'{"error": {"message": "no"}}'), 400, headers)
    answer = await ask(relay_to(FakeUpstream(refused)))
    assert answer.json == {"error": {"message": "no"}}


async def test_a_compressed_stream_that_is_cut_is_told_so() -> None:
    packed = gzip.compress(sse(*[chunk(str(n)) for n in range(2000)]))
    reply = Reply.stream(packed[:2000], packed[2000:-30], headers=[(b"content-encoding", b"gzip")])
    answer = await ask_stream(relay_to(FakeUpstream(reply)))
    assert json.loads(events_of(answer.body)[-1])["error"]["code"] == "bad_upstream_answer"
