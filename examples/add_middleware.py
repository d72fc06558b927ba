"""Single parts by `add_middleware`, and the bare relay as a mount: no Gateway.

uvicorn examples.add_middleware:app
"""

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from asgi_llm_gateway import Channel, Exchange, Relay, TokenAuthMiddleware


class CallLog:
    """A part of your own: pure ASGI, and all it wants to know stands on the exchange."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        exchange = Exchange.of(scope)  # before the inner app: some hosts copy the scope
        await self.app(scope, receive, send)
        if exchange.caller is not None:
            print(exchange.caller.name, exchange.model, exchange.status, exchange.outcome)
        return None


async def hello(_request: Request) -> JSONResponse:
    return JSONResponse({"hello": "this route needs no access token"})


app = Starlette(routes=[Route("/hello", hello)])

# The last added is the outermost. So what must come first on the way in is added last: here the
# caller is named by TokenAuthMiddleware before CallLog sees the call. Parts act below /v1 and
# /v1beta only (`prefixes=`), so the host's own routes pass by untouched.
app.add_middleware(CallLog)
app.add_middleware(
    TokenAuthMiddleware,
    access_tokens={os.environ.get("DAVE_TOKEN", "sk-dave-for-trying-out"): {"name": "dave"}},
)

# A relay is a plain ASGI app; merely mounted, it opens what it needs on the first call.
app.mount("/v1", Relay([Channel(name="simulated", provider="simulator", models=["*"])]))
