"""A gateway inside a FastAPI app that has a lifespan of its own, with the host's users as callers.

uvicorn examples.mount_in_fastapi:app
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.types import Scope

from asgi_llm_gateway import Caller, Channel, Gateway, TokenAuthMiddleware, combine_lifespans

users: dict[str, str] = {}


@asynccontextmanager
async def load_users(_app: FastAPI) -> AsyncIterator[None]:
    users["sk-carol-for-trying-out"] = "carol"  # from the host's database, say
    yield
    users.clear()


async def authenticate(credential: str, _scope: Scope) -> Caller | None:
    """The host decides who calls; None is a 401. Answers are kept for a few seconds."""
    user = users.get(credential)
    return None if user is None else Caller(name=user, token_id=user, user=user)


gateway = Gateway(
    channels=[Channel(name="simulated", provider="simulator", models=["*"])],
    middleware=[Middleware(TokenAuthMiddleware, authenticate=authenticate)],
)

# Entered in this order, left in reverse: users are there before the first call.
app = FastAPI(title="Host", lifespan=combine_lifespans(load_users, gateway.lifespan))


@app.get("/users")
async def count_users() -> dict[str, int]:
    return {"users": len(users)}


app.mount("/llm/v1", gateway)  # clients use the base URL http://…/llm/v1
