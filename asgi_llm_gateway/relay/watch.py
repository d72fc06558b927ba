"""Looks after one call: has the caller left, does it still take what it is sent?

No task and no timer of its own: the loop's sweep looks in, and only a call that lasts gets a task
that awaits the caller's leaving. When there is a reason to stop, the call is cancelled wherever it
is (waiting for a connection, for the provider, between two tries), as asyncio.timeout does it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from ..errors import ClientLeft
from ..runtime import sweep

_PATIENCE = 0.1
"""Seconds a call may last before somebody listens for the caller's leaving."""
_WRITE_TIMEOUT = 60.0
"""Seconds a caller may leave what it is sent untaken before it counts as gone."""


class Watch:
    """A context around one call; raises ClientLeft in it when the caller is gone."""

    __slots__ = ("_begun", "_gone", "_listener", "_receive", "_task", "sending_since")

    def __init__(self, receive: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self._receive = receive
        self._listener: asyncio.Task[None] | None = None
        self._gone = False
        self._begun: float | None = None
        self.sending_since: float | None = None
        """Loop time at which a send began that is still under way."""

    def __enter__(self) -> Watch:
        self._task = asyncio.current_task()
        return self

    def begin(self, receive: Callable[[], Coroutine[Any, Any, Any]] | None = None) -> None:
        """The request body is in: from here on `receive` only tells of the leaving."""
        if receive is not None:
            self._receive = receive
        self._begun = asyncio.get_running_loop().time()
        sweep().add(self)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._begun is not None:
            sweep().remove(self)
        if self._listener is not None:
            self._listener.cancel()
        ours = self._gone and kind is asyncio.CancelledError and self._task is not None
        # If uncancel() leaves a cancel, somebody else's came as well, and that one wins.
        if ours and self._task is not None and self._task.uncancel() == 0:
            raise ClientLeft from None

    def now(self) -> float:
        """The loop's time."""
        return asyncio.get_running_loop().time()

    def tick(self, now: float) -> None:
        """Called by the sweep."""
        if self._begun is not None and self._listener is None and now - self._begun > _PATIENCE:
            self._listener = asyncio.get_running_loop().create_task(self._listen())
        if self.sending_since is not None and now - self.sending_since > _WRITE_TIMEOUT:
            self._leave()

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _leave(self) -> None:
        if not self._gone and self._task is not None:
            self._gone = True
            self._task.cancel()
