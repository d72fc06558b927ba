"""What only a shared pool does: settings and restarts, many processes, a store that goes away."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from asgi_llm_gateway.errors import ConfigurationError, KeysBusy, StateUnavailable
from asgi_llm_gateway.keys.billing import Balance
from asgi_llm_gateway.keys.key import Key
from asgi_llm_gateway.keys.limits import KeyLimits
from asgi_llm_gateway.keys.memory import Busy
from asgi_llm_gateway.keys.redis import RedisKeyPool
from asgi_llm_gateway.keys.sealing import Seal
from asgi_llm_gateway.runtime import kept_tasks
from asgi_llm_gateway.state import State
from asgi_llm_gateway.wire.usage import Usage
from tests.valkey import Valkey, ValkeyCluster

ONE = KeyLimits(concurrency=1)


def pool_at(server: Valkey, keys: Sequence[str], **how: Any) -> RedisKeyPool:
    """A pool as another process would make it: with a connection of its own."""
    state = State(server.url, prefix=server.prefix, timeout=0.3, connect_timeout=0.5)
    return RedisKeyPool("main", keys, state=state, rng=Random(2), **how)


async def secrets(pool: RedisKeyPool) -> list[str]:
    return sorted(key.secret for key in await pool.all())


async def taken(pool: RedisKeyPool, *tried: str, **how: Any) -> Key:
    key = await pool.take(None, tried, **how)
    assert key is not None
    return key


async def settled() -> None:
    await kept_tasks().join(5.0)


def stored(server: Valkey) -> bytes:
    """Everything the store holds, in one piece."""
    found = []
    for name in server.call("KEYS", "*"):
        kind = server.call("TYPE", name)
        read = {"hash": ("HGETALL", name), "set": ("SMEMBERS", name)}
        command = read.get(_text(kind), ("ZRANGE", name, 0, -1))
        found.append(repr((name, server.call(*command))).encode())
    return b"\n".join(found)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


async def test_all_of_a_pool_lies_in_one_slot_of_a_cluster(valkey: Valkey) -> None:
    pool = pool_at(valkey, ["a", "b"], limits=KeyLimits(concurrency=2, rpm=5, tpd=100))
    key = await taken(pool)
    await pool.save_balance(key, Balance())
    await pool.remove(key, "dead")
    names = valkey.call("KEYS", "*")
    assert len(names) >= 8
    assert all(name.startswith(f"{valkey.prefix}{{keys:main}}:".encode()) for name in names)


async def test_a_pool_works_in_a_cluster(valkey_cluster: ValkeyCluster) -> None:
    state = State(valkey_cluster.url, prefix=valkey_cluster.prefix)
    pool = RedisKeyPool("main", ["a", "b"], state=state, limits=KeyLimits(concurrency=1, rpm=9))
    async with state.resources:
        await pool.add(["c"])
        await pool.remove(Key("c"), "dead")
        keys = [await taken(pool), await taken(pool)]
        assert {key.secret for key in keys} == {"a", "b"}
        waiting = asyncio.ensure_future(pool.take(None, wait=10))
        await asyncio.sleep(0.05)
        pool.report(keys[0], "ok", usage=Usage(input=3))
        served = await waiting
        assert served is not None
        assert served.secret == keys[0].secret
        await settled()
        assert [entry.fingerprint for entry in await pool.quarantined()] == [Key("c").fingerprint]


async def test_a_restart_changes_nothing_and_revives_no_dead_key(valkey: Valkey) -> None:
    first = pool_at(valkey, ["a", "b"])
    await first.remove(Key("a"), "the provider answered 401")
    await first.add(["by-hand"])
    second = pool_at(valkey, ["a", "b"])
    assert await secrets(second) == ["b", "by-hand"]
    assert {(await taken(second)).secret for _ in range(30)} == {"b", "by-hand"}
    (entry,) = await second.quarantined()
    assert entry.reason == "the provider answered 401"
    await second.add(["a"])
    assert await secrets(pool_at(valkey, ["a", "b"])) == ["a", "b", "by-hand"]


async def test_keys_that_left_the_settings_are_taken_out_and_those_added_by_hand_stay(
    valkey: Valkey,
) -> None:
    first = pool_at(valkey, ["a", "b", "c"])
    await first.add(["c", "d"])
    assert await secrets(pool_at(valkey, ["b", "e"])) == ["b", "c", "d", "e"]
    assert await secrets(pool_at(valkey, [])) == ["c", "d"]
    assert b"sk" not in stored(valkey)
    assert valkey.call("EXISTS", f"{valkey.prefix}{{keys:main}}:key:{Key('a').id}") == 0


async def test_what_one_process_does_every_other_sees_at_once(valkey: Valkey) -> None:
    one, two = pool_at(valkey, ["a"]), pool_at(valkey, ["a"])
    await taken(one)
    await two.add(["b"])
    assert {(await taken(one)).secret for _ in range(30)} == {"a", "b"}
    await two.remove(Key("a"), "dead")
    assert {(await taken(one)).secret for _ in range(30)} == {"b"}
    one.report(await taken(one), "failed", cooldown=30)
    await settled()
    with pytest.raises(KeysBusy):
        await two.take(None)


async def test_slots_are_counted_over_all_processes(valkey: Valkey) -> None:
    one, two = pool_at(valkey, ["a", "b"], limits=ONE), pool_at(valkey, ["a", "b"], limits=ONE)
    first, second = await taken(one), await taken(two)
    assert {first.secret, second.secret} == {"a", "b"}
    waiting = asyncio.ensure_future(two.take(None, wait=10))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    one.report(first, "ok")
    got = await waiting
    assert got is not None
    assert got.secret == first.secret


async def test_a_slot_is_renewed_while_its_call_runs(valkey: Valkey) -> None:
    pool = pool_at(valkey, ["a"], limits=KeyLimits(concurrency=1, lease=1))
    key = await taken(pool)
    await asyncio.sleep(2.2)
    with pytest.raises(KeysBusy):
        await pool.take(None)
    pool.report(key, "ok")
    await settled()
    assert (await taken(pool)).secret == "a"


async def test_a_slot_nobody_renews_expires(valkey: Valkey) -> None:
    one = pool_at(valkey, ["a"], limits=KeyLimits(concurrency=1, lease=1))
    two = pool_at(valkey, ["a"], limits=KeyLimits(concurrency=1, lease=1))
    held = await taken(one)
    one._lender.desk._held.clear()  # as if its process were dead
    began = time.monotonic()
    assert (await taken(two, wait=10)).secret == "a"
    assert 0.7 < time.monotonic() - began < 4
    one.report(held, "ok")  # it lives after all, but its slot is another's now
    await settled()
    with pytest.raises(KeysBusy):
        await two.take(None)


async def test_a_store_that_lost_everything_gets_the_settings_keys_again(
    valkey: Valkey,
) -> None:
    pool = pool_at(valkey, ["a", "b"], limits=ONE)
    await taken(pool)
    valkey.call("FLUSHALL")
    assert await secrets(pool) == []
    calls = [pool.take(None, wait=5) for _ in range(2)]
    keys = await asyncio.gather(*calls)
    assert sorted(key.secret for key in keys if key is not None) == ["a", "b"]


async def test_secrets_are_sealed_at_rest_and_a_new_sealing_key_takes_over(valkey: Valkey) -> None:
    old, new = b"o" * 32, b"n" * 32
    pool = pool_at(valkey, ["sk-from-settings"], seal=Seal([old]))
    await pool.add(["sk-by-hand"])
    await pool.remove(Key("sk-by-hand"), "dead")
    await pool.restore(Key("sk-by-hand").fingerprint)
    assert b"sk-" not in stored(valkey)
    assert await secrets(pool_at(valkey, [], seal=Seal([new, old]))) == ["sk-by-hand"]


async def test_a_key_that_cannot_be_opened_is_passed_over_and_told_without_its_secret(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    sealed = pool_at(valkey, [], seal=Seal([b"o" * 32]))
    await sealed.add(["sk-sealed"])
    for seal in (None, Seal([b"n" * 32])):
        caplog.clear()
        pool = pool_at(valkey, ["a"], seal=seal, limits=ONE)
        key = await taken(pool)
        assert key.secret == "a"
        with pytest.raises(KeysBusy):
            await pool.take(None)
        assert await secrets(pool) == ["a"]
        assert "cannot be used by this process" in caplog.text
        assert "sk-sealed" not in caplog.text
        pool.report(key, "ok")
        await settled()
    assert (await taken(sealed, Key("a").fingerprint)).secret == "sk-sealed"


async def test_a_value_of_an_unknown_version_counts_as_missing_and_is_logged(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    pool = pool_at(valkey, ["a"])
    await pool.add(["b"])
    base = f"{valkey.prefix}{{keys:main}}"
    valkey.call("HSET", f"{base}:key:{Key('b').id}", "v", "2")
    valkey.call("HSET", f"{base}:quarantine", "0" * 12, json.dumps({"v": 2, "why": ["new"]}))
    valkey.call("HSET", f"{base}:balances", "0" * 12, json.dumps({"v": 9, "balance": {}}))
    valkey.call("HSET", f"{base}:balances", "1" * 12, b"\xff")
    fresh = pool_at(valkey, ["a"])
    with caplog.at_level(logging.WARNING):
        assert await secrets(fresh) == ["a"]
        assert {(await taken(fresh)).secret for _ in range(20)} == {"a"}
        assert await fresh.quarantined() == []
        assert await fresh.balances() == {}
    assert len(caplog.records) >= 4


async def test_without_the_store_settings_keys_go_on_without_limits(
    own_valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    pool = pool_at(own_valkey, ["a", "b", "c"], limits=ONE)
    told: list[str] = []
    pool.on_removed.append(lambda key, reason: told.append(key.secret))
    await pool.remove(Key("c"), "dead before")
    held = await taken(pool)
    own_valkey.kill()
    with caplog.at_level(logging.INFO, "asgi_llm_gateway.keys"):
        keys = [await taken(pool) for _ in range(20)]
        assert {key.secret for key in keys} == {"a", "b"}
        await pool.remove(Key("a"), "dead meanwhile")
        await pool.remove(Key("a"), "dead meanwhile")
        assert {(await taken(pool)).secret for _ in range(10)} == {"b"}
        pool.report(keys[0], "failed", cooldown=30)
        pool.report(held, "ok", usage=Usage(input=5))
        with pytest.raises(StateUnavailable):
            await pool.add(["d"])
    said = [record.getMessage() for record in caplog.records]
    assert sum("go on without limits" in line for line in said) == 1
    assert told == ["c", "a"]
    own_valkey.start()
    await _back(pool)
    await settled()
    assert await secrets(pool) == ["b", "c"], "a died; c's quarantine was lost with the store"
    await taken(pool)
    await taken(pool)
    with pytest.raises(KeysBusy):
        await pool.take(None)


async def _back(pool: RedisKeyPool) -> None:
    """Wait until the pool speaks with its store again: taking lends a slot."""
    until = time.monotonic() + 15
    while True:
        key = await taken(pool)
        pool.report(key, "ok")
        if key.origin is not None:
            return
        assert time.monotonic() < until
        await asyncio.sleep(0.1)


async def test_without_the_store_nothing_is_taken_if_that_was_chosen(own_valkey: Valkey) -> None:
    pool = pool_at(own_valkey, ["a"], on_state_failure="closed")
    await taken(pool)
    own_valkey.kill()
    with pytest.raises(StateUnavailable):
        await pool.take(None, wait=5)
    with pytest.raises(StateUnavailable):
        await pool.remove(Key("a"), "dead")
    keyless = pool_at(own_valkey, [])
    with pytest.raises(StateUnavailable):
        await keyless.take(None)


async def test_calls_in_line_are_told_when_the_store_goes_away(own_valkey: Valkey) -> None:
    pool = pool_at(own_valkey, ["a"], limits=ONE, on_state_failure="closed")
    await taken(pool)
    waiting = [asyncio.ensure_future(pool.take(None, wait=20)) for _ in range(5)]
    await asyncio.sleep(0.1)
    own_valkey.kill()
    began = time.monotonic()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, StateUnavailable) for result in results)
    assert time.monotonic() - began < 15


async def test_resources_put_the_keys_in_and_tell_the_store_what_is_over(valkey: Valkey) -> None:
    pool = pool_at(valkey, ["a"], limits=ONE)
    assert pool.resources is not None
    async with pool.resources:
        base = f"{valkey.prefix}{{keys:main}}"
        assert valkey.call("SCARD", f"{base}:ids") == 1
        pool.report(await taken(pool), "ok")
    assert valkey.call("ZCARD", f"{base}:held:{Key('a').id}") == 0


async def test_resources_open_although_the_store_is_away(
    own_valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    own_valkey.kill()
    pool = pool_at(own_valkey, ["a"])
    assert pool.resources is not None
    async with pool.resources:
        assert "not in the store yet" in caplog.text
        assert (await taken(pool)).secret == "a"


async def test_a_hundred_first_calls_put_the_keys_in_once(valkey: Valkey) -> None:
    pool = pool_at(valkey, ["a"])
    seeded = []
    seed = pool._store.seed

    async def counted(keys: Any) -> list[str]:
        seeded.append(1)
        return await seed(keys)

    pool._store.seed = counted  # type: ignore[method-assign]
    await asyncio.gather(*(pool.take(None) for _ in range(100)))
    assert len(seeded) == 1


async def test_reports_of_one_tick_go_to_the_store_together(valkey: Valkey) -> None:
    pool = pool_at(valkey, ["a"], limits=KeyLimits(concurrency=100))
    keys = [await taken(pool) for _ in range(50)]
    await settled()
    valkey.call("CONFIG", "RESETSTAT")
    for key in keys:
        pool.report(key, "ok")
    await settled()
    stats = valkey.call("INFO", "commandstats")
    scripts = [stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha")]
    assert 1 <= sum(scripts) <= 2


async def test_the_last_minute_slides_in_the_store_as_well(valkey: Valkey) -> None:
    pool = pool_at(valkey, ["a"], limits=KeyLimits(rpm=2, tpm=50))
    pool.report(await taken(pool), "ok", usage=Usage(input=10))
    pool.report(await taken(pool), "ok", usage=Usage(input=10))
    await settled()
    with pytest.raises(KeysBusy):
        await pool.take(None)
    use = f"{valkey.prefix}{{keys:main}}:use:{Key('a').id}"
    now = int(time.time())
    found = valkey.call("HGETALL", use)
    fields = found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))
    for field in list(fields):
        if field[:1] in (b"r", b"t"):
            valkey.call("HDEL", use, field)
    valkey.call("HSET", use, f"r{now - 62}", 2, f"r{now - 30}", 1, f"t{now - 30}", 48)
    later = f"{valkey.prefix}{{keys:main}}:later"
    valkey.call("ZADD", later, 0, Key("a").id)
    await taken(pool)
    assert valkey.call("HEXISTS", use, f"r{now - 62}") == 0
    with pytest.raises(KeysBusy) as refused:
        await pool.take(None)
    assert refused.value.retry_after is not None
    assert 25 < refused.value.retry_after <= 32


async def test_a_call_that_leaves_while_the_store_is_asked_for_it_loses_no_slot(
    valkey: Valkey,
) -> None:
    pool = pool_at(valkey, ["a"], limits=KeyLimits(concurrency=1, rpm=50))
    held, take = await taken(pool), pool._store.take
    asked, go = asyncio.Event(), asyncio.Event()

    async def slow(*args: Any) -> Any:
        answer = await take(*args)
        if not isinstance(answer, Busy):
            asked.set()
            await go.wait()
        return answer

    pool._store.take = slow  # type: ignore[method-assign]
    leaving = asyncio.ensure_future(pool.take(None, wait=20))
    await asyncio.sleep(0.05)
    pool.report(held, "ok")
    await asked.wait()
    leaving.cancel()
    await asyncio.wait({leaving})
    go.set()
    await settled()
    assert (await taken(pool, wait=5)).uses == 2
    assert (await pool.day_use(held)).requests == 2


async def test_a_call_that_leaves_as_it_is_handed_a_key_loses_no_slot(valkey: Valkey) -> None:
    pool = pool_at(valkey, ["a"], limits=ONE)
    held, desk = await taken(pool), pool._lender.desk
    hand = desk._hand

    def handed(waiter: Any, answer: Any) -> None:
        hand(waiter, answer)
        if isinstance(answer, Key):
            leaving.cancel()

    desk._hand = handed  # type: ignore[method-assign]
    leaving = asyncio.ensure_future(pool.take(None, wait=20))
    await asyncio.sleep(0.05)
    pool.report(held, "ok")
    await asyncio.wait({leaving})
    assert leaving.cancelled()
    await settled()
    assert (await taken(pool, wait=5)).uses == 2


async def test_a_slot_lost_while_its_call_runs_is_logged(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    pool = pool_at(valkey, ["a"], limits=KeyLimits(concurrency=1, lease=1))
    await taken(pool)
    valkey.call("DEL", f"{valkey.prefix}{{keys:main}}:held:{Key('a').id}")
    until = time.monotonic() + 5
    while "had expired while calls held them" not in caplog.text:
        assert time.monotonic() < until
        await asyncio.sleep(0.05)


async def test_renewing_goes_on_when_the_store_is_back(own_valkey: Valkey) -> None:
    pool = pool_at(own_valkey, ["a"], limits=KeyLimits(concurrency=1, lease=6))
    await taken(pool)
    held = f"{own_valkey.prefix}{{keys:main}}:held:{Key('a').id}"
    first = float(own_valkey.call("ZRANGE", held, 0, 0, "WITHSCORES")[-1])
    pool._lender.desk._renew_at = 0.0  # it is time
    with own_valkey.paused():
        await asyncio.sleep(1.0)
    until = time.monotonic() + 4
    while float(own_valkey.call("ZRANGE", held, 0, 0, "WITHSCORES")[-1]) <= first:
        assert time.monotonic() < until
        await asyncio.sleep(0.05)


async def test_without_the_store_a_key_that_was_cooled_is_left_alone(own_valkey: Valkey) -> None:
    pool = pool_at(own_valkey, ["a"])
    own_valkey.kill()
    key = await taken(pool)
    assert pool.keys[0].id == key.id
    pool.report(key, "failed", cooldown=30)
    with pytest.raises(KeysBusy) as refused:
        await pool.take(None)
    assert refused.value.retry_after == pytest.approx(30, abs=5)
    assert await pool.take(None, [key.fingerprint]) is None


async def test_another_secret_under_a_keys_name_is_not_used(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    pool = pool_at(valkey, [])
    await pool.add(["a"])
    valkey.call("HSET", f"{valkey.prefix}{{keys:main}}:key:{Key('a').id}", "secret", "pother")
    assert await pool_at(valkey, []).all() == []
    assert "another secret is stored" in caplog.text


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"name": "ma}in"}, "cannot name a pool"),
        ({"name": ""}, "cannot name a pool"),
        ({"on_state_failure": "perhaps"}, "open"),
        ({"state": State("memory://")}, "share"),
    ],
)
def test_a_pool_that_cannot_work_is_refused(wrong: dict[str, Any], told: str) -> None:
    how = {"name": "main", "state": State("redis://127.0.0.1:1"), **wrong}
    with pytest.raises(ConfigurationError, match=told):
        RedisKeyPool(how.pop("name"), ["a"], **how)
