"""Streams that break after their first event: told, or if asked held back or gone on with."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from asgi_llm_gateway import Failover, Relay
from asgi_llm_gateway.errors import ConnectionLost
from tests.failover.world import SLACK, Got, world
from tests.faults import TEXT, TOKENS, cut, error_after, good, malformed, stall, without_done
from tests.faulty_peer import Fault, Peer, Tried
from tests.upstreams import (
    DONE,
    FakeUpstream,
    Reply,
    ask,
    ask_stream,
    channel_to,
    nothing_left,
    sse,
)

SPLICE: dict[str, Any] = {"stream_recovery": "splice"}
BUFFER: dict[str, Any] = {"stream_recovery": "buffer"}
PLACES = (0, 1, 3, 9, 10)
BREAKS = {"cut": cut, "stall": stall, "an error event": error_after}


def documents(got: Got) -> list[Any]:
    """The chunks of a stream."""
    blocks = got.answer.body.split(b"\n\n")
    data = [block.removeprefix(b"data: ") for block in blocks if block.startswith(b"data: {")]
    return [json.loads(item) for item in data]


@pytest.mark.parametrize("at", PLACES)
@pytest.mark.parametrize("name", BREAKS)
async def test_a_stream_that_breaks_is_gone_on_with_by_another(name: str, at: int) -> None:
    again = good(["The sky", " is blue,", " mostly where I live", "."], ident="x9")
    async with world(BREAKS[name](at), again, b=(again,), failover=SPLICE) as there:
        got = await there.ask(stream=True)
        assert (got.text, got.end) == (TEXT, "whole")
        assert len(got.where) == 2
        chunks = documents(got)
        assert len({chunk["id"] for chunk in chunks}) == 1
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        assert sum("role" in choice["delta"] for choice in choices) == 1
        assert [c["finish_reason"] for c in choices if c["finish_reason"]] == ["stop"]
        assert got.answer.exchange.outcome == "ok"
        assert got.seconds < 2 * SLACK
        await there.nothing_left()


async def test_a_restart_that_says_something_else_is_told_as_an_error() -> None:
    other = good(["The sea", " is blue"])
    async with world(cut(3), other, b=(other,), failover=SPLICE) as there:
        got = await there.ask(stream=True)
        assert got.text == "".join(TOKENS[:3])
        assert got.end not in ("", "whole")
        assert got.answer.exchange.outcome == "truncated"
        await there.nothing_left()


async def test_restarts_that_break_too_use_up_the_attempts() -> None:
    async with world(cut(3), b=(cut(3),), failover=SPLICE) as there:
        got = await there.ask(stream=True)
        assert (got.text, got.end) == ("".join(TOKENS[:3]), "upstream_connection_lost")
        assert 2 <= len(got.where) <= 4
        await there.nothing_left()


async def test_each_restart_goes_on_from_where_the_one_before_it_broke() -> None:
    async with world(cut(2), cut(5), b=(cut(7), good()), failover=SPLICE) as there:
        got = await there.ask(stream=True)
        assert (got.text, got.end) == (TEXT, "whole")
        await there.nothing_left()


async def test_a_tool_call_that_broke_off_is_not_spliced() -> None:
    async def broken_call(peer: Peer, tried: Tried) -> None:
        call = {"index": 0, "id": "t1", "function": {"name": "f", "arguments": '{"a'}}
        delta = {"role": "assistant", "tool_calls": [call]}
        peer.stream(sse({"id": "c1", "choices": [{"index": 0, "delta": delta}]}))
        await asyncio.sleep(0.01)
        peer.reset()

    async with world(broken_call, failover=SPLICE) as there:
        answer = await ask_stream(there.relay)
        assert len(answer.exchange.attempts) == 1
        assert b'"upstream_connection_lost"' in answer.body
        assert DONE not in answer.body
        await there.nothing_left()


@pytest.mark.parametrize("stream", [False, True])
async def test_whole_answers_need_no_recovery(stream: bool) -> None:
    for recovery in (SPLICE, BUFFER):
        async with world(without_done(), failover=recovery) as there:
            got = await there.ask(stream=stream)
            assert (got.where, got.text, got.end) == ("a", TEXT, "whole")
            await there.nothing_left()


@pytest.mark.parametrize("at", PLACES)
@pytest.mark.parametrize("fault", [cut, stall, error_after])
async def test_a_stream_that_is_held_back_breaks_unseen(fault: Any, at: int) -> None:
    async with world(fault(at), good(ident="x9"), b=(good(ident="x9"),), failover=BUFFER) as there:
        got = await there.ask(stream=True)
        assert (got.text, got.end) == (TEXT, "whole")
        assert {chunk["id"] for chunk in documents(got)} == {"x9"}
        assert got.header("x-llm-attempts") == "2"
        assert got.answer.exchange.attempts[0].outcome == "failed"
        await there.nothing_left()


async def test_streams_held_back_that_all_break_end_in_an_error_with_its_status() -> None:
    async with world(cut(3), b=(cut(3),), failover=BUFFER) as there:
        got = await there.ask(stream=True)
        assert (got.status, got.end) == (502, "upstream_connection_lost")
        assert len(got.where) <= 4
        await there.nothing_left()


@pytest.mark.parametrize("recovery", [SPLICE, BUFFER])
async def test_malformed_events_are_no_break(recovery: dict[str, Any]) -> None:
    async with world(malformed(), failover=recovery) as there:
        got = await there.ask(stream=True)
        assert (got.where, got.text, got.end) == ("a", TEXT, "whole")


@pytest.mark.parametrize("fault", [cut(3), stall(3)])
async def test_nothing_is_restarted_unless_it_was_asked_for(fault: Fault) -> None:
    async with world(fault) as there:
        got = await there.ask(stream=True)
        assert (got.where, got.text) == ("a", "".join(TOKENS[:3]))
        assert got.end not in ("", "whole")


async def test_speech_that_comes_as_events_is_held_back_as_well() -> None:
    """It is asked for by `stream_format`, without `stream`."""
    events = sse({"type": "speech.audio.delta", "audio": "AAAA"})
    end = sse({"type": "speech.audio.done"})
    broken = FakeUpstream(Reply.stream(events, ConnectionLost("reset")))
    whole = FakeUpstream(Reply.stream(events, end))
    channels = [channel_to(broken, priority=5), channel_to(whole, name="b")]
    relay = Relay(channels, failover=Failover(stream_recovery="buffer"))
    said = {"model": "m", "input": "hello", "voice": "alloy", "stream_format": "sse"}
    answer = await ask(relay, said, path="/v1/audio/speech")
    assert answer.body == events + end
    assert answer.exchange.attempts[0].outcome == "failed"
    assert answer.exchange.attempts[-1].channel == "b"
    await nothing_left(relay)
