"""An ASGI server in one object: it drives an app through one request and checks what it does.

    answer = await call(app, "POST", "/v1/chat/completions", body=b"{}", leave_after=2)
    async with Driver(app, "GET", "/").open() as stream: ...

Every message is checked against the specification (asgi_rules.py) and a broken rule fails the
test. Three kinds of servers differ in what happens once the caller has left or was answered:

- `uvicorn`: receive() says http.disconnect again and again, also after a normal end; what is sent
  to a caller who left goes nowhere.
- `hypercorn`: one single http.disconnect is queued, also after a normal end, and a second receive()
  waits for ever; an empty http.request ends every body; what is sent goes nowhere.
- `strict`: like uvicorn, but send() to a caller who left raises OSError (specification 2.4).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.asgi_request import (
    PHASES,
    STYLES,
    Answer,
    Body,
    Pairs,
    Phase,
    Style,
    headers_of,
    pieces_of,
)
from tests.asgi_rules import OURS, STARLETTE, ResponseRules, ScopeRules

__all__ = [
    "OURS",
    "PHASES",
    "STARLETTE",
    "STYLES",
    "Answer",
    "Driver",
    "Phase",
    "Stream",
    "Style",
    "call",
]


class Driver:
    """One request to `app`. See the module; `timeout` is how long the app may take, in seconds."""

    def __init__(
        self,
        app: Any,
        method: str,
        path: str,
        *,
        headers: Pairs = (),
        body: Body = b"",
        root_path: str = "",
        client: tuple[str, int] | None = ("127.0.0.1", 1234),
        scheme: str = "http",
        query: bytes = b"",
        extensions: dict[str, Any] | None = None,
        state: dict[str, Any] | None = None,
        style: Style = "uvicorn",
        leave_after: Phase | int | None = None,
        pause: float | None = None,
        paced: bool = False,
        may_cut: bool = False,
        may_raise: bool = False,
        may_write: frozenset[str] = OURS,
        timeout: float = 10.0,
    ) -> None:
        self.app, self.style, self.leave_after = app, style, leave_after
        self.pause, self.paced, self.timeout = pause, paced, timeout
        self.may_cut, self.may_raise = may_cut, may_raise
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.1" if style == "hypercorn" else "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": scheme,
            "path": path,
            "raw_path": path.encode("utf-8", "surrogatepass"),
            "query_string": query,
            "root_path": root_path,
            "headers": headers_of(headers, body),
            "client": client,
            "server": ("127.0.0.1", 80),
            "state": {} if state is None else dict(state),
            "extensions": extensions or {},
        }
        self.answer = Answer(scope)
        self.task: asyncio.Task[None] | None = None
        self._rules = ResponseRules(method, extensions or {})
        self._scope_rules = ScopeRules(scope, may_write)
        self._pieces = pieces_of(body, ends_empty=style == "hypercorn")
        self._pulling: asyncio.Task[tuple[bytes, bool] | None] | None = None
        self._taken = 0
        self._body_over = False
        self._receiving = 0
        self._told = False
        self._gone = asyncio.Event()
        self._out: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._moved = asyncio.Event()
        self._began = asyncio.Event()

    async def run(self) -> Answer:
        """See the request through to the app's return."""
        self.begin()
        return await self.finish()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Stream]:
        """The answer as it comes. At the end of the block a caller who has not heard all leaves."""
        self.begin()
        try:
            yield Stream(self)
        except BaseException:
            assert self.task is not None
            self.task.cancel()
            await asyncio.wait({self.task}, timeout=1.0)
            raise
        if not self.answer.ended:
            self.leave()
        await self.finish()

    def begin(self) -> None:
        """Start the app, in a task of its own as a server does."""
        if self.leave_after == "before body":
            self.leave()
        self.task = asyncio.ensure_future(self.app(self.answer.scope, self._receive, self._send))
        self.task.add_done_callback(self._app_done)

    def leave(self) -> None:
        """The caller closes its connection."""
        if not self._gone.is_set():
            self.answer.left = True
            self._gone.set()
            self._moved.set()
            self._out.put_nowait(None)

    async def finish(self) -> Answer:
        """Wait for the app, then look whether it kept the rules."""
        answer, task = self.answer, self.task
        assert task is not None
        _, pending = await asyncio.wait({task}, timeout=self.timeout)
        if pending:
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)
            raise AssertionError(f"the app did not return within {self.timeout} s: {answer}")
        answer.exception = asyncio.CancelledError() if task.cancelled() else task.exception()
        answer.cut = self._rules.finish(left=answer.left, raised=answer.exception is not None)
        answer.broken += [*self._rules.broken, *self._scope_rules.broken()]
        if self._pulling is not None:
            self._pulling.cancel()
            await asyncio.wait({self._pulling})
        await self._pieces.aclose()
        if answer.exception is not None and not self.may_raise:
            raise answer.exception
        assert not answer.broken, answer.broken
        assert self.may_cut or not answer.cut, "the app returned without its last message"
        return answer

    def _app_done(self, _task: asyncio.Task[None]) -> None:
        self._began.set()
        self._out.put_nowait(None)

    # The app's side

    async def _receive(self) -> dict[str, Any]:
        if self._receiving:
            self.answer.broken.append("receive() while another receive() waits")
        self._receiving += 1
        try:
            message = await self._next()
        finally:
            self._receiving -= 1
        self.answer.received.append(message["type"])
        return message

    async def _next(self) -> dict[str, Any]:
        over = self._gone.is_set() or self._rules.ended
        if not over and not self._body_over:
            piece = await self._pull()
            if piece is not None:
                return self._request(*piece)
        if not self._rules.ended:
            await self._gone.wait()
        if self._told and self.style == "hypercorn":
            await asyncio.Event().wait()
        self._told = True
        return {"type": "http.disconnect"}

    async def _pull(self) -> tuple[bytes, bool] | None:
        """The next piece of the request's body; None if the caller leaves meanwhile."""
        if self._pulling is None:
            self._pulling = asyncio.ensure_future(self._arrive())
        gone = asyncio.ensure_future(self._gone.wait())
        try:
            await asyncio.wait({self._pulling, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        if not self._pulling.done():
            return None
        piece, self._pulling = self._pulling.result(), None
        return piece

    async def _arrive(self) -> tuple[bytes, bool] | None:
        if self.pause is not None:
            await asyncio.sleep(self.pause)
        return await anext(self._pieces, None)

    def _request(self, piece: bytes, more: bool) -> dict[str, Any]:
        self._taken += 1
        self._body_over = not more
        if self.leave_after == "during body" and self._taken == 1:
            assert more, "to leave during the body it must have two pieces"
            self.leave()
        if self.leave_after == "before first byte" and not more:
            self.leave()
        return {"type": "http.request", "body": piece, "more_body": more}

    async def _send(self, message: Any) -> None:
        if self.task is not None and self.task.done():
            self.answer.broken.append("send() after the app returned")
        broken = len(self._rules.broken)
        self._rules.look(message)
        if len(self._rules.broken) > broken:
            return
        if self._gone.is_set():
            if self.style == "strict":
                raise OSError("the caller has left")
            await asyncio.sleep(0)
            return
        self._record(message)
        await asyncio.sleep(0)
        while self.paced and not self._out.empty() and not self._gone.is_set():
            self._moved.clear()
            await self._moved.wait()

    def _record(self, message: dict[str, Any]) -> None:
        answer = self.answer
        if message["type"] == "http.response.start":
            answer.status, answer.headers = message["status"], list(message.get("headers", ()))
            self._began.set()
            return
        if message["type"] != "http.response.body":
            return
        answer.messages.append(message.get("body", b""))
        answer.ended = not message.get("more_body", False)
        self._out.put_nowait(answer.messages[-1])
        after = self.leave_after
        if answer.ended:
            self._out.put_nowait(None)
            if after == "after the end":
                self.leave()
            self._gone.set()
        elif isinstance(after, int) and len(answer.messages) >= after:
            self.leave()


class Stream:
    """An answer under way, as the caller reads it."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.answer = driver.answer
        self.leave = driver.leave

    async def started(self) -> int | None:
        """The status, once it is there; None when the app returned without one."""
        async with asyncio.timeout(self._driver.timeout):
            await self._driver._began.wait()
        return self.answer.status

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> bytes:
        async with asyncio.timeout(self._driver.timeout):
            piece = await self._driver._out.get()
        self._driver._moved.set()
        if piece is None:
            self._driver._out.put_nowait(None)
            raise StopAsyncIteration
        return piece

    def cancel(self) -> None:
        """Cancel the app's task as a server does that gives up on it."""
        assert self._driver.task is not None
        self._driver.task.cancel()


async def call(app: Any, method: str, path: str, **how: Any) -> Answer:
    """`Driver(app, method, path, **how).run()`."""
    return await Driver(app, method, path, **how).run()
