"""Taking a key and giving it back, in memory and in Valkey, in microseconds.

    .venv/bin/python -m benchmarks.key_pools [redis://localhost:6379/0]

Every call of the gateway does both. In memory the least of many runs counts: the others were
disturbed. With a store's URL also what one `take.lua` costs the store itself, which stands still
meanwhile, for a thousand keys: while all have room, while they fill up, and for a call too large
for what room they have. It resets the store's statistics, and deletes what it wrote.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from time import perf_counter
from typing import Any

from asgi_llm_gateway.keys.key import Key
from asgi_llm_gateway.keys.limits import KeyLimits
from asgi_llm_gateway.keys.pool import MemoryKeyPool
from asgi_llm_gateway.keys.redis_store import PoolStore
from asgi_llm_gateway.state import State

ROUNDS, CALLS = 40, 500
TAKE_LIMIT, REPORT_LIMIT = 1.2, 0.4
"""Microseconds for a pool without limits."""


async def in_memory(pool: MemoryKeyPool) -> tuple[float, float]:
    """The least seconds that one take and one report took."""
    take, report = pool.take, pool.report
    best = [float("inf"), float("inf")]
    for _ in range(ROUNDS):
        gc.disable()
        began = perf_counter()
        keys: list[Any] = [await take(None) for _ in range(CALLS)]
        taken = perf_counter()
        for key in keys:
            report(key, "ok")
        ended = perf_counter()
        gc.enable()
        best = [min(best[0], taken - began), min(best[1], ended - taken)]
    return best[0] / CALLS, best[1] / CALLS


async def memory_pools() -> bool:
    pools: dict[str, dict[str, Any]] = {
        "no limits, random": {},
        "no limits, round_robin": {"choose": "round_robin"},
        "no limits, least_used": {"choose": "least_used"},
        "concurrency": {"limits": KeyLimits(concurrency=ROUNDS * CALLS)},
        "concurrency, rpm, tpm": {
            "limits": KeyLimits(concurrency=ROUNDS * CALLS, rpm=10**9, tpm=10**9)
        },
    }
    print(f"{'in memory, µs':26}{'keys':>6}{'take':>8}{'report':>8}")
    kept = True
    for name, how in pools.items():
        for size in (3, 100):
            secrets = [f"sk-{number}" for number in range(size)]
            take, report = (1e6 * s for s in await in_memory(MemoryKeyPool(secrets, **how)))
            print(f"{name:26}{size:6}{take:8.2f}{report:8.2f}")
            if name in ("no limits, random", "no limits, round_robin"):
                kept = kept and take <= TAKE_LIMIT and report <= REPORT_LIMIT
    print(
        f"without limits: at most {TAKE_LIMIT} and {REPORT_LIMIT}: {'kept' if kept else 'NOT KEPT'}"
    )
    return kept


async def store_cost(state: State, choose: str, limits: KeyLimits) -> list[float]:
    """What a take cost the store while there was room, at the end of it, and for a large call."""
    store = PoolStore(state, f"bench-{choose}", choose=choose, limits=limits, seal=None)
    await store.seed(Key(f"sk-{number}") for number in range(1000))

    async def cost(calls: int, tokens: int) -> float:
        await state.command("CONFIG", "RESETSTAT")
        for number in range(calls):
            await store.take(f"{tokens}-{calls}-{number}", (), tokens, (number * 0.37) % 1)
        told = await state.command("INFO", "commandstats")
        line = next(row for row in told.decode().split() if row.startswith("cmdstat_evalsha:"))
        fields = dict(pair.split("=") for pair in line.partition(":")[2].split(","))
        return float(fields["usec_per_call"])

    try:
        costs = [await cost(300, 1), await cost(1500, 600), await cost(20, 600)]
    finally:
        names = await state.command("KEYS", state.name("*"))
        for name in names:
            await state.command("DEL", name)
    return costs


async def shared_pools(url: str) -> None:
    state = State(url, prefix="bench:key-pools:", timeout=30)
    async with state.resources:
        print(f"\n{'take.lua, µs of the store':36}{'room':>8}{'filling':>9}{'too large':>11}")
        for choose in ("random", "round_robin", "least_used"):
            for name, limits in (
                ("concurrency", KeyLimits(concurrency=2)),
                ("concurrency, rpm, tpm", KeyLimits(concurrency=5, rpm=1000, tpm=1000)),
            ):
                room, filling, large = await store_cost(state, choose, limits)
                print(f"{choose + ': ' + name:36}{room:8.0f}{filling:9.0f}{large:11.0f}")


async def main() -> int:
    kept = await memory_pools()
    if len(sys.argv) > 1:
        await shared_pools(sys.argv[1])
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
