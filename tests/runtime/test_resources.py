"""Resources open once per loop, however they are asked for, and are closed by the last to leave."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from asgi_llm_gateway.runtime import PerLoop, Resources, answer_lifespan, combine_lifespans
from tests.asgi_lifespan import StartupFailed, lifespan


class Store:
    """A resource that counts its openings."""

    def __init__(self, *, fails: int = 0, slow: float = 0.0, value: Any = "open") -> None:
        self.opened = self.closed = 0
        self.fails, self.slow, self.value = fails, slow, value
        self.resources: Resources[Any] = Resources(self.open, started_by="gateway.lifespan")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Any]:
        await asyncio.sleep(self.slow)
        if self.fails:
            self.fails -= 1
            raise OSError("no disk")
        self.opened += 1
        try:
            yield self.value
        finally:
            await asyncio.sleep(0)
            self.closed += 1


async def test_two_that_enter_share_one_opening_closed_by_the_last() -> None:
    store = Store()
    assert store.resources.current is None
    async with store.resources as first:
        async with store.resources as second:
            assert first == second == store.resources.current == "open"
        assert (store.opened, store.closed) == (1, 0)
    assert (store.opened, store.closed) == (1, 1)
    assert store.resources.current is None


async def test_concurrent_first_calls_open_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "asgi_llm_gateway.runtime")
    store = Store(slow=0.01)
    got = await asyncio.gather(*(store.resources.get() for _ in range(20)))
    assert (got, store.opened) == (["open"] * 20, 1)
    (line,) = caplog.messages
    assert "gateway.lifespan" in line


async def test_a_resource_that_yields_nothing_is_opened_once_too() -> None:
    store = Store(value=None)
    for _ in range(3):
        assert await store.resources.get() is None
    async with store.resources:
        pass
    assert (store.opened, store.closed) == (1, 1)


async def test_a_first_call_that_is_cancelled_does_not_spoil_the_opening() -> None:
    store = Store(slow=0.02)
    first = asyncio.ensure_future(store.resources.get())
    await asyncio.sleep(0.005)
    first.cancel()
    assert await store.resources.get() == "open"
    assert store.opened == 1


async def test_a_failing_start_is_raised_to_each_and_tried_again_by_the_next() -> None:
    store = Store(fails=2)
    got = await asyncio.gather(*(store.resources.get() for _ in range(2)), return_exceptions=True)
    assert [str(failure) for failure in got] == ["no disk"] * 2
    assert await store.resources.get() == "open"
    failing = Store(fails=1)
    with pytest.raises(OSError, match="no disk"):
        async with failing.resources:
            pytest.fail("not open")
    async with failing.resources as value:
        assert value == "open"
    assert failing.closed == 1


async def test_opened_by_a_call_and_then_entered_it_is_closed_by_whoever_entered() -> None:
    store = Store()
    await store.resources.get()
    async with store.resources:
        assert store.opened == 1
    assert store.closed == 1
    await store.resources.get()
    assert store.opened == 2


def test_opened_by_a_call_it_is_closed_when_asyncio_run_ends() -> None:
    store = Store()
    asyncio.run(store.resources.get())
    assert (store.opened, store.closed) == (1, 1)
    asyncio.run(store.resources.get())
    assert (store.opened, store.closed) == (2, 2)


async def host(scope: Any, receive: Any, send: Any) -> None:
    """A host that speaks the lifespan protocol."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def test_a_part_holds_its_resources_while_the_lifespan_passes_through() -> None:
    store = Store()

    async def part(scope: Any, receive: Any, send: Any) -> None:
        await store.resources.lifespan(host, scope, receive, send)

    async with lifespan(part) as life:
        assert store.resources.current == "open"
        assert await store.resources.get() == "open"
    assert life.sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert (store.opened, store.closed) == (1, 1)


async def test_a_part_that_cannot_start_tells_the_server_so() -> None:
    store = Store(fails=1)

    async def part(scope: Any, receive: Any, send: Any) -> None:
        await store.resources.lifespan(host, scope, receive, send)

    with pytest.raises(StartupFailed, match="no disk"):
        async with lifespan(part):
            pytest.fail("must not serve")


async def test_a_host_without_a_lifespan_leaves_nothing_open() -> None:
    store = Store()

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        raise NotImplementedError(scope["type"])

    async def part(scope: Any, receive: Any, send: Any) -> None:
        await store.resources.lifespan(bare, scope, receive, send)

    async with lifespan(part) as life:
        assert not life.supported
        assert store.closed == 1
        assert await store.resources.get() == "open"


async def test_an_app_served_bare_answers_the_lifespan_itself() -> None:
    store = Store()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer_lifespan(store.resources, receive, send)

    async with lifespan(app) as life:
        assert store.resources.current == "open"
    assert life.sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert store.closed == 1


async def test_an_app_served_bare_says_what_it_could_not_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing = Store(fails=1)

    async def starts_badly(scope: Any, receive: Any, send: Any) -> None:
        await answer_lifespan(failing.resources, receive, send)

    @asynccontextmanager
    async def closing_badly() -> AsyncIterator[str]:
        yield "open"
        raise OSError("disk is gone")

    async def stops_badly(scope: Any, receive: Any, send: Any) -> None:
        await answer_lifespan(closing_badly(), receive, send)

    with pytest.raises(StartupFailed, match="no disk"):
        async with lifespan(starts_badly):
            pytest.fail("must not serve")
    with pytest.raises(AssertionError, match=r"lifespan\.shutdown\.failed"):
        async with lifespan(stops_badly):
            pass
    assert [record.exc_info is not None for record in caplog.records] == [True, True]


async def test_lifespans_combine_in_order_and_are_left_in_reverse() -> None:
    order: list[str] = []

    def one(name: str, state: dict[str, Any] | None) -> Any:
        @asynccontextmanager
        async def held(app: Any) -> AsyncIterator[dict[str, Any] | None]:
            order.append(f"{name} starts with {app}")
            yield state
            order.append(f"{name} stops")

        return held

    both = combine_lifespans(one("a", {"x": 1}), one("b", None), one("c", {"y": 2}))
    async with both("app") as state:
        assert state == {"x": 1, "y": 2}
    assert order[:3] == [f"{name} starts with app" for name in "abc"]
    assert order[3:] == ["c stops", "b stops", "a stops"]
    async with combine_lifespans(one("a", None))("app") as state:
        assert state is None, "a server need not have a lifespan state"


async def test_a_lifespan_that_fails_to_start_closes_those_before_it() -> None:
    first, second = Store(), Store(fails=1)
    both = combine_lifespans(lambda app: first.open(), lambda app: second.open())
    first.value = None
    with pytest.raises(OSError, match="no disk"):
        async with both("app"):
            pytest.fail("must not start")
    assert first.closed == 1


def test_each_loop_has_a_value_of_its_own_and_takes_it_along() -> None:
    class Value:
        pass

    kept: PerLoop[Value] = PerLoop(Value)

    async def twice() -> Value:
        assert kept.get() is kept.get()
        return kept.get()

    first, second = asyncio.run(twice()), asyncio.run(twice())
    assert first is not second
    gc.collect()
    assert len(kept._all) == 0


def test_two_loops_at_once_do_not_take_each_others_value() -> None:
    kept: PerLoop[object] = PerLoop(object)
    one, other = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def get() -> object:
        return kept.get()

    try:
        first, second = one.run_until_complete(get()), other.run_until_complete(get())
        assert first is not second
        assert one.run_until_complete(get()) is first
        assert other.run_until_complete(get()) is second
    finally:
        one.close()
        other.close()
