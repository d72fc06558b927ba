"""Row C11 of the hostile inputs, on real sockets: providers that are not there or say nothing."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from asgi_llm_gateway import Channel, Relay
from asgi_llm_gateway.upstream.contract import Timeouts
from asgi_llm_gateway.upstream.direct import DirectUpstream
from tests.upstreams import ASK, ask, openai_error

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
FAST = Timeouts(connect=0.3, first_byte=0.3, first_token=0.3, idle=0.3, total=3, wait=0.3)
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def provider(serve: Serve) -> AsyncIterator[int]:
    """A server on a free port that treats each connection so."""
    open_now: set[asyncio.StreamWriter] = set()

    async def kept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_now.add(writer)
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the gateway gave up, as it should
        finally:
            writer.close()

    server = await asyncio.start_server(kept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        for writer in open_now:
            writer.close()
        server.close()
        await server.wait_closed()


async def read_head(reader: asyncio.StreamReader) -> None:
    await reader.readuntil(b"\r\n\r\n")


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def silent_after_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_head(reader)
    writer.write(HEAD)
    await asyncio.sleep(30)


async def dribbles(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_head(reader)
    writer.write(HEAD)
    while True:
        writer.write(b"1\r\n:\r\n")
        await writer.drain()
        await asyncio.sleep(0.1)


async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_head(reader)


async def no_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_head(reader)
    writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
    await asyncio.sleep(30)


SILENT: list[tuple[Serve, int, str]] = [
    (silent, 504, "upstream_timeout"),
    (silent_after_head, 504, "upstream_timeout"),
    (dribbles, 504, "upstream_timeout"),
    (hangs_up, 502, "upstream_connection_lost"),
    (no_http, 502, "bad_upstream_answer"),
]


async def try_at(base_url: str) -> tuple[Any, DirectUpstream]:
    upstream = DirectUpstream()
    config = {"name": "main", "models": ["*"], "keys": ["sk-secret-1"], "timeouts": FAST}
    relay = Relay([Channel(**config, base_url=base_url, upstream=upstream)])  # type: ignore[arg-type]
    body = json.dumps({**ASK, "stream": True}).encode()
    async with asyncio.timeout(8):
        answer = await ask(relay, body)
    assert relay.channels is not None
    assert [key.in_flight for key in relay.channels.channels[0].pool.keys] == [0]
    return answer, upstream


@pytest.mark.parametrize(
    ("serve", "status", "code"), SILENT, ids=lambda v: getattr(v, "__name__", "")
)
async def test_c11_a_provider_that_says_nothing_is_given_up_in_time(
    serve: Serve, status: int, code: str
) -> None:
    async with provider(serve) as port:
        answer, upstream = await try_at(f"http://127.0.0.1:{port}/v1")
        assert answer.status == status
        error = openai_error(answer)
        assert error["code"] == code
        assert str(port) not in error["message"]
        assert upstream.stats().open == 0
        await upstream.aclose()


async def test_c11_a_provider_that_is_not_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        refusing = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    for url in (refusing, "http://nothing.invalid/v1"):
        answer, upstream = await try_at(url)
        assert answer.status == 502
        error = openai_error(answer)
        assert error["code"] == "upstream_connect_failed"
        assert "127.0.0.1" not in error["message"]
        assert "nothing.invalid" not in error["message"]
        await upstream.aclose()


async def test_c11_a_provider_without_tls_where_tls_was_meant() -> None:
    async with provider(no_http) as port:
        answer, upstream = await try_at(f"https://127.0.0.1:{port}/v1")
        assert answer.status in (502, 504)
        openai_error(answer)
        await upstream.aclose()
