"""What one loop tick asks goes out as one write, and each caller gets the answer to its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from asgi_llm_gateway.errors import ConfigurationError, StateUnavailable
from asgi_llm_gateway.state import State, StateFault
from asgi_llm_gateway.state.line import Line
from asgi_llm_gateway.state.link import Link
from tests.valkey import Valkey


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many commands each batch was asked to send."""
    batches: list[int] = []
    send = Link.send

    def counting(self: Link, batch: Any) -> None:
        batches.append(len(batch))
        send(self, batch)

    monkeypatch.setattr(Link, "send", counting)
    return batches


def reads(valkey: Valkey) -> int:
    """How often the server has found something to read, but for this question."""
    stats = valkey.call("INFO", "stats")
    return int(stats["total_reads_processed"])


async def test_calls_of_one_tick_reach_the_server_in_one_piece(
    valkey: Valkey, writes: list[int]
) -> None:
    async with (state := State(valkey.url)).resources:
        await state.command("PING")
        writes.clear()
        before = reads(valkey)
        answers = await asyncio.gather(*(state.command("INCR", "n") for _ in range(100)))
        after = reads(valkey)
    assert answers == list(range(1, 101))
    assert writes == [100]
    # Asking costs some reads of its own; a hundred separate ones would show.
    assert after - before < 10
    calls = valkey.call("INFO", "commandstats")["cmdstat_incr"]["calls"]
    assert calls == 100


async def test_the_first_calls_of_all_share_one_connection_and_one_write(
    valkey: Valkey, writes: list[int]
) -> None:
    before = valkey.call("INFO", "stats")["total_connections_received"]
    async with (state := State(valkey.url)).resources:
        await asyncio.gather(*(state.command("INCR", "n") for _ in range(50)))
        connections = valkey.call("INFO", "stats")["total_connections_received"] - before
    assert writes == [50]
    assert connections == 2, "ours, and the one that asks"


async def test_each_caller_gets_the_answer_to_its_own_question(valkey: Valkey) -> None:
    async with (state := State(valkey.url)).resources:
        await asyncio.gather(*(state.command("SET", f"k{n}", n) for n in range(300)))

        async def some(n: int) -> None:
            for _ in range(5):
                assert await state.command("GET", f"k{n}") == str(n).encode()
                with pytest.raises(StateFault):
                    await state.command("LPUSH", f"k{n}", "x")

        await asyncio.gather(*(some(n) for n in range(300)))


@pytest.mark.parametrize(
    ("args", "answer"),
    [
        (("ECHO", "größe"), "größe".encode()),
        (("ECHO", b"\xff\0"), b"\xff\0"),
        (("ECHO", 7), b"7"),
        (("ECHO", 0.5), b"0.5"),
        (("GET", "nothing"), None),
        (("EVAL", "return {1, false, {'x'}}", 0), [1, None, [b"x"]]),
        (("EVAL", "return {}", 0), []),
        ((b"EXISTS", "nothing"), 0),
    ],
)
async def test_answers_come_as_bytes_numbers_lists_and_none(
    valkey: Valkey, args: tuple[Any, ...], answer: Any
) -> None:
    async with (state := State(valkey.url)).resources:
        assert await state.command(*args) == answer


async def test_an_answer_of_megabytes_does_not_hold_up_its_followers_order(
    valkey: Valkey,
) -> None:
    big = b"x" * 5_000_000
    async with (state := State(valkey.url, timeout=20)).resources:
        answers = await asyncio.gather(
            *(state.command("ECHO", big if n % 2 else n) for n in range(6))
        )
    assert answers == [b"0", big, b"2", big, b"4", big]


@pytest.mark.parametrize("bad", [(), ("GET", None), ("GET", ["x"]), ("GET", "\ud800")])
async def test_what_cannot_be_a_command_fails_alone(valkey: Valkey, bad: Any) -> None:
    async with (state := State(valkey.url)).resources:
        good = asyncio.ensure_future(state.command("ECHO", "good"))
        with pytest.raises((TypeError, ValueError)):
            await state.command(*bad)
        assert await good == b"good"


