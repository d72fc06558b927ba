"""Of several workers on one store a single one sweeps, and another goes on when it is gone."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack

import pytest

from asgi_llm_gateway.errors import StateUnavailable
from asgi_llm_gateway.keys.accounts import KeyAccounts
from asgi_llm_gateway.keys.billing import Balance
from asgi_llm_gateway.keys.key import Key
from asgi_llm_gateway.keys.pool import MemoryKeyPool
from asgi_llm_gateway.keys.probes import Asks, Told
from asgi_llm_gateway.keys.redis import RedisKeyPool
from asgi_llm_gateway.keys.sweep import Sweep
from asgi_llm_gateway.state import Lease, State
from tests.upstreams import FakeUpstream, until
from tests.valkey import Valkey

EVERY = 0.02


class Worker:
    """A process of its own, as far as the sweep can see."""

    def __init__(
        self, valkey: Valkey, keys: Sequence[str] = ("sk-one",), *, lease: float = 0.3
    ) -> None:
        self.state = State(valkey.url, prefix=valkey.prefix, timeout=0.5)
        self.asked = 0
        self.hold = asyncio.Event()
        self.hold.set()
        self.pool = RedisKeyPool("main", keys, state=self.state)
        accounts = KeyAccounts(self.pool, Asks(self._ask), FakeUpstream())
        self.sweep = Sweep([accounts], every=EVERY, lease=lease, concurrency=2, state=self.state)

    async def _ask(self, secret: str) -> Told:
        self.asked += 1
        await self.hold.wait()
        return Balance(left=float(secret != "sk-empty"))


async def test_a_lease_has_one_holder_who_alone_can_renew_it_and_give_it_back(
    valkey: Valkey,
) -> None:
    state = State(valkey.url, prefix=valkey.prefix)
    async with state.resources:
        one, two = Lease(state, "it", 30), Lease(state, "it", 30)
        other = Lease(state, "something else", 30)
        assert await one.take()
        assert not await two.take()
        assert await other.take()
        assert await one.take()
        assert not await two.give_back()
        assert not await two.take()
        assert await one.give_back()
        assert not await one.give_back()
        assert await two.take()
        assert 0 < valkey.call("PTTL", state.name("lease", "{it}")) <= 30_000


async def test_a_lease_runs_out(valkey: Valkey) -> None:
    state = State(valkey.url, prefix=valkey.prefix)
    async with state.resources:
        one, two = Lease(state, "it", 0.05), Lease(state, "it", 30)
        assert await one.take()
        await until(lambda: not valkey.call("EXISTS", state.name("lease", "{it}")))
        assert await two.take()
        assert not await one.take()
        assert not await one.give_back()
        assert not await one.take()


async def test_without_a_shared_store_the_lease_is_always_ones_own() -> None:
    for state in (None, State("memory://")):
        one, two = Lease(state, "it"), Lease(state, "it")
        assert await one.take()
        assert await two.take()
        assert await one.give_back()


async def test_of_two_workers_one_sweeps_until_it_stops_and_then_the_other(valkey: Valkey) -> None:
    workers = [Worker(valkey, lease=30), Worker(valkey, lease=30)]
    async with workers[0].state.resources, workers[1].state.resources, AsyncExitStack() as first:
        await first.enter_async_context(workers[0].sweep.resources)
        await until(lambda: workers[0].asked >= 3)
        async with workers[1].sweep.resources:
            seen = workers[0].asked
            await until(lambda: workers[0].asked >= seen + 5)
            assert workers[1].asked == 0
            await first.aclose()
            seen = workers[0].asked
            await until(lambda: workers[1].asked >= 3)
            assert workers[0].asked == seen
        assert valkey.call("EXISTS", workers[0].state.name("lease", "{sweep}")) == 0


async def test_a_long_round_keeps_its_lease(valkey: Valkey) -> None:
    one, two = Worker(valkey), Worker(valkey)
    one.hold.clear()
    async with one.state.resources, two.state.resources, one.sweep.resources:
        await until(lambda: one.asked == 1)
        async with two.sweep.resources:
            await asyncio.sleep(0.7)  # twice as long as the lease
            assert two.asked == 0
            one.hold.set()


async def test_a_round_that_lost_its_lease_stops(valkey: Valkey) -> None:
    worker = Worker(valkey, [f"sk-{n}" for n in range(9)], lease=0.1)
    worker.hold.clear()
    name = worker.state.name("lease", "{sweep}")
    async with worker.state.resources, worker.sweep.resources:
        await until(lambda: worker.asked == 2)
        valkey.call("SET", name, "another worker")
        await asyncio.sleep(0.3)  # longer than it takes to find out
        worker.hold.set()
        await asyncio.sleep(0.1)
        assert worker.asked == 2
        assert valkey.call("GET", name) == b"another worker"
    assert valkey.call("GET", name) == b"another worker"


async def test_what_one_worker_finds_out_every_worker_knows(valkey: Valkey) -> None:
    keys = ["sk-good", "sk-empty"]
    one, two = Worker(valkey, keys), Worker(valkey, keys)
    async with one.state.resources, two.state.resources:
        assert (await one.sweep.round()).removed == 1
        assert [key.secret for key in await two.pool.all()] == ["sk-good"]
        (lost,) = await two.pool.quarantined()
        assert lost.reason == "used up: 0.00 USD left"
        left = {name: balance.left for name, balance in (await two.pool.balances()).items()}
        assert left == {Key("sk-good").fingerprint: 1.0, Key("sk-empty").fingerprint: 0.0}


async def test_each_worker_sweeps_the_keys_it_alone_has(valkey: Valkey) -> None:
    asked: Counter[str] = Counter()

    async def ask(secret: str) -> Told:
        asked[secret] += 1
        return True

    state = State(valkey.url, prefix=valkey.prefix)
    worker = Worker(valkey, lease=30)
    own = KeyAccounts(MemoryKeyPool(["sk-own"]), Asks(ask), FakeUpstream())
    shared = RedisKeyPool("main", state=state)
    accounts = [own, KeyAccounts(shared, Asks(ask), FakeUpstream())]
    async with worker.state.resources, worker.sweep.resources:
        await until(lambda: worker.asked >= 1)
        async with state.resources, Sweep(accounts, every=EVERY, state=state).resources:
            await until(lambda: asked["sk-own"] >= 3)
    assert set(asked) == {"sk-own"}


HOLD = """
import asyncio, sys
from asgi_llm_gateway.state import Lease, State

