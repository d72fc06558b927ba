"""uvicorn's HTTP/1.1 protocol, writing what one tick has to say to a caller in one go.

uvicorn writes an answer's head and its body one after the other, and uvloop makes a system call of
each: two packets, and time enough between them for the caller's machine to be woken twice.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..runtime import PerLoop
from ..upstream.outbox import Outbox

_MUCH = 65_536
"""Bytes that are not held back any longer: what asyncio's transports take before they say pause."""

_outboxes = PerLoop(lambda: Outbox(asyncio.get_running_loop()))


class GatheringProtocol(HttpToolsProtocol):
    """See above."""

    def connection_made(self, transport: Any) -> None:
        """Called by the event loop."""
        super().connection_made(Gathering(transport, _outboxes.get(self.loop)))  # type: ignore[arg-type]


class Gathering:
    """A transport that joins the writes of one tick; in all else the one it was made around."""

    __slots__ = ("_outbox", "_parts", "_size", "_transport")

    def __init__(self, transport: asyncio.Transport, outbox: Outbox) -> None:
        self._transport = transport
        self._outbox = outbox
        self._parts: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write at the end of the tick, or now if it has become much."""
        if not self._parts:
            self._outbox.add(self)
        self._parts.append(data)
        self._size += len(data)
        if self._size > _MUCH:
            self.flush()

    def flush(self) -> None:
        """Write what was put off."""
        parts = self._parts
        if parts:
            self._parts, self._size = [], 0
            if not self._transport.is_closing():
                self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))

    def close(self) -> None:
        """Close once everything is written."""
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once; what was put off is lost, as is what a transport has not sent yet."""
        self._parts = []
        self._transport.abort()
