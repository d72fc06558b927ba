"""uvicorn's HTTP/1.1 protocol, writing an answer's head and its body in one go.

uvicorn writes them one after the other, and uvloop makes a system call of each: two packets, and
time enough between them for the caller's machine to be woken twice.
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any, Final

from ..runtime import PerLoop
from ..upstream.outbox import Outbox

_HEAD = b"HTTP/1.1 "
"""What an answer's head begins with; a piece of a body that does is kept as well, and no longer."""
_MUCH = 65_536
"""Bytes that are not kept: what asyncio's transports take before they say pause."""

_outboxes = PerLoop(lambda: Outbox(asyncio.get_running_loop()))


def protocol(**given: Any) -> asyncio.Protocol:
    """What uvicorn calls for each connection it accepts, with what it gives its own protocol."""
    return _protocol_class()(**given)


PROTOCOL: Final = f"{__name__}:{protocol.__name__}"
"""What uvicorn's `http` is to be for that."""


@cache
def _protocol_class() -> type[asyncio.Protocol]:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol  # comes with an extra

    class GatheringProtocol(HttpToolsProtocol):
        def connection_made(self, transport: Any) -> None:
            kept: Any = Gathering(transport, _outboxes.get(self.loop))
            super().connection_made(kept)

    return GatheringProtocol


class Gathering:
    """A transport that keeps an answer's head, and what follows it, until the end of the tick; in
    all else the one it was made around. A later piece of a stream is written at once."""

    __slots__ = ("_kept", "_outbox", "_transport")

    def __init__(self, transport: asyncio.Transport, outbox: Outbox) -> None:
        self._transport = transport
        self._outbox = outbox
        self._kept = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Asked for every answer, so it does not go by `__getattr__`."""
        return self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """See above."""
        kept = self._kept
        if kept:
            if len(data) <= _MUCH:
                self._kept = kept + data
                if len(kept) > _MUCH:
                    self.flush()
            else:
                self._kept = b""
                self._transport.writelines((kept, data))
        elif data.startswith(_HEAD):
            self._kept = data
            self._outbox.add(self)
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Write what was kept."""
        kept, self._kept = self._kept, b""
        if kept and not self._transport.is_closing():
            self._transport.write(kept)

    def close(self) -> None:
        """Close once everything is written."""
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once; what was kept is lost, as is what a transport has not sent yet."""
        self._kept = b""
        self._transport.abort()
