"""Which requests are asked for a token, and which pass without one."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_llm_gateway.exchange import SCOPE_KEY, Exchange
from tests.asgi import call
from tests.auth.doors import door, knock

PREFLIGHT = [("origin", "https://chat.example"), ("access-control-request-method", "POST")]


async def test_preflights_pass_without_a_token_and_without_a_caller():
    app, inside = door()
    answer = await knock(app, None, method="OPTIONS", headers=PREFLIGHT)
    assert answer.status == 200
    assert inside.exchange.caller is None


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("OPTIONS", []),
        ("OPTIONS", PREFLIGHT[:1]),
        ("OPTIONS", PREFLIGHT[1:]),
        ("GET", PREFLIGHT),
        ("POST", PREFLIGHT),
        ("POST", [*PREFLIGHT, ("x-http-method-override", "OPTIONS")]),
        ("TRACE", PREFLIGHT),
        ("options", PREFLIGHT),
        ("FOO", []),
        ("DELETE", []),
    ],
)
async def test_nothing_but_a_preflight_passes_as_one(method: str, headers: list[tuple[str, str]]):
    app, inside = door()
    assert (await knock(app, None, method=method, headers=headers)).status == 401
    assert inside.scopes == []


async def test_a_refused_head_request_has_no_body():
    app, _ = door()
    answer = await knock(app, None, method="HEAD", path="/v1/models")
    assert (answer.status, answer.body) == (401, b"")


async def test_on_a_host_s_app_only_the_prefixes_are_guarded():
    app, inside = door()
    for path in ("/", "/login", "/v2/chat/completions", "/v1x/y", "/api/messages"):
        assert (await knock(app, None, path=path)).status == 200
    assert len(inside.scopes) == 5
    for path in ("/v1", "/v1/", "/v1/models", "/v1/own/route", "/v1beta/models"):
        assert (await knock(app, None, path=path)).status == 401
    llm, _ = door(prefixes=["/llm"])
    assert (await knock(llm, None, path="/llm/v1/models")).status == 401
    assert (await knock(llm, None, path="/v1/models")).status == 200


def ours(app: Any) -> Any:
    """The app as it stands inside a Gateway, where every path is the gateway's own."""

    async def gateway(scope: Any, receive: Any, send: Any) -> None:
        Exchange.of(scope).everything_ours = True
        await app(scope, receive, send)

    return gateway


async def test_inside_a_gateway_only_health_is_free():
    app, _ = door()
    gateway = ours(app)
    for path in ("/health/live", "/health/ready"):
        assert (await knock(gateway, None, method="GET", path=path)).status == 200
        assert (await knock(gateway, None, method="POST", path=path)).status == 401
        mounted = await knock(gateway, None, method="GET", path="/llm" + path, root_path="/llm")
        assert mounted.status == 200
    for path in ("/", "/metrics", "/health", "/health/live/", "/health/live/../../x",
                 "/v1/health/live", "/x/health/live", "/health/liveness"):  # fmt: skip
        assert (await knock(gateway, None, method="GET", path=path)).status == 401


async def test_on_a_host_s_app_a_health_route_of_its_own_below_the_prefix_needs_a_token():
    app, _ = door()
    for path in ("/v1/health/live", "/health/live"):
        answer = await call(app, "GET", path, root_path="/v1")
        assert answer.status == 401


async def test_other_kinds_of_scope_pass_untouched():
    app, inside = door()
    for kind in ("lifespan", "something.new"):
        scope = {"type": kind}
        await app(scope, None, None)  # type: ignore[arg-type]
        assert inside.scopes[-1] is scope
        assert SCOPE_KEY not in scope


async def upgrade(
    app: Any, path: str = "/v1/realtime", first: str = "websocket.connect", **scope: Any
) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": first}

    async def send(message: Any) -> None:
        sent.append(message)

    full = {"type": "websocket", "path": path, "headers": [], "query_string": b"", **scope}
    await app(full, receive, send)
    return sent


async def test_a_websocket_without_a_good_token_is_closed_before_it_is_accepted():
    app, inside = door()
    closed = [{"type": "websocket.close", "code": 1008, "reason": ""}]
    assert await upgrade(app) == closed
    assert await upgrade(app, headers=[(b"authorization", b"Bearer sk-eve")]) == closed
    assert await upgrade(app, subprotocols=["openai-insecure-api-key.sk-eve"]) == closed
    assert await upgrade(app, first="websocket.disconnect") == []
    assert inside.scopes == []


async def test_a_websocket_with_a_good_token_or_elsewhere_passes():
    app, inside = door()
    assert await upgrade(app, headers=[(b"authorization", b"Bearer sk-alice")]) == []
    assert inside.exchange.caller is not None
    offered = ["realtime", "openai-insecure-api-key.sk-alice"]
    assert await upgrade(app, subprotocols=offered) == []
    assert await upgrade(app, path="/chat/socket") == []
    assert len(inside.scopes) == 3
