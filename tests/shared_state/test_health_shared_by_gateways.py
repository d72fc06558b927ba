"""What one gateway finds out about a channel, or is told by hand, all gateways of a store go by."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from asgi_llm_gateway import Gateway
from tests.asgi import Answer
from tests.faults import good, late, refusal
from tests.faulty import Provider, faulty
from tests.shared_state.gateways import (
    asked,
    gateway,
    leading_to,
    posted,
    process,
    served_by,
)
from tests.valkey import Valkey

SOON = 1.0
"""Seconds after which every gateway goes by a change."""
QUICK = {"first_wait": 0.01, "longest_wait": 0.02, "retry_budget": 0}
LONG = {"first_open": 30, "longest_open": 30}
"""A breaker that does not close again while a test runs."""


def who_served(answers: list[Answer]) -> set[str | None]:
    return {answer.header("x-llm-channel") for answer in answers}


def states(one: Gateway) -> set[tuple[str, str]]:
    return {(state.channel, state.condition) for state in one.relay.health.states()}


def two_channels(ill: Provider, well: Provider) -> list[dict[str, object]]:
    """`a` is asked first, `b` when nothing is left of it."""
    return [leading_to(ill, priority=10), leading_to(well, name="b")]


async def test_a_breaker_that_opens_in_one_gateway_is_open_in_the_others(
    valkey: Valkey, tmp_path: Path
) -> None:
    """One of them in a process of its own."""
    tables: dict[str, Any] = {"failover": QUICK, "health": LONG}
    async with faulty(refusal(503)) as ill, faulty() as well, httpx.AsyncClient() as client:
        channels = two_channels(ill, well)
        async with (
            gateway(valkey, *channels, **tables) as first,
            gateway(valkey, *channels, **tables) as second,
            process(tmp_path, valkey, *channels, **tables) as served,
        ):
            assert who_served(await asked(first, 10)) == {"b"}
            assert ("a", "open") in states(first)
            await asyncio.sleep(SOON)
            seen = len(ill.tried)
            assert who_served(await asked(second, 5)) == {"b"}
            assert (await posted(client, served)).headers["x-llm-attempts"] == "1"
            assert len(ill.tried) == seen, "nobody asks it again"
            assert ("a", "open") in states(second)


async def test_what_was_disabled_by_hand_stays_so_everywhere_and_over_a_restart(
    valkey: Valkey,
) -> None:
    async with faulty() as one, faulty() as other:
        channels = two_channels(one, other)
        async with gateway(valkey, *channels) as first, gateway(valkey, *channels) as second:
            assert who_served(await asked(second, 3)) == {"a"}
            first.relay.health.disable("a", "its bill is not paid")
            await asyncio.sleep(SOON)
            assert who_served(await asked(second, 3) + await asked(first, 3)) == {"b"}
        async with gateway(valkey, *channels) as third, gateway(valkey, *channels) as fourth:
            assert states(third) == {("a", "disabled")}
            assert who_served(await asked(third, 3)) == {"b"}
            (told,) = third.relay.health.states()
            assert told.reason == "its bill is not paid"
            third.relay.health.enable("a")
            await asyncio.sleep(SOON)
            assert who_served(await asked(fourth, 3)) == {"a"}


async def test_the_one_that_finds_a_channel_well_again_tells_the_others(valkey: Valkey) -> None:
    tables = {"failover": QUICK, "health": {"first_open": 0.5, "longest_open": 0.5}}
    async with faulty(refusal(503)) as flapping, faulty() as well:
        channels = two_channels(flapping, well)
        async with (
            gateway(valkey, *channels, **tables) as first,
            gateway(valkey, *channels, **tables) as second,
        ):
            await asked(first, 10)
            assert ("a", "open") in states(first)
            flapping.script = [good()]
            await served_by(first, "a")
            await asyncio.sleep(SOON)
            assert who_served(await asked(second, 3)) == {"a"}
            assert states(second) == set()


@pytest.mark.slow
async def test_of_all_their_calls_one_at_a_time_is_let_through_to_see(valkey: Valkey) -> None:
    tables = {"failover": QUICK, "health": {"first_open": 2, "longest_open": 2, "jitter": 0}}
    async with faulty(refusal(503)) as ill, faulty() as well:
        channels = two_channels(ill, well)
        async with (
            gateway(valkey, *channels, **tables) as first,
            gateway(valkey, *channels, **tables) as second,
        ):
            await asked(first, 10)
            await asyncio.sleep(SOON)
            assert states(first) == states(second) == {("a", "open")}
            seen = len(ill.tried)
            ill.script = [late(1.5)]
            await asyncio.sleep(2 - SOON + 0.2)  # its time is over in both
            calls = [asked(one, 1) for one in (first, second) for _ in range(5)]
            answers = [answer for one in await asyncio.gather(*calls) for answer in one]
            assert who_served(answers) == {"a", "b"}
            assert len(ill.tried) == seen + 1
