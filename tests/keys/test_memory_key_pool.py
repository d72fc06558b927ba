"""What only the pool in memory does: threads, several event loops, no loop at all, reloads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from random import Random

import pytest

from asgi_llm_gateway.errors import KeysBusy
from asgi_llm_gateway.keys.key import Key
from asgi_llm_gateway.keys.limits import KeyLimits
from asgi_llm_gateway.keys.pool import MemoryKeyPool

ONE = KeyLimits(concurrency=1)


def test_a_key_can_be_taken_and_removed_without_an_event_loop() -> None:
    pool = MemoryKeyPool(["a", "b"], limits=ONE)
    first, second = pool.take_now(), pool.take_now()
    assert first is not None
    assert second is not None
    assert {first.secret, second.secret} == {"a", "b"}
    assert pool.take_now() is None
    pool.report(first, "failed")
    assert pool.take_now([first.fingerprint]) is None
    pool.remove_now(first, "dead")
    assert pool.take_now() is None
    assert pool.removed == {first.fingerprint: "dead"}


def test_threads_share_a_pool_and_no_limit_is_exceeded() -> None:
    pool = MemoryKeyPool([str(n) for n in range(4)], limits=KeyLimits(concurrency=2))
    lock, holding, most = threading.Lock(), Counter[str](), [0]

    def work() -> None:
        for _ in range(300):
            key = pool.take_now()
            if key is None:
                time.sleep(0)
                continue
            with lock:
                holding[key.secret] += 1
                most[0] = max(most[0], holding[key.secret])
            time.sleep(0)
            with lock:
                holding[key.secret] -= 1
            pool.report(key, "ok")

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [2]
    assert [key.in_flight for key in pool.keys] == [0] * 4


def test_a_call_in_one_loop_gets_what_a_call_in_another_gives_back() -> None:
    pool = MemoryKeyPool(["a"], limits=ONE)
    served: list[int] = []

    async def calls(number: int) -> None:
        for _ in range(50):
            key = await pool.take(None, wait=20)
            assert key is not None
            await asyncio.sleep(0)
            served.append(number)
            pool.report(key, "ok")

    threads = [threading.Thread(target=lambda n=n: asyncio.run(calls(n))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert Counter(served) == dict.fromkeys(range(4), 50)
    assert pool.keys[0].in_flight == 0


def test_a_waiter_whose_loop_is_gone_holds_nothing() -> None:
    pool = MemoryKeyPool(["a"], limits=ONE)
    held = pool.take_now()
    assert held is not None
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(pool.take(None, wait=60))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    pool.report(held, "ok")
    key = pool.take_now()
    assert key is not None
    assert (key.origin.in_flight, key.origin.uses) == (1, 2)  # type: ignore[union-attr]
    waiting.get_coro().close()  # type: ignore[union-attr]
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]
    assert (key.origin.in_flight, key.origin.uses) == (1, 2)  # type: ignore[union-attr]


async def test_a_rest_that_ends_sooner_than_all_others_wakes_who_waits() -> None:
    pool = MemoryKeyPool(["a", "b"], limits=ONE)
    first, second = await _taken(pool), await _taken(pool)
    pool.report(first, "failed", cooldown=30)
    waiting = asyncio.ensure_future(pool.take(None, wait=20))
    await asyncio.sleep(0.01)
    pool.report(second, "failed", cooldown=0.2)
    key = await asyncio.wait_for(waiting, 5)
    assert key is not None
    assert key.id == second.id


async def test_who_waits_is_served_when_a_minute_has_passed() -> None:
    now = time.monotonic()
    ahead = [0.0]
    pool = MemoryKeyPool(["a"], limits=KeyLimits(rpm=1), clock=lambda: time.monotonic() + ahead[0])
    pool.report(await _taken(pool), "ok")
    with pytest.raises(KeysBusy) as refused:
        await pool.take(None, wait=50)
    assert refused.value.retry_after is not None
    ahead[0] = refused.value.retry_after - 0.3
    key = await pool.take(None, wait=5)
    assert key is not None
    assert time.monotonic() - now < 10


async def _taken(pool: MemoryKeyPool, *tried: str) -> Key:
    key = await pool.take(None, tried)
    assert key is not None
    return key


async def test_a_reload_keeps_who_waits_what_is_held_and_what_was_added() -> None:
    old = MemoryKeyPool(["a", "gone"], limits=ONE, rng=Random(1))
    await old.add(["by-hand"])
    held = [await _taken(old) for _ in range(3)]
    waiting = asyncio.ensure_future(old.take(None, wait=20))
    await asyncio.sleep(0)
    new = MemoryKeyPool(["a", "b"], limits=ONE)
    new.adopt(old)
    assert [key.secret for key in new.keys] == ["a", "b", "by-hand"]
    served = await asyncio.wait_for(waiting, 5)
    assert served is not None
    assert served.secret == "b"
    for key in (*held, served):
        old.report(key, "ok")
    assert {key.in_flight for key in new.keys} == {0}
    taken = [await _taken(new) for _ in range(3)]
    assert {key.secret for key in taken} == {"a", "b", "by-hand"}


async def test_a_reload_that_leaves_no_key_ends_the_waiting() -> None:
    old = MemoryKeyPool(["a"], limits=ONE)
    await _taken(old)
    waiting = asyncio.ensure_future(old.take(None, wait=20))
    await asyncio.sleep(0)
    MemoryKeyPool([]).adopt(old)
    assert await asyncio.wait_for(waiting, 5) is None


async def test_taking_looks_at_one_key_of_a_hundred() -> None:
    pool = MemoryKeyPool([str(n) for n in range(100)])
    looked: list[int] = []
    choose = pool._ring.choose

    def counted(keys: object, *how: object) -> Key:
        looked.append(len(pool._ring._places.ready))
        return choose(keys, *how)  # type: ignore[arg-type]

    pool._ring.choose = counted
    key = await _taken(pool)
    assert looked == [100]
    await _taken(pool, key.fingerprint)
    assert len(looked) <= 3


async def test_who_waits_goes_before_one_who_comes_when_a_key_has_rested() -> None:
    now = [1000.0]
    pool = MemoryKeyPool(["a"], limits=ONE, clock=lambda: now[0])
    pool.report(await _taken(pool), "failed", cooldown=15)
    waiting = asyncio.ensure_future(pool.take(None, wait=20))
    await asyncio.sleep(0)
    now[0] += 16
    assert pool.take_now() is None
    served = await asyncio.wait_for(waiting, 5)
    assert served is not None


@pytest.mark.parametrize("limits", [{"rpm": 2}, {"concurrency": 1, "rpd": 2}])
async def test_a_key_handed_to_a_call_that_left_was_never_used(limits: dict[str, int]) -> None:
    now = [1000.0]
    pool = MemoryKeyPool(["a"], limits=KeyLimits(**limits), clock=lambda: now[0])
    held = await _taken(pool)
    pool.report(held, "failed", cooldown=5)
    leaving = asyncio.ensure_future(pool.take(None, wait=20))
    await asyncio.sleep(0)
    now[0] += 6
    pool._ring._rung()  # as the loop's timer does: the key is handed over now
    leaving.cancel()
    await asyncio.wait({leaving})
    assert (await pool.day_use(held)).requests == 1
    assert (await _taken(pool)).uses == 2


async def test_a_key_nobody_knows_did_nothing_today() -> None:
    use = await MemoryKeyPool(["a"]).day_use(Key("b"))
    assert (use.requests, use.tokens) == (0, 0)
    assert use.until - use.since == 86_400


async def test_nobody_in_line_takes_what_all_of_them_have_tried() -> None:
    pool = MemoryKeyPool(["a", "b"], limits=ONE)
    a = await _taken(pool, Key("b").fingerprint)
    await _taken(pool, a.fingerprint)
    waiting = [asyncio.ensure_future(pool.take(None, [a.fingerprint], wait=20)) for _ in range(3)]
    await asyncio.sleep(0)
    pool.report(a, "ok")
    await asyncio.sleep(0.01)
    assert not any(call.done() for call in waiting)
    assert pool.take_now() is not None
    for call in waiting:
        call.cancel()
    await asyncio.wait(waiting)
