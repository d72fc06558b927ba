"""Two gateways in one process, one gateway in two event loops: nothing of one is the other's."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from asgi_llm_gateway import Gateway
from asgi_llm_gateway.channels.policy import Failover
from asgi_llm_gateway.channels.retrying import Backoff
from tests.upstreams import FakeUpstream, Reply, ask, channel_to, until

QUICK = Backoff(first=0.001, factor=1.0, cap=0.001)


def gateway_to(upstream: FakeUpstream, **more: Any) -> Gateway:
    failover = Failover(max_attempts=1, backoff=QUICK)
    channel = channel_to(upstream, keys=["sk-one-11111111", "sk-two-22222222"])
    return Gateway([channel], anonymous=True, failover=failover, **more)


async def test_keys_health_and_stats_of_one_are_not_the_others() -> None:
    broken, dead = FakeUpstream(Reply.error(500)), FakeUpstream(Reply.error(401))
    well = FakeUpstream()
    async with gateway_to(broken) as one, gateway_to(dead) as two, gateway_to(well) as three:
        for _ in range(6):
            await ask(one)
            await ask(two)
        assert [s.condition for s in one.relay.health.states()] == ["open"]
        assert not two.relay.health.states()
        assert two.relay.channels is not None
        assert await two.relay.channels.by_name["main"].pool.all() == []
        assert three.relay.health.quiet
        assert three.relay.channels is not None
        channel = three.relay.channels.by_name["main"]
        assert len(await channel.pool.all()) == 2
        assert channel.stats.latency is None
        assert (await ask(three)).status == 200


async def test_one_that_stops_or_reloads_leaves_the_other_running() -> None:
    first, second = FakeUpstream(), FakeUpstream()
    other = gateway_to(second)
    async with other:
        async with gateway_to(first) as one:
            one.relay.health.disable("main")
            one.relay.reload([channel_to(first, name="new")])
            assert (await ask(one)).status == 200
        assert (await ask(other)).header("x-llm-channel") == "main"
        assert not other.relay.health.states()


async def test_a_gateway_starts_again_after_it_was_stopped() -> None:
    upstream = FakeUpstream()
    gateway = gateway_to(upstream)
    for _ in range(3):
        async with gateway:
            assert (await ask(gateway)).status == 200
        assert (await ask(gateway)).status == 503


async def test_in_two_loops_health_is_one_and_each_ends_by_itself() -> None:
    upstream = FakeUpstream()
    gateway = gateway_to(upstream)
    statuses: list[int | None] = []
    go_on, over = threading.Event(), threading.Event()

    async def elsewhere() -> None:
        async with gateway:
            statuses.append((await ask(gateway)).status)
            await asyncio.to_thread(go_on.wait, 10)
            statuses.append((await ask(gateway)).status)
        over.set()

    thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
    async with gateway:
        thread.start()
        await until(lambda: statuses)
        gateway.relay.health.disable("main")
        go_on.set()
        await until(over.is_set)
        gateway.relay.health.enable("main")
        assert (await ask(gateway)).status == 200
    await asyncio.to_thread(thread.join)
    assert statuses == [200, 503]
