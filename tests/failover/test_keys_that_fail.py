"""Keys that die, or are used up for a while, under calls that go on."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.failover.world import SLACK, World, world
from tests.faults import TEXT, good, rate_limited, refusal
from tests.faulty_peer import Fault, Tried

FIVE = [f"sk-a-key-{n}" for n in range(5)]


def limited_keys(there: World, *keys: str, until: float) -> None:
    """From now on these keys are over their limit, until the loop's clock says so much."""
    loop = asyncio.get_running_loop()

    def fault(tried: Tried) -> Fault:
        over = tried.key in keys and loop.time() < until
        return (
            rate_limited(f"retry-after-ms: {(until - loop.time()) * 1000:.0f}") if over else good()
        )

    there.a.script = fault


async def test_keys_that_die_in_the_middle_are_noticed_by_nobody() -> None:
    async with world(channel={"keys": FIVE}, other=False) as there:
        for wave in range(4):
            if wave == 1:
                there.a.dead_keys = set(FIVE[:3])
            answers = await asyncio.gather(*[there.ask(stream=n % 2 == 0) for n in range(30)])
            assert [got.text for got in answers if got.end != "whole"] == []
        last = {tried.key for tried in there.a.tried[-60:]}
        assert last == set(FIVE[3:])
        await there.nothing_left()


async def test_a_dead_key_is_asked_no_more() -> None:
    async with world(channel={"keys": FIVE}) as there:
        there.a.dead_keys = set(FIVE[1:])
        for _ in range(20):
            assert (await there.ask()).text == TEXT
        asked = Counter(there.a.keys)
        assert all(asked[key] <= 1 for key in FIVE[1:])
        assert asked[FIVE[0]] == 20
        assert not there.b.tried


async def test_a_channel_whose_keys_are_all_dead_is_passed_by() -> None:
    async with world(channel={"keys": FIVE}) as there:
        there.a.dead_keys = set(FIVE)
        for _ in range(5):
            got = await there.ask()
            assert (got.text, got.header("x-llm-channel")) == (TEXT, "b")
        assert sorted(there.a.keys) == FIVE
        await there.nothing_left()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_key_over_its_limit_rests_as_long_as_the_provider_says(stream: bool) -> None:
    loop = asyncio.get_running_loop()
    async with world(channel={"choose_key": "round_robin"}) as there:
        free_at = loop.time() + 1.0
        limited_keys(there, "sk-a-key-1", until=free_at)
        while loop.time() < free_at + 0.5:
            assert (await there.ask(stream=stream)).text == TEXT
            await asyncio.sleep(0.05)
        asked = [t.at for t in there.a.tried if t.key == "sk-a-key-1"]
        early = [at for at in asked if at < free_at - 0.05]
        assert len(early) == 1, "it was asked again although it was to rest"
        assert len(asked) > 1, "it was never asked again"
        await there.nothing_left()


async def test_a_key_that_rests_is_not_in_the_way_of_another_channel() -> None:
    """Whatever would prefer the channel: its keys rest, so the other one serves."""
    async with world(rate_limited("retry-after: 20")) as there:
        for n in range(6):
            got = await there.ask(user="alice", headers={"x-session": "s1"})
            assert (got.text, got.header("x-llm-channel")) == (TEXT, "b")
            assert got.where == ("aab" if n == 0 else "b")
        assert len(there.a.tried) == 2


async def test_when_every_key_rests_the_caller_is_told_when_to_come_again() -> None:
    async with world(rate_limited("retry-after: 20"), other=False) as there:
        await there.ask()
        got = await there.ask()
        assert got.status in (429, 503)
        assert 1 <= int(got.header("retry-after") or 0) <= 60
        assert got.seconds < SLACK
        assert len(there.a.tried) == 2
        await there.nothing_left()


async def test_a_refusal_of_one_model_does_not_cost_the_key() -> None:
    def only_small(tried: Tried) -> Fault:
        return good() if tried.model == "small" else refusal(403, code="model_not_allowed")

    async with world(other=False) as there:
        there.a.script = only_small
        assert (await there.ask(model="large")).status in (403, 503)
        there.a.script = (good(),)
        assert there.relay.channels is not None
        (channel,) = there.relay.channels.channels
        assert len(await channel.pool.all()) == 2
