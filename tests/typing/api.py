"""The public types as a user's type checker sees them; checked by scripts/check, never run."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, assert_type

import httpx
import httpx2
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Scope

from asgi_llm_gateway import (
    AccessToken,
    BodyLimits,
    Caller,
    Channel,
    ConfigurationError,
    DirectTransport,
    Exchange,
    Failover,
    Gateway,
    GatewayError,
    Relay,
    RotatingKeyAuth,
    Timeouts,
    TokenAuthMiddleware,
    combine_lifespans,
)

channel = Channel(
    name="main",
    provider="openai",
    keys=["env:OPENAI_API_KEY"],
    models=["gpt-*"],
    timeouts=Timeouts(connect=1.0, total=None),
)
also = Channel(name="also", models=("*",), timeouts={"idle": 5, "total": None})


async def authenticate(credential: str, scope: Scope) -> Caller | AccessToken | None:
    return Caller(name=credential, token_id="1", channels=("main",))


gateway = Gateway(
    channels=[channel, also],
    middleware=[
        Middleware(TokenAuthMiddleware, authenticate=authenticate),
        Middleware(TokenAuthMiddleware, access_tokens={"sk-a": {"name": "a", "models": ["*"]}}),
        Middleware(TokenAuthMiddleware, access_tokens=[AccessToken.of("sk-b", name="b")]),
    ],
    cors_origins=["https://chat.example"],
    shutdown_timeout=5,
    aliases={"best": "gpt-4o"},
    limits=BodyLimits(max_bytes=1024),
)
relay = Relay([channel], aliases={"best": "gpt-4o"}, failover=Failover(max_attempts=2))

as_apps: list[ASGIApp] = [gateway, relay, TokenAuthMiddleware(relay, access_tokens={})]
app = Starlette(lifespan=gateway.lifespan)
app.mount("/v1", gateway)
app.add_middleware(TokenAuthMiddleware, access_tokens={"sk-a": {"name": "a"}})
api = FastAPI(lifespan=combine_lifespans(gateway.lifespan))
api.mount("/v1", relay)

assert_type(Gateway.from_settings("gateway.toml"), Gateway)
assert_type(Gateway.from_settings(Path("gateway.toml"), environ={}), Gateway)
assert_type(Gateway.from_settings({"channels": []}), Gateway)
opened: AbstractAsyncContextManager[None] = gateway.lifespan(app)

auth = RotatingKeyAuth(["sk-a", "sk-b"], header="x-api-key", scheme="", retry=2, wait=5)
assert_type(auth, RotatingKeyAuth)
as_auths: tuple[httpx.Auth, httpx2.Auth] = (auth, auth)
httpx.Client(auth=auth)
httpx2.Client(auth=auth)
httpx.AsyncClient(auth=RotatingKeyAuth(auth.pool, retry=False), transport=DirectTransport())
httpx2.AsyncClient(auth=auth, transport=DirectTransport())


async def script(scope: dict[str, Any]) -> None:
    async with gateway as started:
        assert_type(started, Gateway)
    gateway.reload()
    exchange = Exchange.of(scope)
    assert_type(exchange, Exchange)
    assert_type(exchange.caller, Caller | None)
    assert_type(exchange.model, str | None)
    error: GatewayError = ConfigurationError("no")
    assert_type(error.status, int)
