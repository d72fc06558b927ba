"""A path that is written oddly never gets past the door (hostile inputs, row B5)."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from asgi_llm_gateway.auth import TokenAuthMiddleware
from asgi_llm_gateway.exchange import Exchange
from tests.asgi import STARLETTE
from tests.auth.doors import door, knock

TRICKS = [
    "/v1/../admin/users", "/v1/%2e%2e/admin", "/v1/%252e%252e/", "//admin", "/v1/./chat",
    "/v1;x/admin", "\\admin", "/v1\\..\\admin", "/V1/CHAT", "//v1/chat/completions",
    "/v1//chat/completions", "/v1/chat/completions/", "/v1/chat/completions/..;/x",
    "/./v1/chat/completions", "/x/../v1/chat/completions", "/v1/chat/completions%00",
    "/v1/chat/completions\x00", "/v1/chat/completions?x", "/v1/chat/completions#x",
    "/v1/chat/completions ", "/v1 /chat/completions", "v1/chat/completions", "", "*",
    "/health/live/../../v1/chat/completions", "/v1/chat/completions/health/live",
    "/health/live;/v1/chat/completions", "/health/live\x00",
]  # fmt: skip
CALLS = ("/chat/completions", "/v1/chat/completions")


@pytest.mark.parametrize("path", TRICKS)
@pytest.mark.parametrize("root_path", ["", "/v1", "/llm/v1", "/", "/v1/chat"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_inside_a_gateway_every_odd_path_needs_a_token(
    path: str, root_path: str, method: str
):
    app, inside = door()

    async def gateway(scope: Any, receive: Any, send: Any) -> None:
        Exchange.of(scope).everything_ours = True
        await app(scope, receive, send)

    for given in (path, root_path + path):
        answer = await knock(gateway, None, method=method, path=given, root_path=root_path)
        assert answer.status == 401
    assert inside.scopes == []


def host() -> Starlette:
    """A host with an admin page of its own and something of the gateway's mounted at /v1."""

    async def model(scope: Any, receive: Any, send: Any) -> None:
        assert Exchange.of(scope).caller is not None, "let past the door"
        await PlainTextResponse("model")(scope, receive, send)

    async def admin(request: Any) -> PlainTextResponse:
        return PlainTextResponse("admin")

    return Starlette(
        routes=[Route("/admin/users", admin), Mount("/v1", app=model)],
        middleware=[Middleware(TokenAuthMiddleware, access_tokens={"sk-alice": {"name": "alice"}})],
    )


@pytest.mark.parametrize("root_path", ["", "/v1", "/llm"])
async def test_a_doubled_slash_is_no_health_route(root_path: str):
    app, inside = door()

    async def gateway(scope: Any, receive: Any, send: Any) -> None:
        Exchange.of(scope).everything_ours = True
        await app(scope, receive, send)

    path = root_path + "//health/live"
    answer = await knock(gateway, None, method="GET", path=path, root_path=root_path)
    assert answer.status == 401
    assert inside.scopes == []


@pytest.mark.parametrize("path", TRICKS)
@pytest.mark.parametrize("spoof", ["gateway.test", "a/?#x", "gateway.test/health/live?"])
async def test_on_a_host_nothing_that_routes_to_the_gateway_passes_without_a_token(
    path: str, spoof: str
):
    answer = await knock(host(), None, path=path, headers=[("host", spoof)], may_write=STARLETTE)
    assert answer.status in (401, 404)


@pytest.mark.parametrize("path", TRICKS)
async def test_a_raw_path_that_differs_decides_nothing(path: str):
    app, inside = door()

    async def other_raw(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "raw_path": path.encode("utf-8", "replace")}, receive, send)

    assert (await knock(other_raw, None)).status == 401
    assert (await knock(other_raw)).status == 200
    assert len(inside.scopes) == 1


@pytest.mark.parametrize(
    ("path", "root_path"),
    [
        ("/v1/chat/completions", "/v1"),
        ("/chat/completions", "/v1"),
        ("/llm/v1/chat/completions", "/llm"),
        ("/llm/v1/chat/completions", "/llm/v1"),
        ("/v1/chat/completions", "/v1/chat"),
        ("/v1/team/chat/completions", "/v1/team"),
        ("/llm/v1/team/chat/completions", "/llm/v1/team"),
        ("/v1/chat/completions", "/nowhere"),
    ],
)
async def test_no_root_path_makes_a_call_free(path: str, root_path: str):
    app, inside = door()
    assert (await knock(app, None, path=path, root_path=root_path)).status == 401
    assert inside.scopes == []
