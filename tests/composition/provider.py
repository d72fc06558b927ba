"""A provider that answers in the pieces it is told to, and can fall silent anywhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from asgi_llm_gateway.errors import BadAnswer, ConnectionLost, Headers
from asgi_llm_gateway.upstream.contract import UpstreamRequest
from asgi_llm_gateway.wire.usage import Usage

EVENTS: Headers = [(b"content-type", b"text/event-stream")]
JSON: Headers = [(b"content-type", b"application/json")]
TEXT = "call 555 1234 or 7, née 1980"
"""What the model says; its digits are to be masked."""
USAGE = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
USED = Usage(input=9, output=12)


def event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return event({"id": "c1", "object": "chat.completion.chunk", "choices": [choice]})


def stream_events() -> list[bytes]:
    words = [TEXT[at : at + 6] for at in range(0, len(TEXT), 6)]
    return [
        b": keep-alive\n\n",
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"content": word}) for word in words),
        chunk({}, "stop"),
        event({"id": "c1", "object": "chat.completion.chunk", "choices": [], "usage": USAGE}),
        b"data: [DONE]\n\n",
    ]


STREAM = b"".join(stream_events())
UNARY = json.dumps(
    {
        "id": "c1",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": TEXT},
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }
).encode()

Silence = Literal["before head", "after pieces", "never"]


@dataclass
class Provider:
    """An Upstream. `silent` is where it stops answering until the caller gives up."""

    pieces: Sequence[bytes] = (UNARY,)
    headers: Headers = field(default_factory=lambda: JSON)
    silent: Silence = "never"
    cut: bool = False
    asked: list[bytes] = field(default_factory=list)
    open: int = 0
    given_up: int = 0
    """Calls that were cancelled before they had an answer."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever a call is asked for or let go."""

    async def send(self, request: UpstreamRequest) -> ProviderAnswer:
        self.count(1)
        try:
            body = request.body
            if not isinstance(body, bytes):
                body = b"".join([piece async for piece in body])
                if request.content_length is not None:
                    assert request.content_length == len(body)
            self.asked.append(body)
            self.changed.set()
            if self.silent == "before head":
                await asyncio.Event().wait()
        except BaseException:
            self.given_up += 1
            self.count(-1)
            raise
        return ProviderAnswer(self)

    async def aclose(self) -> None:
        """Nothing is kept."""

    def count(self, by: int) -> None:
        self.open += by
        self.changed.set()

    async def until(self, happened: Callable[[], bool]) -> None:
        """Wait for it; fails after the second the issue allows for letting a provider go."""
        async with asyncio.timeout(1.0):
            while not happened():
                self.changed.clear()
                await self.changed.wait()

    async def until_closed(self) -> None:
        """Every answer given back."""
        await self.until(lambda: not self.open)


class ProviderAnswer:
    """One answer under way; read to its end it holds nothing any more."""

    def __init__(self, provider: Provider) -> None:
        self.status, self.headers = 200, list(provider.headers)
        self._provider = provider
        self._closed = False
        self._body = self._bytes()

    async def _bytes(self) -> AsyncIterator[bytes]:
        for piece in self._provider.pieces:
            await asyncio.sleep(0)
            yield piece
        if self._provider.silent == "after pieces":
            await asyncio.Event().wait()
        if self._provider.cut:
            raise ConnectionLost("the provider's connection died")
        await self.aclose()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._body

    async def read(self, limit: int) -> bytes:
        body = b"".join([piece async for piece in self._body])
        if len(body) > limit:
            raise BadAnswer("too long")
        return body

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._provider.count(-1)
