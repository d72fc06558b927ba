"""Whoever is inside sees the body as it now stands, through any number of parts and hosts."""

from __future__ import annotations

import gzip
import itertools
import json
from typing import Any

import pytest

from asgi_llm_gateway.errors import InvalidRequest
from asgi_llm_gateway.exchange import Exchange, JSONBody, MultipartBody, StreamBody
from tests.asgi import STARLETTE, STYLES, Style, call
from tests.exchange.reading import (
    CHAT,
    FORM,
    UPLOAD,
    Foreign,
    Reading,
    Wrapping,
    chat,
    cut,
    form,
)

Layers = tuple[str, ...]
LAYERS: list[Layers] = [
    layers
    for count in (1, 2, 3)
    for layers in itertools.product(("part", "host"), repeat=count)
    if "part" in layers
]


def build(layers: Layers, inner: Any, change: Any = None) -> Any:
    """The layers, outermost first; the innermost part is the one that changes the body."""
    app = inner
    for layer in reversed(layers):
        if layer == "host":
            app = Wrapping(app)
        else:
            app, change = Reading(app, change), None
    return app


def rename(body: Any) -> None:
    body.set("model", "a-much-longer-name-of-a-model")


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("style", STYLES)
async def test_json_is_replayed_through_any_nesting(layers: Layers, style: Style) -> None:
    inner = Foreign()
    app = build(layers, inner)
    answer = await call(app, "POST", CHAT, body=cut(chat(), 9), style=style, may_write=STARLETTE)
    assert answer.body == chat()


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("style", STYLES)
async def test_a_changed_model_reaches_a_foreign_app_with_its_length(
    layers: Layers, style: Style
) -> None:
    inner = Foreign()
    answer = await call(build(layers, inner, rename), "POST", CHAT, body=chat(), style=style)
    assert answer.json["model"] == "a-much-longer-name-of-a-model"
    assert answer.json["messages"] == []
    assert inner.headers[b"content-length"] == b"%d" % len(inner.body)


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [1, 40, 100, 10_000])
async def test_a_form_is_replayed_through_any_nesting(
    layers: Layers, style: Style, size: int
) -> None:
    answer = await call(
        build(layers, Foreign()), "POST", UPLOAD, body=cut(form(), size), headers=FORM, style=style
    )
    assert answer.body == form()


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("size", [1, 40, 100, 10_000])
@pytest.mark.parametrize("model", ["whisper", None])
async def test_a_forms_model_can_be_changed_and_its_length_follows(
    layers: Layers, size: int, model: str | None
) -> None:
    inner = Foreign()
    app = build(layers, inner, rename)
    answer = await call(app, "POST", UPLOAD, body=cut(form(model), size), headers=FORM)
    assert b"a-much-longer-name-of-a-model" in answer.body
    assert answer.body.count(b'name="model"') == 1
    assert answer.body.endswith(form()[-200:])
    assert inner.headers[b"content-length"] == b"%d" % len(inner.body)


async def test_a_form_sent_in_chunks_gets_no_length_made_up() -> None:
    inner = Foreign()
    headers = {**FORM, "transfer-encoding": "chunked"}
    await call(Reading(inner, rename), "POST", UPLOAD, body=cut(form(), 30), headers=headers)
    assert b"content-length" not in inner.headers


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("what", ["json", "small form", "large form"])
async def test_after_the_body_the_inner_app_hears_of_the_leaving_and_nothing_else(
    layers: Layers, style: Style, what: str
) -> None:
    inner = Foreign(waits_for_leaving=True)
    path, headers = (CHAT, {}) if what == "json" else (UPLOAD, FORM)
    whole = chat() if what == "json" else form()
    pieces = cut(whole, 60 if what == "large form" else 10_000)
    answer = await call(
        build(layers, inner),
        "POST",
        path,
        body=pieces,
        headers=headers,
        style=style,
        leave_after="before first byte",
    )
    assert inner.left
    assert inner.body == whole
    assert answer.left


