"""A gateway inside a Starlette app: the host keeps its own routes, the gateway answers below /v1.

uvicorn examples.mount_in_starlette:app
"""

import os

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from asgi_llm_gateway import Channel, Gateway, TokenAuthMiddleware

gateway = Gateway(
    channels=[
        # Asked first: higher priority. `llm-gateway simulate` would serve the same on a socket.
        Channel(name="main", provider="simulator", models=["gpt-*"], priority=10),
        # Takes over when main fails before its first event, and serves what main does not.
        Channel(name="spare", provider="simulator", models=["gpt-*", "text-embedding-*"]),
    ],
    aliases={"best": "gpt-4o"},
    middleware=[
        Middleware(
            TokenAuthMiddleware,
            access_tokens={
                os.environ.get("ALICE_TOKEN", "sk-alice-for-trying-out"): {
                    "name": "alice",
                    "models": ["gpt-*", "best"],
                },
            },
        ),
    ],
    # Scripts in browsers may call from here; refusals carry the CORS headers too.
    cors_origins=["https://chat.example"],
)


async def home(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("The host's own page; the gateway is below /v1.")


# The lifespan starts the gateway with the host and lets streams end when it stops. Without it the
# gateway starts on its first call and logs a line that says so.
app = Starlette(
    routes=[Route("/", home), Mount("/v1", app=gateway)],
    lifespan=gateway.lifespan,
)
