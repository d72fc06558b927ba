"""Scheduled test calls of several workers, on a real Valkey."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from asgi_llm_gateway.channels.checkup import Checkup
from asgi_llm_gateway.channels.error_table import ErrorTable
from asgi_llm_gateway.state import State
from tests.channels_health.clocked import Watched
from tests.upstreams import until
from tests.valkey import Valkey


class Worker:
    """A Checkup that counts its rounds."""

    def __init__(self, server: Valkey) -> None:
        self.asked = 0
        self.state = State(server.url, prefix=server.prefix, timeout=0.5, connect_timeout=1)
        self.checkup = Checkup(
            Watched(),
            ErrorTable(),
            self._test,
            channels=lambda: ["a"],
            which="all",
            every=0.02,
            state=self.state,
        )

    async def _test(self, channel: str) -> float:
        self.asked += 1
        return 0.1


async def test_one_of_the_workers_tests_and_the_next_when_it_stops(valkey: Valkey) -> None:
    first, second = Worker(valkey), Worker(valkey)
    async with AsyncExitStack() as stack:
        for worker in (first, second):
            await stack.enter_async_context(worker.state.resources)
        async with AsyncExitStack() as testing:
            await testing.enter_async_context(first.checkup.resources)
            await until(lambda: first.asked >= 1)
            await stack.enter_async_context(second.checkup.resources)
            rounds = first.asked
            await until(lambda: first.asked >= rounds + 5)
            assert second.asked == 0
        await until(lambda: second.asked >= 1)


async def test_while_the_store_is_away_each_tests_for_itself(own_valkey: Valkey) -> None:
    workers = Worker(own_valkey), Worker(own_valkey)
    async with AsyncExitStack() as stack:
        for worker in workers:
            await stack.enter_async_context(worker.state.resources)
            await worker.state.command("PING")
        with own_valkey.paused():
            for worker in workers:
                await stack.enter_async_context(worker.checkup.resources)
            async with asyncio.timeout(20):
                await until(lambda: all(worker.asked for worker in workers))
