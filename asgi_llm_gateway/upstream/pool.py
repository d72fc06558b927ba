"""The connections to one origin: who gets which, who waits, and how many there may be."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import ConnectFailed, ConnectionLost, PoolTimeout, UpstreamTimeout
from . import faults
from .answer import Answer
from .bounds import Bounds
from .connection import Connection
from .contract import Origin, Timeouts, UpstreamRequest
from .head import Heads
from .outbox import Outbox
from .sweep import Sweep
from .tls import Tls
from .upload import upload

__all__ = ["OriginPool"]

_PROMPT = 1.0
"""Seconds within which a provider that had closed a connection lets us know."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a caller waits for a connection, on the upstream's clock."""

    wait_at: float
    total_at: float
    total: float | None

    def ended(self, now: float) -> PoolTimeout | UpstreamTimeout | None:
        if now >= self.total_at:
            return faults.timed_out("total", self.total)
        if now >= self.wait_at:
            return PoolTimeout("no connection to the provider became free in time")
        return None


class OriginPool:
    """Idle connections are used last in, first out; callers beyond the cap wait first come, first
    served. While anybody waits nothing is idle: a connection that becomes free is handed on.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        loop: asyncio.AbstractEventLoop,
        sweep: Sweep,
        outbox: Outbox,
        bounds: Bounds,
        clock: Callable[[], float],
        tls: Tls,
    ) -> None:
        self.origin = origin
        self.outbox = outbox
        self.opened = 0
        """Places taken under the cap: connections, and those being made."""
        self.idle: dict[Connection, None] = {}
        self.waiters: OrderedDict[asyncio.Future[Connection | None], Patience] = OrderedDict()
        """First come, first served. A result of None is a place to make a connection on."""
        self.placed: set[Connection] = set()
        """Connections that each hold a place."""
        self.live: set[Connection] = set()
        """Connections that have held one and that the event loop still knows."""
        self.ended: asyncio.Future[None] | None = None
        self.closed = False
        self._loop = loop
        self._sweep = sweep
        self._bounds = bounds
        self._clock = clock
        self._tls = tls
        self._heads = Heads(origin.netloc)

    async def send(self, request: UpstreamRequest) -> Answer:
        """See contract.Upstream.send."""
        head = self._heads.encode(request)
        timeouts = request.timeouts
        now = self._clock()
        total_at = math.inf if timeouts.total is None else now + timeouts.total
        connection = self._take_idle(now)
        again = False
        while True:
            if connection is None:
                connection = await self._acquire(timeouts, total_at, again=again)
                now = self._clock()
            reused = connection.used
            waiter = self._loop.create_future()
            answer = Answer(self._loop, self._sweep.busy, timeouts, now, total_at, waiter)
            self._ask(connection, request, head, answer)
            try:
                await waiter
            except (asyncio.CancelledError, GeneratorExit):
                answer.give_up()
                raise
            if answer.upload is not None:
                answer.stop_upload()
            if answer.status or answer.error is None:
                return answer
            if again or not reused or not self._unread(request, answer, now):
                raise answer.error
            connection, again = None, True

    def _unread(self, request: UpstreamRequest, answer: Answer, since: float) -> bool:
        """Whether the provider closed the connection while the request was on its way, and so has
        read none of it, and it can be sent once more. One that goes later may have worked on it:
        that is for failover to judge."""
        return (
            answer.seen == 0
            and self._clock() - since < _PROMPT
            and isinstance(answer.error, ConnectionLost)
            and isinstance(request.body, bytes)
            and not self.closed
        )

    def _ask(
        self, connection: Connection, request: UpstreamRequest, head: bytes, answer: Answer
    ) -> None:
        """Send; the answer's waiter ends with its head or its failure."""
        if not self._sweep.fast:
            self._sweep.hurry()
        body = request.body
        head_only = request.method == "HEAD"
        if isinstance(body, bytes):
            connection.begin(answer, head, body, head_only=head_only)
        else:
            connection.begin(answer, head, b"", head_only=head_only)
            connection.uploading = True
            answer.upload = self._loop.create_task(upload(connection, body, request.content_length))
            answer.upload.add_done_callback(answer.uploaded)

    # Getting a connection

    def _take_idle(self, now: float) -> Connection | None:
        while self.idle:
            connection, _ = self.idle.popitem()
            if now - connection.idle_since >= self._bounds.idle_expiry:
                connection.discard()
            elif connection.usable():
                return connection
        return None

    async def _acquire(
        self, timeouts: Timeouts, total_at: float, *, again: bool = False
    ) -> Connection:
        """A new connection, or one that becomes free; `again`: at the head of the queue."""
        most = self._bounds.max_connections
        if again and self.idle and self.opened >= most:
            next(iter(self.idle)).discard()
        wait_at = math.inf if timeouts.wait is None else self._clock() + timeouts.wait
        patience = Patience(wait_at, total_at, timeouts.total)
        while self.opened >= most:
            granted = await self._wait(patience, first=again)
            if granted is None:
                break
            if granted.usable():
                return granted
            again = True  # it died on its way here, which is not this caller's fault
        else:
            self.opened += 1
        return await self._connect(timeouts, total_at)

    async def _wait(self, patience: Patience, *, first: bool) -> Connection | None:
        """A connection somebody gave back, or None: a place to make one on."""
        if not first and len(self.waiters) >= self._bounds.max_waiting:
            raise PoolTimeout("too many calls wait for a connection to this provider")
        waiter: asyncio.Future[Connection | None] = self._loop.create_future()
        self.waiters[waiter] = patience
        if first:
            self.waiters.move_to_end(waiter, last=False)
        if not self._sweep.fast:
            self._sweep.hurry()
        try:
            return await waiter
        except (asyncio.CancelledError, GeneratorExit):
            self._give_back(waiter)
            raise

    def _give_back(self, waiter: asyncio.Future[Connection | None]) -> None:
        """A waiter was cancelled: what it was granted in the same moment goes to the next."""
        self.waiters.pop(waiter, None)
        if not waiter.done() or waiter.cancelled() or waiter.exception() is not None:
            return
        granted = waiter.result()
        if granted is None:
            self._free_place()
        elif not granted.closed:
            self.release(granted)

    async def _connect(self, timeouts: Timeouts, total_at: float) -> Connection:
        """Make a connection on a place already taken; the place is freed when that fails."""
        left = total_at - self._clock()
        limit = timeouts.connect
        phase = "connect" if limit is not None and limit <= left else "total"
        seconds = left if limit is None else min(limit, left)
        connection = Connection(self, self._bounds)
        try:
            async with asyncio.timeout(None if seconds == math.inf else seconds):
                await self._open(connection)
            if self.closed:
                raise ConnectionLost("the upstream was closed")
            if not connection.usable():
                raise ConnectFailed("the provider closed the connection as soon as it was made")
            self.placed.add(connection)
            self.live.add(connection)
        except TimeoutError as exc:
            raise faults.timed_out(phase, getattr(timeouts, phase)) from exc
        except (OSError, UnicodeError) as exc:
            raise faults.connect_failed(exc) from exc
        finally:
            if connection not in self.placed:
                connection.discard()
                self._free_place()
        return connection

    async def _open(self, connection: Connection) -> None:
        host = self.origin.host
        context = await self._tls.context() if self.origin.scheme == "https" else None
        await self._loop.create_connection(
            lambda: connection,
            host,
            self.origin.port,
            ssl=context,
            server_hostname=host if context is not None else None,
        )

    # Called by connections and by the sweep

    def release(self, connection: Connection) -> None:
        """Its answer is whole and it can carry another."""
        waiter = self._next_waiter() if self.waiters else None
        if waiter is not None:
            waiter.set_result(connection)
        else:
            connection.idle_since = self._clock()
            self.idle[connection] = None

    def gone(self, connection: Connection) -> None:
        """It carries nothing any more: somebody else may have its place."""
        self.idle.pop(connection, None)
        if connection in self.placed:
            self.placed.remove(connection)
            self._free_place()

    def lost(self, connection: Connection) -> None:
        """The event loop has let go of it."""
        self.live.discard(connection)
        if self.ended is not None and not self.live and not self.ended.done():
            self.ended.set_result(None)

    def _free_place(self) -> None:
        waiter = self._next_waiter()
        if waiter is not None:
            waiter.set_result(None)
        else:
            self.opened -= 1

    def _next_waiter(self) -> asyncio.Future[Connection | None] | None:
        while self.waiters:
            waiter, _ = self.waiters.popitem(last=False)
            if not waiter.done():
                return waiter
        return None

    def expire(self, now: float) -> float:
        """End what has waited or idled too long; returns when to look again (inf: never)."""
        for waiter, patience in tuple(self.waiters.items()):
            error = patience.ended(now)
            if error is not None:
                del self.waiters[waiter]
                if not waiter.done():
                    waiter.set_exception(error)
        while self.idle:
            oldest = next(iter(self.idle))
            expires = oldest.idle_since + self._bounds.idle_expiry
            if now < expires:
                return now if self.waiters else expires
            oldest.discard()
        return now if self.waiters else math.inf

    async def aclose(self) -> None:
        """Fail what is under way, close every connection, and wait until the loop has let go."""
        self.closed = True
        while (waiter := self._next_waiter()) is not None:
            waiter.set_exception(ConnectionLost("the upstream was closed"))
        for connection in tuple(self.live):
            if connection.answer is not None:
                connection.answer.fail(ConnectionLost("the upstream was closed"))
            else:
                connection.discard()
        if self.live:
            self.ended = self._loop.create_future()
            await asyncio.wait({self.ended}, timeout=1.0)
