"""Two parts in both orders, in a Gateway and on a host, see every call whole and settle it once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.applications import Starlette

from asgi_llm_gateway.exchange import Exchange
from tests.asgi import OURS, STARLETTE, Style, call
from tests.composition.parts import masked
from tests.composition.provider import (
    TEXT,
    UNARY,
    USED,
    Provider,
    stream_events,
)
from tests.composition.stacks import (
    PROMPT,
    Kind,
    Order,
    chat,
    each_kind,
    each_mount,
    each_order,
    each_style,
    post,
    said,
    stack,
    streaming,
    upload,
)


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
    answer = await call(built.app, "POST", "/api/messages/1", body=b"7", may_write=STARLETTE)
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


@each_kind
@each_order
async def test_an_upload_that_ends_before_its_boundary_is_refused_and_settled(
    kind: Kind, order: Order
) -> None:
    built = stack(kind, order, Provider(pieces=[b'{"text": "x"}']))
    body = upload()[:-6]
    answer = await call(
        built.app,
        "POST",
        built.base + "/audio/transcriptions",
        body=[body[:5_000], body[5_000:]],
        headers={"content-type": "multipart/form-data; boundary=b0"},
        may_write=STARLETTE,
    )
    assert answer.status == 400
    assert "closing boundary" in answer.json["error"]["message"]
    assert built.ledger.only()["outcome"] == "refused"
    assert built.provider.open == 0