async def test_a_model_field_after_the_file_is_refused_while_the_file_passes() -> None:
    app = Reading(Foreign())
    body = cut(form(None, late="model"), 50)
    with pytest.raises(InvalidRequest, match="must come before the file"):
        await call(app, "POST", UPLOAD, body=body, headers=FORM)


async def test_a_form_that_ends_before_its_boundary_is_refused_when_it_ends() -> None:
    inner = Foreign()
    with pytest.raises(InvalidRequest, match="before its closing boundary"):
        await call(Reading(inner), "POST", UPLOAD, body=cut(form()[:-5], 50), headers=FORM)
    assert inner.body


async def test_a_replaced_document_is_what_the_inner_app_gets_and_the_view_shows() -> None:
    def replace(body: JSONBody) -> None:
        document = {**body.document, "messages": [{"role": "user", "content": "***"}]}
        body.replace({**document, "stream": True})
        assert body.view.stream
        assert body.changed

    answer = await call(Reading(Foreign(), replace), "POST", CHAT, body=chat(stream=False))
    assert answer.json["messages"] == [{"role": "user", "content": "***"}]


async def test_set_leaves_every_other_byte_as_it_was() -> None:
    raw = b'{ "model" : "m",\n "x": 1.50e3, "messages": [ ] }'
    answer = await call(
        Reading(Foreign(), lambda body: body.set("model", "n")), "POST", CHAT, body=raw
    )
    assert answer.body == raw.replace(b'"m"', b'"n"')


async def test_an_unchanged_body_comes_through_byte_for_byte_with_the_scope_untouched() -> None:
    seen: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await Foreign()(scope, receive, send)

    raw = b'{"model":"m", "messages":[ "\\u00e9" ]}'
    answer = await call(Reading(inner), "POST", CHAT, body=raw)
    assert answer.body == raw
    assert seen[0] is answer.scope


async def test_an_inflated_body_changed_by_an_inner_part_keeps_its_length_right() -> None:
    inner = Foreign()
    app = Reading(Wrapping(Reading(inner, rename)))
    body = gzip.compress(chat())
    answer = await call(app, "POST", CHAT, body=body, headers={"content-encoding": "gzip"})
    assert answer.json["model"] == "a-much-longer-name-of-a-model"


@pytest.mark.parametrize(("method", "path"), [("GET", CHAT), ("OPTIONS", CHAT), ("DELETE", UPLOAD)])
async def test_with_a_foreign_method_there_is_nothing_to_read(method: str, path: str) -> None:
    kinds: list[type] = []
    app = Reading(Foreign(), lambda body: kinds.append(type(body)))
    assert (await call(app, method, path)).status == 200
    assert kinds == [StreamBody]


async def test_a_body_no_part_reads_streams_through_untouched() -> None:
    app = Reading(Foreign(), lambda body: None)
    answer = await call(app, "POST", "/v1/files", body=[b"a", b"b"], headers=FORM)
    assert answer.body == b"ab"


@pytest.mark.parametrize("stream", ["true", "1", "false", "yes"])
def test_a_forms_view_shows_the_model_and_whether_it_streams(stream: str) -> None:
    from asgi_llm_gateway.wire.multipart import MultipartPrelude

    head = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    prelude = MultipartPrelude(b"multipart/form-data; boundary=b")
    prelude.feed(head % (b"model", b"whisper") + head % (b"stream", stream.encode()) + b"--b--\r\n")
    body = MultipartBody(prelude, more=False)
    assert (body.view.model, body.view.stream) == ("whisper", stream in ("true", "1"))
    body.set("model", "other")
    assert body.view.model == "other"
    assert body.grown == len("other") - len("whisper")
    with pytest.raises(InvalidRequest, match="stream"):
        body.set("stream", "true")


async def test_the_exchange_is_shared_by_parts_on_both_sides_of_a_scope_copy() -> None:
    seen: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(Exchange.of(scope))
        await Foreign()(scope, receive, send)

    answer = await call(Reading(Wrapping(Reading(inner))), "POST", CHAT, body=chat())
    assert seen == [answer.exchange]
    assert json.loads(answer.exchange.body.raw)["model"] == "m"
