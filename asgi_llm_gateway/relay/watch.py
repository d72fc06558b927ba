"""Looks after one call: does the body arrive, has the caller left, does it take what it is sent?

No task and no timer of its own: the loop's sweep looks in, and only a call that lasts gets a task
that awaits the caller's leaving. When there is a reason to stop, the call is cancelled wherever it
is (waiting for a connection, for the provider, between two tries), as asyncio.timeout does it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from ..errors import ClientLeft, RequestTimeout, UpstreamTimeout
from ..exchange.limits import BodyLimits
from ..runtime import sweep

Receive = Callable[[], Coroutine[Any, Any, Any]]

_PATIENCE = 0.1
"""Seconds a call may last before somebody listens for the caller's leaving."""
_WRITE_TIMEOUT = 60.0
"""Seconds a caller may leave what it is sent untaken before it counts as gone."""


class Watch:
    """A context around one call.

    While the body is read it raises RequestTimeout when that takes too long; once `begin` was
    called, ClientLeft when the caller is gone, and UpstreamTimeout when no answer has begun by
    `give_up_at`.
    """

    sending_since: float | None = None
    """Loop time at which a send began that is still under way."""
    give_up_at: float | None = None
    """Loop time by which an answer must have begun; None once it has, or for no limit."""
    over = False
    """The last message is on its way: from now on it means nothing that the caller is gone."""
    _listener: asyncio.Task[None] | None = None
    _reason: Exception | None = None
    _begun = False
    look_ahead: Callable[[], asyncio.Task[Any] | None] | None = None
    """Given by an upload: reads one message ahead while the provider takes nothing. The body's
    time is then the upload's to keep."""
    _ahead: asyncio.Task[Any] | None = None

    def __init__(
        self, receive: Receive, limits: BodyLimits, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._receive = receive
        self.loop = loop
        self._limits = limits

    def __enter__(self) -> Watch:
        loop = self.loop
        self._task = task = asyncio.current_task(loop)
        self._cancelling = task.cancelling() if task is not None else 0
        self._started = self.progress = loop.time()
        self._sweep = look = sweep(loop)
        look.add(self)
        return self

    def begin(self, receive: Receive | None = None) -> None:
        """The request body is in: from here on `receive` only tells of the leaving."""
        if receive is not None:
            self._receive = receive
        self.progress = self.loop.time()
        self._begun = True

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._sweep.remove(self)
        for listening in (self._listener, self._ahead):
            if listening is not None:
                listening.cancel()
        self.look_ahead = None
        reason = self._reason
        if reason is None or self._task is None:
            return
        # If uncancel() leaves one more, somebody else's came as well, and that one wins.
        alone = self._task.uncancel() <= self._cancelling
        if alone and kind is asyncio.CancelledError:
            raise reason from None

    def tick(self, now: float) -> None:
        """Called by the sweep."""
        if self.sending_since is not None and now - self.sending_since > _WRITE_TIMEOUT:
            self.stop(ClientLeft())
        if self.give_up_at is not None and now > self.give_up_at:
            self.stop(
                UpstreamTimeout("no answer began within the time a call may take", phase="total")
            )
        if not self._begun:
            if self.look_ahead is not None:
                self._ahead = self.look_ahead()
                return
            limits = self._limits
            if now - self.progress > limits.idle or now - self._started > limits.total:
                self.stop(RequestTimeout("the request body did not arrive in time"))
        elif self._listener is None and now - self.progress > _PATIENCE:
            self._listener = self.loop.create_task(self._listen())

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":  # noqa: ASYNC110
            # A host whose receive never waits must not hold the loop.
            await asyncio.sleep(0)
        if not self.over:
            self.stop(ClientLeft())

    def stop(self, reason: Exception) -> None:
        """Give the call up wherever it is: `reason` is raised where the context ends."""
        if self._reason is None and self._task is not None:
            self._reason = reason
            self._task.cancel()
