"""Every fault at once under many calls: each ends in time, whole or with an error, and nothing is
left of any."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from asgi_llm_gateway.channels.health.rules import HealthRules
from tests.failover.world import SHORT, SLACK, world
from tests.faults import (
    TEXT,
    bad_key,
    cut,
    empty,
    error_after,
    error_with_200,
    good,
    late,
    malformed,
    rate_limited,
    refusal,
    reset,
    silence,
    stall,
    web_page,
    without_done,
)
from tests.faulty_peer import Fault, Tried

FAULTS = (
    *(good(), good(), good(), good()),
    *(rate_limited(), rate_limited("retry-after-ms: 50"), refusal(500), refusal(503)),
    *(reset(), silence(), late(0.1, pings=0.02), cut(), stall(), malformed(), without_done()),
    *(error_with_200(), error_after(), web_page(), empty()),
)
KEYS = [f"sk-key-{n}" for n in range(20)]
QUICK_LIMITS = {**SHORT, "first_byte": 0.2, "first_token": 0.2, "idle": 0.2, "total": 2.0}


@pytest.mark.parametrize("recovery", ["error", "splice", "buffer"])
@pytest.mark.parametrize("seed", [1, 2])
async def test_every_call_ends_in_time_whole_or_with_an_error(seed: int, recovery: str) -> None:
    rng = Random(seed)

    def any_fault(_tried: Tried) -> Fault:
        return rng.choice(FAULTS)

    settings: dict[str, Any] = {"keys": KEYS, "timeouts": QUICK_LIMITS}
    how = {"stream_recovery": recovery, "health": HealthRules(first_open=0.1, longest_open=0.2)}
    async with world(channel=settings, other=settings, failover=how) as there:
        there.a.script = there.b.script = any_fault
        calls = [there.ask(stream=n % 3 > 0) for n in range(90)]
        answers = await asyncio.gather(*calls)
        for got in answers:
            assert got.end
            assert (got.text == TEXT) if got.end == "whole" else TEXT.startswith(got.text)
            assert got.seconds < 4 * (2.0 + SLACK)
            assert len(got.where) <= 4
            assert len(got.answer.exchange.attempts) == len(got.where)
            assert all(attempt.ended is not None for attempt in got.answer.exchange.attempts)
        whole = sum(got.end == "whole" for got in answers)
        assert whole > len(answers) / 4
        await there.nothing_left()

        there.a.script = there.b.script = (good(),)
        await asyncio.sleep(0.5)
        assert (await there.ask()).end == "whole"


async def test_dying_keys_and_faults_together_lose_no_key_that_is_good() -> None:
    rng = Random(3)

    def often_bad(tried: Tried) -> Fault:
        return bad_key() if tried.key in KEYS[:5] else rng.choice((good(), good(), refusal(500)))

    async with world(channel={"keys": KEYS}) as there:
        there.a.script = often_bad
        await asyncio.gather(*[there.ask() for _ in range(60)])
        await there.nothing_left()
        assert there.relay.channels is not None
        left = {key.secret for key in await there.relay.channels.by_name["a"].pool.all()}
        assert set(KEYS[5:]) <= left
        assert len(there.a.tried) >= 20
