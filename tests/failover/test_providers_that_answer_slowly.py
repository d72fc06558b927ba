"""A provider that is well again but takes its time must come back all the same."""

from __future__ import annotations

import asyncio
from random import Random

from asgi_llm_gateway import Failover, Relay
from asgi_llm_gateway.channels.health.rules import HealthRules
from tests.upstreams import FakeUpstream, Reply, ask, channel_to


async def test_traffic_returns_although_each_answer_takes_longer_than_a_probes_lease() -> None:
    slow = Reply(head=[0.3], steps=Reply.chat().steps)
    upstream = FakeUpstream(Reply.error(500), slow)
    rules = HealthRules(failures=1, first_open=0.05, jitter=0, probe_lease=0.1)
    failover = Failover(max_attempts=1, health=rules)
    relay = Relay([channel_to(upstream)], failover=failover, rng=Random(1))
    assert (await ask(relay)).status == 500

    async def later(number: int) -> int:
        await asyncio.sleep(0.06 + number * 0.05)
        return (await ask(relay)).status

    seen = await asyncio.gather(*(later(number) for number in range(40)))
    assert set(seen[20:]) == {200}, seen
