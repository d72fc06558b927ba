"""uvicorn, set up the way a gateway needs it."""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from . import http

if TYPE_CHECKING:
    import uvicorn

KEEP_ALIVE = 75
"""Seconds an idle connection is kept: longer than the 60 after which load balancers drop one, so
that they do not send a request into a connection we are just closing."""
BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A socket bound and listening; raises ConfigurationError when that cannot be."""
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"--port is a number from 0 to 65535, not {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as exc:
        # Python adds the address again to its text for a positive errno; getaddrinfo's is negative.
        reason = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else exc.strerror
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {reason}; choose another --host or --port"
        ) from exc
    listener.set_inheritable(True)
    return listener


def address(listener: socket.socket) -> str:
    """The URL of a listening socket's root."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def config(
    make_app: Callable[[], Any],
    *,
    shutdown_timeout: float,
    root_path: str = "",
    workers: int = 1,
) -> uvicorn.Config:
    """uvicorn's configuration; raises ConfigurationError when it is not installed.

    No access log (it costs more than the whole relay), no `server` header, and X-Forwarded-For is
    judged by auth/client_ip.py, never rewritten on the way in.
    """
    try:
        import uvicorn
    except ImportError as exc:
        raise ConfigurationError(
            "serving needs uvicorn: pip install 'asgi-llm-gateway[server]'"
        ) from exc
    return uvicorn.Config(
        make_app,
        factory=True,
        http=http.PROTOCOL,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        root_path=root_path,
        workers=workers,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(shutdown_timeout),
    )


def run_here(configured: uvicorn.Config, listener: socket.socket, started: str) -> int:
    """Serve in this process until a signal ends it; `started` is printed once calls are taken."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print(started, flush=True)

    # uvicorn raises the signal again when it is done: an orderly end is no failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        Server(configured).run([listener])
    except KeyboardInterrupt:
        return 0
    return 0


def run_workers(configured: uvicorn.Config, listener: socket.socket, started: str) -> int:
    """Serve in several processes. SIGHUP replaces them one after the other, each drained."""
    from uvicorn.supervisors import Multiprocess

    print(started, flush=True)
    Multiprocess(configured, [listener]).run()
    return 0
