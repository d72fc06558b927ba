"""A gateway whose store is killed, or falls silent, in the middle of its work."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest

from asgi_llm_gateway import Gateway
from asgi_llm_gateway.errors import StateUnavailable
from asgi_llm_gateway.keys.key import Key
from tests.faults import good, late
from tests.faulty import faulty
from tests.faulty_peer import Peer, Tried
from tests.keys_credentials.token_host import FIRST
from tests.shared_state.gateways import (
    asked,
    gateway,
    held,
    leading_to,
    pool,
    secrets,
    served_by,
    settings,
    until,
)
from tests.shared_state.one_at_a_time import Watching
from tests.shared_state.outages import Going, Traffic, away
from tests.shared_state.tokens import refreshing, token_host
from tests.upstreams import ask, ask_stream
from tests.valkey import Valkey

pytestmark = pytest.mark.slow

ONE, TWO = "sk-a-key-1", "sk-a-key-2"
TIMEOUT = 0.3
"""Seconds of `[state] timeout` here."""
SLACK = 1.5
"""Seconds a busy machine may add; the runtime's sweep looks four times a second."""


def impatient(store: Valkey) -> dict[str, Any]:
    """Tables of a gateway that does not wait long for this store."""
    return {"state": {"store": store.url, "timeout": TIMEOUT}}


@pytest.fixture(params=["killed", "silent"])
def going(request: pytest.FixtureRequest) -> Going:
    way: Going = request.param
    return way


async def test_calls_go_on_within_bounds_and_shared_keys_are_back_with_the_store(
    own_valkey: Valkey, going: Going, caplog: pytest.LogCaptureFixture
) -> None:
    async with faulty() as provider:
        channel = leading_to(provider, key_limits={"rpm": 100_000})
        async with gateway(own_valkey, channel, **impatient(own_valkey)) as one:
            async with Traffic(one) as traffic:
                assert await traffic.seconds(0.3) > 20
                with away(own_valkey, going):
                    assert await traffic.seconds(2.0) > 50
                assert traffic.longest < 2 * TIMEOUT + SLACK
                await _answers_again(one)
                assert await traffic.seconds(0.5) > 20
            assert set(traffic.statuses) == {200}
            assert await secrets(one) == {ONE, TWO}
            assert (await pool(one).day_use(Key(ONE))).requests > 0
    said = [record.getMessage() for record in caplog.records]
    told = sum("settings' keys go on without limits" in line for line in said)
    assert 1 <= told <= 3, "not for every call"


async def test_a_key_that_dies_meanwhile_is_out_at_once_and_told_to_the_store_later(
    own_valkey: Valkey, going: Going
) -> None:
    async with faulty() as provider:
        channel = leading_to(provider)
        tables = impatient(own_valkey)
        async with (
            gateway(own_valkey, channel, **tables) as one,
            gateway(own_valkey, channel, **tables) as other,
        ):
            await asked(one, 3)
            with away(own_valkey, going):
                provider.dead_keys.add(ONE)
                assert {answer.status for answer in await asked(one, 10)} == {200}
                assert provider.keys.count(ONE) <= 3 + 1
            await _answers_again(one)
            await ask(one)
            await until(lambda: own_valkey.call("HLEN", "llm:{keys:a}:quarantine") == 1)
            seen = len(provider.keys)
            await _answers_again(other)
            assert {answer.status for answer in await asked(other, 10)} == {200}
            assert ONE not in provider.keys[seen:]


async def test_a_key_in_quarantine_stays_out_while_the_store_is_away(
    own_valkey: Valkey, going: Going
) -> None:
    async with faulty() as provider:
        channel = leading_to(provider)
        provider.dead_keys.add(ONE)
        async with gateway(own_valkey, channel, **impatient(own_valkey)) as before:
            await asked(before, 8)
        async with gateway(own_valkey, channel, **impatient(own_valkey)) as one:
            seen = len(provider.keys)
            with away(own_valkey, going):
                assert {answer.status for answer in await asked(one, 8)} == {200}
            assert set(provider.keys[seen:]) == {TWO}


async def test_streams_under_way_end_well_and_their_slots_come_back(
    own_valkey: Valkey, going: Going
) -> None:
    async with faulty(late(1.5)) as provider:
        channel = leading_to(provider, key_limits={"concurrency": 1, "lease": 2})
        async with gateway(own_valkey, channel, **impatient(own_valkey)) as one:
            streams = [asyncio.create_task(ask_stream(one)) for _ in range(2)]
            await until(lambda: held(own_valkey) == 2)
            with away(own_valkey, going):
                answers = await asyncio.gather(*streams)
                assert {answer.status for answer in answers} == {200}
                assert all(b"[DONE]" in answer.body for answer in answers)
            await _answers_again(one)
            await until(lambda: not held(own_valkey), within=8)


