"""Before the commit point: nothing goes out, or comments alone if they are switched on."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from asgi_llm_gateway import Failover, Relay
from tests.asgi import Driver
from tests.failover.world import SHORT, SLACK, Backoff, World, read_stream, world
from tests.faults import TEXT, cut, drip, good, late, refusal, silence, stall
from tests.faulty_peer import Fault
from tests.upstreams import FakeUpstream, Reply, ask_stream, channel_to, nothing_left, until

PATIENT: dict[str, Any] = {
    "timeouts": dict.fromkeys(("connect", "first_byte", "first_token", "idle", "total"), 20.0)
}
ASK = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "why?"}]}


def asking(there: World, **members: Any) -> Driver:
    """A call that is not under way yet."""
    return Driver(
        there.relay,
        "POST",
        "/v1/chat/completions",
        body=json.dumps({**ASK, **members}).encode(),
        may_raise=True,
        may_cut=True,
    )


async def test_nothing_goes_out_before_the_first_event() -> None:
    async with world(late(0.5, pings=0.05), channel=PATIENT) as there:
        async with asking(there).open() as stream:
            await asyncio.sleep(0.3)
            assert stream.answer.status is None
            assert await stream.started() == 200
            body = b"".join([piece async for piece in stream])
        assert read_stream(body) == (TEXT, "whole")
        assert stream.answer.header("x-llm-channel") == "a"
        assert stream.answer.exchange.outcome == "ok"


async def test_comments_keep_the_callers_connection_open_if_switched_on() -> None:
    async with world(late(0.5), channel=PATIENT, failover={"keep_alive": 0.05}) as there:
        answer = await ask_stream(there.relay)
        comments, event, _ = answer.body.partition(b"data: ")
        assert event
        assert comments.count(b":") >= 4
        assert read_stream(answer.body) == (TEXT, "whole")
        assert (answer.header("content-type") or "").startswith("text/event-stream")
        await there.nothing_left()


async def test_a_failure_behind_comments_fails_over_as_ever() -> None:
    async with world(silence(), failover={"keep_alive": 0.05}) as there:
        got = await there.ask(stream=True)
        assert (got.where, got.text, got.end) == ("ab", TEXT, "whole")
        assert got.header("x-llm-channel") is None
        await there.nothing_left()


async def test_a_last_failure_behind_comments_is_an_error_event() -> None:
    async with world(silence(), b=(silence(),), failover={"keep_alive": 0.05}) as there:
        got = await there.ask(stream=True)
        assert (got.status, got.text, got.end) == (200, "", "upstream_timeout")
        await there.nothing_left()


async def test_a_plain_answer_behind_comments_is_an_error_event_and_accounted_for() -> None:
    upstream = FakeUpstream(Reply(head=[0.3], steps=Reply.chat().steps))
    relay = Relay([channel_to(upstream)], failover=Failover(keep_alive=0.1))
    answer = await ask_stream(relay)
    (attempt,) = answer.exchange.attempts
    assert (attempt.outcome, answer.exchange.outcome) == ("truncated", "truncated")
    assert attempt.failure is not None
    assert attempt.usage is not None
    assert answer.exchange.usage == attempt.usage
    assert answer.body.count(b'"error"') == 1
    await nothing_left(relay)


async def test_a_quick_failure_has_its_status_although_comments_are_switched_on() -> None:
    async with world(refusal(400, code="bad"), failover={"keep_alive": 5.0}) as there:
        got = await there.ask(stream=True)
        assert (got.status, got.end) == (400, "bad")
        assert got.header("x-llm-channel") == "a"


async def test_plain_calls_get_no_comments() -> None:
    async with world(late(0.6), channel=PATIENT, failover={"keep_alive": 0.02}) as there:
        got = await there.ask()
        assert (got.where, got.text) == ("a", TEXT)
        assert got.answer.exchange.outcome == "ok"
        assert got.outcomes == ["ok"]
        await there.nothing_left()


async def test_headers_that_name_the_way_can_be_switched_off() -> None:
    async with world(refusal(500), good(), failover={"tell": False}) as there:
        for stream in (False, True):
            got = await there.ask(stream=stream)
            assert got.text == TEXT
            assert not [name for name, _ in got.answer.headers if name.startswith(b"x-llm-")]
            assert got.header("x-request-id")


SLOW_WAIT = {"backoff": Backoff(first=30.0, factor=1.0, cap=30.0)}
LEAVING: dict[str, tuple[Fault, dict[str, Any]]] = {
    "while the provider is silent": (silence(), {}),
    "before the first token": (late(15), {}),
    "between tokens": (drip(0.05), {}),
    "in a stall": (stall(), {}),
    "between two attempts": (refusal(500), SLOW_WAIT),
    "behind comments": (silence(), {"keep_alive": 0.05}),
    "while a stream is held back": (stall(), {"stream_recovery": "buffer"}),
}


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("phase", LEAVING)
async def test_a_caller_who_leaves_ends_the_providers_work(phase: str, cancelled: bool) -> None:
    """So does a server that cancels the call."""
    fault, how = LEAVING[phase]
    async with world(fault, channel=PATIENT, other=False, failover=how) as there:
        driver = asking(there)
        async with driver.open() as stream:
            await until(lambda: there.a.tried)
            await asyncio.sleep(0.1)
            if cancelled:
                stream.cancel()
            else:
                stream.leave()
            assert driver.task is not None
            await asyncio.wait({driver.task}, timeout=1.0)
            assert driver.task.done()
        await there.nothing_left(1.0)
        assert driver.answer.exchange.outcome == ("cancelled" if cancelled else "client_left")
        assert [attempt.ended is None for attempt in driver.answer.exchange.attempts] == [False]
        assert len(there.a.tried) == 1
        there.a.script = (good(),)
        assert (await there.ask()).text == TEXT


async def test_a_caller_who_leaves_in_a_restart_ends_it() -> None:
    how = {"stream_recovery": "splice"}
    async with world(cut(3), silence(), b=(silence(),), other=PATIENT, failover=how) as there:
        there.a.script = (cut(3), silence())
        async with asking(there).open() as stream:
            await until(lambda: len(there.a.tried) + len(there.b.tried) == 2)
            await asyncio.sleep(0.05)
            stream.leave()
        await there.nothing_left(1.0)
        assert stream.answer.exchange.outcome == "client_left"


async def test_a_provider_that_is_slow_for_one_is_quick_for_the_next() -> None:
    async with world(silence(), good()) as there:
        slow, quick = await asyncio.gather(there.ask(stream=True), there.ask(stream=True))
        assert (slow.text, quick.text) == (TEXT, TEXT)
        assert min(slow.seconds, quick.seconds) < SLACK
        assert max(slow.seconds, quick.seconds) < SHORT["first_token"] + SLACK
