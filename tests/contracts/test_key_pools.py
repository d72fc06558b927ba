"""What every pool of keys promises, in memory and in a shared store."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from asgi_llm_gateway.errors import ConfigurationError, KeysBusy
from asgi_llm_gateway.keys.billing import Balance
from asgi_llm_gateway.keys.key import Key
from asgi_llm_gateway.keys.limits import KeyLimits
from asgi_llm_gateway.keys.pool import ManagedPool, MemoryKeyPool
from asgi_llm_gateway.keys.pool_of import pool_of
from asgi_llm_gateway.keys.redis import RedisKeyPool
from asgi_llm_gateway.state import State
from asgi_llm_gateway.wire.usage import Usage

Make = Callable[..., ManagedPool]


@pytest.fixture(params=["memory", "redis"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    state = None
    if request.param == "redis":
        server = request.getfixturevalue("valkey")
        state = State(server.url, prefix=server.prefix)

    def made(keys: Sequence[str], **how: Any) -> ManagedPool:
        if "limits" in how:
            how["limits"] = KeyLimits(**how["limits"])
        return pool_of("main", keys, state=state, rng=Random(5), **how)

    async with opened(state):
        yield made


@asynccontextmanager
async def opened(state: State | None) -> AsyncIterator[None]:
    if state is None:
        yield
        return
    async with state.resources:
        yield


def of(caller: str) -> Any:
    """As much of an exchange as a pool looks at."""
    return SimpleNamespace(caller=SimpleNamespace(token_id=caller))


async def taken(pool: ManagedPool, *tried: str, **how: Any) -> Key:
    key = await pool.take(None, tried, **how)
    assert key is not None
    return key


async def secrets(pool: ManagedPool) -> set[str]:
    return {key.secret for key in await pool.all()}


async def settled() -> None:
    """What was reported has reached the store."""
    await asyncio.sleep(0.05)


def test_the_pool_is_in_memory_unless_there_is_a_store_that_is_shared() -> None:
    assert isinstance(pool_of("main", ["a"]), MemoryKeyPool)
    assert isinstance(pool_of("main", ["a"], state=State("memory://")), MemoryKeyPool)
    shared = State("redis://127.0.0.1:1")
    assert isinstance(pool_of("main", ["a"], state=shared), RedisKeyPool)


async def test_both_are_pools_that_can_be_looked_after(make: Make) -> None:
    assert isinstance(make(["a"]), ManagedPool)


async def test_a_tried_key_is_not_given_again_and_then_none_is_left(make: Make) -> None:
    pool = make(["a", "b", "c"])
    tried: list[str] = []
    while (key := await pool.take(None, tried)) is not None:
        assert key.fingerprint not in tried
        tried.append(key.fingerprint)
        pool.report(key, "failed")
    assert len(tried) == 3
    assert await make([], choose="round_robin").take(None) is None


@pytest.mark.parametrize("choose", ["random", "round_robin", "least_used"])
async def test_every_key_gets_its_share(make: Make, choose: str) -> None:
    pool = make(["a", "b", "c", "d"], choose=choose)
    counts: Counter[str] = Counter()
    for _ in range(80 if choose == "random" else 20):
        key = await taken(pool)
        counts[key.secret] += 1
        pool.report(key, "ok")
        if choose == "least_used":
            await settled()
    if choose == "random":
        assert min(counts.values()) >= 8
    else:
        assert set(counts.values()) == {5}


async def test_least_used_looks_at_calls_under_way_first(make: Make) -> None:
    pool = make(["a", "b", "c"], choose="least_used")
    first, second, third = [await taken(pool) for _ in range(3)]
    assert {first.secret, second.secret, third.secret} == {"a", "b", "c"}
    pool.report(second, "ok")
    await settled()
    assert (await taken(pool)).secret == second.secret


async def test_a_way_of_choosing_that_does_not_exist_is_refused(make: Make) -> None:
    with pytest.raises(ConfigurationError, match="least_used, random, round_robin"):
        make(["a"], choose="best")


async def test_a_key_at_its_concurrency_is_busy_until_a_call_is_over(make: Make) -> None:
    pool = make(["a", "b"], limits={"concurrency": 2})
    held = [await taken(pool) for _ in range(4)]
    assert Counter(key.secret for key in held) == {"a": 2, "b": 2}
    with pytest.raises(KeysBusy) as refused:
        await pool.take(None)
    assert refused.value.retry_after is not None
    assert 0 < refused.value.retry_after <= 1
    pool.report(held[1], "ok")
    await settled()
    assert (await taken(pool)).secret == held[1].secret


async def test_giving_a_slot_back_twice_frees_one_slot(make: Make) -> None:
    pool = make(["a"], limits={"concurrency": 1})
    key = await taken(pool)
    pool.report(key, "ok")
    await settled()
    other = await taken(pool)
    pool.report(key, "ok")
    await settled()
    with pytest.raises(KeysBusy):
        await pool.take(None)
    pool.report(other, "ok")


async def test_a_waiting_call_gets_the_key_that_is_given_back(make: Make) -> None:
    pool = make(["a"], limits={"concurrency": 1})
    held = await taken(pool)
    waiting = asyncio.ensure_future(pool.take(None, wait=5))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    began = time.monotonic()
    pool.report(held, "ok")
    key = await waiting
    assert key is not None
    assert time.monotonic() - began < 2


async def test_a_call_that_waited_in_vain_is_refused_in_time(make: Make) -> None:
    pool = make(["a"], limits={"concurrency": 1})
    await taken(pool)
    began = time.monotonic()
    with pytest.raises(KeysBusy) as refused:
        await pool.take(None, wait=0.2)
    assert 0.15 < time.monotonic() - began < 3
    assert refused.value.retry_after


async def test_a_call_does_not_wait_for_what_cannot_come_in_time(make: Make) -> None:
    pool = make(["a", "b"])
    first = await taken(pool)
    second = await taken(pool, first.fingerprint)
    pool.report(first, "failed", cooldown=60)
    pool.report(second, "failed", cooldown=50)
    await settled()
    began = time.monotonic()
    with pytest.raises(KeysBusy) as refused:
        await pool.take(None, wait=30)
    assert time.monotonic() - began < 5
    assert refused.value.retry_after is not None
    assert 45 < refused.value.retry_after <= 50


async def test_a_cooled_key_is_left_alone_until_it_has_rested(make: Make) -> None:
    pool = make(["a", "b"])
    key = await taken(pool)
    pool.report(key, "failed", cooldown=0.4)
    await settled()
    for _ in range(20):
        other = await taken(pool)
        assert other.secret != key.secret
        pool.report(other, "ok")
    with pytest.raises(KeysBusy) as refused:
        await pool.take(None, [other.fingerprint])
    assert refused.value.retry_after is not None
    assert 0 < refused.value.retry_after <= 0.4
    again = await pool.take(None, [other.fingerprint], wait=3)
    assert again is not None
    assert again.secret == key.secret


async def test_a_shorter_cooldown_does_not_end_a_longer_one(make: Make) -> None:
    pool = make(["a"])
    first, second = await taken(pool), await taken(pool)
    pool.report(first, "failed", cooldown=60)
    pool.report(second, "failed", cooldown=0.01)
    await asyncio.sleep(0.1)
    with pytest.raises(KeysBusy):
        await pool.take(None)


async def test_requests_a_minute_are_limited_for_each_key(make: Make) -> None:
    pool = make(["a", "b"], limits={"rpm": 3})
    counts: Counter[str] = Counter()
    for _ in range(6):
        key = await taken(pool)
        counts[key.secret] += 1
        pool.report(key, "ok")
    assert counts == {"a": 3, "b": 3}
    await settled()
    with pytest.raises(KeysBusy) as refused:
        await pool.take(None)
    assert refused.value.retry_after is not None
    assert 55 < refused.value.retry_after <= 61


async def test_requests_a_day_are_limited_and_readable(make: Make) -> None:
    pool = make(["a"], limits={"rpd": 2, "time_zone": "Asia/Tokyo", "reset_hour": 5})
    for _ in range(2):
        key = await taken(pool)
        pool.report(key, "ok", usage=Usage(input=30, output=12))
    await settled()
    with pytest.raises(KeysBusy) as refused:
        await pool.take(None)
    use = await pool.day_use(key)
    assert (use.requests, use.tokens) == (2, 84)
    assert use.since <= time.time() < use.until
    assert refused.value.retry_after == pytest.approx(use.until - time.time(), abs=5)


async def test_tokens_are_corrected_by_what_was_used(make: Make) -> None:
    pool = make(["a"], limits={"tpm": 100})
    key = await taken(pool)
    pool.report(key, "ok", usage=Usage(input=60, output=39))
    await settled()
    pool.report(await taken(pool), "ok", usage=Usage(input=1))
    await settled()
    with pytest.raises(KeysBusy):
        await pool.take(None)
    assert (await pool.day_use(key)).tokens == 100


async def test_a_call_of_unknown_use_keeps_its_estimate(make: Make) -> None:
    pool = make(["a"], limits={"tpm": 2})
    pool.report(await taken(pool), "left")
    pool.report(await taken(pool), "failed")
    await settled()
    with pytest.raises(KeysBusy):
        await pool.take(None)


async def test_callers_take_turns_however_many_calls_one_of_them_has(make: Make) -> None:
    pool = make(["a"], limits={"concurrency": 1})
    order: list[str] = []

    async def call(caller: str) -> None:
        key = await pool.take(of(caller), wait=20)
        assert key is not None
        order.append(caller)
        await asyncio.sleep(0)
        pool.report(key, "ok")

    held = await taken(pool)
    calls = [asyncio.ensure_future(call("many")) for _ in range(30)]
    await asyncio.sleep(0.02)
    calls += [asyncio.ensure_future(call("one")) for _ in range(3)]
    await asyncio.sleep(0.02)
    pool.report(held, "ok")
    await asyncio.gather(*calls)
    last = max(place for place, caller in enumerate(order) if caller == "one")
    assert last <= 7
    assert len(order) == 33


async def test_within_a_caller_who_came_first_is_served_first(make: Make) -> None:
    pool = make(["a"], limits={"concurrency": 1})
    held, order = await taken(pool), []

    async def call(number: int) -> None:
        key = await pool.take(of("one"), wait=20)
        assert key is not None
        order.append(number)
        pool.report(key, "ok")

    calls = []
    for number in range(10):
        calls.append(asyncio.ensure_future(call(number)))
        await asyncio.sleep(0)
    await asyncio.sleep(0.02)
    pool.report(held, "ok")
    await asyncio.gather(*calls)
    assert order == list(range(10))


async def test_waiting_calls_that_are_cancelled_lose_no_slot(make: Make) -> None:
    pool = make(["a", "b"], limits={"concurrency": 1})
    rng = Random(3)
    for _ in range(5):
        held = [await taken(pool, wait=5), await taken(pool, wait=5)]
        waiting = [asyncio.ensure_future(pool.take(of(str(n % 3)), wait=10)) for n in range(12)]
        await asyncio.sleep(0.01)
        for key in held:
            pool.report(key, "ok")
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        for call in waiting[::2]:
            call.cancel()
        while left := [call for call in waiting if not call.cancelled()]:
            done, _ = await asyncio.wait(left, timeout=5, return_when="FIRST_COMPLETED")
            assert done, "a slot was lost"
            for call in done:
                waiting.remove(call)
                if not call.cancelled():
                    key = call.result()
                    assert key is not None
                    pool.report(key, "ok")
    await settled()
    assert {(await taken(pool)).secret, (await taken(pool)).secret} == {"a", "b"}


async def test_calls_that_are_cancelled_while_taking_lose_no_slot(make: Make) -> None:
    pool = make(["a", "b"], limits={"concurrency": 1})
    await pool.all()
    for steps in range(8):
        calls = [asyncio.ensure_future(pool.take(None)) for _ in range(2)]
        for _ in range(steps):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        for result in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(result, Key):
                pool.report(result, "ok")
        await settled()
        both = [await taken(pool, wait=2), await taken(pool, wait=2)]
        for key in both:
            pool.report(key, "ok")
        await settled()


async def test_a_removed_key_is_in_quarantine_and_its_hook_is_told(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    pool, told = make(["sk-dead-1", "sk-good-1"]), []
    pool.on_removed.append(lambda key, reason: told.append((key.fingerprint, reason)))
    dead = next(key for key in await pool.all() if key.secret == "sk-dead-1")
    before = time.time()
    with caplog.at_level(logging.WARNING):
        await pool.remove(dead, "the provider answered 401")
        await pool.remove(dead, "once more")
    assert told == [(dead.fingerprint, "the provider answered 401")]
    assert [record.getMessage() for record in caplog.records] == [
        f"key {dead.fingerprint} taken out: the provider answered 401"
    ]
    assert "sk-dead" not in caplog.text
    assert await secrets(pool) == {"sk-good-1"}
    (entry,) = await pool.quarantined()
    assert (entry.fingerprint, entry.reason) == (dead.fingerprint, "the provider answered 401")
    assert before - 5 < entry.at < time.time() + 5
    assert {(await taken(pool)).secret for _ in range(20)} == {"sk-good-1"}


async def test_a_hook_that_raises_is_logged_and_stops_nobody(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    pool, told = make(["a"]), []

    def bad(key: Key, reason: str) -> None:
        raise LookupError("no such channel")

    pool.on_removed += [bad, lambda key, reason: told.append(reason)]
    await pool.remove((await pool.all())[0], "dead")
    assert told == ["dead"]
    assert "no such channel" in caplog.text


async def test_a_key_comes_back_by_its_fingerprint_or_by_being_added(make: Make) -> None:
    pool = make(["a", "b"])
    a, b = sorted(await pool.all(), key=lambda key: key.secret)
    await pool.remove(a, "dead")
    await pool.remove(b, "dead")
    assert await pool.take(None) is None
    assert await pool.restore(a.fingerprint) is True
    assert await pool.restore(a.fingerprint) is False
    assert await pool.restore("0" * 12) is False
    assert (await taken(pool)).secret == "a"
    await pool.add(["b", "b", "c"])
    await pool.add([])
    assert await secrets(pool) == {"a", "b", "c"}
    assert await pool.quarantined() == []


async def test_a_restored_key_has_rested_enough(make: Make) -> None:
    pool = make(["a"])
    key = await taken(pool)
    pool.report(key, "failed", cooldown=60)
    await settled()
    await pool.remove(key, "dead")
    await pool.restore(key.fingerprint)
    assert (await taken(pool)).secret == "a"


async def test_removing_the_last_key_ends_the_waiting_for_it(make: Make) -> None:
    pool = make(["a"], limits={"concurrency": 1})
    held = await taken(pool)
    waiting = asyncio.ensure_future(pool.take(None, wait=20))
    await asyncio.sleep(0.05)
    await pool.remove(held, "dead")
    assert await asyncio.wait_for(waiting, 5) is None
    pool.report(held, "failed")


async def test_a_key_that_is_added_serves_those_who_wait(make: Make) -> None:
    pool = make(["a"], limits={"concurrency": 1})
    await taken(pool)
    waiting = asyncio.ensure_future(pool.take(None, wait=20))
    await asyncio.sleep(0.05)
    await pool.add(["b"])
    key = await asyncio.wait_for(waiting, 5)
    assert key is not None
    assert key.secret == "b"


async def test_one_who_cannot_be_served_does_not_stand_in_others_way(make: Make) -> None:
    pool = make(["a", "b"], limits={"concurrency": 1})
    a, b = sorted([await taken(pool), await taken(pool)], key=lambda key: key.secret)
    picky = asyncio.ensure_future(pool.take(None, [a.fingerprint], wait=20))
    await asyncio.sleep(0.02)
    easy = asyncio.ensure_future(pool.take(None, wait=20))
    await asyncio.sleep(0.02)
    pool.report(a, "ok")
    first = await asyncio.wait_for(easy, 5)
    assert first is not None
    assert first.secret == "a"
    assert not picky.done()
    pool.report(b, "ok")
    second = await asyncio.wait_for(picky, 5)
    assert second is not None
    assert second.secret == "b"


async def test_balances_are_kept_by_fingerprint(make: Make) -> None:
    pool = make(["a", "b"])
    a, b = await pool.all()
    balance = Balance(limit=20.0, used=7.5, left=12.5, access_until=None, checked=1_800_000_000.0)
    await pool.save_balance(a, Balance(left=1.0))
    await pool.save_balance(a, balance)
    await pool.save_balance(b, Balance())
    assert await pool.balances() == {a.fingerprint: balance, b.fingerprint: Balance()}


async def test_many_at_once_never_hold_a_key_more_often_than_allowed(make: Make) -> None:
    pool = make([str(n) for n in range(10)], limits={"concurrency": 2})
    holding: Counter[str] = Counter()
    most = 0

    async def call(number: int) -> None:
        nonlocal most
        key = await pool.take(of(str(number % 7)), wait=30)
        assert key is not None
        holding[key.secret] += 1
        most = max(most, holding[key.secret])
        await asyncio.sleep(0.001)
        holding[key.secret] -= 1
        pool.report(key, "ok")

    await asyncio.gather(*(call(number) for number in range(300)))
    assert most == 2
    assert not +holding


@pytest.mark.parametrize("wait", [0.0, 3.0])
async def test_a_call_that_tried_every_key_waits_for_none(make: Make, wait: float) -> None:
    """Also while others stand in line for the same keys."""
    pool = make(["sk-1"], limits={"concurrency": 1})
    held = await taken(pool)
    waiting = asyncio.ensure_future(pool.take(of("b"), wait=5.0))
    await asyncio.sleep(0.1)
    began = time.monotonic()
    assert await pool.take(of("a"), [held.fingerprint], wait=wait) is None
    assert time.monotonic() - began < 1.0
    pool.report(held, "ok")
    other = await waiting
    assert other is not None
    pool.report(other, "ok")


@pytest.mark.parametrize("secret", ["sk-secret\n", "sk-s\xe9cret", "", " sk-secret"])
async def test_a_secret_that_no_header_can_carry_is_refused_unseen(make: Make, secret: str) -> None:
    """HTTP libraries repeat such a header in what they raise."""
    with pytest.raises(ConfigurationError, match="key 2 of 2") as refusal:
        make(["sk-good", secret])
    assert "ecret" not in str(refusal.value)
    pool = make(["sk-good"])
    with pytest.raises(ConfigurationError, match="key 1 of 1"):
        await pool.add([secret])
    assert [key.secret for key in await pool.all()] == ["sk-good"]
