"""A whole gateway with a scripted provider, and what must hold after every hostile case."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.middleware import Middleware

from asgi_llm_gateway import BodyLimits, Gateway, TokenAuthMiddleware
from tests.asgi import Answer, call
from tests.upstreams import FakeUpstream, Reply, channel_to, left_open

TOKEN = "sk-caller-alice-secret"
LIMITED = "sk-caller-bob-secret"
KEY = "sk-provider-secret-1"
PROMPT = "my very private prompt"
CHAT = "/v1/chat/completions"
SECRETS = (TOKEN, LIMITED, KEY, PROMPT)
ASK = {"model": "m", "messages": [{"role": "user", "content": PROMPT}]}


class World:
    """A gateway, its provider, and the requests that were made."""

    def __init__(self, caplog: pytest.LogCaptureFixture, **config: Any) -> None:
        self.caplog = caplog
        self.upstream = FakeUpstream()
        channel = channel_to(self.upstream, keys=[KEY], passthrough=True)
        tokens = {
            TOKEN: {"name": "alice"},
            LIMITED: {"name": "bob", "models": ["cheap"], "ips": ["10.0.0.0/8"]},
        }
        auth = Middleware(TokenAuthMiddleware, access_tokens=tokens, trusted_proxies=["127.0.0.1"])
        self.gateway = Gateway([channel], middleware=[auth], **config)
        self._before: set[Any] = set()

    async def call(
        self, method: str, path: str, *, token: str | None = TOKEN, **how: Any
    ) -> Answer:
        """One request, by alice unless said otherwise."""
        headers = how.pop("headers", {})
        pairs = list(headers.items()) if isinstance(headers, dict) else list(headers)
        if token is not None:
            pairs.append(("authorization", f"Bearer {token}"))
        return await call(self.gateway, method, path, headers=pairs, **how)

    async def post(self, body: Any, path: str = CHAT, **how: Any) -> Answer:
        """A POST; what is no bytes is sent as JSON."""
        raw = json.dumps(body).encode() if isinstance(body, dict) else body
        return await self.call("POST", path, body=raw, **how)

    async def after(self, answer: Answer, *, asked: int | None = None) -> None:
        """The invariants I1, I2, I3 and I5; `asked` is how often the provider may have been."""
        if asked is not None:
            assert len(self.upstream.asked) == asked
        if answer.status is not None and answer.status >= 400:
            well_formed(answer)
        self.nothing_told(answer)
        await self.nothing_left()
        self.upstream.replies = [Reply.chat("still here")]
        again = await self.post(ASK)
        assert again.status == 200
        assert again.json["choices"][0]["message"]["content"] == "still here"
        await self.nothing_left()

    def nothing_told(self, answer: Answer) -> None:
        """No secret and no prompt in the answer's refusal, its headers or the log."""
        said = self.caplog.text.encode() + b"".join(n + v for n, v in answer.headers)
        if answer.status is None or answer.status >= 400:
            said += answer.body
        for secret in SECRETS:
            assert secret.encode() not in said
        assert KEY.encode() not in answer.body

    async def nothing_left(self, within: float = 2.0) -> None:
        """No key held, no answer open, no task left that was not there before."""
        until = asyncio.get_running_loop().time() + within
        while (found := self._left()) and asyncio.get_running_loop().time() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert not found, found

    def _left(self) -> list[str]:
        tasks = asyncio.all_tasks() - self._before - {asyncio.current_task()}
        return [*left_open(self.gateway.relay), *map(repr, tasks)]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[World]:
        """Started and stopped in order."""
        async with self.gateway:
            self._before = asyncio.all_tasks()
            yield self


@asynccontextmanager
async def world(
    caplog: pytest.LogCaptureFixture, *, limits: BodyLimits | None = None, **config: Any
) -> AsyncIterator[World]:
    """A running gateway whose log is kept from DEBUG on."""
    caplog.set_level(logging.DEBUG)
    async with World(caplog, limits=limits or BodyLimits(), **config).running() as running:
        yield running


def well_formed(answer: Answer) -> dict[str, Any]:
    """The error an answer tells, in the caller's dialect."""
    assert (answer.header("content-type") or "").startswith("application/json")
    document = answer.json
    dialect = answer.exchange.endpoint.dialect if answer.exchange else "openai"
    error: dict[str, Any] = document["error"]
    if dialect == "anthropic":
        assert document["type"] == "error"
        assert {"type", "message"} <= set(error)
    elif dialect == "gemini":
        assert {"code", "status", "message"} <= set(error)
    else:
        assert {"message", "type", "code", "param"} <= set(error)
    assert isinstance(error["message"], str)
    assert "Traceback" not in answer.body.decode()
    assert answer.header("x-request-id")
    return error


@asynccontextmanager
async def heartbeat(longest: float) -> AsyncIterator[None]:
    """The loop turns at least every `longest` seconds meanwhile."""
    loop, gaps = asyncio.get_running_loop(), [0.0]

    async def beat() -> None:
        last = loop.time()
        while True:
            await asyncio.sleep(0.01)
            gaps.append(loop.time() - last)
            last = loop.time()

    task = asyncio.create_task(beat())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
    assert max(gaps) < longest
