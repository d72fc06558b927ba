"""Servers for the tests of the shared store: real ones, and one that says what a test tells it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from asgi_llm_gateway import runtime
from asgi_llm_gateway.runtime import PerLoop, Sweep
from tests.valkey import own_valkey, valkey, valkey_cluster  # noqa: F401

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]
Scripted = Callable[[Callable[[bytes], bytes | None]], AbstractAsyncContextManager[str]]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep time limits to some milliseconds."""
    monkeypatch.setattr(runtime, "_sweeps", PerLoop(lambda: Sweep(0.01)))


@pytest.fixture
def scripted() -> Scripted:
    """`async with scripted(answer) as url`: a server that lets redis-py connect and then sends
    what `answer` makes of all it receives; None closes the connection."""

    @asynccontextmanager
    async def serve(answer: Callable[[bytes], bytes | None]) -> AsyncIterator[str]:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while data := await reader.read(65_536):
                    said = b"+OK\r\n" * data.count(b"SETINFO") or answer(data)
                    if said is None:
                        break
                    writer.write(said)
            except ConnectionError:
                pass  # the client has had enough of it, which is what such tests are about
            finally:
                writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        async with server:
            yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    return serve
