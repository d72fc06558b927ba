"""One server, one connection, one write per loop tick, for everything this event loop asks of it.

A command that may have reached the server is never sent twice by itself: when its answer does not
come in time, or the connection breaks first, its caller gets StateUnavailable and must allow for
both that it was carried out and that it was not. Only commands that had not been written yet live
on to the next connection, as long as their callers wait.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from hiredis import pack_command

from ..errors import StateUnavailable
from ..runtime import sweep
from .faults import AWAY, StoreAway
from .gate import Gate
from .link import Link, Unsent, late
from .opening import CannotOpen

__all__ = ["LIMIT", "Line"]

LIMIT = 10_000
"""Commands that may wait at once, written or not, before more are refused: some megabytes."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
"""Seconds between attempts to connect, doubling; the first reconnect comes at once."""
_STALL = 0.5
"""Seconds between two ticks of the sweep after which it was this loop that stood still."""
_GOODBYE = 1.0
"""Seconds a socket gets to be closed."""


class Line:
    """A queue of commands and the link that carries them; opened and reopened when needed.

    `open_` makes a connection or raises CannotOpen. `timeout` is how long a caller waits, kept by
    the runtime's sweep and so up to its period late.
    """

    def __init__(
        self,
        open_: Callable[[], Awaitable[asyncio.StreamWriter]],
        gate: Gate,
        *,
        timeout: float,
        limit: int = LIMIT,
    ) -> None:
        self._open = open_
        self._gate = gate
        self._timeout = timeout
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._unsent: list[Unsent] = []
        self._due = self._watched = self._closed = False
        self._link: Link | None = None
        self._gone: set[asyncio.Future[None]] = set()
        self._opening: asyncio.Task[None] | None = None
        self._tries = 0
        self._ticked = 0.0
        self._loading: set[str] = set()

    def call(self, args: tuple[bytes | str | int | float, ...]) -> asyncio.Future[Any]:
        """Queue a command for this tick's batch; StateUnavailable now or in the future returned."""
        now = self._loop.time()
        gate, link, unsent = self._gate, self._link, self._unsent
        if gate.open:
            gate.admit(now)
        waiting = len(unsent) if link is None else len(unsent) + len(link.waiting)
        if waiting >= self._limit:
            raise StateUnavailable("too many commands wait for the shared store")
        if self._closed:
            raise StateUnavailable("the connection to the shared store is closed")
        if not args:
            raise TypeError("a command needs a name")
        packed: bytes = pack_command(args)  # type: ignore[arg-type]  # its stub wants one item
        future = self._loop.create_future()
        unsent.append((packed, future, now + self._timeout))
        if not self._due:
            self._due = True
            self._loop.call_soon(self._flush)
        return future

    def first_to_load(self, sha: str) -> bool:
        """Whether nobody else has asked for this script's loading within this tick."""
        if sha in self._loading:
            return False
        self._loading.add(sha)
        return True

    async def close(self) -> None:
        """Let what was asked be answered, within one timeout; then leave nothing open."""
        self._flush()
        asked = [future for _, future, _ in self._unsent]
        if self._link is not None:
            asked += [future for future, _ in self._link.waiting]
        if asked and not self._gate.open:
            await asyncio.wait(asked, timeout=self._timeout)
        self._closed = True
        if (opening := self._opening) is not None:
            opening.cancel()
            await asyncio.wait([opening])
        if (link := self._link) is not None:
            self._link = None
            link.abort()
        self._refuse_unsent()
        sweep(self._loop).remove(self)
        if self._gone:
            await asyncio.wait(set(self._gone), timeout=_GOODBYE)

    # Called by the loop and the runtime's sweep

    def _flush(self) -> None:
        self._due = False
        self._loading.clear()
        if not (unsent := self._unsent):
            return
        link = self._link
        if link is None:
            if self._opening is None and not self._closed:
                self._opening = self._loop.create_task(self._connect())
        elif not link.paused:
            self._unsent = []
            link.send(unsent)
        if not self._watched:
            self._watched = True
            self._ticked = self._loop.time()
            sweep(self._loop).add(self)

    def tick(self, now: float) -> None:
        """Keep the time limits of all that wait; see runtime.Swept."""
        stood_still = now - self._ticked > _STALL
        self._ticked = now
        if stood_still:  # answers may lie there unread: uvloop runs timers before it reads
            return
        ended = 0
        for _, future, until in self._unsent:
            if until <= now and not future.done():
                future.set_exception(late())
                ended += 1
        self._unsent = [asked for asked in self._unsent if not asked[1].done()]
        if (link := self._link) is not None:
            ended += link.expire(now)
            if link.silent_for(now) >= self._timeout:
                self._give_up(link)
        if ended and self._gate.failed(now, "no answer in time", ended):
            self._refuse_unsent()
        if not self._unsent and (self._link is None or not self._link.waiting):
            self._watched = False
            sweep(self._loop).remove(self)

    # Called by the link

    def answered(self, link: Link, *, in_time: bool, away: StoreAway | None) -> None:
        """See link.Owner."""
        if away is not None:
            if self._gate.failed(self._loop.time(), away.reply):
                self._refuse_unsent()
            if away.moved_on and link is self._link:
                self._give_up(link)
        elif in_time:
            self._tries = 0
            self._gate.succeeded()

    def lost(self, link: Link, reason: str) -> None:
        """See link.Owner. A server that closes an idle connection has not failed."""
        if link is not self._link:
            return
        asked = bool(link.waiting)
        self._give_up(link)
        if asked and self._gate.failed(self._loop.time(), reason):
            self._refuse_unsent()

    def writable(self) -> None:
        """See link.Owner."""
        self._flush()

    def _give_up(self, link: Link) -> None:
        self._link = None
        self._tries += 1
        link.abort()
        if self._unsent:
            self._flush()

    def _refuse_unsent(self) -> None:
        unsent, self._unsent = self._unsent, []
        self._tries = min(self._tries, 1)  # the breaker's pause is pause enough for its probe
        now = self._loop.time()
        for _, future, _ in unsent:
            if not future.done():
                refusal = StateUnavailable(AWAY) if self._closed else self._gate.refusal(now)
                future.set_exception(refusal)

    async def _connect(self) -> None:
        """Until somebody waits no longer, or a connection is there."""
        try:
            while self._unsent:
                if self._tries > 1:
                    pause = min(_FIRST_PAUSE * 2 ** min(self._tries - 2, 10), _LONGEST_PAUSE)
                    # Spread, lest every process of a gateway comes back in the same moment.
                    await asyncio.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311
                try:
                    writer = await self._open()
                except CannotOpen as failure:
                    self._tries += 1
                    if self._gate.failed(self._loop.time(), str(failure)):
                        self._refuse_unsent()
                else:
                    self._link = link = Link(self, writer, self._loop)
                    self._gone.add(link.gone)
                    link.gone.add_done_callback(self._gone.discard)
                    return
        finally:
            self._opening = None
            self._flush()
