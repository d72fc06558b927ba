"""Four processes, one pool, a real store."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asgi_llm_gateway.keys.limits import KeyLimits
from asgi_llm_gateway.keys.redis import RedisKeyPool
from asgi_llm_gateway.state import State
from tests.keys.pool_worker import KEYS
from tests.valkey import Valkey

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def workers(server: Valkey, *commands: tuple[str, str]) -> Iterator[list[subprocess.Popen[str]]]:
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.keys.pool_worker", what, server.url, server.prefix, how],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for what, how in commands
    ]
    try:
        yield started
    finally:
        for worker in started:
            worker.kill()
            worker.communicate()


def line(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().strip()


def start(workers: list[subprocess.Popen[str]]) -> None:
    for worker in workers:
        assert line(worker) == "ready"
    signal_all(workers)


def signal_all(workers: list[subprocess.Popen[str]]) -> None:
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()


def told(worker: subprocess.Popen[str]) -> Any:
    return json.loads(line(worker))


def test_two_thousand_calls_of_four_processes_never_meet_on_a_key(valkey: Valkey) -> None:
    with workers(valkey, *[("storm", "500")] * 4) as four:
        start(four)
        results = [told(worker) for worker in four]
    assert [result["calls"] for result in results] == [500] * 4
    assert max(result["most"] for result in results) == 1
    held = [name for name in valkey.call("KEYS", "*:held:*") if valkey.call("ZCARD", name)]
    assert held == []


async def test_a_process_that_is_killed_frees_its_slots_within_the_lease(valkey: Valkey) -> None:
    state = State(valkey.url, prefix=valkey.prefix)
    pool = RedisKeyPool("main", KEYS, state=state, limits=KeyLimits(concurrency=1, lease=2))
    with workers(valkey, ("hold", "0")) as (holder,):
        assert await asyncio.to_thread(line, holder) == "holding"
        assert await _free(pool) == 0
        await asyncio.sleep(2.5)
        assert await _free(pool) == 0, "a living process keeps its slots"
        holder.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        keys = await asyncio.gather(*(pool.take(None, wait=20) for _ in KEYS))
        assert time.monotonic() - killed < 2 + 2
    assert len({key.secret for key in keys if key is not None}) == len(KEYS)


async def _free(pool: RedisKeyPool) -> int:
    results = await asyncio.gather(*(pool.take(None) for _ in KEYS), return_exceptions=True)
    return sum(not isinstance(result, BaseException) for result in results)


def test_a_key_removed_by_one_process_is_used_by_none_a_second_later(valkey: Valkey) -> None:
    with workers(valkey, *[("use", "0")] * 3) as three:
        start(three)
        time.sleep(0.5)
        with workers(valkey, ("sk-7", "0")) as (remover,):
            removed = told(remover)["removed"]
        time.sleep(1.2)
        signal_all(three)
        results = [told(worker) for worker in three]
    assert all(len(result) == len(KEYS) for result in results)
    assert all(result["sk-7"] < removed + 1 for result in results)
    assert all(max(result.values()) > removed + 1 for result in results), "they were still at it"
