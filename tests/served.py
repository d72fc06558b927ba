"""Any ASGI app on a real server and a real socket, in a thread with an event loop of its own.

    with served(app) as base: httpx.get(base + "/health/live")
    with served(app, server="hypercorn", loop="asyncio") as base: ...

The port is whichever is free, so any number of these run side by side. The app's lifespan runs: it
has started when the block begins and has ended after it. On the way out calls still under way get
`grace` seconds; then they are cancelled. A server that cannot start, and an exception out of it,
fail the test.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import hypercorn.asyncio
import hypercorn.config
import uvicorn
import uvloop

from asgi_llm_gateway.cli.http import PROTOCOL

Server = Literal["uvicorn", "llm-gateway", "hypercorn"]
SERVERS: tuple[Server, ...] = ("uvicorn", "llm-gateway", "hypercorn")
"""The one in the middle is uvicorn as `llm-gateway serve` sets it up, with its own protocol."""
Loop = Literal["uvloop", "asyncio"]
LOOPS: tuple[Loop, ...] = ("uvloop", "asyncio")

_START = 20.0
"""Seconds an app may take to start; generous, since the machine may be busy."""
_POLL = 0.005


@contextmanager
def served(
    app: Any, *, server: Server = "uvicorn", loop: Loop = "uvloop", grace: float = 2.0
) -> Iterator[str]:
    """The base URL (`http://127.0.0.1:PORT`, nothing after it) while the app is served."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    serving = _Serving(_SERVE[server](app, listener, grace), _NEW_LOOP[loop])
    try:
        serving.until_it_listens(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        serving.end(grace)
        listener.close()
    serving.raise_failure()


class _Serving:
    """A server in its thread."""

    def __init__(
        self,
        serve: Callable[[asyncio.Event], Awaitable[None]],
        new_loop: Callable[[], asyncio.AbstractEventLoop],
    ) -> None:
        self._serve = serve
        self._new_loop = new_loop
        self._stop: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="served", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=self._new_loop) as runner:
                runner.run(self._until_told())
        except (Exception, SystemExit) as failure:  # raised again in the test's own thread
            self._failure = failure

    async def _until_told(self) -> None:
        stop = asyncio.Event()
        self._stop = asyncio.get_running_loop(), stop
        await self._serve(stop)

    def until_it_listens(self, port: int) -> None:
        """The port is bound but refuses connections until the server listens on it."""
        deadline = time.monotonic() + _START
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            if not self._thread.is_alive():
                self.raise_failure()
                raise AssertionError("the server ended before it listened")
            time.sleep(_POLL)
        raise AssertionError(f"the server did not listen within {_START} s")

    def end(self, grace: float) -> None:
        """Tell the server to stop and wait until it has."""
        if self._stop is not None and self._thread.is_alive():
            loop, stop = self._stop
            loop.call_soon_threadsafe(stop.set)
        self._thread.join(grace + _START)
        assert not self._thread.is_alive(), "the server did not stop"

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise AssertionError("the server failed") from self._failure


def _uvicorn(
    app: Any, listener: socket.socket, grace: float, http: Any = "httptools"
) -> Callable[[asyncio.Event], Awaitable[None]]:
    config = uvicorn.Config(
        app,
        loop="none",
        http=http,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=max(1, round(grace)),
    )

    async def serve(stop: asyncio.Event) -> None:
        server = uvicorn.Server(config)

        async def told() -> None:
            await stop.wait()
            server.should_exit = True

        watcher = asyncio.create_task(told())
        try:
            await server.serve([listener])
        finally:
            watcher.cancel()

    return serve


def _hypercorn(
    app: Any, listener: socket.socket, grace: float
) -> Callable[[asyncio.Event], Awaitable[None]]:
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.graceful_timeout = grace
    config.errorlog = logging.getLogger("hypercorn.error")

    async def serve(stop: asyncio.Event) -> None:
        await hypercorn.asyncio.serve(app, config, shutdown_trigger=stop.wait)

    return serve


_SERVE: dict[Server, Callable[..., Callable[[asyncio.Event], Awaitable[None]]]] = {
    "uvicorn": _uvicorn,
    "llm-gateway": partial(_uvicorn, http=PROTOCOL),
    "hypercorn": _hypercorn,
}
_NEW_LOOP: dict[Loop, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}
