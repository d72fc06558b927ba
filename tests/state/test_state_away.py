"""A store that dies, stalls or talks nonsense: waits are bounded, and nothing is sent twice."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest

from asgi_llm_gateway.errors import StateUnavailable
from asgi_llm_gateway.state import State, StateFault
from asgi_llm_gateway.state.line import Line
from tests.state.conftest import Scripted
from tests.valkey import Valkey

pytestmark = pytest.mark.usefixtures("quick")


async def outcome(call: Any) -> Any:
    """The answer, or which of the two was raised."""
    try:
        return await call
    except StateUnavailable:
        return StateUnavailable
    except StateFault:
        return StateFault


async def until_it_answers(state: State, seconds: float = 10.0) -> None:
    """Ask until it works again; the bound is for a busy machine."""
    async with asyncio.timeout(seconds):
        while await outcome(state.command("PING")) != b"PONG":  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_after_a_kill_and_a_restart_calls_work_again(own_valkey: Valkey) -> None:
    async with (state := State(own_valkey.url)).resources:
        await state.command("PING")
        for _ in range(3):
            await asyncio.to_thread(own_valkey.restart)
            assert await state.command("PING") == b"PONG", "an idle connection's end is no failure"


async def test_calls_under_way_when_the_server_dies_fail_and_are_not_sent_again(
    own_valkey: Valkey,
) -> None:
    async with (state := State(own_valkey.url, timeout=20)).resources:
        await state.command("SET", "n", 0)
        own_valkey.pause()
        calls = [asyncio.ensure_future(outcome(state.command("INCR", "n"))) for _ in range(20)]
        await asyncio.sleep(0.05)
        await asyncio.to_thread(own_valkey.restart)
        assert await asyncio.gather(*calls) == [StateUnavailable] * 20
        assert await state.command("GET", "n") is None


async def test_what_was_not_written_yet_goes_out_on_the_next_connection(
    own_valkey: Valkey,
) -> None:
    async with (state := State(own_valkey.url, timeout=20)).resources as line:
        assert isinstance(line, Line)
        await state.command("PING")
        await asyncio.to_thread(own_valkey.stop)
        calls = [asyncio.ensure_future(state.command("INCR", "n")) for _ in range(20)]
        await asyncio.sleep(0.05)
        await asyncio.to_thread(own_valkey.start)
        assert sorted(await asyncio.gather(*calls)) == list(range(1, 21))


async def test_a_stalled_server_costs_a_call_its_timeout_then_nothing_then_recovers(
    own_valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "asgi_llm_gateway.state")
    async with (state := State(own_valkey.url, timeout=0.3)).resources as line:
        assert isinstance(line, Line)
        await state.command("PING")
        with own_valkey.paused():
            begun = time.monotonic()
            calls = (outcome(state.command("INCR", "n")) for _ in range(10))
            assert set(await asyncio.gather(*calls)) == {StateUnavailable}
            assert 0.3 <= time.monotonic() - begun < 5
            gate = line._gate
            assert gate.open
            begun = time.monotonic()
            for _ in range(100):
                with pytest.raises(StateUnavailable) as caught:
                    await state.command("INCR", "n")
            assert time.monotonic() - begun < 5, "a hundred waits would take half a minute"
            assert 0 < (caught.value.retry_after or 0) <= 10
        await until_it_answers(state)
        assert line._gate.open is False
        assert await state.command("GET", "n") in {b"10", None}, "never twice"
    assert "left alone" in caplog.text
    assert "answers again" in caplog.text
    assert caplog.text.count("left alone") < 5, "one line when it opens, not one a call"


async def test_one_slow_answer_fails_one_call_and_keeps_the_connection(
    own_valkey: Valkey,
) -> None:
    async with (state := State(own_valkey.url, timeout=0.5)).resources as line:
        assert isinstance(line, Line)
        await state.command("PING")
        link = line._link
        sleeper = asyncio.ensure_future(outcome(state.command("DEBUG", "SLEEP", "1")))
        await asyncio.sleep(0)
        line._timeout = 20.0  # for all but the sleeper, and for calling the connection dead
        follower = asyncio.ensure_future(state.command("ECHO", "after"))
        assert await sleeper is StateUnavailable
        assert await follower == b"after", "the late answer went to nobody"
        assert line._link is link


@pytest.mark.parametrize("kind", ["refused", "silent"])
async def test_a_server_that_was_never_there_is_told_in_bounded_time(kind: str) -> None:
    listener = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
    held: list[asyncio.StreamWriter] = []
    port = listener.sockets[0].getsockname()[1]
    if kind == "refused":
        listener.close()
    state = State(f"redis://127.0.0.1:{port}", timeout=0.4, connect_timeout=0.2)
    async with listener:
        async with state.resources:
            begun = time.monotonic()
            for _ in range(10):
                assert await outcome(state.command("PING")) is StateUnavailable
            assert time.monotonic() - begun < 8
        for writer in held:
            writer.close()


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"+PONG\r\n+PONG\r\n",
        b"$-7\r\n",
        b"\x15\x03\x01\x00\x02",
        None,
    ],
)
async def test_nonsense_from_the_server_ends_the_connection_and_no_one_gets_anothers_answer(
    scripted: Scripted, said: bytes | None
) -> None:
    replies = [said, said, b"+PONG\r\n"]
    async with scripted(lambda _: replies.pop(0)) as url:
        state = State(url, timeout=2)
        async with state.resources:
            first = await outcome(state.command("PING"))
            assert first in {StateUnavailable, b"PONG"}
            await asyncio.sleep(0.01)
            second = await outcome(state.command("PING"))
            assert second in {StateUnavailable, b"PONG"}
            await asyncio.sleep(0.01)
            assert await state.command("PING") == b"PONG"


@pytest.mark.parametrize("cut", range(1, 12, 2))
async def test_an_answer_in_pieces_is_one_answer(scripted: Scripted, cut: int) -> None:
    whole = b"$5\r\nhello\r\n:7\r\n"
    pieces = [whole[:cut], whole[cut:]]
    asked = asyncio.Event()

    def answer(_: bytes) -> bytes:
        asked.set()
        return pieces.pop(0)

    async with scripted(answer) as url:
        state = State(url, timeout=20)
        async with state.resources as line:
            assert isinstance(line, Line)
            both = asyncio.gather(state.command("ECHO", "hello"), state.command("INCR", "n"))
            await asked.wait()
            assert line._link is not None
            line._link._writer.transport.write(b"more, please")
            assert list(await both) == [b"hello", 7]


@pytest.mark.parametrize("reply", ["LOADING in memory", "BUSY with a script", "OOM no room"])
async def test_a_server_that_says_it_cannot_serve_is_away_and_may_come_back(
    scripted: Scripted, reply: str
) -> None:
    answers = [f"-{reply}\r\n".encode()] * 5 + [b"+PONG\r\n"]
    async with scripted(lambda _: answers.pop(0)) as url:
        state = State(url)
        async with state.resources as line:
            assert isinstance(line, Line)
            for _ in range(5):
                link = line._link
                assert await outcome(state.command("PING")) is StateUnavailable
                assert link in {None, line._link}, "the same connection"
            assert line._gate.open
            assert await outcome(state.command("PING")) is StateUnavailable
            await until_it_answers(state)


async def test_a_master_that_became_a_replica_is_left_for_whoever_is_master_now(
    own_valkey: Valkey,
) -> None:
    async with (state := State(own_valkey.url)).resources as line:
        assert isinstance(line, Line)
        await state.command("SET", "n", 1)
        own_valkey.call("REPLICAOF", "127.0.0.1", 1)
        link = line._link
        with pytest.raises(StateUnavailable):
            await state.command("INCR", "n")
        assert line._link is not link
        own_valkey.call("REPLICAOF", "NO", "ONE")
        assert await state.command("INCR", "n") == 2


async def test_a_store_that_comes_up_after_the_gateway_is_found(own_valkey: Valkey) -> None:
    await asyncio.to_thread(own_valkey.stop)
    async with (state := State(own_valkey.url, timeout=0.3)).resources:
        assert await outcome(state.command("PING")) is StateUnavailable
        await asyncio.to_thread(own_valkey.start)
        await until_it_answers(state)
