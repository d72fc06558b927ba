"""Rounds of the sweep: what is taken out and what stays, when, and how many at a time."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from random import Random
from typing import Any

import pytest

from asgi_llm_gateway.errors import ConfigurationError, ConnectionLost, StateUnavailable
from asgi_llm_gateway.keys.accounts import KeyAccounts
from asgi_llm_gateway.keys.billing import Balance
from asgi_llm_gateway.keys.key import Key
from asgi_llm_gateway.keys.pool import MemoryKeyPool
from asgi_llm_gateway.keys.probes import Asks, Told
from asgi_llm_gateway.keys.sweep import Sweep, Swept
from asgi_llm_gateway.upstream import DirectUpstream
from tests.keys_sweep.billing_host import (
    MODELS,
    NOW,
    SUBSCRIPTION,
    USAGE,
    Account,
    BillingHost,
    accounts_at,
    key_of,
    secrets_in,
)
from tests.served import served
from tests.upstreams import HANG, FakeUpstream, Reply, until

ACCOUNTS = {
    "sk-good": Account(limit=5, used_cents=125),
    "sk-almost": Account(limit=5, used_cents=499.99),
    "sk-unlimited": Account(limit=100_000_000, used_cents=10**9),
    "sk-text": Account(limit="5.00", used_cents="125", until=str(int(NOW + 60))),
    "sk-expired": Account(until=NOW - 1),
    "sk-no-limit": Account(limit=0),
    "sk-used-up": Account(limit=5, used_cents=500),
    "sk-overdrawn": Account(limit=5, used_cents=1e9),
    "sk-odd": Account(limit="n/a"),
    "sk-odd-and-invalid": Account(limit="n/a", valid=False),
}
STAY = ["sk-almost", "sk-good", "sk-odd", "sk-text", "sk-unlimited"]


class Clock:
    """Sleeps that end when the test says so."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._wake = asyncio.Semaphore(0)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await self._wake.acquire()

    def strike(self) -> None:
        self._wake.release()


def asking(pool: MemoryKeyPool, ask: Any, **more: Any) -> KeyAccounts:
    return KeyAccounts(pool, Asks(ask), FakeUpstream(), name="main", **more)


async def good(secret: str) -> Told:
    return True


async def test_a_round_takes_out_exactly_what_is_gone_and_says_why() -> None:
    host = BillingHost(ACCOUNTS)
    pool = MemoryKeyPool([*ACCOUNTS, "sk-unknown-there"])
    told: list[tuple[str, str]] = []
    pool.on_removed.append(lambda key, reason: told.append((key.secret, reason)))
    swept = await Sweep([accounts_at(FakeUpstream(host), pool)]).round()
    assert secrets_in(pool) == STAY
    assert swept == Swept(asked=11, removed=6)
    assert dict(told) == {
        "sk-expired": "expired on 2026-11-23",
        "sk-no-limit": "no limit left: it is 0",
        "sk-used-up": "used up: 5.00 of 5.00 USD used",
        "sk-overdrawn": "used up: 10000000.00 of 5.00 USD used",
        "sk-odd-and-invalid": "the provider answered 401 to GET /models",
        "sk-unknown-there": "the provider answered 401 to GET /models",
    }
    reasons = {kept.reason for kept in await pool.quarantined()}
    assert reasons == set(dict(told).values())
    balances = await pool.balances()
    key = key_of(pool, "sk-good")
    assert balances[key.fingerprint] == Balance(limit=5.0, used=1.25, left=3.75, checked=NOW)
    assert len(balances) == 8


@pytest.mark.parametrize(
    "failure",
    [
        Reply.error(401),
        Reply.error(403),
        Reply.error(404),
        Reply.error(500),
        Reply.fails(ConnectionLost("no")),
        Reply(200, [(b"content-type", b"text/html")], [b"<html>"]),
        Reply.json({"error": "no"}),
        Reply.json({"hard_limit_usd": -1, "total_usage": -1}),
    ],
)
async def test_a_billing_host_that_fails_costs_no_key(failure: Reply) -> None:
    fine = {secret: Account() for secret in ACCOUNTS}
    host = BillingHost(fine, {SUBSCRIPTION: failure, USAGE: failure})
    pool = MemoryKeyPool(fine)
    swept = await Sweep([accounts_at(FakeUpstream(host), pool)]).round()
    assert swept == Swept(asked=len(fine))
    assert secrets_in(pool) == sorted(fine)
    assert host.asked[MODELS] == len(fine)


