"""What becomes of shared health when the store, or what is in it, is not as it should be."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from asgi_llm_gateway.channels.error_class import ErrorClass
from asgi_llm_gateway.channels.preset_default import SERVER_ERROR
from tests.channels_health.shared_processes import Process, number, processes, sync, until
from tests.valkey import Valkey

GONE = ErrorClass("gone", health="remove", scope="channel")


async def test_a_store_that_is_away_is_said_once_and_made_up_for(
    own_valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "asgi_llm_gateway.channels.health")
    async with processes(own_valkey) as (a, b):
        a.health.disable("before")
        await sync(a, b)
        own_valkey.kill()
        a.health.fails(SERVER_ERROR, cooldown=50.0)
        for _ in range(3):
            await sync(a, b)
        assert not a.health.admits("a", "m")
        assert b.health.admits("a", "m")
        own_valkey.start()  # empty: it has lost what it knew
        await until(a, b, what=lambda: not b.health.admits("a", "m"))
        late = Process(own_valkey)
        async with late.state.resources, late.shared.resources:
            assert not late.health.admits("before", "m")
    said = [r.getMessage() for r in caplog.records if "shared" in r.getMessage()]
    assert len([line for line in said if "not shared for now" in line]) == 2  # one a process
    assert len([line for line in said if "shared again" in line]) == 2


async def test_a_store_that_refuses_is_like_one_that_is_away(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async with processes(valkey) as (a, b):
        valkey.call("SET", a.state.name("{health}", "number"), "of another kind")
        a.health.fails(SERVER_ERROR, times=5)
        for _ in range(3):
            await sync(a)
        assert not a.health.admits("a", "m")
        valkey.call("DEL", a.state.name("{health}", "number"))
        await sync(a, b)
        assert not b.health.admits("a", "m")
    assert caplog.text.count("not shared for now") == 1


async def test_what_waits_for_a_store_that_is_away_is_bounded(valkey: Valkey) -> None:
    async with processes(valkey) as (a, b):
        a.health.disable("kept")
        for n in range(5000):
            a.shared.note(("a", f"made-up-{n}"), by_hand=False)
        for _ in range(11):
            await sync(a)
        await sync(b)
        assert not b.health.admits("kept", "m")
        assert number(valkey) == 2048


async def test_an_entry_that_cannot_be_read_is_passed_over(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async with processes(valkey) as (a, b):
        a.health.disable("a")
        await sync(a)
        entries = a.state.name("{health}", "entries")
        odd = b'{"v":1,"c":"odd","t":9e9,"n":9}'
        valkey.call("HSET", entries, b"odd", odd, b"\xff", odd, b"half", b'{"v":1,"c":"out"}')
        await sync(b)
        assert not b.health.admits("a", "m")
        assert [s.channel for s in b.health.states()] == ["a"]
    assert caplog.text.count("cannot be read and is passed over") == 2


async def test_a_sync_that_is_cancelled_loses_no_change(own_valkey: Valkey) -> None:
    async with processes(own_valkey) as (a, b):
        await sync(a)
        a.health.disable("a")
        with own_valkey.paused():
            syncing = asyncio.create_task(a.shared.sync())
            await asyncio.sleep(0.05)
            syncing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await syncing
        await until(a, b, what=lambda: not b.health.admits("a", "m"))


async def test_the_task_outlives_what_it_did_not_foresee(
    valkey: Valkey, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = Process(valkey), Process(valkey)
    async with a.state.resources, b.state.resources, a.shared.resources:
        run = a.state.run
        answers = iter([ZeroDivisionError("x")])

        async def broken(*given: Any) -> Any:
            for failure in answers:
                raise failure
            return await run(*given)

        monkeypatch.setattr(a.state, "run", broken)
        a.health.disable("a")
        await until(b, what=lambda: not b.health.admits("a", "m"))
    assert "sharing health failed; it is tried again" in caplog.text


async def test_calls_never_wait_for_a_store_that_hangs(own_valkey: Valkey) -> None:
    async with processes(own_valkey, 1) as (a,):
        await sync(a)
        with own_valkey.paused():
            syncing = asyncio.create_task(a.shared.sync())
            await asyncio.sleep(0)
            a.health.fails(SERVER_ERROR, times=5)
            assert not a.health.admits("a", "m")
            await syncing
