"""`llm-gateway serve`."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from ..errors import ConfigurationError
from ..gateway import Gateway
from ..settings import (
    Settings,
    live_channels,
    read_settings,
    require_callers,
    require_shared_state,
)
from . import logs, server
from .check import counted
from .files import settings_file

log = logging.getLogger("asgi_llm_gateway.cli")

_GC_THRESHOLD = (20_000, 20, 50)
"""Python's own is 700, 10, 10."""
Flags = Mapping[str, Mapping[str, Any]]


def run(given: argparse.Namespace) -> int:
    """Check everything that can be checked before listening, then serve until a signal."""
    source = settings_file(given.file)
    flags = {
        "server": {
            "host": given.host,
            "port": given.port,
            "workers": given.workers,
            "log_dir": given.log_dir,
            "log_level": given.log_level,
        }
    }
    settings = read_settings(source, flags=flags)
    live_channels(settings)
    require_callers(settings)
    require_shared_state(settings)
    logs.configure(settings.server)
    workers = settings.server.workers
    configured = server.config(
        partial(make_app, source, flags, settings if workers == 1 else None),
        shutdown_timeout=settings.server.shutdown_timeout,
        root_path=settings.server.root_path,
        workers=workers,
    )
    listener = server.listen(settings.server.host, settings.server.port)
    base_url = f"{server.address(listener)}{settings.server.root_path}/v1"
    started = f"llm-gateway: serving {base_url} ({counted(settings)})"
    if workers > 1:
        return server.run_workers(configured, listener, f"{started} in {workers} processes")
    return server.run_here(configured, listener, started)


def make_app(source: str | None, flags: Flags, settings: Settings | None = None) -> Gateway:
    """The gateway of one serving process; uvicorn calls this in each, inside its event loop.

    `settings` are the source's if they were read just now; other processes read for themselves.
    Settings that became wrong since `serve` began end the process, with a line for each fault:
    where there are several, those that serve already go on.
    """
    try:
        if settings is None:
            settings = read_settings(source, flags=flags)
        logs.configure(settings.server)
        gateway = Gateway.from_settings(settings, flags=flags)
    except ConfigurationError as problem:
        for line in problem.message.splitlines():
            print(f"llm-gateway: {line}", file=sys.stderr, flush=True)
        raise SystemExit(1) from problem
    if hasattr(signal, "SIGHUP"):
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, partial(reload, gateway, source))
    # What stands now stays, so the garbage collector need not look at it on every round; and calls
    # under way hold some thousand objects and leave no cycles, so it need not look after every 700.
    # Left alone it takes a tenth of every call, and some calls wait 20 ms for it.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLD)
    return gateway


def reload(gateway: Gateway, source: str | None) -> None:
    """Read the settings again; what is wrong with them is logged, and nothing changes."""
    try:
        gateway.reload({} if source is None else source)
    except ConfigurationError as problem:
        for line in problem.message.splitlines():
            log.error("not reloaded: %s", line)  # noqa: TRY400 - the line says what to do
