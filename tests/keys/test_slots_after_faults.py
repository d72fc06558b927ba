"""Slots of a shared pool when processes stand still, the store hiccups, and numbers are absurd."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest

from asgi_llm_gateway.errors import KeysBusy, StateUnavailable
from asgi_llm_gateway.keys.key import Key
from asgi_llm_gateway.keys.limits import KeyLimits
from asgi_llm_gateway.keys.memory import Busy
from asgi_llm_gateway.keys.pool import MemoryKeyPool
from asgi_llm_gateway.keys.pool_of import pool_of
from asgi_llm_gateway.keys.redis import RedisKeyPool
from asgi_llm_gateway.keys.redis_store import Give
from asgi_llm_gateway.keys.sealing import Seal
from asgi_llm_gateway.runtime import kept_tasks
from asgi_llm_gateway.state import State, StateFault
from asgi_llm_gateway.wire.usage import Usage
from tests.valkey import Valkey

ONE = KeyLimits(concurrency=1)


def pool_at(server: Valkey, keys: Sequence[str], **how: Any) -> RedisKeyPool:
    """A pool as another process would make it: with a connection of its own."""
    state = State(server.url, prefix=server.prefix, timeout=0.3, connect_timeout=0.5)
    return RedisKeyPool("main", keys, state=state, rng=Random(2), **how)


async def taken(pool: Any, *tried: str, **how: Any) -> Key:
    key: Key | None = await pool.take(None, tried, **how)
    assert key is not None
    return key


async def settled() -> None:
    await kept_tasks().join(5.0)


async def eventually(holds: Callable[[], bool], seconds: float = 8.0) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        await asyncio.sleep(0.05)


def named(server: Valkey, *parts: str) -> str:
    return ":".join((f"{server.prefix}{{keys:main}}", *parts))


async def test_a_process_that_wakes_after_its_lease_holds_its_slot_again(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    limits = KeyLimits(concurrency=1, lease=2)
    sleeper, other = pool_at(valkey, ["a"], limits=limits), pool_at(valkey, ["a"], limits=limits)
    held = await taken(sleeper)
    desk = sleeper._lender.desk
    desk._renew_at = float("inf")  # it stands still
    quick = await taken(other, wait=10)
    desk._renew_at = 0.0  # it goes on: now two calls are under way, which nobody could prevent
    await eventually(lambda: "had expired while calls held them" in caplog.text)
    other.report(quick, "ok")
    await settled()
    with pytest.raises(KeysBusy):  # but there is no third
        await other.take(None)
    sleeper.report(held, "ok")
    await settled()
    assert (await taken(other, wait=5)).secret == "a"


async def test_slots_that_a_store_forgot_are_held_again_while_their_calls_run(
    valkey: Valkey,
) -> None:
    limits = KeyLimits(concurrency=1, lease=2)
    pool = pool_at(valkey, ["a", "b"], limits=limits)
    key = await taken(pool)
    for place in ("busy", "free", "later", "held"):  # as after a failover to a copy that lags
        valkey.call("DEL", named(valkey, place), named(valkey, "held", key.id))
    for identity in (Key("a").id, Key("b").id):
        valkey.call("ZADD", named(valkey, "later"), 0, identity)
    await eventually(lambda: valkey.call("EXISTS", named(valkey, "held", key.id)) == 1)
    other = await taken(pool)
    assert other.secret != key.secret
    with pytest.raises(KeysBusy):
        await pool.take(None)


async def test_what_was_given_back_while_the_store_was_silent_is_free_when_it_answers(
    own_valkey: Valkey,
) -> None:
    pool = pool_at(own_valkey, ["a", "b"], limits=KeyLimits(concurrency=1, lease=600))
    done, refused = await taken(pool), await taken(pool)
    with own_valkey.paused():
        pool.report(done, "ok")
        pool.report(refused, "failed", cooldown=300)
        await asyncio.sleep(1.0)
    await settled()
    own = [named(own_valkey, "held", key.id) for key in (done, refused)]
    await eventually(lambda: not any(own_valkey.call("EXISTS", name) for name in own))
    until = time.monotonic() + 10
    while (key := await taken(pool, refused.fingerprint, wait=10)).origin is None:  # a stand-in
        pool.report(key, "ok")
        assert time.monotonic() < until
        await asyncio.sleep(0.1)
    assert key.secret == done.secret
    with pytest.raises(KeysBusy) as busy:
        await pool.take(None, [done.fingerprint])
    assert busy.value.retry_after is not None
    assert 250 < busy.value.retry_after <= 300, "it rests as long as it was told to, and no longer"


async def test_a_slot_given_back_in_vain_is_given_up_with_its_lease(own_valkey: Valkey) -> None:
    pool = pool_at(own_valkey, ["a"], limits=KeyLimits(concurrency=1, lease=1))
    key = await taken(pool)
    desk = pool._lender.desk
    own_valkey.kill()
    pool.report(key, "ok")
    await eventually(lambda: bool(desk._overdue))
    await eventually(lambda: not desk._overdue and desk._giving is None)
    await asyncio.sleep(0.6)
    assert not desk._overdue


async def test_a_refusal_of_the_store_is_logged_and_loses_no_other_slot(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    pool = pool_at(valkey, ["a", "b"], limits=ONE)
    one, two = await taken(pool), await taken(pool)
    give = pool._store.give
    refusals = [StateFault("WRONGTYPE of a kind")]

    async def refusing(gives: Any) -> None:
        if refusals:
            raise refusals.pop()
        await give(gives)

    pool._store.give = refusing  # type: ignore[method-assign]
    pool.report(one, "ok")
    await settled()
    assert "could not be given back: the shared store refused" in caplog.text
    pool.report(two, "ok")
    await settled()
    assert (await taken(pool)).secret == two.secret


@pytest.mark.parametrize("kind", ["memory", "shared"])
@pytest.mark.parametrize("cooldown", [float("nan"), float("inf"), -1.0, 1e300])
async def test_absurd_numbers_spoil_nothing(valkey: Valkey, kind: str, cooldown: float) -> None:
    limits = KeyLimits(concurrency=1, tpm=100)
    pool: Any = (
        MemoryKeyPool(["a", "b"], limits=limits)
        if kind == "memory"
        else pool_at(valkey, ["a", "b"], limits=limits)
    )
    one, two = await taken(pool), await taken(pool)
    pool.report(one, "ok", usage=Usage(input=10**30), cooldown=cooldown)
    pool.report(two, "ok", usage=Usage(input=-(10**30)))
    await settled()
    assert (await taken(pool, wait=5)).secret == two.secret
    with pytest.raises(KeysBusy) as busy:
        await pool.take(None, [two.fingerprint])
    assert busy.value.retry_after is not None
    assert 0 < busy.value.retry_after < 400 * 86_400


async def test_who_does_not_wait_does_not_overtake_those_who_do(valkey: Valkey) -> None:
    pool = pool_at(valkey, ["a"], limits=ONE)
    held = await taken(pool)
    waiting = asyncio.ensure_future(pool.take(None, wait=10))
    await asyncio.sleep(0.1)
    pool.report(held, "ok")
    for _ in range(3):  # while the slot is on its way to whoever waits
        with pytest.raises(KeysBusy) as busy:
            await pool.take(None)
        assert busy.value.retry_after == 1.0
    served = await waiting
    assert served is not None
    pool.report(served, "ok")
    await settled()
    assert (await taken(pool)).secret == "a", "nobody stands in line any more"


async def test_a_call_that_no_key_has_room_for_does_not_look_at_a_thousand(
    valkey: Valkey,
) -> None:
    for choose in ("random", "round_robin", "least_used"):
        server, keys = valkey, [f"key-{number}" for number in range(1000)]
        state = State(server.url, prefix=f"{server.prefix}{choose}:", timeout=20)
        limits = KeyLimits(tpm=100)
        pool = RedisKeyPool("main", keys, state=state, limits=limits, choose=choose)
        store = pool._store
        await store.seed(map(Key, keys))
        for number in range(1000):
            await store.take("", (), 60, number / 1000)
        server.call("CONFIG", "RESETSTAT")
        answer = await store.take("", (), 60, 0.5)
        looked_at = server.call("INFO", "commandstats")["cmdstat_hgetall"]["calls"]
        assert isinstance(answer, Busy)
        assert 0 < answer.by_itself <= 61
        assert looked_at <= 100
        small = await store.take("", (), 20, 0.5)
        assert not isinstance(small, Busy | bool), "smaller calls go on"


async def test_a_large_call_finds_a_key_with_room_behind_many_without(valkey: Valkey) -> None:
    state = State(valkey.url, prefix=valkey.prefix, timeout=20)
    keys = [f"key-{number}" for number in range(200)]
    limits = KeyLimits(tpm=100)
    pool = RedisKeyPool("main", keys, state=state, limits=limits, choose="round_robin")
    store, rng = pool._store, Random(5)
    await store.seed(map(Key, keys))
    for _ in range(150):
        await store.take("", (), 60, 0.0)
    found = [await store.take("", (), 60, rng.random()) for _ in range(10)]
    assert not any(isinstance(answer, Busy | bool) for answer in found)


async def test_a_lease_from_before_the_clock_was_set_back_ends_all_the_same(
    valkey: Valkey,
) -> None:
    pool = pool_at(valkey, ["a"], limits=KeyLimits(concurrency=1, lease=1))
    key = await taken(pool)
    pool._lender.desk._held.clear()  # its process is dead
    later = (time.time() + 86_400) * 1000  # and the store's clock was a day ahead when it took it
    (lease,) = valkey.call("ZRANGE", named(valkey, "held", key.id), 0, -1)[:1]
    lease = lease[0] if isinstance(lease, list | tuple) else lease
    valkey.call("ZADD", named(valkey, "held", key.id), later, lease)
    valkey.call("PERSIST", named(valkey, "held", key.id))
    assert (await taken(pool, wait=10)).secret == "a"


async def test_use_from_before_the_clock_was_set_back_does_not_count(valkey: Valkey) -> None:
    pool = pool_at(valkey, ["a"], limits=KeyLimits(rpm=1))
    key = await taken(pool)
    use = named(valkey, "use", key.id)
    valkey.call("DEL", use)
    valkey.call("HSET", use, f"r{int(time.time()) + 7200}", 1)
    assert (await taken(pool, wait=2)).secret == "a"


async def test_a_state_says_what_pools_do_while_it_is_away(own_valkey: Valkey) -> None:
    own_valkey.kill()
    for mode, served in (("open", True), ("closed", False)):
        state = State(own_valkey.url, timeout=0.3, connect_timeout=0.5, on_failure=mode)  # type: ignore[arg-type]
        pool = pool_of("main", ["a"], state=state)
        if served:
            assert (await taken(pool)).secret == "a"
        else:
            with pytest.raises(StateUnavailable):
                await pool.take(None)


async def test_without_limits_reports_of_many_threads_are_all_counted() -> None:
    pool = MemoryKeyPool(["a"])

    def work() -> None:
        for _ in range(5000):
            key = pool.take_now()
            assert key is not None
            pool.report(key, "ok")

    await asyncio.gather(*(asyncio.to_thread(work) for _ in range(4)))
    (key,) = pool.keys
    assert (key.in_flight, key.uses) == (0, 20_000)


async def test_a_key_stored_unsealed_is_not_used_where_there_is_a_seal(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    await pool_at(valkey, []).add(["sk-planted"])
    sealed = pool_at(valkey, ["sk-ours"], seal=Seal([b"k" * 32]))
    with caplog.at_level(logging.WARNING):
        assert {(await taken(sealed)).secret for _ in range(20)} == {"sk-ours"}
    assert "stored unsealed although [crypto] is given" in caplog.text
    assert "sk-planted" not in caplog.text
    await sealed.add(["sk-planted"])  # now it is sealed
    fresh = pool_at(valkey, ["sk-ours"], seal=Seal([b"k" * 32]))
    assert {key.secret for key in await fresh.all()} == {"sk-ours", "sk-planted"}


async def test_a_slot_given_back_while_it_is_renewed_is_free(valkey: Valkey) -> None:
    """A renewal whose script the store does not know yet arrives after the slot was given back."""
    valkey.call("SCRIPT", "FLUSH")
    pool = pool_at(valkey, ["sk-1"], limits=ONE)
    pool.report(await taken(pool), "ok")
    await settled()
    held = await taken(pool)
    desk = pool._lender.desk
    desk._renew_at = 0.0
    desk.tick(asyncio.get_running_loop().time())
    await asyncio.sleep(0)
    pool.report(held, "ok")
    await settled()
    pool.report(await taken(pool), "ok")


async def test_slots_of_which_only_the_lease_is_known_are_found_among_many_keys(
    valkey: Valkey,
) -> None:
    pool = pool_at(valkey, [f"sk-{number}" for number in range(300)], limits=ONE)
    held = [await taken(pool) for _ in range(300)]
    leases = [key.lease or "" for key in held]
    await pool._lender._store.give([Give("", lease) for lease in leases])
    again = [await taken(pool) for _ in range(300)]
    assert len({key.fingerprint for key in again}) == 300


async def test_a_call_over_midnight_does_not_make_the_new_day_longer(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asgi_llm_gateway.keys.redis.input_tokens", lambda tokens: tokens)
    pool = pool_at(valkey, ["sk-1"], limits=KeyLimits(tpd=1000))
    midnight = 1_800_057_600.0
    now = [midnight - 1]
    pool._lender._store._wall = lambda: now[0]
    late = await pool.take(900)
    now[0] = midnight + 1
    pool.report(await pool.take(10), "ok")  # type: ignore[arg-type]
    assert late is not None
    pool.report(late, "ok", usage=Usage(input=100))
    await settled()
    use = await pool.day_use(late)
    assert use.tokens >= 0
    assert await pool.take(1000) is not None
    await settled()
    assert (await pool.day_use(late)).tokens >= 1000
