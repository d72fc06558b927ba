"""An answer under way: what has arrived of it, who waits for more, and its deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol

from ..errors import BadAnswer, ConnectionLost, Headers
from .contract import Timeouts

__all__ = ["Answer", "Carrier"]


class Carrier(Protocol):
    """What an answer and its deadlines know of the connection it arrives on."""

    paused: bool
    """Reading is held back, since too much lies unread."""
    write_paused: bool
    """The peer takes less than we have to send."""
    uploading: bool
    """A streamed request body is not all written yet."""

    def resume(self) -> None: ...

    def discard(self) -> None: ...

    def unsent(self) -> int: ...


class Answer:
    """One call's side of a connection; what `DirectUpstream.send` returns.

    Made before the request is written, filled by the connection, let go by it as soon as the last
    byte is in: from then on it is only a buffer. `status` is 0 until the head is there.
    """

    # On the class, so that making one costs little.
    status = 0
    headers: Headers = []  # noqa: RUF012 - never added to: the connection puts its own in place
    complete = False
    error: Exception | None = None
    carrier: Carrier | None = None
    upload: asyncio.Task[None] | None = None
    seen = 0
    """Bytes that have arrived, framing included."""
    swept = 0
    """What `seen` (or the unsent rest, while sending) was at the last sweep."""
    taken = 0
    """What `seen` was when the buffer was last emptied."""
    reader: asyncio.Future[bytes] | None = None
    """Of whom waits for the next piece."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        busy: set[Answer],
        timeouts: Timeouts,
        since: float,
        total_at: float,
        waiter: asyncio.Future[None] | None = None,
    ) -> None:
        self.parts: list[bytes] = []
        self.loop = loop
        self.busy = busy
        self.waiter = waiter
        """Of whom waits for the head."""
        self.timeouts = timeouts
        self.since = since
        """When the provider was last seen to do something; the sweep keeps it."""
        self.total_at = total_at
        busy.add(self)

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> bytes:
        """All that has arrived since the last time; waits for the next bytes if there are none."""
        try:
            return await self.piece()
        except (asyncio.CancelledError, GeneratorExit):
            self.give_up()
            raise

    def piece(self) -> Awaitable[bytes]:
        """What `__anext__` waits for, for those who surely `aclose` when they stop waiting.

        A future and no coroutine around it, since a stream has thousands of these.
        """
        self.reader = reader = self.loop.create_future()
        if self.parts or self.complete or self.error is not None:
            self.deliver()
        return reader

    async def read(self, limit: int) -> bytes:
        """The whole body; raises BadAnswer when it is over `limit` bytes."""
        parts = self.parts
        if self.complete and len(parts) == 1 and len(parts[0]) <= limit:
            return parts.pop()
        pieces = []
        size = 0
        async for piece in self:
            size += len(piece)
            if size > limit:
                self.give_up()
                raise BadAnswer(f"the provider's answer is over {limit} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    def deliver(self) -> None:
        """Give whoever waits for a piece what there is to give."""
        reader, parts = self.reader, self.parts
        if reader is None or reader.done():
            return
        if parts:
            self.reader = None
            reader.set_result(parts[0] if len(parts) == 1 else b"".join(parts))
            parts.clear()
            self.taken = self.seen
            carrier = self.carrier
            if carrier is not None and carrier.paused:
                carrier.resume()
        elif self.complete or self.error is not None:
            self.reader = None
            reader.set_exception(self.error or StopAsyncIteration())

    async def aclose(self) -> None:
        """Abort the connection if the last byte is not in yet."""
        self.give_up()

    def give_up(self) -> None:
        """Abort; nothing once the answer is whole or failed. Another task's read ends, too."""
        if self.carrier is not None:
            self.fail(ConnectionLost("the answer was closed before it was read to its end"))

    def fail(self, error: Exception) -> None:
        """End it with an error, which comes after the bytes that are already here."""
        carrier = self.carrier
        if self.complete or self.error is not None:
            return
        self.error = error
        self.carrier = None
        self.busy.discard(self)
        self.stop_upload()
        if carrier is not None:
            carrier.discard()
        self.wake()

    def finish(self) -> None:
        """The last byte is in: the connection is no longer ours."""
        self.complete = True
        self.carrier = None
        self.busy.discard(self)
        self.wake()

    def wake(self) -> None:
        """Something has come, or nothing more will: tell whoever waits."""
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)
        if self.reader is not None:
            self.deliver()

    def uploaded(self, upload: asyncio.Task[None]) -> None:
        """The upload has ended; unless it was stopped by us, its error is the call's."""
        error = None if upload.cancelled() else upload.exception()
        if self.upload is not upload:
            return
        self.upload = None
        if upload.cancelled():
            self.fail(ConnectionLost("the sending of the request's body was cancelled"))
        elif isinstance(error, Exception):
            self.fail(error)

    def stop_upload(self) -> None:
        """The provider has answered, or never will: nothing more of the body is wanted."""
        upload = self.upload
        if upload is not None:
            self.upload = None
            upload.cancel()