async def hold():
    lease = Lease(State(sys.argv[1], prefix=sys.argv[2]), "sweep", 0.5)
    assert await lease.take()
    print("held", flush=True)
    await asyncio.sleep(60)

asyncio.run(hold())
"""


async def test_a_killed_worker_is_followed_by_another_when_its_lease_is_over(
    valkey: Valkey,
) -> None:
    arguments = [sys.executable, "-c", HOLD, valkey.url, valkey.prefix]
    process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"held\n"
    process.kill()
    await process.communicate()
    worker = Worker(valkey)
    async with worker.state.resources, worker.sweep.resources:
        await until(lambda: worker.asked >= 1)


async def test_while_the_store_is_away_nobody_sweeps_and_afterwards_somebody_does(
    own_valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(own_valkey)
    with caplog.at_level(logging.WARNING, "asgi_llm_gateway.keys"):
        async with worker.state.resources, worker.sweep.resources:
            await until(lambda: worker.asked >= 1)
            with own_valkey.paused():
                await until(lambda: "keys were not swept" in caplog.text)
                seen = worker.asked
                with pytest.raises(StateUnavailable):
                    await Lease(worker.state, "sweep").take()
            await until(lambda: worker.asked > seen, 20)


async def test_a_store_that_goes_away_in_a_round_or_at_the_end_is_borne_with(
    own_valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(own_valkey, lease=0.1)
    worker.hold.clear()
    with caplog.at_level(logging.INFO, "asgi_llm_gateway.keys"), ExitStack() as stack:
        async with worker.state.resources:
            async with worker.sweep.resources:
                await until(lambda: worker.asked == 1)
                stack.enter_context(own_valkey.paused())
                await until(lambda: "the lease of the sweep was not renewed" in caplog.text)
            assert "the lease of the sweep runs out by itself" in caplog.text
