"""One open connection to the store: what was written waits here, in order, for its answer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

import hiredis

from ..errors import GatewayError, StateUnavailable
from .faults import AWAY, StoreAway, fault_of, why

__all__ = ["Link", "Owner", "Unsent", "late"]

Unsent = tuple[bytes, "asyncio.Future[Any]", float]
"""A packed command, whoever waits for its answer, and the loop's time until which they do."""

_MORE = object()
"""What the parser says when it has no whole answer; None and False are answers."""


class Owner(Protocol):
    """The line a link reports to."""

    def answered(self, link: Link, *, in_time: bool, away: StoreAway | None) -> None:
        """Answers have come; `away` is one with which the server said that it cannot serve."""
        ...

    def lost(self, link: Link, reason: str) -> None:
        """The link is of no more use; told again for a link already given up."""
        ...

    def writable(self) -> None:
        """The socket takes more again."""
        ...


class Link(asyncio.Protocol):
    """Takes over an open connection of redis-py's: its transport's protocol from now on.

    Answers come in the order of the questions (redis.io, "Redis serialization protocol
    specification", pipelining), so one queue of futures is all the bookkeeping there is. An
    answer that nobody waits for any more is read and dropped.
    """

    __slots__ = ("_heard", "_loop", "_owner", "_reader", "_writer", "gone", "paused", "waiting")

    def __init__(
        self, owner: Owner, writer: asyncio.StreamWriter, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._owner = owner
        self._loop = loop
        # Kept until the socket is closed: a StreamWriter that is let go closes its transport.
        self._writer = writer
        self._reader = hiredis.Reader(notEnoughData=_MORE, replyError=fault_of)
        self._heard = loop.time()
        self.waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self.paused = False
        """Whether the socket takes nothing for the moment: what is asked stays with the owner."""
        self.gone: asyncio.Future[None] = loop.create_future()
        """Done when the socket is closed."""
        transport: Any = writer.transport
        transport.set_protocol(self)

    def send(self, batch: Iterable[Unsent]) -> None:
        """Write the commands somebody still waits for, all in one."""
        waiting = self.waiting
        if not waiting:
            self._heard = self._loop.time()
        parts = []
        for packed, future, until in batch:
            if not future.done():
                parts.append(packed)
                waiting.append((future, until))
        if parts:
            self._writer.transport.write(b"".join(parts))

    def expire(self, now: float) -> int:
        """End the waits that have lasted too long, and say how many; their answers may come yet."""
        ended = 0
        for future, until in self.waiting:
            if until > now:
                break
            if not future.done():
                future.set_exception(late())
                ended += 1
        return ended

    def silent_for(self, now: float) -> float:
        """Seconds since the server last said something although it was asked; 0 when it was not."""
        return now - self._heard if self.waiting else 0.0

    def abort(self) -> None:
        """Close the socket now, and tell everyone waiting that no answer will come."""
        self._writer.transport.abort()
        waiting, self.waiting = self.waiting, deque()
        for future, _ in waiting:
            if not future.done():
                future.set_exception(StateUnavailable(AWAY))

    # Called by the event loop

    def data_received(self, data: bytes) -> None:
        self._heard = now = self._loop.time()
        gets, waiting = self._reader.gets, self.waiting
        away, until = None, 0.0
        try:
            self._reader.feed(data)
            while (reply := gets()) is not _MORE:
                if not waiting:
                    self._owner.lost(self, "an answer that nobody had asked for")
                    return
                future, until = waiting.popleft()
                failed = isinstance(reply, GatewayError)
                if failed and isinstance(reply, StoreAway):
                    away = reply
                if future.done():
                    continue
                if failed:
                    future.set_exception(reply)
                else:
                    future.set_result(reply)
        except hiredis.ProtocolError as broken:
            self._owner.lost(self, why(broken))
            return
        if until:
            self._owner.answered(self, in_time=until > now, away=away)

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.lost(self, why(exc) if exc else "the server closed the connection")
        if not self.gone.done():
            self.gone.set_result(None)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._owner.writable()


def late() -> StateUnavailable:
    """What those are told whose time is up."""
    return StateUnavailable("the shared store did not answer in time")
