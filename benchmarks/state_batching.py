"""One script call each by many callers at once: our line against redis-py, one by one.

    python -m benchmarks.state_batching            # starts a Valkey of its own on loopback
    STORE=redis://host/15 python -m benchmarks.state_batching

Prints CPU microseconds of this process per call and the ratio, at 1 and 64 callers, in rounds
taken in turn; trust the ratio. Ends by itself in well under a minute.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable

import redis.asyncio as redis
import uvloop

from asgi_llm_gateway.state import Script, State
from tests.valkey import Valkey

ROUNDS = 5
CALLS = 6_400
TAKE = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")


async def cpu_per_call(call: Callable[[], Awaitable[object]], callers: int) -> float:
    """Microseconds of CPU, this process alone."""

    async def caller() -> None:
        for _ in range(CALLS // callers):
            await call()

    before = time.process_time()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return (time.process_time() - before) / CALLS * 1e6


async def compare(url: str) -> None:
    """Both in turn, so that a noisy moment hits both."""
    state = State(url, prefix="bench:", timeout=10)
    key = state.name("n")
    client = redis.Redis.from_url(url)
    script = client.register_script(TAKE.text)
    async with state.resources, client:
        await state.run(TAKE, [key], [1])
        await script(keys=[key], args=[1])
        for callers in (1, 64):
            ours: list[float] = []
            theirs: list[float] = []
            for _ in range(ROUNDS):
                ours.append(await cpu_per_call(lambda: state.run(TAKE, [key], [1]), callers))
                theirs.append(await cpu_per_call(lambda: script(keys=[key], args=[1]), callers))
            ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
            print(
                f"{callers:3} callers: state {statistics.median(ours):6.1f} µs,"
                f" redis-py {statistics.median(theirs):6.1f} µs a call;"
                f" 1/{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
            )
        await state.command("DEL", key)


def main() -> None:
    """Against STORE, or a server of its own."""
    if url := os.environ.get("STORE"):
        uvloop.run(compare(url))
        return
    server = Valkey()
    try:
        uvloop.run(compare(server.start().url))
    finally:
        server.discard()


if __name__ == "__main__":
    main()
