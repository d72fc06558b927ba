"""One probe at a time in all processes, on a real Valkey."""

from __future__ import annotations

import asyncio
from itertools import count

from asgi_llm_gateway.channels.health import ORDINARY, Probe
from asgi_llm_gateway.channels.preset_default import SERVER_ERROR, UNREACHABLE
from tests.channels_health.shared_processes import Process, processes, sync
from tests.valkey import Valkey


async def probed(one: Process, model: str = "m") -> Probe | None:
    """A call that begins as one of the relay would: its probe if it may go."""
    if not one.health.admits("a", model):
        return None
    probe = one.health.begun("a", model)
    assert probe is not None
    assert probe is not ORDINARY
    return probe if await one.health.claimed("a", model, probe) else None


def later(*which: Process, seconds: float) -> None:
    for one in which:
        one.health.clock.now += seconds


async def opened(*which: Process) -> None:
    which[0].health.fails(SERVER_ERROR, times=5)
    await sync(*which)
    later(*which, seconds=3)


async def test_of_many_processes_that_would_probe_at_once_one_does(valkey: Valkey) -> None:
    async with processes(valkey, 4) as all_of_them:
        await opened(*all_of_them)
        found = await asyncio.gather(*(probed(one) for one in all_of_them))
        assert len([probe for probe in found if probe]) == 1
        later(*all_of_them, seconds=1.1)  # they look again, and it is still under way
        assert [await probed(one) for one in all_of_them] == [None] * 4


async def test_what_the_probe_finds_is_so_for_all(valkey: Valkey) -> None:
    async with processes(valkey) as (a, b):
        await opened(a, b)
        probe = await probed(a)
        assert probe
        assert await probed(b) is None
        a.health.ended("a", "m", verdict=None, seconds=0, probe=probe)
        await sync(a, b)
        assert b.health.quiet or b.health.begun("a", "m") is ORDINARY


async def test_a_probe_that_said_nothing_leaves_it_to_another_process(valkey: Valkey) -> None:
    async with processes(valkey) as (a, b):
        await opened(a, b)
        probe = await probed(a)
        assert probe
        assert await probed(b) is None
        a.health.given_back("a", "m", probe)
        await sync(a)
        assert await probed(b) is None  # it looks again after a second, not for every call
        later(b, seconds=1.1)
        assert await probed(b)


async def test_a_bad_probe_opens_it_for_all_and_the_next_may_be_anybodys(valkey: Valkey) -> None:
    async with processes(valkey) as (a, b):
        await opened(a, b)
        probe = await probed(a)
        assert probe
        a.health.ended("a", "m", verdict=SERVER_ERROR, seconds=0, probe=probe)
        await sync(a, b)
        assert not b.health.admits("a", "m")
        later(a, b, seconds=6)
        assert await probed(b)
        assert await probed(a) is None


async def test_who_is_refused_one_of_two_claims_gives_the_other_back(valkey: Valkey) -> None:
    async with processes(valkey) as (a, b):
        await opened(a, b)
        assert await probed(a)  # of the model
        b.health.fails(UNREACHABLE, times=5)
        later(b, seconds=3)
        assert await probed(b) is None  # it would be one of the channel and of the model
        await sync(b)
        whole = a.health.begun("a", "another")
        a.health.fails(UNREACHABLE, times=5)
        later(a, seconds=3)
        whole = a.health.begun("a", "another")
        assert whole
        assert await a.health.claimed("a", "another", whole)


async def test_a_process_that_died_while_probing_keeps_others_back_for_the_lease(
    valkey: Valkey,
) -> None:
    async with processes(valkey) as (a, b):
        await opened(a, b)
        assert await probed(a)
        (key,) = valkey.call("KEYS", f"{valkey.prefix}*probe*")
        left = valkey.call("PTTL", key)
        assert 9_000 < left <= 10_000
        valkey.call("PEXPIRE", key, 1)
        await asyncio.sleep(0.05)
        assert await probed(b)


async def test_while_the_store_is_away_every_process_probes_for_itself(own_valkey: Valkey) -> None:
    async with processes(own_valkey) as (a, b):
        await opened(a, b)
        with own_valkey.paused():
            assert await probed(a)
            assert await probed(b)


async def test_odd_names_of_models_can_be_claimed(valkey: Valkey) -> None:
    async with processes(valkey) as (a, b):
        names = ("half \ud800 a pair", "two\nlines", "{brace}", "\x00", "模型", "")
        for name in names:
            a.health.fails(SERVER_ERROR, times=5, model=name)
        await sync(a, b)
        later(a, b, seconds=3)
        for name, number in zip(names, count(), strict=False):
            first, second = (a, b) if number % 2 else (b, a)
            assert await probed(first, name)
            assert await probed(second, name) is None
