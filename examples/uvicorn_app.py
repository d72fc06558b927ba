"""A gateway as an app of its own: one provider, one access token.

    uvicorn examples.uvicorn_app:app

With OPENAI_API_KEY set it relays to OpenAI, without it to a simulated provider in this process.
The access token is LLM_GATEWAY_ACCESS_TOKEN, or a new one, printed when the app starts.
"""

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware

from asgi_llm_gateway import Channel, Gateway, TokenAuthMiddleware, combine_lifespans

if os.environ.get("OPENAI_API_KEY"):
    channel = Channel(
        name="openai",
        provider="openai",
        base_url=os.environ.get("OPENAI_BASE_URL"),
        keys=["env:OPENAI_API_KEY"],
        models=["*"],
    )
else:
    channel = Channel(name="simulated", provider="simulator", models=["*"])

token = os.environ.get("LLM_GATEWAY_ACCESS_TOKEN") or f"sk-{secrets.token_urlsafe(32)}"

gateway = Gateway(
    channels=[channel],
    middleware=[Middleware(TokenAuthMiddleware, access_tokens={token: {"name": "me"}})],
)


@asynccontextmanager
async def greeting(_app: Starlette) -> AsyncIterator[None]:
    if "LLM_GATEWAY_ACCESS_TOKEN" not in os.environ:
        print(f"Call /v1/chat/completions with  Authorization: Bearer {token}", flush=True)
    yield


app = Starlette(lifespan=combine_lifespans(gateway.lifespan, greeting))
app.mount("/v1", gateway)
