"""Health told from process to process, on a real Valkey."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from asgi_llm_gateway.channels.error_class import ErrorClass
from asgi_llm_gateway.channels.preset_default import SERVER_ERROR, UNREACHABLE
from tests.channels_health.shared_processes import Process, number, processes, sync
from tests.valkey import Valkey

GONE = ErrorClass("gone", health="remove", scope="channel")


async def test_what_one_finds_ill_the_others_leave_alone(valkey: Valkey) -> None:
    async with processes(valkey) as (a, b):
        a.health.fails(SERVER_ERROR, times=5)
        await sync(a, b)
        assert not b.health.admits("a", "m")
        assert b.health.admits("a", "other")
        left = (b.health.retry_at("a", "m") or 0) - b.health.clock.now
        assert 1 < left <= 2
        assert b.health.events[0].reason == "5 failures in a row, the last: server_error"


async def test_what_one_finds_well_again_the_others_use_again(valkey: Valkey) -> None:
    async with processes(valkey) as (a, b):
        a.health.fails(UNREACHABLE, times=5)
        await sync(a, b)
        a.health.clock.now += 2
        probe = a.health.begun("a", "m")
        assert probe is not None
        a.health.ended("a", "m", verdict=None, seconds=0, probe=probe)
        await sync(a, b)
        assert b.health.admits("a", "m")
        assert b.health.changes == [("a", None, "open"), ("a", None, "closed")]


async def test_the_longest_opening_counts(valkey: Valkey) -> None:
    async with processes(valkey, 3) as (a, b, c):
        a.health.fails(SERVER_ERROR, cooldown=50.0)
        b.health.fails(SERVER_ERROR, cooldown=10.0)
        await sync(a, b, a, c)
        for one in (a, b, c):
            left = (one.health.retry_at("a", "m") or 0) - one.health.clock.now
            assert 45 < left <= 50


async def test_nobody_closes_what_he_has_not_seen_opened(valkey: Valkey) -> None:
    async with processes(valkey) as (a, b):
        b.health.fails(SERVER_ERROR, times=5)
        await sync(b)
        a.health.fails(SERVER_ERROR, times=5)
        b.health.clock.now += 2
        probe = b.health.begun("a", "m")
        assert probe is not None
        b.health.ended("a", "m", verdict=None, seconds=0, probe=probe)
        await sync(a)  # opens it once more before b tells that it is well
        await sync(b)
        assert not b.health.admits("a", "m")


async def test_a_hand_anywhere_wins_everywhere(valkey: Valkey) -> None:
    async with processes(valkey, 3) as (a, b, c):
        a.health.disable("a", "on holiday")
        await sync(a, b)
        assert not b.health.admits("a", "m")
        c.health.fails(UNREACHABLE, times=5)  # c has not heard of it yet
        await sync(c, b)
        for one in (b, c):
            assert [s.condition for s in one.health.states()] == ["disabled"]
        b.health.tested("a", verdict=None, seconds=0.1)
        await sync(b, a)
        assert not a.health.admits("a", "m")
        c.health.enable("a")
        await sync(c, a, b)
        for one in (a, b, c):
            assert one.health.admits("a", "m")


async def test_enabled_and_ill_again_at_once_is_told_as_both(valkey: Valkey) -> None:
    async with processes(valkey) as (a, b):
        a.health.disable("a")
        await sync(a, b)
        a.health.enable("a")
        a.health.fails(UNREACHABLE, times=5)
        await sync(a, b)
        assert [s.condition for s in b.health.states()] == ["open"]
        b.health.clock.now += 3
        assert b.health.admits("a", "m")


async def test_what_is_well_before_it_was_told_is_told_as_well(valkey: Valkey) -> None:
    async with processes(valkey) as (a, b):
        a.health.disable("a")
        await sync(a, b)
        a.health.enable("a")
        a.health.disable("a")
        a.health.enable("a")
        await sync(a, b)
        assert b.health.admits("a", "m")
        assert b.health.quiet


async def test_what_one_sees_half_open_is_no_news(valkey: Valkey) -> None:
    async with processes(valkey) as (a, b):
        a.health.fails(UNREACHABLE, times=5)
        a.health.clock.now += 2
        assert a.health.begun("a", "m")
        await sync(a, b)
        assert b.health.quiet
        assert b.health.events == []


async def test_what_is_out_stays_out_until_a_test_brings_it_back(valkey: Valkey) -> None:
    async with processes(valkey) as (a, b):
        b.health.fails(UNREACHABLE, times=5)
        a.health.ended("a", "m", verdict=GONE, seconds=0)
        await sync(a, b, a)
        assert [s.condition for s in a.health.states()] == ["out"]
        assert [s.condition for s in b.health.states()] == ["out"]
        b.health.tested("a", verdict=None, seconds=0.1)
        await sync(b, a)
        assert a.health.admits("a", "m")


async def test_who_comes_later_knows_what_went_before(valkey: Valkey) -> None:
    async with processes(valkey) as (a, b):
        a.health.disable("off")
        a.health.fails(SERVER_ERROR, cooldown=30.0)
        await sync(a)
        late = Process(valkey)
        async with late.state.resources, late.shared.resources:
            assert not late.health.admits("off", "m")
            assert not late.health.admits("a", "m")
        await sync(b)


async def test_a_change_of_one_is_not_told_on_by_another(valkey: Valkey) -> None:
    async with processes(valkey) as (a, b):
        a.health.fails(SERVER_ERROR, times=5)
        await sync(a, b)
        told = number(valkey)
        for _ in range(3):
            await sync(a, b)
        assert number(valkey) == told == 1


async def test_any_name_of_a_model_can_be_told(valkey: Valkey) -> None:
    async with processes(valkey) as (a, b):
        for model in ("half \ud800 a pair", "two\nlines", "\x00", "模型", ""):
            a.health.fails(SERVER_ERROR, times=5, model=model)
        a.health.disable("b", "half \udfff a pair")
        await sync(a, b)
        assert {s.model for s in b.health.states()} == {s.model for s in a.health.states()}


async def test_what_is_over_is_taken_out_of_the_store(valkey: Valkey) -> None:
    async with processes(valkey) as (a, b):
        a.health.fails(SERVER_ERROR, times=5, model="old")
        await sync(a)
        entries = a.state.name("{health}", "entries")
        old = b'{"v":1,"c":"open","r":"x","h":false,"t":1000,"n":0}'
        valkey.call("HSET", entries, "a\nold", old, "a\nodd", b"no json", "a\nnew", b'{"v":2}')
        a.health.fails(SERVER_ERROR, times=5, model="m")
        await sync(a, b)
        assert set(valkey.call("HKEYS", entries)) == {b"a\nm"}


async def test_changes_reach_others_by_themselves_within_a_second(valkey: Valkey) -> None:
    a, b = Process(valkey, period=0.4), Process(valkey, period=0.4)
    async with AsyncExitStack() as stack:
        for one in (a, b):
            await stack.enter_async_context(one.state.resources)
            await stack.enter_async_context(one.shared.resources)
        heard = asyncio.Event()
        b.health.on_change.append(lambda event: heard.set())
        began = asyncio.get_running_loop().time()
        a.health.disable("a")
        await asyncio.wait_for(heard.wait(), 10)
        took = asyncio.get_running_loop().time() - began
        # 0.96 s at most on an idle machine.
        assert took < 3


async def test_what_changed_last_is_told_before_it_stops(valkey: Valkey) -> None:
    async with processes(valkey) as (a, b):
        async with a.shared.resources:
            a.health.disable("a")
        await sync(b)
        assert not b.health.admits("a", "m")
    assert len(asyncio.all_tasks()) == 1


async def test_more_changes_than_go_in_one_message_go_in_several(valkey: Valkey) -> None:
    async with processes(valkey) as (a, b):
        for n in range(450):
            a.health.ended(f"c{n}", "m", verdict=GONE, seconds=0)
        await sync(a, a)
        await sync(b)
        assert len(b.health.states()) == 400
        await sync(a, b)
        assert len(b.health.states()) == 450
