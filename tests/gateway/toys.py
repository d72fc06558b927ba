"""A channel on a simulator in this process, calls to it, and parts that do one thing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from asgi_llm_gateway import Channel
from asgi_llm_gateway.providers.simulator import Simulator
from asgi_llm_gateway.runtime import Resources
from asgi_llm_gateway.upstream import InProcessUpstream
from tests.asgi import STARLETTE, Answer, Driver, call


def channel(simulator: Simulator | None = None, **more: Any) -> Channel:
    return Channel(
        **{
            "name": "sim",
            "provider": "simulator",
            "models": ["*"],
            "upstream": InProcessUpstream(simulator or Simulator()),
            "base_url": "http://simulator/v1",
            **more,
        }
    )


def body(**more: Any) -> bytes:
    messages = [{"role": "user", "content": "hello"}]
    return json.dumps({"model": "gpt-4o", "messages": messages, **more}).encode()


async def chat(app: Any, path: str = "/v1/chat/completions", **how: Any) -> Answer:
    token = how.pop("token", None)
    headers = {"content-type": "application/json", **how.pop("headers", {})}
    if token:
        headers["authorization"] = f"Bearer {token}"
    sent = body(**how.pop("members", {}))
    how.setdefault("may_write", STARLETTE)
    return await call(app, "POST", path, headers=headers, body=sent, **how)


def streaming(app: Any, path: str = "/v1/chat/completions", **how: Any) -> Driver:
    headers = {"content-type": "application/json", **how.pop("headers", {})}
    return Driver(app, "POST", path, headers=headers, body=body(stream=True), **how)


class Opened:
    """A part that keeps a diary of its opening and closing."""

    def __init__(self, app: Any, *, name: str, diary: list[str]) -> None:
        self.app, self.name, self.diary = app, name, diary
        self.resources: Resources[str] = Resources(self._open, started_by="gateway.lifespan")

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[str]:
        self.diary.append(f"{self.name} opens")
        try:
            yield self.name
        finally:
            self.diary.append(f"{self.name} closes")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.diary.append(f"{self.name} called")
        await self.app(scope, receive, send)


class Failing:
    """A part with a bug: it raises before the app inside it, or at its n-th message."""

    def __init__(self, app: Any, *, error: Exception, at: int | None = None) -> None:
        self.app, self.error, self.at = app, error, at

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.at is None:
            raise self.error
        seen = 0

        async def raising(message: Any) -> None:
            nonlocal seen
            if seen == self.at:
                raise self.error
            seen += 1
            await send(message)

        await self.app(scope, receive, raising)


class Settling:
    """A part that gives something back after the call, in a task the gateway must wait for."""

    def __init__(self, app: Any, *, settled: list[str], seconds: float) -> None:
        self.app, self.settled, self.seconds = app, settled, seconds

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from asgi_llm_gateway import Exchange

        exchange = Exchange.of(scope)
        try:
            await self.app(scope, receive, send)
        finally:
            assert exchange.tasks is not None
            exchange.tasks.keep(self._settle(exchange.id))

    async def _settle(self, what: str) -> None:
        await asyncio.sleep(self.seconds)
        self.settled.append(what)
