"""Which of equals is asked, by each strategy, call after call through a relay."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

import pytest

from asgi_llm_gateway import Relay
from asgi_llm_gateway.channels.choosing import STRATEGIES
from asgi_llm_gateway.channels.policy import Failover
from tests.upstreams import FakeUpstream, Reply, ask, channel_to, until


def relay_of(strategy: str, *channels: Any) -> Relay:
    return Relay(channels, failover=Failover(strategy=strategy), rng=Random(1))


async def served(relay: Relay, calls: int) -> list[str | None]:
    return [(await ask(relay)).header("x-llm-channel") for _ in range(calls)]


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
async def test_each_strategy_serves_and_keeps_to_priorities(strategy: str) -> None:
    upstream = FakeUpstream()
    relay = relay_of(
        strategy,
        channel_to(upstream, name="a", priority=1),
        channel_to(upstream, name="b", priority=1),
        channel_to(upstream, name="low", priority=0, cost=0.0),
    )
    assert set(await served(relay, 12)) <= {"a", "b"}


async def test_round_robin_takes_turns() -> None:
    upstream = FakeUpstream()
    channels = [channel_to(upstream, name=name) for name in "abc"]
    turns = await served(relay_of("round_robin", *channels), 9)
    assert turns[:3] == turns[3:6] == turns[6:]
    assert set(turns) == set("abc")


async def test_weighted_goes_by_the_weights() -> None:
    upstream = FakeUpstream()
    channels = [channel_to(upstream, name="a", weight=9), channel_to(upstream, name="b", weight=1)]
    shares = Counter(await served(relay_of("weighted", *channels), 200))
    assert 150 < shares["a"] < 200


async def test_the_least_busy_is_asked() -> None:
    gate = asyncio.Event()

    class Gated(FakeUpstream):
        async def send(self, request: Any) -> Any:
            answer = await super().send(request)
            await gate.wait()
            return answer

    upstream = Gated()
    channels = [channel_to(upstream, name=name) for name in "abcd"]
    relay = relay_of("least_in_flight", *channels)
    calls = [asyncio.create_task(ask(relay)) for _ in range(8)]
    await until(lambda: len(upstream.asked) == 8)
    gate.set()
    shares = Counter([(await one).header("x-llm-channel") for one in calls])
    assert shares == {"a": 2, "b": 2, "c": 2, "d": 2}


async def test_the_sooner_one_is_asked_once_both_are_known() -> None:
    slow = FakeUpstream(Reply(head=[0.05], steps=Reply.chat().steps))
    quick = FakeUpstream()
    relay = relay_of("latency", channel_to(slow, name="slow"), channel_to(quick, name="quick"))
    await served(relay, 4)
    assert set(await served(relay, 10)) == {"quick"}


async def test_the_cheapest_is_asked_until_it_fails() -> None:
    dear, cheap = FakeUpstream(), FakeUpstream(Reply.chat(), Reply.chat(), Reply.error(400 + 29))
    relay = relay_of(
        "cheapest", channel_to(dear, name="dear", cost=3), channel_to(cheap, name="cheap", cost=1)
    )
    assert await served(relay, 3) == ["cheap", "cheap", "dear"]


async def test_the_one_with_most_of_its_limits_left_is_asked() -> None:
    def left(share: int) -> FakeUpstream:
        headers = [
            (b"content-type", b"application/json"),
            (b"x-ratelimit-limit-requests", b"100"),
            (b"x-ratelimit-remaining-requests", b"%d" % share),
            (b"x-ratelimit-reset-requests", b"60s"),
        ]
        return FakeUpstream(Reply(200, headers, Reply.chat().steps))

    relay = relay_of(
        "headroom", channel_to(left(5), name="used"), channel_to(left(80), name="fresh")
    )
    await served(relay, 6)
    assert set(await served(relay, 10)) == {"fresh"}
