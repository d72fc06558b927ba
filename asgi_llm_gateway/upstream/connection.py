"""One HTTP/1.1 connection to a provider: bytes in, an Answer filled; one call at a time."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

import httptools

from ..errors import BadAnswer, ConnectionLost, Headers
from . import faults
from .answer import Answer
from .bounds import Bounds
from .outbox import Outbox

__all__ = ["Connection", "Owner"]


_SMALL = 65_536
"""Bytes of a request that are joined and written with others of the same tick; more, or a body
that is still to come, goes out at once."""


class Owner(Protocol):
    """The pool a connection reports to."""

    outbox: Outbox

    def release(self, connection: Connection) -> None: ...

    def gone(self, connection: Connection) -> None: ...

    def lost(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """A socket, its parser and the answer that is arriving on it, if any.

    The parser lives as long as the connection, since making one costs as much as parsing a small
    answer. Its callbacks are the methods named `on_…`.
    """

    __slots__ = (
        "answer",
        "bounds",
        "closed",
        "done",
        "drain",
        "head_only",
        "headers",
        "idle_since",
        "keep",
        "owner",
        "parser",
        "parts",
        "paused",
        "request",
        "silent",
        "transport",
        "uploading",
        "used",
        "write_paused",
    )

    transport: asyncio.Transport
    parts: list[bytes]

    def __init__(self, owner: Owner, bounds: Bounds) -> None:
        self.owner = owner
        self.bounds = bounds
        self.answer: Answer | None = None
        self.headers: Headers = []
        self.parts = []
        self.parser = httptools.HttpResponseParser(self)
        self.closed = False
        """Discarded by us or lost: it carries nothing any more."""
        self.used = False
        self.request = b""
        """A request that waits in the outbox."""
        self.idle_since = 0.0
        self.done = self.keep = self.head_only = False
        self.paused = self.write_paused = self.uploading = False
        self.silent = 0
        """Bytes since the last piece of body: a head, chunk framing, trailers."""
        self.drain: asyncio.Future[None] | None = None

    def usable(self) -> bool:
        """Whether a request may be written; what is only closing still is discarded by this."""
        if not self.closed and self.transport.is_closing():
            self.discard()
        return not self.closed

    def begin(self, answer: Answer, head: bytes, body: bytes, *, head_only: bool) -> None:
        """Send a request whose answer goes to `answer`."""
        self.answer = answer
        self.parts = answer.parts
        self.headers = []
        self.done = False
        self.silent = 0
        self.head_only = head_only
        self.used = True
        answer.carrier = self
        if 0 < len(body) <= _SMALL:
            self.request = head + body
            self.owner.outbox.add(self)
        else:
            self.transport.write(head)
            if body:
                self.transport.write(body)

    def flush(self) -> None:
        """Write the request that was put off; whoever it was for has heard if it cannot be."""
        if self.usable():
            self.transport.write(self.request)
        self.request = b""

    def discard(self) -> None:
        """Abort the socket and give up its place in the pool, now; nothing the second time."""
        if self.closed:
            return
        self.closed = True
        answer = self.answer
        self.answer = None
        self._wake_drain()
        transport = getattr(self, "transport", None)
        if transport is not None:
            transport.abort()
        self.owner.gone(self)
        if answer is not None:
            answer.fail(ConnectionLost("the connection to the provider was closed"))

    def resume(self) -> None:
        """Read on: what had piled up was taken."""
        self.paused = False
        if not self.closed and not self.transport.is_closing():
            self.transport.resume_reading()

    def unsent(self) -> int:
        """Bytes written that the socket has not taken yet."""
        return self.transport.get_write_buffer_size()

    async def drained(self) -> None:
        """Until the peer has taken enough of what was written, or the connection is gone."""
        while self.write_paused and not self.closed:
            self.drain = asyncio.get_running_loop().create_future()
            await self.drain

    def _wake_drain(self) -> None:
        drain = self.drain
        self.drain = None
        if drain is not None and not drain.done():
            drain.set_result(None)

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self.closed:
            # uvloop may still call this after the caller who wanted it was cancelled.
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        answer = self.answer
        if answer is None or self.request:
            # Nobody asked, or the question is not written yet: whatever it is, it must not become
            # the start of the next answer.
            self.discard()
            return
        parts = self.parts
        before = len(parts)
        answer.seen += len(data)
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            if not self.done:
                answer.fail(faults.bad_answer(exc))
                return
            self.keep = False
        if self.done:
            self._finish(answer)
            return
        if len(parts) == before:
            self.silent += len(data)
            if self.silent > self.bounds.max_head_bytes:
                answer.fail(BadAnswer("the provider's answer has too much header or framing"))
                return
        else:
            self.silent = 0
            if answer.seen - answer.taken > self.bounds.read_ahead and not self.paused:
                self.paused = True
                self.transport.pause_reading()
        if answer.reader is not None:
            answer.deliver()
        elif answer.waiter is not None and answer.status:
            answer.wake()

    def eof_received(self) -> None:
        answer = self.answer
        if answer is None:
            self.discard()
        elif answer.status and _ends_with_connection(answer.headers):
            self.keep = False
            self._finish(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        answer = self.answer
        self.answer = None
        if not self.closed:
            self.closed = True
            self.owner.gone(self)
        self._wake_drain()
        if answer is not None:
            answer.fail(faults.connection_lost(exc))
        self.owner.lost(self)

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        self._wake_drain()

    # Called by the parser, within data_received

    def on_message_begin(self) -> None:
        if self.done:
            # A second answer that nobody asked for: none of it may reach this one.
            self.keep = False
            self.parts = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.rstrip()))

    def on_headers_complete(self) -> None:
        answer = self.answer
        if answer is None or self.done:
            return
        status = self.parser.get_status_code()
        headers = self.headers
        self.headers = []
        if len(headers) > self.bounds.max_headers or answer.seen > self.bounds.max_line_bytes:
            self._check_size(headers)
        if status < 200:
            if status < 102 and status != 100:
                raise BadAnswer(f"the provider answered with status {status}")
            return
        if status > 599:
            raise BadAnswer(f"the provider answered with status {status}")
        answer.status = status
        answer.headers = headers
        if self.head_only:
            # The parser would wait for the body that Content-Length speaks of.
            self.done = True
            self.keep = self.parser.should_keep_alive()
            self.parts = []

    def on_body(self, body: bytes) -> None:
        self.parts.append(body)

    def on_message_complete(self) -> None:
        answer = self.answer
        if answer is not None and answer.status and not self.done:
            self.done = True
            # Once feed_data has returned the parser only says False.
            self.keep = self.parser.should_keep_alive()

    def _check_size(self, headers: Headers) -> None:
        bounds = self.bounds
        sizes = [len(name) + len(value) + 4 for name, value in headers]
        if (
            len(sizes) > bounds.max_headers
            or sum(sizes) > bounds.max_head_bytes
            or max(sizes, default=0) > bounds.max_line_bytes
        ):
            raise BadAnswer("the provider's answer has too many or too long headers")

    def _finish(self, answer: Answer) -> None:
        """The answer is whole: let go of it, and go back to the pool if the peer allows."""
        self.answer = None
        if self.head_only:
            self.keep = self.keep and not self.parts
            self.parser = httptools.HttpResponseParser(self)
        if self.paused:
            self.resume()
        if self.keep and not self.uploading and not self.write_paused:
            self.owner.release(self)
        else:
            self.discard()
        answer.finish()


def _ends_with_connection(headers: Headers) -> bool:
    """Whether the body's length is only told by the end (RFC 9112, 6.3, rule 8)."""
    for name, value in headers:
        if name == b"content-length":
            return False
        if name == b"transfer-encoding":
            return not value.lower().endswith(b"chunked")
    return True
