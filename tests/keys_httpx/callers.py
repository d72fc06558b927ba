"""A stock client with a RotatingKeyAuth, of either library, synchronous or not, and its provider.

caller = Caller(httpx, "sync", provider, auth)
response = await caller.post()
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import httpx2

WAYS = [(library, mode) for library in (httpx, httpx2) for mode in ("sync", "async")]


def way_name(way: Any) -> str:
    return f"{way[0].__name__}-{way[1]}"


class Provider:
    """Answers by key: a status, with headers; 200 for a key it has nothing against.

    `calls` are the keys it was shown. `streams`: answers come piece by piece.
    """

    def __init__(
        self,
        answers: dict[str, int] | None = None,
        headers: dict[str, str] | None = None,
        *,
        header: str = "authorization",
        streams: bool = False,
    ) -> None:
        self.answers = answers or {}
        self.headers = headers or {}
        self.header = header
        self.streams = streams
        self.calls: list[str] = []
        self.bodies: list[bytes] = []
        self.during: Callable[[], None] | None = None
        """What is looked at while a call is being answered."""

    def answer(self, library: Any, mode: str, request: Any) -> Any:
        key = request.headers[self.header].removeprefix("Bearer ")
        self.calls.append(key)
        if self.during is not None:
            self.during()
        status = self.answers.get(key, 200)
        headers = self.headers if status != 200 else {}
        if not self.streams:
            return library.Response(status, headers=headers, json={"status": status})
        pieces = _pieces() if mode == "sync" else _pieces_later()
        return library.Response(status, headers=headers, content=pieces)

    def transport(self, library: Any, mode: str) -> Any:
        def handle(request: Any) -> Any:
            self.bodies.append(b"".join(request.stream))
            return self.answer(library, mode, request)

        async def handle_later(request: Any) -> Any:
            self.bodies.append(b"".join([piece async for piece in request.stream]))
            return self.answer(library, mode, request)

        base = library.BaseTransport if mode == "sync" else library.AsyncBaseTransport
        name = "handle_request" if mode == "sync" else "handle_async_request"
        chosen = handle if mode == "sync" else handle_later
        return type("Provided", (base,), {name: lambda _, request: chosen(request)})()


def _pieces() -> Iterator[bytes]:
    yield from (b"one", b"two")


async def _pieces_later() -> AsyncIterator[bytes]:
    for piece in _pieces():
        yield piece


class Caller:
    """One client; what it is asked to do is awaited in either mode."""

    def __init__(self, way: tuple[Any, str], provider: Any, auth: Any, **options: Any) -> None:
        self.library, self.mode = way
        kind = self.library.Client if self.mode == "sync" else self.library.AsyncClient
        transport = provider
        if isinstance(provider, Provider):
            transport = provider.transport(self.library, self.mode)
        self.client = kind(transport=transport, auth=auth, base_url="http://provider", **options)

    async def post(self, **options: Any) -> Any:
        """One call, its answer read."""
        options.setdefault("json", {"model": "gpt-4o"})
        return await self._done(self.client.post("/v1/chat/completions", **options))

    async def open(self) -> Any:
        """One call whose answer is not read yet."""
        request = self.client.build_request("POST", "/v1/chat/completions", json={})
        return await self._done(self.client.send(request, stream=True))

    async def close(self, response: Any) -> None:
        await self._done(response.close() if self.mode == "sync" else response.aclose())

    async def read(self, response: Any) -> bytes:
        found: bytes = await self._done(
            response.read() if self.mode == "sync" else response.aread()
        )
        return found

    def body(self, *pieces: bytes) -> Any:
        """A body that comes once."""
        if self.mode == "sync":
            return (piece for piece in pieces)

        async def later() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        return later()

    async def _done(self, value: Any) -> Any:
        return await value if inspect.isawaitable(value) else value
