"""However the provider cuts its bytes, parts and callers see the same events, each one whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.middleware import Middleware

from asgi_llm_gateway import Channel, Gateway
from asgi_llm_gateway.dialects import answer as answers
from asgi_llm_gateway.wire.sse import SSEReader, last_border
from tests.asgi import Style, call
from tests.composition.parts import Masking, masked
from tests.composition.provider import STREAM, TEXT, USED, stream_events
from tests.composition.stacks import (
    Kind,
    Order,
    chat,
    each_kind,
    each_order,
    each_style,
    events_of,
    post,
    said,
    stack,
    streaming,
)


@each_kind
@each_order
async def test_a_stream_comes_out_the_same_for_every_split_of_the_providers_bytes(
    kind: Kind, order: Order
) -> None:
    built = stack(kind, order, streaming([STREAM]))
    built.ledger.seconds = 0
    events = events_of((await post(built, chat(stream=True))).body)
    for at in range(1, len(STREAM)):
        built.provider.pieces = [STREAM[:at], STREAM[at:]]
        answer = await post(built, chat(stream=True))
        for message in filter(None, answer.messages):
            assert last_border(message) == len(message), "a message holds whole events"
        assert events_of(answer.body) == events, at
    assert [*built.ledger.settled] == built.ledger.taken
    assert {seen["usage"] for seen in built.ledger.settled.values()} == {USED}
    assert len(built.ledger.settled) == len(STREAM)


@each_kind
@each_order
async def test_a_stream_that_drips_byte_by_byte_comes_out_the_same(
    kind: Kind, order: Order
) -> None:
    whole = await post(stack(kind, order, streaming([STREAM])), chat(stream=True))
    drips = [bytes([byte]) for byte in STREAM]
    answer = await post(stack(kind, order, streaming(drips)), chat(stream=True))
    assert events_of(answer.body) == events_of(whole.body)


@each_kind
@each_order
@each_style
async def test_a_stream_the_provider_cuts_ends_in_an_error_event_and_no_terminator(
    kind: Kind, order: Order, style: Style
) -> None:
    events = stream_events()
    built = stack(kind, order, streaming([b"".join(events[:4]), events[4][:9]], cut=True))
    answer = await post(built, chat(stream=True), style=style)
    assert answer.ended
    assert b"[DONE]" not in answer.body
    last = answer.body.strip().rpartition(b"data: ")[2]
    assert json.loads(last)["error"]["type"] == "upstream_error"
    assert built.ledger.only()["outcome"] == "truncated"
    assert built.provider.open == 0


async def test_the_events_of_a_message_are_decoded_once_for_all_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded: list[bytes] = []

    class Counting(SSEReader):
        def feed(self, data: bytes) -> Any:
            decoded.append(data)
            return super().feed(data)

    monkeypatch.setattr(answers, "SSEReader", Counting)
    channel = Channel(
        name="main",
        base_url="http://provider.test",
        keys=["k"],
        models=["*"],
        upstream=streaming(stream_events()),
    )
    gateway = Gateway(channels=[channel], middleware=[Middleware(Masking)] * 3)
    answer = await call(gateway, "POST", "/v1/chat/completions", body=chat(stream=True))
    assert said(answer.body) == masked(TEXT)
    assert len(decoded) == len(set(decoded))
    assert 0 < len(decoded) <= len(answer.messages)
