"""An access token that may use only some models, or only some channels."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from asgi_llm_gateway.auth.guard import ModelGuard
from asgi_llm_gateway.errors import PermissionDenied
from asgi_llm_gateway.exchange import Attempt, Caller, Exchange
from tests.auth.doors import CHAT, door, knock

TOKENS = {
    "sk-some": {"name": "some", "models": ["gpt-4o*", "org/*", "fast"]},
    "sk-bound": {"name": "bound", "channels": ["main"]},
}
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n%s\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--b--\r\n'
)
FORM_TYPE = ("content-type", "multipart/form-data; boundary=b")


def some(**how: Any) -> tuple[Any, Any]:
    return door(access_tokens=TOKENS, **how)


@pytest.mark.parametrize(
    ("model", "status"),
    [
        ("gpt-4o", 200),
        ("gpt-4o-mini", 200),
        ("org/a/b", 200),
        ("fast", 200),
        ("gpt-4", 403),
        ("GPT-4o", 403),
        (" gpt-4o", 403),
        ("faster", 403),
        ("xgpt-4o", 403),
        ("*", 403),
    ],
)
async def test_the_body_s_model_is_held_to_the_token_s_list(model: str, status: int):
    app, inside = some()
    body = b'{"messages": [], "model": "%s"}' % model.encode()
    answer = await knock(app, "sk-some", body=body)
    assert answer.status == status
    if status == 200:
        assert inside.bodies == [body]
    else:
        assert inside.scopes == []
        error = answer.json["error"]
        assert (error["code"], error["param"]) == ("model_not_allowed", "model")
        assert model in error["message"]
        assert "gpt-4o*" not in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "gpt-4o", "model": "dear"}',
        b'{"model": "gpt-4o", "mod\\u0065l": "dear"}',
        b'{"model": "gpt-4o", "Model": "dear"}',
        b'{"model": ["gpt-4o", "dear"]}',
        b'{"model": {"$ne": "x"}}',
        b'{"model": "gpt-4o\\u0000"}',
        b'{"model": "gpt-4o"',
        b'[{"model": "gpt-4o"}]',
        b"",
    ],
)
async def test_a_body_in_which_the_model_is_not_clear_is_refused(body: bytes):
    app, inside = some()
    answer = await knock(app, "sk-some", body=body)
    assert answer.status == 400
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert inside.scopes == []


async def test_a_compressed_body_is_checked_and_what_was_checked_goes_on():
    app, inside = some()
    header = [("content-encoding", "gzip")]
    plain = b'{"model": "dear"}'
    answer = await knock(app, "sk-some", body=gzip.compress(plain), headers=header)
    assert answer.status == 403
    plain = b'{"model": "fast"}'
    answer = await knock(app, "sk-some", body=gzip.compress(plain), headers=header)
    assert (answer.status, inside.bodies) == (200, [plain])
    assert (b"content-encoding", b"gzip") not in inside.scopes[0]["headers"]
    assert (b"content-length", b"17") in inside.scopes[0]["headers"]


@pytest.mark.parametrize(("model", "status"), [(b"fast", 200), (b"dear", 403)])
async def test_a_form_s_model_is_held_to_the_list_and_its_file_goes_on_whole(
    model: bytes, status: int
):
    app, inside = some()
    path = "/v1/audio/transcriptions"
    body = FORM % model
    pieces = [body[:20], body[20:90], body[90:]]
    answer = await knock(app, "sk-some", path=path, body=pieces, headers=[FORM_TYPE])
    assert answer.status == status
    assert inside.bodies == ([body] if status == 200 else [])


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1beta/models/gpt-4o:generateContent", 200),
        ("/v1beta/models/gemini-pro:generateContent", 403),
        ("/v1/engines/org/x/embeddings", 200),
        ("/v1/engines/dear/embeddings", 403),
    ],
)
async def test_a_model_named_by_the_path_is_held_to_the_list(path: str, status: int):
    app, _ = some()
    assert (await knock(app, "sk-some", path=path, body=b"{}")).status == status


async def test_of_a_path_and_a_body_that_name_different_models_both_are_checked():
    app, inside = some()
    path = "/v1/engines/fast/embeddings"
    answer = await knock(app, "sk-some", path=path, body=b'{"model": "dear"}')
    assert answer.status == 403
    assert inside.scopes == []


async def test_a_call_without_a_model_goes_on_and_is_held_to_the_list_by_the_guard():
    app, inside = some()
    path = "/v1/images/generations"
    assert (await knock(app, "sk-some", path=path, body=b"{}")).status == 200
    (guard,) = inside.exchange.guards
    inside.exchange.model = "dall-e-2"
    with pytest.raises(PermissionDenied, match="'dall-e-2'"):
        await guard.before(attempt("fast"))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/files"),
        ("POST", "/v1/batches"),
        ("GET", "/v1/responses/resp_1"),
        ("POST", "/v1/oneapi/proxy/main/v1/chat/completions"),
        ("POST", "/v1/who/knows"),
        ("POST", "/v1/chat/completions;x"),
    ],
)
async def test_where_the_model_cannot_be_seen_a_limited_token_may_not_go(method: str, path: str):
    app, inside = some()
    answer = await knock(app, "sk-some", method=method, path=path, body=b'{"model": "dear"}')
    assert answer.status == 403
    assert "cannot be seen" in answer.json["error"]["message"]
    assert inside.scopes == []


async def test_a_bypass_names_what_a_limited_token_may_use_all_the_same():
    app, inside = some(bypass=["files"])
    assert (await knock(app, "sk-some", path="/v1/files", body=b"x")).status == 200
    assert len(inside.exchange.guards) == 1
    assert (await knock(app, "sk-some", path="/v1/batches", body=b"x")).status == 403


async def test_listing_models_and_wrong_methods_are_left_to_the_app_inside():
    app, inside = some()
    for method, path in (("GET", "/v1/models"), ("GET", "/v1/models/dear"), ("GET", CHAT)):
        assert (await knock(app, "sk-some", method=method, path=path)).status == 200
    assert len(inside.scopes) == 3


async def test_a_websocket_of_a_limited_token_is_closed():
    app, inside = some()
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", b"Bearer sk-some")]
    for path in ("/v1/realtime", "/v1/responses"):
        scope = {"type": "websocket", "path": path, "headers": headers}
        await app(scope, receive, send)
    assert [message["code"] for message in sent] == [1008, 1008]
    assert inside.scopes == []


@pytest.mark.parametrize(("channel", "status"), [("main", 200), ("other", 403)])
async def test_a_token_bound_to_channels_cannot_name_another_in_the_path(channel: str, status: int):
    app, _ = some()
    path = f"/v1/oneapi/proxy/{channel}/v1/chat/completions"
    assert (await knock(app, "sk-bound", path=path, body=b"{}")).status == status


async def test_a_caller_who_leaves_while_sending_is_told_nothing():
    app, inside = some()
    answer = await knock(app, "sk-some", body=[b'{"model":', b'"fast"}'], leave_after="during body")
    assert answer.status is None
    assert answer.exchange.outcome == "client_left"
    assert inside.scopes == []


def attempt(model: str) -> Attempt:
    return Attempt(number=1, channel="main", provider="openai", model=model, key="k", started=0.0)


def guard(asked: str | None, *, mapped: bool = True) -> ModelGuard:
    exchange = Exchange({"path": CHAT, "headers": []})
    exchange.model = asked
    return ModelGuard(exchange, Caller("some", "id", models=("gpt-4o*", "fast")), mapped=mapped)


async def test_an_attempt_is_held_to_the_list_after_alias_and_mapping():
    held = guard("fast")
    await held.before(attempt("gpt-4o-mini"))
    with pytest.raises(PermissionDenied) as refused:
        await held.before(attempt("gpt-5-pro"))
    held.after(attempt("gpt-4o-mini"))
    assert "gpt-5-pro" not in refused.value.message
    assert refused.value.code == "model_not_allowed"


async def test_the_list_may_be_about_asked_names_only():
    held = guard("fast", mapped=False)
    await held.before(attempt("gpt-5-pro"))
    with pytest.raises(PermissionDenied):
        await guard("dear", mapped=False).before(attempt("gpt-4o"))


async def test_without_a_name_that_was_asked_for_the_refusal_names_none():
    with pytest.raises(PermissionDenied, match="this model"):
        await guard(None).before(attempt("gpt-5-pro"))


@pytest.mark.parametrize(("mapped", "count"), [(True, 1), (False, 0)])
async def test_the_guard_stands_on_the_exchange_and_follows_the_setting(mapped: bool, count: int):
    app, inside = some(check_mapped_models=mapped)
    await knock(app, "sk-some", body=b'{"model": "fast"}')
    (standing,) = inside.exchange.guards
    refused = 0
    try:
        await standing.before(attempt("dear"))
    except PermissionDenied:
        refused = 1
    assert refused == count
