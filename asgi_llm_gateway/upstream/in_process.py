"""An ASGI app in the place of a provider: the simulator, canned answers, tests. No socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Scope

from ..errors import BadAnswer, ConnectionLost, Headers, UpstreamError
from .contract import UpstreamRequest
from .deadlines import Budget

__all__ = ["InProcessAnswer", "InProcessUpstream"]

_GRACE = 0.1
"""Seconds an app has to end by itself after http.disconnect."""
_READ_AHEAD = 262_144
"""Bytes an app may be ahead of the reader before its send() waits."""


class InProcessUpstream:
    """An Upstream that runs `app` once per call, in a task of its own.

    Bodies stream both ways, with back-pressure; no lifespan is run. Closing an answer early sends
    the app `http.disconnect`, and cancels it a tenth of a second later.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._running: set[InProcessAnswer] = set()

    async def send(self, request: UpstreamRequest) -> InProcessAnswer:
        """See contract.Upstream; what the app raises becomes ConnectionLost."""
        answer = InProcessAnswer(self._app, request)
        self._running.add(answer)
        answer.task.add_done_callback(lambda _: self._running.discard(answer))
        try:
            await answer.head()
        finally:
            if not answer.status:
                await answer.aclose()
        return answer

    async def aclose(self) -> None:
        """End every call under way."""
        for answer in tuple(self._running):
            await answer.aclose()


class InProcessAnswer:
    """What the app has sent so far, and the task it runs in."""

    def __init__(self, app: ASGIApp, request: UpstreamRequest) -> None:
        self.status = 0
        self.headers: Headers = []
        self._request = request
        self._budget = Budget(request.timeouts.total)
        self._parts: list[bytes] = []
        self._asked = self._whole = self._left = False
        """The app has read the whole request; it has sent its whole answer; the reader has left."""
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(_run(app, _scope(request), self))
        self.task.add_done_callback(lambda _: self._news.set())

    async def head(self) -> None:
        """Until the app has begun to answer; raises when it does not."""
        if not isinstance(self._request.body, bytes):
            await self._until(lambda: bool(self.status) or self._asked, "total", None)
        first_byte = self._request.timeouts.first_byte
        await self._until(lambda: bool(self.status), "first_byte", first_byte)
        if not self.status:
            raise self._ended()

    def __aiter__(self) -> InProcessAnswer:
        return self

    async def __anext__(self) -> bytes:
        idle = self._request.timeouts.idle
        await self._until(lambda: bool(self._parts) or self._whole, "idle", idle)
        if self._parts:
            out = b"".join(self._parts)
            self._parts.clear()
            self._room.set()
            return out
        if self._whole:
            raise StopAsyncIteration
        raise self._ended()

    async def read(self, limit: int) -> bytes:
        """The whole body; raises BadAnswer when it is over `limit` bytes."""
        body = b""
        async for piece in self:
            body += piece
            if len(body) > limit:
                await self.aclose()
                raise BadAnswer(f"the provider's answer is over {limit} bytes")
        return body

    async def aclose(self) -> None:
        """Tell the app that nobody listens any more, and see it end."""
        self._left = True
        self._room.set()
        self._news.set()
        if not self.task.done():
            await asyncio.wait({self.task}, timeout=_GRACE)
        if not self.task.done():
            self.task.cancel()
            await asyncio.wait({self.task})
        if not self.task.cancelled():
            self.task.exception()  # looked at, so that the loop does not report it

    async def _until(self, happened: Callable[[], bool], phase: str, limit: float | None) -> None:
        """Wait for it, for the app's end, or for the reader's leaving; or raise UpstreamTimeout."""
        async with self._budget.limit(phase, limit):
            while not happened() and not self._left and not self.task.done():
                self._news.clear()
                await self._news.wait()

    def _ended(self) -> UpstreamError:
        if self._left:
            return ConnectionLost("the answer was closed before it was read to its end")
        exc = None if self.task.cancelled() else self.task.exception()
        lost = ConnectionLost("the provider app ended before its answer was whole")
        lost.__cause__ = exc
        return lost

    # The app's side

    async def sent(self, message: Message) -> None:
        """Take one message of the app; later ones than the reader's leaving go nowhere."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = [(bytes(k).lower(), bytes(v)) for k, v in message.get("headers", ())]
        elif message["type"] == "http.response.body":
            if body := bytes(message.get("body", b"")):
                self._parts.append(body)
            self._whole = not message.get("more_body", False)
        self._news.set()
        while sum(map(len, self._parts)) > _READ_AHEAD and not self._left:
            self._room.clear()
            await self._room.wait()

    async def left(self) -> Message:
        """What receive() says after the request's last byte."""
        self._asked = True
        self._news.set()
        while not (self._left or self._whole):
            self._gone.clear()
            await self._gone.wait()
        return {"type": "http.disconnect"}
