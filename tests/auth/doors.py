"""What the tests of this folder share: an app that tells who was let in, and ways to knock."""

from __future__ import annotations

import json
from typing import Any

from asgi_llm_gateway.auth import TokenAuthMiddleware
from asgi_llm_gateway.exchange import Exchange
from tests.asgi import Answer, call

CHAT = "/v1/chat/completions"


class Inside:
    """The app behind the door: keeps what got in and answers with the caller's name."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []
        self.bodies: list[bytes] = []

    @property
    def exchange(self) -> Exchange:
        return Exchange.of(self.scopes[-1])

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.bodies.append(body)
        caller = Exchange.of(scope).caller
        told = json.dumps(caller and caller.name).encode()
        headers = [(b"content-length", b"%d" % len(told))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        answer = b"" if scope["method"] == "HEAD" else told
        await send({"type": "http.response.body", "body": answer})


def door(**how: Any) -> tuple[TokenAuthMiddleware, Inside]:
    """The middleware around `Inside`; with nothing given, Alice's token is known."""
    if not {"access_tokens", "authenticate", "store"} & set(how):
        how["access_tokens"] = {"sk-alice": {"name": "alice"}}
    inside = Inside()
    return TokenAuthMiddleware(inside, **how), inside


async def knock(app: Any, token: str | None = "sk-alice", **how: Any) -> Answer:
    """One call, with `token` as its bearer; `headers` are sent besides."""
    headers = list(how.pop("headers", ()))
    if token is not None:
        headers.append(("authorization", f"Bearer {token}"))
    method, path = how.pop("method", "POST"), how.pop("path", CHAT)
    return await call(app, method, path, headers=headers, **how)


class Hand:
    """A clock that is moved by hand."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
