"""One connection of a provider that fails as its script says (tests/faulty.py)."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

_SENT_AT_ONCE = b"HTTP/1.1 %d .\r\n%b\r\n\r\n%b"


@dataclass
class Tried:
    """One attempt as the provider saw it; times are the loop's, in seconds."""

    at: float
    key: str
    headers: dict[bytes, bytes]
    document: dict[str, Any]
    ended: float | None = None
    hung_up: bool = False
    """The other side closed the connection before the fault was played to its end."""

    @property
    def model(self) -> str:
        return str(self.document.get("model"))

    @property
    def streamed(self) -> bool:
        return self.document.get("stream") is True


class Playing(Protocol):
    """What a connection asks of the provider it belongs to."""

    tried: list[Tried]
    open: set[Peer]
    busy: int

    def fault_for(self, tried: Tried) -> Fault:
        """What becomes of this attempt."""
        ...


class Peer(asyncio.Protocol):
    """One connection: reads requests, and plays a fault for each in a task of its own."""

    transport: asyncio.Transport

    def __init__(self, provider: Playing) -> None:
        self._provider = provider
        self._buffer = bytearray()
        self._playing: asyncio.Task[None] | None = None
        self.gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._provider.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._provider.open.discard(self)
        self.gone.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._playing is None and (body := self._whole_request()) is not None:
            self._playing = asyncio.get_running_loop().create_task(self._play(*body))

    def _whole_request(self) -> tuple[dict[bytes, bytes], bytes] | None:
        head, border, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if not border:
            return None
        lines = [line.partition(b": ") for line in head.split(b"\r\n")[1:]]
        headers = {name.lower(): value for name, _, value in lines}
        size = int(headers.get(b"content-length", b"0"))
        if len(rest) < size:
            return None
        del self._buffer[: len(head) + 4 + size]
        return headers, rest[:size]

    async def _play(self, headers: dict[bytes, bytes], body: bytes) -> None:
        loop, provider = asyncio.get_running_loop(), self._provider
        key = headers.get(b"authorization", b"").removeprefix(b"Bearer ").decode()
        tried = Tried(loop.time(), key, headers, json.loads(body or b"{}"))
        provider.tried.append(tried)
        provider.busy += 1
        try:
            await provider.fault_for(tried)(self, tried)
        except Left:
            tried.hung_up = True
        finally:
            tried.ended = loop.time()
            provider.busy -= 1
            self._playing = None
        self.data_received(b"")

    def write(self, data: bytes) -> None:
        if self.gone.is_set():
            raise Left
        self.transport.write(data)

    def answer(self, status: int, kind: str, body: bytes, headers: Sequence[str] = ()) -> None:
        """A whole answer."""
        lines = [f"content-type: {kind}", f"content-length: {len(body)}", *headers]
        self.write(_SENT_AT_ONCE % (status, "\r\n".join(lines).encode(), body))

    def half(self, body: bytes) -> None:
        """The first half of a plain answer."""
        head = b"content-type: application/json\r\ncontent-length: %d" % len(body)
        self.write(_SENT_AT_ONCE % (200, head, body[: len(body) // 2]))

    def stream(self, events: bytes = b"") -> None:
        """The head of a stream, and its first events."""
        head = b"content-type: text/event-stream\r\ntransfer-encoding: chunked"
        self.write(_SENT_AT_ONCE % (200, head, b""))
        self.events(events)

    def events(self, events: bytes) -> None:
        """More of a stream."""
        if events:
            self.write(b"%x\r\n%b\r\n" % (len(events), events))

    def end(self) -> None:
        """The stream's orderly end."""
        self.write(b"0\r\n\r\n")

    async def pause(self, seconds: float | None = None) -> None:
        """Wait (for ever by default); raises Left as soon as the other side hangs up."""
        try:
            await asyncio.wait_for(self.gone.wait(), seconds)
        except TimeoutError:
            return
        raise Left

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        if self.gone.is_set() or self.transport.is_closing():
            raise Left
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class Left(Exception):
    """The other side hung up."""


Fault = Callable[[Peer, Tried], Awaitable[None]]
"""What is done with one request."""
