"""A request body that is streamed on as it arrives, and is never held."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from ..errors import ClientLeft
from ..exchange.body import pieces
from ..exchange.limits import BodyLimits
from .watch import Receive, Watch

_HELD = 256 * 1024
"""Bytes read ahead at the most while the provider takes nothing."""


class Upload:
    """The caller's body on its way to the provider.

    While the provider takes nothing (it is still being connected to, or does not read) nobody
    would hear of the caller's leaving, so the watch then has a little of it read ahead.
    """

    def __init__(self, limits: BodyLimits, receive: Receive, watch: Watch) -> None:
        self._limits = limits
        self._receive = receive
        self._watch = watch
        self._held: deque[Any] = deque()
        self._ahead: asyncio.Task[None] | None = None
        self._news: asyncio.Future[None] | None = None
        self._receiving = False
        self.begun = False
        """Whether any of it may have been handed out: then it cannot be sent once more."""
        watch.look_ahead = self.look_ahead

    async def stream(self) -> AsyncIterator[bytes]:
        """The body as it arrives; from its end on the watch listens for the leaving."""
        self.begun = True
        try:
            async for piece in pieces(self._message, self._limits):
                yield piece
        finally:
            self._watch.begin(self._message)

    def look_ahead(self) -> asyncio.Task[None] | None:
        """Read ahead, unless the provider is waiting for the caller anyway."""
        if self._ahead is None and not self._receiving:
            self._ahead = asyncio.get_running_loop().create_task(self._read_ahead())
        return self._ahead

    async def _read_ahead(self) -> None:
        size = 0
        while size <= _HELD:
            message = await self._receive()
            self._held.append(message)
            if self._news is not None and not self._news.done():
                self._news.set_result(None)
            if message["type"] == "http.disconnect":
                return self._watch.stop(ClientLeft())
            size += len(message.get("body", b""))
        return None

    async def _message(self) -> Any:
        while not self._held:
            if self._ahead is None or self._ahead.done():
                self._receiving, self._ahead = True, None
                try:
                    return await self._receive()
                finally:
                    self._receiving = False
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        return self._held.popleft()
