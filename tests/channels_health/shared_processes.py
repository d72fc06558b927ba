"""Processes that share their health: each a Health with a connection of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from asgi_llm_gateway.channels.health.shared import SharedHealth
from asgi_llm_gateway.state import State
from tests.channels_health.clocked import Watched
from tests.valkey import Valkey


class Process:
    """A Health, its sharing, and the connection it has of its own."""

    def __init__(self, server: Valkey, *, period: float = 0.05) -> None:
        self.state = State(server.url, prefix=server.prefix, timeout=0.5, connect_timeout=1)
        self.shared = SharedHealth(self.state, period=period)
        self.health = Watched(shared=self.shared)


@asynccontextmanager
async def processes(server: Valkey, count: int = 2) -> AsyncIterator[list[Process]]:
    """Some of them, whose syncing is done by hand."""
    async with AsyncExitStack() as stack:
        made = [Process(server) for _ in range(count)]
        for one in made:
            await stack.enter_async_context(one.state.resources)
        yield made


async def sync(*which: Process) -> None:
    for one in which:
        await one.shared.sync()


def number(server: Valkey) -> int:
    """How many changes the store was told."""
    return int(server.call("HGET", f"{server.prefix}{{health}}:number", "number"))


async def until(*which: Process, what: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not what():
            await sync(*which)
            await asyncio.sleep(0.1)
