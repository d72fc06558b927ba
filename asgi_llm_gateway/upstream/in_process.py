"""An ASGI app in the place of a provider: the simulator, canned answers, tests. No socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Scope

from ..errors import BadAnswer, ClientLeft, ConnectionLost, GatewayError, Headers
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
        begun = False
        try:
            await answer.head()
            begun = True
        finally:
            if not begun:
                await answer.end()
        return answer

    async def aclose(self) -> None:
        """End every call under way."""
        for answer in tuple(self._running):
            await answer.end()


class InProcessAnswer:
    """What the app has sent so far, and the task it runs in."""

    def __init__(self, app: ASGIApp, request: UpstreamRequest) -> None:
        self.status = 0
        self.headers: Headers = []
        self._request = request
        self._budget = Budget(request.timeouts.total)
        self._parts: list[bytes] = []
        self._held = 0
        self._asked = self._whole = self._left = False
        """The app has read the whole request; it has sent its whole answer; the reader has left."""
        self._caller_error: Exception | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._over = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._run(app))
        self.task.add_done_callback(self._app_ended)

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
            self._held = 0
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
        """Free once the app has sent its last byte; else it is told that nobody listens, and ended.

        An app whose answer is whole may still be at work: that is its own affair.
        """
        if not self._whole:
            await self.end()

    async def end(self) -> None:
        """Disconnect the app, and cancel it if it does not end by itself."""
        self._left = True
        for event in (self._room, self._news, self._over):
            event.set()
        try:
            if not self.task.done():
                await asyncio.wait({self.task}, timeout=_GRACE)
        finally:
            self.task.cancel()
        if not self.task.done():
            await asyncio.wait({self.task})

    async def _until(self, happened: Callable[[], bool], phase: str, limit: float | None) -> None:
        """Wait for it, for the app's end, or for the reader's leaving; or raise UpstreamTimeout."""
        async with self._budget.limit(phase, limit):
            while not happened() and not self._left and not self.task.done():
                self._news.clear()
                await self._news.wait()

    def _ended(self) -> Exception:
        if self._caller_error is not None:
            return self._caller_error
        if self._left:
            return ConnectionLost("the answer was closed before it was read to its end")
        lost = ConnectionLost("the provider app ended before its answer was whole")
        lost.__cause__ = None if self.task.cancelled() else self.task.exception()
        return lost

    def _app_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # looked at, so that the loop does not report it as forgotten
        self._news.set()

    # The app's side

    async def _run(self, app: ASGIApp) -> None:
        body = self._request.body
        try:
            await app(_scope(self._request), self._receive, self._send)
        finally:
            aclose = getattr(body, "aclose", None)
            if aclose is not None:
                await aclose()

    async def _receive(self) -> Message:
        body = self._request.body
        if self._asked:
            await self._over.wait()
            return {"type": "http.disconnect"}
        if isinstance(body, bytes):
            piece, more = body, False
        else:
            try:
                next_piece = await anext(body, None)
            except (GatewayError, ClientLeft) as exc:
                self._caller_error = exc
                raise
            piece, more = next_piece or b"", next_piece is not None
        self._asked = not more
        self._news.set()
        return {"type": "http.request", "body": piece, "more_body": more}

    async def _send(self, message: Message) -> None:
        """Take one message of the app; after the reader has left they go nowhere."""
        if self._left:
            await asyncio.sleep(0)  # an app that only sends must still be cancellable
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = [(bytes(k).lower(), bytes(v)) for k, v in message.get("headers", ())]
        elif message["type"] == "http.response.body":
            if body := bytes(message.get("body", b"")):
                self._parts.append(body)
                self._held += len(body)
            self._whole = not message.get("more_body", False)
            if self._whole:
                self._over.set()
        self._news.set()
        while self._held > _READ_AHEAD and not (self._left or self._whole):
            self._room.clear()
            await self._room.wait()


def _scope(request: UpstreamRequest) -> Scope:
    origin = request.origin
    path, _, query = request.target.partition("?")
    headers = [(b"host", origin.netloc.encode()), *request.headers]
    if isinstance(request.body, bytes):
        if request.body:
            headers.append((b"content-length", b"%d" % len(request.body)))
    elif request.content_length is not None:
        headers.append((b"content-length", b"%d" % request.content_length))
    else:
        headers.append((b"transfer-encoding", b"chunked"))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": origin.scheme,
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in headers],
        "client": ("127.0.0.1", 0),
        "server": (origin.host, origin.port),
    }