async def test_a_whole_provider_that_fails_costs_no_key() -> None:
    for failure in (ConnectionLost("no"), RuntimeError("not even ours")):
        pool = MemoryKeyPool(ACCOUNTS)
        swept = await Sweep([accounts_at(FakeUpstream(Reply.fails(failure)), pool)]).round()
        assert swept.asked == len(ACCOUNTS)
        assert swept.unknown + swept.failed == len(ACCOUNTS)
        assert secrets_in(pool) == sorted(ACCOUNTS)


def test_a_round_over_real_sockets_takes_out_the_same() -> None:
    host = BillingHost(ACCOUNTS)

    async def go(base: str) -> list[str]:
        upstream = DirectUpstream()
        pool = MemoryKeyPool(ACCOUNTS)
        try:
            await Sweep([accounts_at(upstream, pool, api=f"{base}/v1")]).round()
        finally:
            await upstream.aclose()
        return secrets_in(pool)

    with served(host.app) as base:
        assert asyncio.run(go(base)) == STAY


def test_hosts_that_reset_stall_or_are_not_there_cost_no_key() -> None:
    async def go() -> None:
        stalled = asyncio.Event()

        async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{")
            await stalled.wait()
            writer.close()

        async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.transport.abort()

        async def chatter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"220 mail.example ESMTP\r\n")
            writer.close()

        upstream = DirectUpstream()
        for handler in (stall, reset, chatter, None):
            server = await asyncio.start_server(handler or reset, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            if handler is None:
                server.close()
            pool = MemoryKeyPool(["sk-one", "sk-two"])
            api = f"http://127.0.0.1:{port}/v1"
            accounts = accounts_at(upstream, pool, api=api, patience=0.3)
            assert await Sweep([accounts]).round() == Swept(asked=2, unknown=2)
            assert secrets_in(pool) == ["sk-one", "sk-two"]
            server.close()
        stalled.set()
        await upstream.aclose()

    asyncio.run(go())


async def test_the_first_round_is_one_interval_after_the_start_and_intervals_vary() -> None:
    clock, host = Clock(), BillingHost(ACCOUNTS)
    pool = MemoryKeyPool(["sk-good"])
    accounts = accounts_at(FakeUpstream(host), pool)
    sweep = Sweep([accounts], every=60.0, jitter=0.1, sleep=clock.sleep, rng=Random(1))
    async with sweep.resources:
        for n in range(30):
            await until(lambda n=n: len(clock.slept) == n + 1)
            assert host.asked[SUBSCRIPTION] == n
            clock.strike()
        await until(lambda: host.asked[SUBSCRIPTION] == 30)
    assert all(54 <= seconds <= 66 for seconds in clock.slept)
    assert len(set(clock.slept)) > 20
    assert max(clock.slept) - min(clock.slept) > 6


async def test_the_sweep_ends_with_its_resources_even_in_the_middle_of_a_question() -> None:
    clock = Clock()
    host = BillingHost({}, {SUBSCRIPTION: Reply(head=[HANG])})
    upstream = FakeUpstream(host)
    sweep = Sweep([accounts_at(upstream, MemoryKeyPool(["a", "b"]))], sleep=clock.sleep)
    async with sweep.resources:
        clock.strike()
        await until(lambda: upstream.sending == 2)
    assert upstream.sending == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_interval_of_0_is_no_sweep() -> None:
    clock = Clock()
    async with Sweep([], every=0.0, sleep=clock.sleep).resources:
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
    assert clock.slept == []


@pytest.mark.parametrize(
    "wrong",
    [{"every": -1}, {"every": float("inf")}, {"jitter": 1}, {"concurrency": 0}, {"lease": 0}],
)
def test_a_sweep_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="the sweep of keys needs"):
        Sweep([], **wrong)


async def test_no_more_keys_are_asked_about_at_a_time_than_allowed() -> None:
    at_work, most = 0, 0

    async def ask(secret: str) -> Told:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0.001)
        at_work -= 1
        return True

    pools = [MemoryKeyPool([f"sk-{n}-{m}" for m in range(10)]) for n in range(3)]
    swept = await Sweep([asking(pool, ask) for pool in pools], concurrency=3).round()
    assert swept == Swept(asked=30)
    assert most == 3


