"""The pool a channel's keys are taken from."""

from __future__ import annotations

import logging
from random import Random

import pytest

from asgi_llm_gateway.errors import ConfigurationError
from asgi_llm_gateway.keys.key import Key
from asgi_llm_gateway.keys.pool import MemoryKeyPool


async def secrets(pool: MemoryKeyPool, count: int) -> list[str]:
    taken = [await pool.take(None) for _ in range(count)]
    return [key.secret for key in taken if key is not None]


def test_a_key_shows_only_its_fingerprint() -> None:
    key = Key("sk-secret-1")
    shown = f"{key} {key!r} {[key]}"
    assert "secret" not in shown
    assert key.fingerprint in shown
    assert len(key.fingerprint) == 12


async def test_taking_counts_and_giving_back_counts_down() -> None:
    pool = MemoryKeyPool(["a"])
    key = await pool.take(None)
    assert key is not None
    assert (key.uses, key.in_flight) == (1, 1)
    pool.report(key, "ok")
    assert (key.uses, key.in_flight) == (1, 0)


async def test_a_tried_key_is_not_given_again_and_then_none_is_left() -> None:
    pool = MemoryKeyPool(["a", "b", "c"], rng=Random(3))
    tried: set[str] = set()
    taken = []
    while (key := await pool.take(None, tried)) is not None:
        taken.append(key.secret)
        tried.add(key.fingerprint)
    assert sorted(taken) == ["a", "b", "c"]
    assert await MemoryKeyPool().take(None) is None


async def test_round_robin_and_least_used_spread_evenly() -> None:
    pool = MemoryKeyPool(["a", "b", "c"], choose="round_robin")
    assert await secrets(pool, 6) == ["a", "b", "c", "a", "b", "c"]
    pool = MemoryKeyPool(["a", "b"], choose="least_used")
    first, second = await pool.take(None), await pool.take(None)
    assert first is not None
    assert second is not None
    pool.report(second, "ok")
    third = await pool.take(None)
    assert third is second


async def test_one_random_source_gives_one_sequence() -> None:
    keys = [str(n) for n in range(9)]
    one, two = MemoryKeyPool(keys, rng=Random(5)), MemoryKeyPool(keys, rng=Random(5))
    assert await secrets(one, 50) == await secrets(two, 50)


async def test_a_key_taken_out_is_gone_for_good_and_calls_that_hold_it_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = MemoryKeyPool(["sk-dead-1", "sk-good-1"], choose="round_robin")
    held, other = await pool.take(None), await pool.take(None)
    assert held is not None
    assert other is not None
    with caplog.at_level(logging.WARNING):
        await pool.remove(held, "the provider answered 401")
        await pool.remove(held, "the provider answered 401")
    assert [record.getMessage() for record in caplog.records] == [
        f"key {held.fingerprint} taken out: the provider answered 401"
    ]
    assert pool.keys == (other,)
    assert pool.removed == {held.fingerprint: "the provider answered 401"}
    pool.report(held, "failed")
    assert held.in_flight == 0


async def test_adding_a_key_twice_changes_nothing_and_adding_a_dead_one_brings_it_back() -> None:
    pool = MemoryKeyPool(["a", "a", "b"])
    await pool.add(["b", "c", "c"])
    assert [key.secret for key in pool.keys] == ["a", "b", "c"]
    await pool.remove(pool.keys[0], "dead")
    await pool.add(["a"])
    assert [key.secret for key in pool.keys] == ["b", "c", "a"]
    assert pool.removed == {}


async def test_a_reloaded_pool_keeps_counts_and_what_was_dead_stays_dead() -> None:
    old = MemoryKeyPool(["a", "b", "c"], choose="round_robin")
    dead, held = await old.take(None), await old.take(None)
    assert dead is not None
    assert held is not None
    await old.remove(dead, "the provider answered 401")
    new = MemoryKeyPool(["a", "b", "d"])
    new.adopt(old)
    assert [key.secret for key in new.keys] == ["b", "d"]
    assert new.keys[0] is held
    assert new.removed == {dead.fingerprint: "the provider answered 401"}
    new.report(held, "ok")
    assert held.in_flight == 0


def test_an_unknown_way_of_choosing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="least_used, random, round_robin"):
        MemoryKeyPool(choose="best")