async def test_concurrency_holds_again_once_the_store_is_back(own_valkey: Valkey) -> None:
    watching = Watching()
    async with faulty(watching(late(0.3))) as provider:
        channel = leading_to(provider, key_limits={"concurrency": 1, "wait": 10})
        async with gateway(own_valkey, channel, **impatient(own_valkey)) as one:
            with away(own_valkey, "silent"):
                await asyncio.gather(*(ask(one) for _ in range(10)))
            assert watching.overlaps, "meanwhile there are no limits, as is documented"
            await _answers_again(one)
            await until(lambda: not held(own_valkey))
            watching.overlaps.clear()
            provider.script = [watching(late(0.02))]
            answers = await asyncio.gather(*(ask(one) for _ in range(40)))
            assert {answer.status for answer in answers} == {200}
    assert watching.overlaps == []


async def test_who_waits_for_a_key_is_not_left_waiting(own_valkey: Valkey, going: Going) -> None:
    let_go = asyncio.Event()

    async def hold(peer: Peer, tried: Tried) -> None:
        await let_go.wait()
        await good()(peer, tried)

    async with faulty(hold) as provider:
        limits = {"concurrency": 1, "wait": 8}
        channel = leading_to(provider, keys=[ONE], key_limits=limits)
        async with gateway(own_valkey, channel, **impatient(own_valkey)) as one:
            holder = asyncio.create_task(ask_stream(one))
            await until(lambda: held(own_valkey) == 1)
            provider.script = [good()]
            waiting = [asyncio.create_task(ask(one)) for _ in range(5)]
            await asyncio.sleep(0.3)
            assert not any(task.done() for task in waiting)
            began = time.monotonic()
            with away(own_valkey, going):
                answers = await asyncio.gather(*waiting)
                assert time.monotonic() - began < 2 * TIMEOUT + SLACK
            assert {answer.status for answer in answers} == {200}
            let_go.set()
            assert (await holder).status == 200


async def test_a_rotating_token_is_not_used_up_while_it_cannot_be_saved(
    own_valkey: Valkey, going: Going
) -> None:
    """The one that is held serves on; where another is needed, another channel serves."""
    async with token_host(rotates=True) as host, faulty() as provider, faulty() as other:
        channels = [refreshing(provider, host, priority=5), leading_to(other, name="b")]
        tables = impatient(own_valkey)
        async with gateway(own_valkey, *channels, **tables) as one:
            assert (await ask(one)).header("x-llm-channel") == "a"
            with away(own_valkey, going):
                assert (await ask(one)).header("x-llm-channel") == "a"
                provider.dead_keys.add("at-1")
                answers = await asked(one, 5)
                assert {answer.header("x-llm-channel") for answer in answers} == {"b"}
                assert len(host.asked) == 1
            if going == "silent":
                await served_by(one, "a")
                assert await secrets(one) == {FIRST}
                assert len(host.asked) == 2


async def test_a_token_that_rotates_nothing_is_fetched_without_the_store(
    own_valkey: Valkey, going: Going
) -> None:
    """Once for all calls of the process, and again when the provider refuses it."""
    async with token_host(pause=0.1) as host, faulty() as provider:
        channel = refreshing(provider, host)
        async with gateway(own_valkey, channel, **impatient(own_valkey)) as one:
            with away(own_valkey, going):
                for issued in (1, 2):
                    answers = await asyncio.gather(*(ask(one) for _ in range(50)))
                    assert {answer.status for answer in answers} == {200}
                    assert host.issued == issued
                    provider.dead_keys.add("at-1")
            await _answers_again(one)
            assert (await ask(one)).status == 200
            assert await secrets(one) == {FIRST}


async def test_a_reload_while_the_store_is_away_is_served_and_made_good_later(
    own_valkey: Valkey, going: Going
) -> None:
    async with faulty() as provider:
        before, after = leading_to(provider), leading_to(provider, keys=[TWO, "sk-new"])
        tables = impatient(own_valkey)
        async with gateway(own_valkey, before, **tables) as one:
            await asked(one, 2)
            with away(own_valkey, going):
                one.reload(settings(own_valkey, after, **tables))
                seen = len(provider.keys)
                assert {answer.status for answer in await asked(one, 20)} == {200}
                assert set(provider.keys[seen:]) == {TWO, "sk-new"}
            await _answers_again(one)
            assert await secrets(one) == {TWO, "sk-new"}


async def test_a_gateway_stops_in_time_while_its_store_is_away(
    own_valkey: Valkey, going: Going, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with faulty() as provider:
        channels = [leading_to(provider, name=f"c{n}") for n in range(10)]
        made = Gateway.from_settings(
            settings(own_valkey, *channels, **impatient(own_valkey)), environ={}
        )
        await made.__aenter__()
        await asked(made, 5)
        with away(own_valkey, going):
            made.relay.health.disable("c1")
            began = time.monotonic()
            await made.__aexit__(None, None, None)
            assert time.monotonic() - began < 3 * TIMEOUT + SLACK


async def _answers_again(one: Gateway) -> None:
    """Wait until this gateway has found its store again."""
    async with asyncio.timeout(15):
        while True:
            try:
                await pool(one).quarantined()
            except StateUnavailable:
                await asyncio.sleep(0.1)
            else:
                return
