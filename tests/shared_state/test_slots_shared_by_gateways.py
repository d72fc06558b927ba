"""A key with concurrency 1 serves one call at a time, however many gateways there are."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from asgi_llm_gateway import Gateway
from tests.asgi import Answer
from tests.faults import cut, good, late, refusal
from tests.faulty import Provider, faulty
from tests.faulty_peer import Fault, Tried
from tests.shared_state.gateways import gateway, held, leading_to, posted, process, until
from tests.shared_state.one_at_a_time import Watching
from tests.upstreams import ASK, ask
from tests.valkey import Valkey

ALLOWED = {200, 500, 502}
"""What callers may get of a provider that fails now and then."""
KEYS = [f"sk-session-{number}" for number in range(10)]


def one_each(provider: Provider, *, lease: float = 30, wait: float = 30) -> dict[str, Any]:
    limits = {"concurrency": 1, "wait": wait, "lease": lease}
    return leading_to(provider, keys=KEYS, key_limits=limits)


def mixed(watching: Watching) -> Any:
    """Good answers, slow ones, cut streams and errors, in turn."""
    faults = [good(), late(0.02), cut(), good(), refusal(500), late(0.05)]
    order = Random(7)

    def choose(tried: Tried) -> Fault:
        return watching(order.choice(faults))

    return choose


async def test_two_gateways_never_meet_on_a_key_while_streams_are_cut_and_callers_leave(
    valkey: Valkey,
) -> None:
    watching, order = Watching(), Random(3)
    async with faulty() as provider:
        provider.script = mixed(watching)
        channel = one_each(provider)
        tables = {"failover": {"first_wait": 0.01}, "health": {"failures": 0, "success_below": 0}}
        async with gateway(valkey, channel, **tables) as a, gateway(valkey, channel, **tables) as b:

            async def call(one: Gateway) -> Answer:
                await asyncio.sleep(order.random() / 5)
                how: dict[str, Any] = {"style": order.choice(["uvicorn", "hypercorn", "strict"])}
                if order.random() < 0.25:
                    how["leave_after"] = order.choice(["body", "start", 1])
                document = {**ASK, "stream": order.random() < 0.5}
                return await ask(one, document, timeout=40, **how)

            answers = await asyncio.gather(*(call((a, b)[n % 2]) for n in range(200)))
            stayed = [answer for answer in answers if not answer.left]
            assert len(stayed) > 100
            assert {answer.status for answer in stayed} <= ALLOWED
            await until(lambda: not held(valkey))
    assert watching.overlaps == []
    assert set(watching.calls) == set(KEYS)


@pytest.mark.slow
async def test_a_process_that_is_killed_gives_its_keys_to_the_others_within_the_lease(
    valkey: Valkey, tmp_path: Path
) -> None:
    lease = 2.0
    watching = Watching()
    async with faulty(watching(late(60))) as provider, httpx.AsyncClient() as client:
        channel = one_each(provider, lease=lease, wait=20)
        async with gateway(valkey, channel) as here, process(tmp_path, valkey, channel) as there:
            calls = [asyncio.create_task(posted(client, there)) for _ in KEYS]
            await until(lambda: held(valkey) == len(KEYS))
            await asyncio.sleep(lease + 0.5)
            assert held(valkey) == len(KEYS), "a living process keeps its slots"
            provider.script = [watching(good())]
            there.process.send_signal(signal.SIGKILL)
            killed = time.monotonic()
            answers = await asyncio.gather(*(ask(here, timeout=30) for _ in range(30)))
            assert time.monotonic() - killed < lease + 3
            assert {answer.status for answer in answers} == {200}
            lost = await asyncio.gather(*calls, return_exceptions=True)
            assert {isinstance(each, httpx.HTTPError) for each in lost} == {True}
            await until(lambda: not held(valkey), within=lease + 5)
    assert watching.overlaps == []


async def test_callers_beyond_the_keys_of_both_gateways_are_told_to_come_again(
    valkey: Valkey,
) -> None:
    async with faulty(late(1.0)) as provider:
        channel = one_each(provider, wait=0.2)
        async with gateway(valkey, channel) as a, gateway(valkey, channel) as b:
            answers = await asyncio.gather(*(ask((a, b)[n % 2]) for n in range(14)))
    statuses = [answer.status for answer in answers]
    assert (statuses.count(200), statuses.count(429)) == (10, 4)
    refused = next(answer for answer in answers if answer.status == 429)
    assert 1 <= int(refused.header("retry-after") or 0) <= 2


@pytest.mark.slow
async def test_two_processes_under_load_one_of_which_is_killed_never_meet_on_a_key(
    valkey: Valkey, tmp_path: Path
) -> None:
    """200 concurrent calls, two workers each; in the middle one process of a worker dies."""
    watching, order = Watching(), Random(5)
    limits = httpx.Limits(max_connections=400)
    async with faulty() as provider, httpx.AsyncClient(limits=limits) as client:
        provider.script = mixed(watching)
        channel = one_each(provider, lease=2)
        tables: dict[str, Any] = {
            "server": {"port": 0, "workers": 2},
            "failover": {"first_wait": 0.01},
            "health": {"failures": 0, "success_below": 0},
        }
        async with (
            process(tmp_path / "one", valkey, channel, **tables) as one,
            process(tmp_path / "two", valkey, channel, **tables) as two,
        ):
            for starting in (one, two):
                assert (await posted(client, starting, stream=False)).status_code in (200, 500)

            async def call(number: int) -> int | None:
                served = (one, two)[number % 2]
                try:
                    async with asyncio.timeout(0.3 if order.random() < 0.2 else 40):
                        answer = await posted(client, served, stream=number % 3 == 0)
                except (TimeoutError, httpx.HTTPError):
                    return None
                return answer.status_code

            storm = [asyncio.create_task(call(n)) for n in range(200)]
            await until(lambda: sum(watching.calls.values()) > 50)
            os.kill(_worker_of(one.process.pid), signal.SIGKILL)
            statuses = await asyncio.gather(*storm)
            assert statuses.count(200) > 80
            assert set(statuses) <= {*ALLOWED, None}
            await until(lambda: not held(valkey), within=10)
            again = await asyncio.gather(*(call(n) for n in range(40)))
            assert again.count(200) > 20
    assert watching.overlaps == []


def _worker_of(parent: int) -> int:
    """A process that serves: the youngest child (the resource tracker is older)."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return int(children[-1])
