"""Every way of starting and stopping a gateway."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware

from asgi_llm_gateway import Channel, Gateway, combine_lifespans
from asgi_llm_gateway.providers.simulator import Simulator
from tests.asgi import call
from tests.asgi_lifespan import StartupFailed, lifespan
from tests.gateway.toys import Opened, channel, chat, streaming


def diarised(diary: list[str], *names: str) -> Gateway:
    return Gateway(
        [channel()],
        middleware=[Middleware(Opened, name=name, diary=diary) for name in names],
        anonymous=True,
    )


async def ready(app: Any, path: str = "/health/ready", root_path: str = "") -> tuple[Any, Any]:
    answer = await call(app, "GET", path, root_path=root_path)
    return answer.status, answer.json["status"]


async def test_served_bare_it_speaks_the_lifespan_protocol_and_opens_outermost_first() -> None:
    diary: list[str] = []
    gateway = diarised(diary, "outer", "inner")
    assert diary == []
    async with lifespan(gateway) as served:
        assert served.supported
        assert diary == ["outer opens", "inner opens"]
        assert (await chat(gateway)).status == 200
    assert diary[-2:] == ["inner closes", "outer closes"]


async def test_a_host_starts_it_through_its_own_lifespan(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    diary: list[str] = []
    gateway = diarised(diary, "part")
    host = Starlette(lifespan=gateway.lifespan)
    host.mount("/v1", gateway)
    async with lifespan(host):
        assert diary == ["part opens"]
        assert (await chat(host)).status == 200
    assert diary == ["part opens", "part called", "part closes"]
    assert "first call" not in caplog.text


async def test_two_lifespans_are_combined_in_order_and_their_state_merged() -> None:
    diary: list[str] = []
    one, two = diarised(diary, "one"), diarised(diary, "two")
    host = Starlette(lifespan=combine_lifespans(one.lifespan, two.lifespan))
    async with lifespan(host):
        assert diary == ["one opens", "two opens"]
    assert diary[2:] == ["two closes", "one closes"]


async def test_scripts_enter_it_and_may_do_so_again() -> None:
    diary: list[str] = []
    gateway = diarised(diary, "part")
    for _ in range(2):
        async with gateway as entered:
            assert entered is gateway
            assert (await chat(gateway)).status == 200
        assert (await chat(gateway)).status == 503
    assert diary == ["part opens", "part called", "part closes"] * 2


async def test_entered_twice_at_once_it_closes_with_the_last_to_leave() -> None:
    diary: list[str] = []
    gateway = diarised(diary, "part")
    async with gateway:
        async with lifespan(gateway):
            pass
        assert (await chat(gateway)).status == 200
    assert diary == ["part opens", "part called", "part closes"]


def test_merely_mounted_it_starts_once_per_loop_and_says_so_in_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    diary: list[str] = []
    gateway = diarised(diary, "part")
    host = Starlette()
    host.mount("/v1", gateway)

    async def calls() -> list[int | None]:
        answers = await asyncio.gather(*(chat(host) for _ in range(5)))
        return [answer.status for answer in answers]

    for loop in (1, 2):
        assert asyncio.run(calls()) == [200] * 5
        lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        assert len(lines) == loop
        assert "started on the first call" in lines[-1]
        assert "gateway.lifespan" in lines[-1]
    assert diary == (["part opens", *["part called"] * 5, "part closes"]) * 2


async def test_a_start_that_fails_is_told_to_the_server() -> None:
    gateway = Gateway([channel(keys=["env:NOT_THERE"])], environ={})
    with pytest.raises(StartupFailed, match="NOT_THERE is not set"):
        async with lifespan(gateway):
            pass


async def test_a_failed_start_on_the_first_call_is_a_503_whose_reason_only_the_log_has(
    caplog: pytest.LogCaptureFixture,
) -> None:
    environ: dict[str, str] = {}
    gateway = Gateway([channel(keys=["env:NOT_THERE"])], environ=environ)
    answer = await chat(gateway)
    assert (answer.status, answer.json["error"]["code"]) == (503, "not_started")
    assert answer.header("retry-after") == "30"
    assert b"NOT_THERE" not in answer.body
    assert "NOT_THERE is not set" in caplog.text
    assert await ready(gateway) == (503, "not_started")
    environ["NOT_THERE"] = "sk-now"
    assert (await chat(gateway)).status == 200


async def test_parts_that_opened_are_closed_when_a_later_one_fails_to_open() -> None:
    diary: list[str] = []
    gateway = Gateway(
        [channel(keys=["env:NOT_THERE"])],
        middleware=[Middleware(Opened, name="part", diary=diary)],
        environ={},
    )
    with pytest.raises(StartupFailed):
        async with lifespan(gateway):
            pass
    assert diary == ["part opens", "part closes"]


async def test_two_gateways_in_one_process_share_nothing() -> None:
    good, dead = Simulator(), Simulator(faults={"*": "401"})
    one = Gateway([channel(good, keys=["sk-same"])])
    two = Gateway([channel(dead, keys=["sk-same"])])
    async with one, two:
        assert (await chat(one)).status == 200
        assert (await chat(two)).status != 200
        assert (await chat(two)).status == 503
        assert (await chat(one)).status == 200
    async with one:
        assert (await chat(two)).json["error"]["code"] == "shutting_down"
        assert (await chat(one)).status == 200


async def test_stopping_admits_nobody_and_lets_streams_end() -> None:
    simulator = Simulator(tokens_per_second=200, length=(60, 60))
    gateway = Gateway([channel(simulator)], shutdown_timeout=10)
    await gateway.__aenter__()
    async with streaming(gateway).open() as stream:
        assert await stream.started() == 200
        stopping = asyncio.create_task(gateway.__aexit__(None, None, None))
        await asyncio.sleep(0.01)
        refused = await chat(gateway)
        assert (refused.status, refused.json["error"]["code"]) == (503, "shutting_down")
        assert refused.header("retry-after") == "1"
        assert refused.header("x-request-id")
        assert await ready(gateway) == (503, "shutting_down")
        assert (await call(gateway, "GET", "/health/live")).status == 200
        assert not stopping.done()
        pieces = [piece async for piece in stream]
    assert b"[DONE]" in b"".join(pieces)
    await stopping


async def test_a_stream_that_does_not_end_is_not_waited_for_longer_than_the_deadline(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gateway = Gateway([channel(Simulator(faults={"*": "stall:2"}))], shutdown_timeout=0.05)
    await gateway.__aenter__()
    async with streaming(gateway, may_cut=True).open() as stream:
        await stream.started()
        async with asyncio.timeout(5):
            await gateway.__aexit__(None, None, None)
    assert "1 calls had not ended after 0.05 s" in caplog.text


async def test_what_calls_left_to_settle_is_settled_before_resources_close() -> None:
    from tests.gateway.toys import Settling

    settled: list[str] = []
    diary: list[str] = []

    class Store(Opened):
        def __init__(self, app: Any) -> None:
            super().__init__(app, name="store", diary=diary)

    gateway = Gateway(
        [channel()],
        middleware=[Middleware(Store), Middleware(Settling, settled=settled, seconds=0.05)],
    )
    async with gateway:
        answer = await chat(gateway)
        assert settled == []
    assert settled == [answer.exchange.id]
    assert diary[-1] == "store closes"


def test_nothing_is_read_or_opened_by_construction() -> None:
    Gateway([Channel(name="a", provider="openai", keys=["env:NOT_THERE"], models=["*"])])


async def test_a_gateway_without_a_part_that_names_callers_says_so_when_it_starts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Gateway([channel()]):
        pass
    assert "whoever reaches this gateway may call" in caplog.text
    caplog.clear()
    async with Gateway([channel()], anonymous=True):
        pass
    assert not caplog.text
