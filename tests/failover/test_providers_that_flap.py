"""A provider that goes and comes back: it is left alone meanwhile, and found again soon."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from asgi_llm_gateway.channels.health.rules import HealthRules
from tests.failover.world import SHORT, SLACK, World, world
from tests.faults import TEXT, good, late, refusal, reset, silence
from tests.faulty_peer import Fault, Tried

QUICK = HealthRules(failures=3, first_open=0.1, longest_open=0.4)
"""The usual rules, a good twenty times faster."""


def down_until(there: World, moment: float, fault: Fault) -> None:
    """Channel `a` fails until the loop's clock says so much, and is good from then on."""
    loop = asyncio.get_running_loop()

    def chosen(_tried: Tried) -> Fault:
        return fault if loop.time() < moment else good()

    there.a.script = chosen


async def traffic(there: World, until: float, pause: float) -> list[tuple[float, str | None]]:
    """Calls one after the other: when each was answered, and by which channel."""
    loop = asyncio.get_running_loop()
    found = []
    while loop.time() < until:
        got = await there.ask(stream=len(found) % 2 == 0)
        assert (got.text, got.end) == (TEXT, "whole")
        found.append((loop.time(), got.header("x-llm-channel")))
        await asyncio.sleep(pause)
    return found


@pytest.mark.parametrize("fault", [refusal(503), reset(), silence()])
async def test_traffic_returns_soon_after_a_provider_does(fault: Fault) -> None:
    loop = asyncio.get_running_loop()
    async with world(failover={"health": QUICK}) as there:
        back = loop.time() + 1.0
        down_until(there, back, fault)
        answers = await traffic(there, back + 1.2, 0.02)
        returned = [at for at, channel in answers if channel == "a"]
        assert returned
        assert returned[0] - back < SLACK
        assert answers[-1][1] == "a"
        await there.nothing_left()


async def test_a_provider_that_is_down_is_asked_by_few() -> None:
    loop = asyncio.get_running_loop()
    async with world(refusal(503), failover={"health": QUICK}) as there:
        answers = await traffic(there, loop.time() + 1.0, 0.005)
        assert {channel for _, channel in answers} == {"b"}
        assert len(answers) > 20
        assert len(there.a.tried) < len(answers) / 2


async def test_one_call_at_a_time_tries_whether_it_is_back() -> None:
    patient = {"timeouts": {**SHORT, "first_byte": 5.0, "first_token": 5.0, "idle": 5.0}}
    async with world(refusal(503), channel=patient, failover={"health": QUICK}) as there:
        await asyncio.gather(*[there.ask() for _ in range(10)])
        await asyncio.sleep(0.6)
        there.a.script = (late(1.0),)
        asked = len(there.a.tried)
        answers = await asyncio.gather(*[there.ask(stream=True) for _ in range(30)])
        assert all(got.text == TEXT for got in answers)
        assert len(there.a.tried) - asked == 1
        await there.nothing_left()


@contextmanager
def by_hand(there: World) -> Iterator[None]:
    there.relay.health.disable("a", "maintenance")
    yield
    there.relay.health.enable("a")


async def test_a_channel_taken_out_by_hand_stays_out_until_it_is_put_back() -> None:
    async with world(failover={"health": QUICK}) as there:
        with by_hand(there):
            for _ in range(5):
                assert (await there.ask()).where == "b"
            await asyncio.sleep(0.6)
            assert (await there.ask()).where == "b"
        assert (await there.ask()).where == "a"


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_down_for_a_minute_it_has_traffic_again_within_half_a_minute() -> None:
    loop = asyncio.get_running_loop()
    async with world() as there:
        back = loop.time() + 60.0
        down_until(there, back, refusal(503))
        answers = await traffic(there, back + 30.0, 0.1)
        assert [at for at, channel in answers if channel == "a" and at > back]
        assert len(there.a.tried) - sum(c == "a" for _, c in answers) < 60
