"""Two parts in both orders, in a Gateway and on a host, see every call whole and settle it once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.applications import Starlette

from asgi_llm_gateway.exchange import Exchange
from asgi_llm_gateway.runtime import kept_tasks
from asgi_llm_gateway.wire.sse import last_border
from asgi_llm_gateway.wire.usage import Usage
from tests.asgi import OURS, STARLETTE, STYLES, Driver, Style, call
from tests.asgi_lifespan import lifespan
from tests.composition.parts import masked
from tests.composition.provider import (
    STREAM,
    TEXT,
    UNARY,
    Provider,
    stream_events,
)
from tests.composition.stacks import (
    KINDS,
    MOUNTS,
    ORDERS,
    PROMPT,
    Kind,
    Order,
    Stack,
    chat,
    said,
    stack,
    streaming,
)

HEADERS = {"content-type": "application/json", "x-request-id": "r-1"}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_order = pytest.mark.parametrize("order", ORDERS)
each_style = pytest.mark.parametrize("style", STYLES)
each_mount = pytest.mark.parametrize("mount", MOUNTS)
USED = Usage(input=9, output=12)


async def post(built: Stack, body: Any, **how: Any) -> Any:
    how = {"headers": HEADERS, "may_write": STARLETTE, **how}
    return await call(built.app, "POST", built.path, body=body, **how)


async def until_settled(built: Stack) -> dict[str, Any]:
    """What was settled, once the tasks that settle are through."""
    await kept_tasks().join(5.0)
    if built.gateway is not None and (run := built.gateway.resources.current) is not None:
        await run.tasks.join(5.0)
    return built.ledger.only()


@each_kind
@each_order
@each_style
@each_mount
async def test_a_plain_call_is_masked_both_ways_and_settled(
    kind: Kind, order: Order, style: Style, mount: str
) -> None:
    built = stack(kind, order, Provider(), mount)
    answer = await post(built, [chat()[:30], chat()[30:]], style=style)
    assert answer.status == 200
    assert answer.json["choices"][0]["message"]["content"] == masked(TEXT)
    assert answer.header("x-request-id") == "r-1"
    assert answer.header("x-llm-channel") == "main"
    (sent,) = built.provider.asked
    assert json.loads(sent)["messages"][0]["content"] == masked(PROMPT)
    seen = built.ledger.only()
    assert (seen["outcome"], seen["status"], seen["channels"]) == ("ok", 200, ["main"])
    assert seen["usage"] == USED
    assert seen["ended"] == [True]
    assert built.provider.open == 0


@each_kind
@each_order
@each_style
@each_mount
async def test_a_stream_is_masked_event_by_event_and_settled(
    kind: Kind, order: Order, style: Style, mount: str
) -> None:
    built = stack(kind, order, streaming(stream_events()), mount)
    answer = await post(built, chat(stream=True), style=style)
    assert said(answer.body) == masked(TEXT)
    assert answer.body.count(b"data: [DONE]\n\n") == 1
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert answer.ended
    assert b'"usage"' not in answer.body, "nobody asked for it"
    assert json.loads(built.provider.asked[0])["stream_options"] == {"include_usage": True}
    seen = built.ledger.only()
    assert (seen["outcome"], seen["usage"]) == ("ok", USED)
    assert built.provider.open == 0


@each_kind
@each_order
async def test_a_stream_comes_out_the_same_for_every_split_of_the_providers_bytes(
    kind: Kind, order: Order
) -> None:
    whole = await post(stack(kind, order, streaming([STREAM])), chat(stream=True))
    for at in range(1, len(STREAM)):
        built = stack(kind, order, streaming([STREAM[:at], STREAM[at:]]))
        answer = await post(built, chat(stream=True))
        for message in filter(None, answer.messages):
            assert last_border(message) == len(message), "a message holds whole events"
        assert answer.body == whole.body, at
        assert built.ledger.only()["usage"] == USED
    assert said(whole.body) == masked(TEXT)


@each_kind
@each_order
async def test_a_stream_that_drips_byte_by_byte_comes_out_the_same(
    kind: Kind, order: Order
) -> None:
    whole = await post(stack(kind, order, streaming([STREAM])), chat(stream=True))
    drips = [bytes([byte]) for byte in STREAM]
    answer = await post(stack(kind, order, streaming(drips)), chat(stream=True))
    assert answer.body == whole.body


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


@each_kind
@each_order
@each_style
async def test_a_call_nobody_can_serve_is_refused_and_settled_all_the_same(
    kind: Kind, order: Order, style: Style
) -> None:
    built = stack(kind, order, Provider(pieces=(b"<html>",)))
    answer = await post(built, chat(), style=style)
    assert answer.status == 502
    assert answer.json["error"]["type"] == "upstream_error"
    assert answer.header("x-request-id") == "r-1"
    assert built.ledger.only()["outcome"] == "failed"


@each_kind
@each_order
@each_style
async def test_a_body_that_cannot_be_read_is_refused_before_the_provider_hears_of_it(
    kind: Kind, order: Order, style: Style
) -> None:
    built = stack(kind, order, Provider())
    answer = await post(built, b'{"model": "m", "model": "n"}', style=style)
    assert answer.status == 400
    assert answer.json["error"]["param"] == "model"
    assert built.provider.asked == []
    if order == "settling outside":
        assert built.ledger.only()["outcome"] == "refused"
    else:
        assert built.ledger.taken == [], "the part outside refused first"


def upload(size: int = 40_000) -> bytes:
    part = '--b0\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n'
    fields = part.format("model", "") + "mapped\r\n" + part.format("file", '; filename="a"')
    return fields.encode() + b"\x00\xff" * (size // 2) + b"\r\n--b0--\r\n"


@each_kind
@each_order
@each_style
@pytest.mark.parametrize("size", [7, 5_000, 100_000])
async def test_a_form_passes_both_parts_with_its_model_mapped(
    kind: Kind, order: Order, style: Style, size: int
) -> None:
    body = upload(400 if size == 7 else 40_000)
    built = stack(kind, order, Provider(pieces=[b'{"text": "dial 911"}']))
    answer = await call(
        built.app,
        "POST",
        built.base + "/audio/transcriptions",
        body=[body[at : at + size] for at in range(0, len(body), size)],
        headers={"content-type": "multipart/form-data; boundary=b0"},
        style=style,
        may_write=STARLETTE,
    )
    assert answer.json == {"text": "dial ###"}
    assert built.provider.asked == [body.replace(b"\r\nmapped\r\n", b"\r\nthe-providers-name\r\n")]
    assert built.ledger.only()["outcome"] == "ok"


@each_kind
@each_order
async def test_a_double_native_cancel_loses_neither_the_settlement_nor_the_connection(
    kind: Kind, order: Order
) -> None:
    provider = streaming(stream_events()[:4], silent="after pieces")
    built = stack(kind, order, provider)
    before = asyncio.all_tasks()
    driver = Driver(
        built.app,
        "POST",
        built.path,
        headers=HEADERS,
        body=chat(stream=True),
        may_write=STARLETTE,
        may_raise=True,
        may_cut=True,
    )
    async with driver.open() as stream:
        await anext(stream)
        stream.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
            stream.cancel()
    assert isinstance(stream.answer.exception, asyncio.CancelledError)
    await provider.until_closed()
    seen = await until_settled(built)
    assert seen["ended"] == [True]
    assert seen["outcome"] not in (None, "ok")
    await asyncio.sleep(0)
    assert asyncio.all_tasks() - before == set(), "nothing is left running"


@each_kind
@each_order
async def test_a_native_cancel_before_the_first_byte_gives_the_call_up(
    kind: Kind, order: Order
) -> None:
    provider = Provider(silent="before head")
    built = stack(kind, order, provider)
    driver = Driver(
        built.app,
        "POST",
        built.path,
        headers=HEADERS,
        body=chat(),
        may_write=STARLETTE,
        may_raise=True,
    )
    async with driver.open() as stream:
        while not provider.asked:
            await asyncio.sleep(0)
        stream.cancel()
        await asyncio.sleep(0)
        stream.cancel()
    assert provider.given_up == 1
    assert (await until_settled(built))["channels"] == ["main"]


@each_order
async def test_a_gateway_with_its_lifespan_settles_before_it_stops(order: Order) -> None:
    built = stack("gateway", order, streaming(stream_events()), "")
    assert built.gateway is not None
    host = Starlette(lifespan=built.gateway.lifespan)
    host.mount("/v1", built.gateway)
    async with lifespan(host):
        answer = await call(
            host, "POST", "/v1/chat/completions", body=chat(stream=True), may_write=STARLETTE
        )
        assert said(answer.body) == masked(TEXT)
        built.ledger.seconds = 0.05
        again = Driver(
            host,
            "POST",
            "/v1/chat/completions",
            body=chat(stream=True),
            may_write=STARLETTE,
            may_raise=True,
            may_cut=True,
        )
        async with again.open() as stream:
            await anext(stream)
            stream.cancel()
            await asyncio.sleep(0)
            stream.cancel()
        assert len(built.ledger.settled) == 1
    assert [*built.ledger.settled] == built.ledger.taken
    assert len(built.ledger.taken) == 2


async def test_one_gateway_can_be_mounted_several_times() -> None:
    built = stack("gateway", "masking outside", Provider(), "")
    assert built.gateway is not None
    host = Starlette()
    host.mount("/llm/v1", built.gateway)
    host.mount("/v1", built.gateway)
    for path in ("/v1/chat/completions", "/llm/v1/chat/completions"):
        answer = await call(host, "POST", path, body=chat(), may_write=STARLETTE)
        assert answer.json["choices"][0]["message"]["content"] == masked(TEXT)


@each_order
async def test_a_hosts_own_routes_pass_by_the_parts(order: Order) -> None:
    built = stack("host", order, Provider())
    seen: list[Any] = []

    async def own(scope: Any, receive: Any, send: Any) -> None:
        seen.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    built.app.mount("/api/messages", own)
    answer = await call(built.app, "POST", "/api/messages", body=b"7", may_write=STARLETTE)
    assert (answer.status, seen, built.ledger.taken) == (204, [b"7"], [])


@each_kind
@each_order
async def test_other_scope_types_are_no_calls(kind: Kind, order: Order) -> None:
    built = stack(kind, order, Provider())
    sent: list[Any] = []
    messages = iter([{"type": "websocket.connect"}, {"type": "websocket.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope = {
        "type": "websocket",
        "path": built.path,
        "root_path": "",
        "headers": [],
        "query_string": b"",
        "scheme": "ws",
    }
    await built.app(scope, receive, send)
    assert sent == ["websocket.close"]
    assert built.ledger.taken == []


async def test_the_events_of_a_message_are_decoded_once_for_all_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from starlette.middleware import Middleware

    from asgi_llm_gateway import Channel, Gateway
    from asgi_llm_gateway.dialects import answer as answers
    from tests.composition.parts import Masking

    decoded: list[bytes] = []

    class Counting(answers.SSEReader):
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


@each_kind
@each_order
async def test_the_scope_of_the_server_gets_our_one_key_and_nothing_else(
    kind: Kind, order: Order
) -> None:
    built = stack(kind, order, Provider(), "" if kind == "gateway" else "/v1")
    allowed = OURS if kind == "gateway" else STARLETTE
    answer = await post(built, chat(), may_write=allowed)
    assert isinstance(answer.exchange, Exchange)
    assert answer.json["usage"] == json.loads(UNARY)["usage"]