async def test_one_that_raises_stops_neither_the_round_nor_the_sweep(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: Counter[str] = Counter()
    clock = Clock()

    async def ask(secret: str) -> Told:
        heard[secret] += 1
        if secret == "sk-raises":
            raise ZeroDivisionError
        return secret != "sk-gone"

    class BadPool(MemoryKeyPool):
        async def all(self) -> list[Key]:
            raise LookupError

    def fails(key: Key, reason: str) -> None:
        raise ValueError

    pool = MemoryKeyPool(["sk-raises", "sk-gone", "sk-good"])
    pool.on_removed.append(fails)
    sweep = Sweep([asking(BadPool(), ask), asking(pool, ask)], concurrency=1, sleep=clock.sleep)
    with caplog.at_level(logging.ERROR):
        async with sweep.resources:
            for n in (1, 2):
                clock.strike()
                await until(lambda n=n: heard["sk-good"] == n and len(clock.slept) == n + 1)
    assert secrets_in(pool) == ["sk-good", "sk-raises"]
    assert heard == {"sk-raises": 2, "sk-gone": 1, "sk-good": 2}
    messages = Counter(record.getMessage() for record in caplog.records)
    raises = key_of(pool, "sk-raises").fingerprint
    assert messages[f"key {raises} of channel main could not be asked about"] == 2
    assert messages["the keys of channel main are not known"] == 2


async def test_what_gives_the_accounts_may_fail_and_is_asked_anew_each_round() -> None:
    clock, heard = Clock(), 0
    pool = MemoryKeyPool(["sk-one"])

    async def gone(secret: str) -> Told:
        return False

    def accounts() -> list[KeyAccounts]:
        nonlocal heard
        heard += 1
        if heard == 1:
            raise RuntimeError
        return [asking(pool, gone)]

    async with Sweep(accounts, sleep=clock.sleep).resources:
        clock.strike()
        clock.strike()
        await until(lambda: len(clock.slept) == 3)
    assert heard == 2
    assert secrets_in(pool) == []


async def test_a_store_that_is_away_ends_the_round_and_not_the_sweep(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Away(MemoryKeyPool):
        async def save_balance(self, key: Key, balance: Balance) -> None:
            raise StateUnavailable("the shared store does not answer")

    pool = Away([f"sk-{n}" for n in range(20)])
    host = BillingHost({secret: Account() for secret in secrets_in(pool)})
    with caplog.at_level(logging.WARNING):
        swept = await Sweep([accounts_at(FakeUpstream(host), pool)], concurrency=1).round()
    assert swept == Swept(asked=1, cut=True)
    assert [record.getMessage() for record in caplog.records] == [
        "keys were not all swept: the shared store does not answer"
    ]


async def test_two_loops_of_one_process_do_not_sweep_at_the_same_time() -> None:
    asked: list[asyncio.AbstractEventLoop] = []
    turns: Counter[asyncio.AbstractEventLoop] = Counter()
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def ask(secret: str) -> Told:
        asked.append(asyncio.get_running_loop())
        begun.set()
        await go_on.wait()
        return True

    async def sleep(seconds: float) -> None:
        turns[asyncio.get_running_loop()] += 1
        await asyncio.sleep(seconds)

    sweep = Sweep([asking(MemoryKeyPool(["sk-one"]), ask)], every=0.01, sleep=sleep)

    async def in_another_loop() -> int:
        async with sweep.resources:
            await until(lambda: turns[asyncio.get_running_loop()] > 3)
        return turns[asyncio.get_running_loop()]

    async with sweep.resources:
        await begun.wait()
        assert await asyncio.to_thread(asyncio.run, in_another_loop()) > 3
        assert asked == [asyncio.get_running_loop()]
        go_on.set()


async def test_a_pool_whose_store_is_away_is_no_pool_without_keys() -> None:
    class Away(MemoryKeyPool):
        async def all(self) -> list[Key]:
            raise StateUnavailable("the shared store does not answer")

    with pytest.raises(StateUnavailable):
        await Sweep([accounts_at(FakeUpstream(), Away())]).round()


async def test_a_provider_that_hangs_does_not_keep_others_keys_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asgi_llm_gateway.keys.sweep._MOST_LOST", 0.05)

    async def hangs(secret: str) -> Told:
        await asyncio.Event().wait()
        raise AssertionError(secret)

    async def says(secret: str) -> Told:
        return True

    hung = MemoryKeyPool([f"sk-{number}" for number in range(50)])
    nobody: Any = None
    accounts = [
        KeyAccounts(hung, Asks(hangs), nobody, name="hangs", patience=0.04),
        KeyAccounts(MemoryKeyPool(["sk-good"]), Asks(says), nobody, name="fine"),
    ]
    swept = await Sweep(accounts, concurrency=2).round()
    assert swept.passed >= 40
    assert swept.asked == 51 - swept.passed
    assert (swept.removed, swept.failed, len(hung.keys)) == (0, 0, 50)
