"""Work that must finish finishes, and one timer looks after everything with a deadline."""

from __future__ import annotations

import asyncio
import logging

import pytest

from asgi_llm_gateway.runtime import Sweep, Tasks, kept_tasks, sweep


async def test_settling_survives_any_number_of_cancels() -> None:
    tasks, done = Tasks(), asyncio.Event()
    go = asyncio.Event()

    async def work() -> str:
        await go.wait()
        await asyncio.sleep(0)
        done.set()
        return "settled"

    caller = asyncio.ensure_future(tasks.settle(work()))
    for _ in range(3):
        await asyncio.sleep(0)
        caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert not done.is_set()
    assert len(tasks) == 1
    go.set()
    await tasks.join(1.0)
    assert done.is_set()
    assert len(tasks) == 0


async def test_settling_gives_back_the_result_or_the_failure() -> None:
    tasks = Tasks()

    async def work(value: int) -> int:
        return 10 // value

    assert await tasks.settle(work(5)) == 2
    with pytest.raises(ZeroDivisionError):
        await tasks.settle(work(0))


async def test_a_failure_nobody_awaits_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks()

    async def work() -> None:
        raise LookupError("no such reservation")

    tasks.keep(work())
    await tasks.join(1.0)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert "no such reservation" in str(record.exc_info[1])


async def test_joining_waits_for_what_is_begun_meanwhile() -> None:
    tasks = Tasks()
    order: list[str] = []

    async def second() -> None:
        await asyncio.sleep(0.01)
        order.append("second")

    async def first() -> None:
        await asyncio.sleep(0.01)
        order.append("first")
        tasks.keep(second())

    tasks.keep(first())
    await tasks.join(5.0)
    assert order == ["first", "second"]


async def test_joining_gives_up_at_its_deadline_and_says_on_what(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks = Tasks()

    async def stuck_for_ever() -> None:
        await asyncio.Event().wait()

    task = tasks.keep(stuck_for_ever())
    await tasks.join(0.01)
    assert task.cancelled()
    assert "stuck_for_ever" in caplog.text
    await Tasks().join(0.01)


async def test_parts_without_a_gateway_share_the_loops_tasks() -> None:
    assert kept_tasks() is kept_tasks()


class Waiting:
    def __init__(self, swept: Sweep, *, removes: Waiting | None = None, until: int = 3) -> None:
        self.ticks: list[float] = []
        self.swept, self.removes, self.until = swept, removes, until
        self.over = asyncio.Event()
        swept.add(self)

    def tick(self, now: float) -> None:
        self.ticks.append(now)
        if self.removes is not None:
            self.swept.remove(self.removes)
        if len(self.ticks) == self.until:
            self.swept.remove(self)
            self.over.set()


async def test_a_sweep_ticks_until_removed_and_then_has_no_timer() -> None:
    swept = Sweep(period=0.001)
    one, other = Waiting(swept), Waiting(swept, until=5)
    await asyncio.wait_for(other.over.wait(), 5)
    assert len(one.ticks) == 3
    assert one.ticks == sorted(one.ticks)
    assert len(swept) == 0
    await asyncio.sleep(0.01)
    assert len(other.ticks) == 5
    assert swept._timer is None
    again = Waiting(swept, until=1)
    await asyncio.wait_for(again.over.wait(), 5)


async def test_removed_by_another_in_the_same_round_it_is_not_ticked_any_more() -> None:
    swept = Sweep(period=0.001)
    first = Waiting(swept, until=1)
    second = Waiting(swept)
    first.removes = second
    await asyncio.wait_for(first.over.wait(), 5)
    await asyncio.sleep(0.005)
    assert second.ticks == []
    swept.remove(second)


async def test_one_that_fails_does_not_stop_the_others() -> None:
    class Broken:
        def tick(self, now: float) -> None:
            swept.remove(self)
            raise LookupError("tick")

    seen: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: seen.append(context["exception"]))
    swept = Sweep(period=0.001)
    swept.add(Broken())
    other = Waiting(swept)
    await asyncio.wait_for(other.over.wait(), 5)
    assert [type(failure) for failure in seen] == [LookupError]


async def test_a_loop_has_one_sweep() -> None:
    assert sweep() is sweep()


async def test_a_failure_of_settling_is_raised_and_logged_only_where_nobody_hears_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks, go = Tasks(), asyncio.Event()

    async def work() -> None:
        await go.wait()
        raise ZeroDivisionError

    caller = asyncio.ensure_future(tasks.settle(work()))
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(ZeroDivisionError):
        await caller
    assert not caplog.records
    go.clear()
    caller = asyncio.ensure_future(tasks.settle(work()))
    await asyncio.sleep(0)
    caller.cancel()
    go.set()
    await asyncio.wait({caller})
    await tasks.join(1.0)
    await asyncio.sleep(0)
    assert [record.getMessage() for record in caplog.records] == ["background work failed"]
