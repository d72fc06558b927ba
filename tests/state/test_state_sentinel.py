"""Sentinels say who the master is, and who it is now."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from asgi_llm_gateway.errors import StateUnavailable
from asgi_llm_gateway.state import State
from tests.valkey import Valkey


@pytest.fixture
def sentinel(own_valkey: Valkey) -> Iterator[Valkey]:
    """A sentinel that watches `own_valkey` as the service `gate`."""
    server = Valkey(
        sentinel=True,
        options=[
            ("sentinel", f"monitor gate 127.0.0.1 {own_valkey.port} 1"),
            ("sentinel", "down-after-milliseconds gate 300"),
            ("sentinel", "failover-timeout gate 2000"),
        ],
    )
    try:
        yield server.start()
    finally:
        server.discard()


def url(*sentinels: str, service: str = "gate", options: str = "") -> str:
    return f"redis+sentinel://{','.join(sentinels)}/{service}/0{options}"


async def test_the_master_is_asked_for_by_its_services_name(
    own_valkey: Valkey, sentinel: Valkey
) -> None:
    async with (state := State(url(f"127.0.0.1:{sentinel.port}"))).resources:
        answers = await asyncio.gather(*(state.command("INCR", "n") for _ in range(20)))
        assert answers == list(range(1, 21))
    assert own_valkey.call("GET", "n") == b"20"
    assert int(sentinel.call("INFO", "clients")["connected_clients"]) <= 2


async def test_a_sentinel_that_is_down_does_not_matter_while_another_is_up(
    sentinel: Valkey,
) -> None:
    async with (state := State(url("127.0.0.1:1", f"127.0.0.1:{sentinel.port}"))).resources:
        assert await state.command("PING") == b"PONG"


async def test_a_service_nobody_knows_and_sentinels_nobody_hears_are_away(
    sentinel: Valkey,
) -> None:
    for place, service in ((f"127.0.0.1:{sentinel.port}", "other"), ("127.0.0.1:1", "gate")):
        state = State(url(place, service=service), timeout=0.5)
        async with state.resources:
            with pytest.raises(StateUnavailable):
                await state.command("PING")


async def test_a_sentinel_with_a_password_of_its_own(sentinel: Valkey) -> None:
    sentinel.call("ACL", "SETUSER", "asker", "on", ">pw", "~*", "+@all")
    login = "?sentinel_user=asker&sentinel_password=pw"
    place = f"127.0.0.1:{sentinel.port}"
    async with (state := State(url(place, options=login))).resources:
        assert await state.command("PING") == b"PONG"
    async with (state := State(url(place, options=login + "wrong"), timeout=0.5)).resources:
        with pytest.raises(StateUnavailable):
            await state.command("PING")


@pytest.mark.slow
async def test_after_a_failover_the_new_master_is_used(
    own_valkey: Valkey, sentinel: Valkey
) -> None:
    replica = Valkey(options=[("replicaof", f"127.0.0.1 {own_valkey.port}")])
    try:
        replica.start()
        async with asyncio.timeout(30):
            while sentinel.call("SENTINEL", "REPLICAS", "gate") == []:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        async with (state := State(url(f"127.0.0.1:{sentinel.port}"))).resources:
            await state.command("SET", "n", 1)
            assert await state.command("WAIT", 1, 900) == 1
            await asyncio.to_thread(own_valkey.kill)
            async with asyncio.timeout(40):
                while True:
                    try:
                        assert await state.command("GET", "n") == b"1"
                    except StateUnavailable:
                        await asyncio.sleep(0.1)
                    else:
                        break
            assert await state.command("SET", "n", 2) == b"OK"
        assert replica.call("GET", "n") == b"2"
    finally:
        replica.discard()
