"""The lifespan half of the ASGI server in asgi.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


class StartupFailed(Exception):
    """The app answered lifespan.startup.failed."""


@dataclass
class Lifespan:
    """What a server keeps of an app's lifespan."""

    state: dict[str, Any] = field(default_factory=dict)
    supported: bool = True
    """False when the app raised at the lifespan scope: the server goes on without."""
    sent: list[str] = field(default_factory=list)
    exception: BaseException | None = None


_EXPECTED = {
    (): {"lifespan.startup.complete", "lifespan.startup.failed"},
    ("lifespan.startup.complete",): {"lifespan.shutdown.complete", "lifespan.shutdown.failed"},
}


@asynccontextmanager
async def lifespan(app: Any, *, timeout: float = 10.0) -> AsyncIterator[Lifespan]:
    """Start `app`, run the block, stop it; the order of its messages is checked.

    Raises StartupFailed with the app's message when it says so.
    """
    server = _Server(app, timeout)
    await server.start()
    try:
        yield server.lifespan
    finally:
        await server.stop()


class _Server:
    def __init__(self, app: Any, timeout: float) -> None:
        self.lifespan = Lifespan()
        self._timeout = timeout
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._failed: str | None = None
        self._started = asyncio.Event()
        self._shutting_down = False
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.lifespan.state,
        }
        self._task = asyncio.ensure_future(app(scope, self._to_app.get, self._send))
        self._task.add_done_callback(lambda _: self._started.set())

    async def _send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        sent = self.lifespan.sent
        assert kind in _EXPECTED.get(tuple(sent), set()), f"{kind} after {sent}"
        assert self._shutting_down or "startup" in kind, f"{kind} before lifespan.shutdown"
        sent.append(kind)
        if kind.endswith("failed"):
            self._failed = message.get("message", "")
        self._started.set()

    async def start(self) -> None:
        self._to_app.put_nowait({"type": "lifespan.startup"})
        async with asyncio.timeout(self._timeout):
            await self._started.wait()
        if self._failed is not None:
            await asyncio.wait({self._task}, timeout=self._timeout)
            self._look()
            raise StartupFailed(self._failed)
        if not self.lifespan.sent:
            self._look()
            assert self.lifespan.exception is not None, "the app returned without starting"
            self.lifespan.supported = False

    async def stop(self) -> None:
        self._shutting_down = True
        self._to_app.put_nowait({"type": "lifespan.shutdown"})
        _, pending = await asyncio.wait({self._task}, timeout=self._timeout)
        assert not pending, "the app did not return after lifespan.shutdown"
        self._look()
        if self.lifespan.supported:
            if self.lifespan.exception is not None:
                raise self.lifespan.exception
            assert self.lifespan.sent[-1:] == ["lifespan.shutdown.complete"], self.lifespan.sent

    def _look(self) -> None:
        if self._task.done() and not self._task.cancelled():
            self.lifespan.exception = self._task.exception()