async def test_an_error_of_redis_is_a_fault_that_tells_callers_only_its_kind(
    valkey: Valkey,
) -> None:
    async with (state := State(valkey.url)).resources:
        await state.command("SET", "k", 1)
        with pytest.raises(StateFault) as caught:
            await state.command("LPUSH", "k", 1)
        assert (caught.value.kind, caught.value.status) == ("WRONGTYPE", 500)
        assert caught.value.reply.startswith("WRONGTYPE Operation against a key")
        assert "Operation" not in caught.value.message
        with pytest.raises(StateFault) as caught:
            await state.command("NOSUCH", "s3cret")
        assert "NOSUCH" in str(caught.value)
        assert "s3cret" not in str(caught.value)


async def test_a_call_cancelled_before_its_tick_ends_is_not_sent(
    valkey: Valkey, writes: list[int]
) -> None:
    async with (state := State(valkey.url)).resources:
        await state.command("PING")
        calls = [asyncio.ensure_future(state.command("INCR", "n")) for _ in range(3)]
        await asyncio.sleep(0)
        calls[1].cancel()
        assert await calls[0] == 1
        assert await calls[2] == 2
        assert calls[1].cancelled()
        assert await state.command("GET", "n") == b"2"


async def test_a_call_cancelled_on_its_way_leaves_the_others_their_answers(
    own_valkey: Valkey,
) -> None:
    async with (state := State(own_valkey.url, timeout=20)).resources:
        await state.command("PING")
        with own_valkey.paused():
            calls = [asyncio.ensure_future(state.command("INCR", "n")) for _ in range(5)]
            await asyncio.sleep(0.05)
            calls[0].cancel()
            calls[3].cancel()
            await asyncio.sleep(0)
        left = [await call for call in calls if not call.cancelled()]
    assert left == [2, 3, 5], "sent is sent: the cancelled were carried out"


async def test_more_than_the_bound_are_refused_at_once(own_valkey: Valkey) -> None:
    async with (state := State(own_valkey.url, timeout=20)).resources as line:
        assert isinstance(line, Line)
        line._limit = 50
        await state.command("PING")
        with own_valkey.paused():
            calls = [asyncio.ensure_future(state.command("INCR", "n")) for _ in range(80)]
            await asyncio.sleep(0.05)
            refused = [call for call in calls if call.done()]
            assert len(refused) == 30
            for call in refused:
                with pytest.raises(StateUnavailable, match="too many"):
                    await call
        assert sorted([await call for call in calls[:50]]) == list(range(1, 51))


async def test_a_server_that_reads_nothing_is_not_drowned(own_valkey: Valkey) -> None:
    async with (state := State(own_valkey.url, timeout=20)).resources as line:
        assert isinstance(line, Line)
        await state.command("PING")
        with own_valkey.paused():
            calls = []
            for _ in range(60):
                calls.append(asyncio.ensure_future(state.command("ECHO", b"x" * 200_000)))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            assert line._link is not None
            assert line._link.paused
            assert len(line._unsent) > 20, "held back here, not in the socket's buffer"
        assert Counter([len(await call) for call in calls]) == {200_000: 60}


async def test_a_memory_store_takes_no_commands() -> None:
    state = State("memory://")
    assert not state.shared
    async with state.resources:
        with pytest.raises(ConfigurationError, match="memory://"):
            await state.command("PING")


def test_names_are_put_together_under_the_prefix() -> None:
    state = State("redis://:hush@h", prefix="gw:")
    assert state.name("keys", "{main}", "set") == "gw:keys:{main}:set"
    assert state.shared
    assert "hush" not in repr(state)


def test_time_limits_of_the_url_win() -> None:
    state = State("redis://h?timeout=0.25&connect_timeout=3", timeout=9, connect_timeout=9)
    assert (state.timeout, state.connect_timeout) == (0.25, 3.0)
