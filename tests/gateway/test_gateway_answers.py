"""What the gateway answers by itself: health, other scopes, and calls whose app failed."""

from __future__ import annotations

import json
import logging

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware

from asgi_llm_gateway import AccessToken, Gateway, TokenAuthMiddleware
from asgi_llm_gateway.errors import ClientLeft, PermissionDenied
from asgi_llm_gateway.exchange import BodyLimits
from tests.asgi import STARLETTE, call
from tests.gateway.toys import Failing, channel, chat, streaming

TOKENS = [AccessToken.of("sk-alice", name="alice")]


def guarded() -> Gateway:
    return Gateway(
        [channel()],
        middleware=[Middleware(TokenAuthMiddleware, access_tokens=TOKENS)],
        cors_origins=["https://chat.example"],
    )


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
@pytest.mark.parametrize("mount", ["", "/v1", "/llm/v1"])
async def test_health_is_answered_below_any_mount_without_a_token(path: str, mount: str) -> None:
    async with guarded() as gateway:
        answer = await call(gateway, "GET", mount + path, root_path=mount)
        assert answer.status == 200
        assert answer.json["status"] in ("live", "ready")
        assert answer.header("x-request-id")
        assert answer.header("cache-control") == "no-store"
        head = await call(gateway, "HEAD", mount + path, root_path=mount)
        assert (head.status, head.body) == (200, b"")


async def test_health_is_asked_for_with_get_only() -> None:
    answer = await call(guarded(), "POST", "/health/live")
    assert (answer.status, answer.header("allow")) == (405, "GET, HEAD")


async def test_a_path_that_only_ends_like_health_is_no_way_around_the_token() -> None:
    async with guarded() as gateway:
        for path in ("/v1/models/health/live", "/x/health/ready", "/v1//health/live"):
            assert (await call(gateway, "GET", path)).status == 401


async def test_a_probe_starts_a_gateway_that_was_merely_mounted() -> None:
    host = Starlette()
    host.mount("/v1", Gateway([channel()]))
    answer = await call(host, "GET", "/v1/health/ready", may_write=STARLETTE)
    assert (answer.status, answer.json) == (200, {"status": "ready"})


async def test_inside_a_gateway_every_path_needs_a_caller() -> None:
    async with guarded() as gateway:
        for path in ("/", "/admin", "/v1/chat/completions", "/api/messages"):
            assert (await call(gateway, "POST", path, body=b"{}")).status == 401
        assert (await chat(gateway, token="sk-alice")).status == 200


async def test_refusals_preflights_and_answers_carry_cors_headers() -> None:
    origin = {"origin": "https://chat.example"}
    async with guarded() as gateway:
        refused = await chat(gateway, headers=origin)
        assert refused.status == 401
        assert refused.header("access-control-allow-origin") == "https://chat.example"
        asked = {**origin, "access-control-request-method": "POST"}
        preflight = await call(gateway, "OPTIONS", "/v1/chat/completions", headers=asked)
        assert preflight.status == 200
        served = await chat(gateway, headers=origin, token="sk-alice")
        assert "x-request-id" in (served.header("access-control-expose-headers") or "")
    stopped = await chat(gateway, headers=origin)
    assert stopped.status == 503
    assert stopped.header("access-control-allow-origin") == "https://chat.example"


async def test_the_bodys_limit_is_the_gateways() -> None:
    async with Gateway([channel()], limits=BodyLimits(max_bytes=10)) as gateway:
        assert (await chat(gateway)).status == 413


@pytest.mark.parametrize("mount", ["", "/v1", "/llm/v1"])
async def test_one_gateway_answers_at_several_mounts(mount: str) -> None:
    gateway = Gateway([channel()])
    host = Starlette(lifespan=gateway.lifespan)
    for prefix in ("/v1", "/llm/v1", ""):
        host.mount(prefix, gateway)
    path = mount if mount.endswith("/v1") else f"{mount}/v1"
    async with gateway:
        assert (await chat(host, f"{path}/chat/completions")).status == 200


async def test_a_websocket_is_closed_and_unknown_scopes_raise() -> None:
    gateway = Gateway([channel()])
    sent: list[str] = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, str]) -> None:
        sent.append(message["type"])

    scope = {"type": "websocket", "path": "/v1/realtime", "headers": []}
    await gateway(scope, receive, send)  # type: ignore[arg-type]
    assert sent == ["websocket.close"]
    with pytest.raises(ValueError, match="unknown scope type"):
        await gateway({"type": "smtp"}, receive, send)  # type: ignore[arg-type]


def failing(error: Exception, at: int | None = None) -> Gateway:
    return Gateway(
        [channel()], middleware=[Middleware(Failing, error=error, at=at)], anonymous=True
    )


@pytest.mark.parametrize(
    ("path", "dialect"),
    [("/v1/chat/completions", "openai"), ("/v1/messages", "anthropic")],
)
async def test_a_bug_in_a_part_is_a_500_in_the_callers_dialect_and_a_trace_in_the_log(
    path: str, dialect: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with failing(KeyError("a secret detail")) as gateway:
        answer = await chat(gateway, path)
    assert answer.status == 500
    assert answer.json.get("type") == ("error" if dialect == "anthropic" else None)
    assert b"a secret detail" not in answer.body
    assert answer.header("x-request-id") in caplog.text
    assert "KeyError" in caplog.text
    assert answer.exchange.outcome == "failed"


async def test_an_error_of_ours_that_a_part_let_through_keeps_its_status() -> None:
    async with failing(PermissionDenied("not you")) as gateway:
        answer = await chat(gateway)
    assert answer.status == 403
    assert answer.json["error"]["message"].startswith("not you (request id: ")


async def test_a_bug_in_the_middle_of_a_stream_is_an_error_event_and_no_terminator() -> None:
    async with failing(KeyError("x"), at=3) as gateway, streaming(gateway).open() as stream:
        events = b"".join([piece async for piece in stream]).split(b"\n\n")
    error = json.loads(events[-2].removeprefix(b"data: "))
    assert error["error"]["code"] == "internal_error"
    assert b"[DONE]" not in b"".join(events)


async def test_a_bug_in_the_middle_of_a_plain_body_leaves_it_without_its_end() -> None:
    async with failing(KeyError("x"), at=1) as gateway:
        answer = await chat(gateway, may_cut=True)
    assert answer.cut
    assert not answer.ended


@pytest.mark.parametrize("error", [ClientLeft(), OSError("the caller has left")])
async def test_a_caller_that_left_is_no_failure(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with failing(error, at=1) as gateway:
        answer = await chat(gateway, may_cut=True)
    assert answer.exchange.outcome == "client_left"
    assert caplog.text == ""
