"""A provider made of raw bytes: each test scripts, byte for byte, what a connection does.

    async def script(peer):
        await peer.request()
        peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    async with serve(script) as server:
        ...

A script runs once per connection; when it returns, the connection is closed.
"""

import asyncio
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from asgi_llm_gateway.upstream import Origin, Timeouts, UpstreamRequest

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass
class Received:
    """A request as it came over the wire, its body unframed."""

    line: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        found = [value for key, value in self.headers if key.lower() == name]
        assert len(found) <= 1, f"{name!r} was sent {len(found)} times"
        return found[0] if found else None


class Left(Exception):
    """The other side is gone."""


class Peer(asyncio.Protocol):
    """The server's side of one connection."""

    def __init__(self, server: "Server") -> None:
        self.server = server
        self.buffer = bytearray()
        self.gone = False
        self.number = 0
        self._news = asyncio.Event()

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.server.open.add(self)
        self.server.accepted += 1
        self.number = self.server.accepted
        self.task = asyncio.get_running_loop().create_task(self._run())

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self.server.received_bytes += len(data)
        self._news.set()

    def connection_lost(self, exc) -> None:
        self.gone = True
        self.server.open.discard(self)
        self._news.set()

    async def _run(self) -> None:
        try:
            await self.server.script(self)
        except Left:
            pass
        finally:
            self.transport.close()

    async def more(self) -> None:
        """Until something arrives; raises Left at the end."""
        if self.gone:
            raise Left
        self._news.clear()
        await self._news.wait()

    async def left(self) -> None:
        """Until the other side is gone, reading whatever it sends."""
        while not self.gone:
            self._news.clear()
            await self._news.wait()

    def write(self, data: bytes) -> None:
        if not self.gone:
            self.transport.write(data)

    def reset(self) -> None:
        """End with a TCP reset."""
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    async def head(self) -> Received:
        """The next request's head; its body is left in `buffer`."""
        while b"\r\n\r\n" not in self.buffer:
            await self.more()
        head = self._take(self.buffer.index(b"\r\n\r\n"), 4)
        line, *rest = head.split(b"\r\n")
        headers = [tuple(item.split(b": ", 1)) for item in rest]
        return Received(line, headers, b"")

    async def request(self) -> Received:
        """The next request, whole."""
        received = await self.head()
        if received.header(b"transfer-encoding") == b"chunked":
            while (size := int(await self._line(), 16)) > 0:
                received.body += await self._exactly(size)
                await self._line()
            await self._line()
        else:
            received.body = await self._exactly(int(received.header(b"content-length") or 0))
        self.server.requests.append(received)
        return received

    async def _line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            await self.more()
        return self._take(self.buffer.index(b"\r\n"), 2)

    async def _exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            await self.more()
        return self._take(size, 0)

    def _take(self, size: int, border: int) -> bytes:
        data = bytes(self.buffer[:size])
        del self.buffer[: size + border]
        return data


@dataclass
class Server:
    """What the scripted provider has seen."""

    script: Callable[[Peer], Awaitable[None]]
    scheme: str = "http"
    host: str = "127.0.0.1"
    port: int = 0
    accepted: int = 0
    received_bytes: int = 0
    open: set[Peer] = field(default_factory=set)
    requests: list[Received] = field(default_factory=list)

    @property
    def origin(self) -> Origin:
        return Origin(self.scheme, self.host, self.port)

    def get(self, target: str = "/", **changes) -> UpstreamRequest:
        return replace(UpstreamRequest("GET", self.origin, target), **changes)

    def post(self, body=b"{}", **changes) -> UpstreamRequest:
        request = UpstreamRequest("POST", self.origin, "/v1/chat/completions", body=body)
        return replace(request, **changes)

    async def emptied(self, seconds: float = 1.0) -> bool:
        """Whether every connection is gone within so many seconds."""
        return await until(lambda: not self.open, seconds)


async def until(happened: Callable[[], bool], seconds: float = 2.0) -> bool:
    ends_at = time.monotonic() + seconds
    while not happened() and time.monotonic() < ends_at:  # noqa: ASYNC110 - anything may be asked
        await asyncio.sleep(0.005)
    return happened()


@asynccontextmanager
async def serve(
    script: Callable[[Peer], Awaitable[None]],
    *,
    ssl_context: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[Server]:
    server = Server(script, scheme="https" if ssl_context else "http", host=host)
    peers: list[Peer] = []

    def peer() -> Peer:
        peers.append(Peer(server))
        return peers[-1]

    loop = asyncio.get_running_loop()
    listener = await loop.create_server(peer, "127.0.0.1", 0, ssl=ssl_context)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        tasks = [peer.task for peer in peers if hasattr(peer, "task")]
        for peer_left in list(server.open):
            peer_left.transport.abort()
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: not server.open)
        for result in results:
            if isinstance(result, Exception):
                raise result


def answers(*data: bytes) -> Callable[[Peer], Awaitable[None]]:
    """A script that answers the first request with data[0], the next with data[1], …; the last
    one over and over.
    """

    async def script(peer: Peer) -> None:
        count = 0
        while True:
            await peer.request()
            peer.write(data[min(count, len(data) - 1)])
            count += 1

    return script


SHORT = Timeouts(connect=5.0, first_byte=0.3, idle=0.3, total=5.0, wait=0.3)
