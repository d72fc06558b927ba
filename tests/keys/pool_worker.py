"""A process that takes keys of a shared pool, for test_many_processes.py; run with -m.

It prints `ready` or `holding`, waits for a line, and prints a JSON object when it is done.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from random import Random

import redis.asyncio

from asgi_llm_gateway.keys.key import Key
from asgi_llm_gateway.keys.limits import KeyLimits
from asgi_llm_gateway.keys.redis import RedisKeyPool
from asgi_llm_gateway.runtime import kept_tasks
from asgi_llm_gateway.state import State

KEYS = [f"sk-{number}" for number in range(50)]


async def _go() -> None:
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)


async def storm(pool: RedisKeyPool, url: str, prefix: str, calls: int) -> dict[str, int]:
    """So many calls at once; each counts, by other means, who else has its key."""
    client = redis.asyncio.Redis.from_url(url, max_connections=60)
    overlaps, rng = Counter[str](), Random(prefix)

    async def call() -> None:
        key = await pool.take(None, wait=60)
        assert key is not None
        counter = f"{prefix}now:{key.secret}"
        overlaps["most"] = max(overlaps["most"], int(await client.incr(counter)))
        await asyncio.sleep(0.001 + rng.random() / 500)
        await client.decr(counter)
        overlaps["calls"] += 1
        pool.report(key, "ok")

    await _go()
    await asyncio.gather(*(call() for _ in range(calls)))
    await kept_tasks().join(10)
    await client.aclose()
    return overlaps


async def hold(pool: RedisKeyPool) -> dict[str, int]:
    """Take every key and keep it for ever."""
    for _ in KEYS:
        await pool.take(None, wait=10)
    print("holding", flush=True)
    await asyncio.sleep(3600)
    return {}


async def use(pool: RedisKeyPool) -> dict[str, float]:
    """Take keys until another line comes; tells when each was last taken."""
    await _go()
    last: dict[str, float] = {}
    enough = asyncio.ensure_future(asyncio.to_thread(sys.stdin.readline))
    while not enough.done():
        key = await pool.take(None)
        assert key is not None
        last[key.secret] = time.time()
        await asyncio.sleep(0.0005)
        pool.report(key, "ok")
    return last


async def main(what: str, url: str, prefix: str, number: str) -> None:
    state = State(url, prefix=prefix, timeout=10)
    limits = KeyLimits(concurrency=None if what == "use" else 1, lease=2 if what == "hold" else 30)
    pool = RedisKeyPool("main", KEYS, state=state, limits=limits)
    assert pool.resources is not None
    async with pool.resources:
        if what == "storm":
            told: dict[str, float] = {**await storm(pool, url, prefix, int(number))}
        elif what == "hold":
            told = {**await hold(pool)}
        elif what == "use":
            told = await use(pool)
        else:
            await pool.remove(Key(what), "the provider answered 401")
            told = {"removed": time.time()}
        await kept_tasks().join(5)
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
