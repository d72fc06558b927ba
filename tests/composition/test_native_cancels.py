"""A server may cancel a call more than once: nothing taken is lost by that."""

from __future__ import annotations

import asyncio

from starlette.applications import Starlette

from tests.asgi import STARLETTE, Driver, call
from tests.asgi_lifespan import lifespan
from tests.composition.parts import masked
from tests.composition.provider import TEXT, Provider, stream_events
from tests.composition.stacks import (
    HEADERS,
    Kind,
    Order,
    chat,
    each_kind,
    each_order,
    said,
    stack,
    streaming,
    until_settled,
)
from tests.upstreams import ALWAYS


@each_kind
@each_order
async def test_a_double_native_cancel_loses_neither_the_settlement_nor_the_connection(
    kind: Kind, order: Order
) -> None:
    provider = streaming(stream_events()[:4], silent="after pieces")
    built = stack(kind, order, provider)
    before = asyncio.all_tasks()
    driver = Driver(
        built.app,
        "POST",
        built.path,
        headers=HEADERS,
        body=chat(stream=True),
        may_write=STARLETTE,
        may_raise=True,
        may_cut=True,
    )
    async with driver.open() as stream:
        await anext(stream)
        stream.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
            stream.cancel()
    assert isinstance(stream.answer.exception, asyncio.CancelledError)
    await provider.until_closed()
    seen = await until_settled(built)
    assert seen["ended"] == [True]
    await asyncio.sleep(0)
    left = {task for task in asyncio.all_tasks() - before if task.get_name() not in ALWAYS}
    assert left == set(), "nothing is left running"


@each_kind
@each_order
async def test_a_native_cancel_before_the_first_byte_gives_the_call_up(
    kind: Kind, order: Order
) -> None:
    provider = Provider(silent="before head")
    built = stack(kind, order, provider)
    driver = Driver(
        built.app,
        "POST",
        built.path,
        headers=HEADERS,
        body=chat(),
        may_write=STARLETTE,
        may_raise=True,
    )
    async with driver.open() as stream:
        await provider.until(lambda: bool(provider.asked))
        stream.cancel()
        await asyncio.sleep(0)
        stream.cancel()
    assert provider.given_up == 1
    assert (await until_settled(built))["channels"] == ["main"]


@each_order
async def test_a_gateway_with_its_lifespan_settles_before_it_stops(order: Order) -> None:
    built = stack("gateway", order, streaming(stream_events()), "")
    assert built.gateway is not None
    host = Starlette(lifespan=built.gateway.lifespan)
    host.mount("/v1", built.gateway)
    async with lifespan(host):
        answer = await call(
            host, "POST", "/v1/chat/completions", body=chat(stream=True), may_write=STARLETTE
        )
        assert said(answer.body) == masked(TEXT)
        built.ledger.seconds = 0.05
        again = Driver(
            host,
            "POST",
            "/v1/chat/completions",
            body=chat(stream=True),
            may_write=STARLETTE,
            may_raise=True,
            may_cut=True,
        )
        async with again.open() as stream:
            await anext(stream)
            stream.cancel()
            await asyncio.sleep(0)
            stream.cancel()
        assert len(built.ledger.settled) == 1
    assert [*built.ledger.settled] == built.ledger.taken
    assert len(built.ledger.taken) == 2


@each_kind
async def test_a_cancelled_call_is_not_recorded_as_still_under_way(kind: Kind) -> None:
    built = stack(kind, "settling outside", streaming(stream_events()[:4], silent="after pieces"))
    driver = Driver(
        built.app,
        "POST",
        built.path,
        headers=HEADERS,
        body=chat(stream=True),
        may_write=STARLETTE,
        may_raise=True,
        may_cut=True,
    )
    async with driver.open() as stream:
        await anext(stream)
        stream.cancel()
    assert (await until_settled(built))["outcome"] not in (None, "ok")
