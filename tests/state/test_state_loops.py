"""A connection per event loop, opened by use or by lifespan, and nothing left when it is closed."""

from __future__ import annotations

import asyncio
import gc
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
import uvloop

from asgi_llm_gateway.errors import StateUnavailable
from asgi_llm_gateway.state import Script, State
from tests.valkey import Valkey

Loops = Callable[[], asyncio.AbstractEventLoop]
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
COUNT = Script("return redis.call('INCR', KEYS[1])")


def connections(valkey: Valkey) -> int:
    """How many clients the server has, but for this question."""
    return int(valkey.call("INFO", "clients")["connected_clients"]) - 1


def until_none(valkey: Valkey) -> None:
    """Wait for the server to notice that all have left."""
    until = time.monotonic() + 5
    while connections(valkey) and time.monotonic() < until:
        time.sleep(0.01)
    assert connections(valkey) == 0


@pytest.mark.parametrize("new_loop", LOOPS)
def test_it_works_on_either_loop_and_closing_leaves_nothing(
    valkey: Valkey, new_loop: Loops
) -> None:
    async def scenario() -> None:
        async with (state := State(valkey.url)).resources:
            for _ in range(3):
                await asyncio.gather(*(state.run(COUNT, ["n"]) for _ in range(50)))
            assert await state.command("GET", "n") == b"150"
            assert await asyncio.to_thread(connections, valkey) == 1
            running = asyncio.all_tasks()
        assert asyncio.all_tasks() == running == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())
    gc.collect()
    until_none(valkey)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_opened_by_its_first_call_it_is_closed_with_the_loop(
    valkey: Valkey, new_loop: Loops
) -> None:
    state = State(valkey.url)

    async def scenario() -> None:
        assert await state.command("PING") == b"PONG"

    for _ in range(2):
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(scenario())
        gc.collect()
        until_none(valkey)


def test_two_loops_in_two_threads_have_a_connection_each(valkey: Valkey) -> None:
    state = State(valkey.url)
    both = threading.Barrier(2, timeout=20)
    seen: list[int] = []

    async def scenario() -> None:
        async with state.resources:
            for _ in range(20):
                await asyncio.gather(*(state.command("INCR", "n") for _ in range(50)))
            both.wait()
            seen.append(connections(valkey))
            both.wait()

    def thread(new_loop: Loops) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(scenario())

    threads = [threading.Thread(target=thread, args=(new_loop,)) for new_loop in LOOPS]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert valkey.call("GET", "n") == b"2000"
    assert min(seen) >= 2
    until_none(valkey)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_closing_waits_for_what_was_asked(valkey: Valkey, new_loop: Loops) -> None:
    async def scenario() -> None:
        state = State(valkey.url)
        async with state.resources:
            await state.command("PING")
            calls = [asyncio.ensure_future(state.command("INCR", "n")) for _ in range(50)]
            await asyncio.sleep(0)
        assert [await call for call in calls] == list(range(1, 51))

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())


@pytest.mark.parametrize("new_loop", LOOPS)
@pytest.mark.parametrize("connected", [True, False])
def test_closing_does_not_wait_for_ever_for_a_server_that_is_silent(
    own_valkey: Valkey, new_loop: Loops, connected: bool
) -> None:
    async def scenario() -> None:
        state = State(own_valkey.url, timeout=0.2, connect_timeout=30)
        async with state.resources as line:
            if connected:
                await state.command("PING")
            own_valkey.pause()
            call = asyncio.ensure_future(state.command("INCR", "n"))
            await asyncio.sleep(0.05)
        with pytest.raises(StateUnavailable):
            await call
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert line is not None
        with pytest.raises(StateUnavailable, match="closed"):
            await line.call(("PING",))

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())
    gc.collect()
    own_valkey.resume()
    until_none(own_valkey)


async def test_entering_the_resources_connects_to_nothing(valkey: Valkey) -> None:
    state = State("redis://127.0.0.1:1")
    async with state.resources:
        pass
    before = valkey.call("INFO", "stats")["total_connections_received"]
    async with State(valkey.url).resources:
        await asyncio.sleep(0)
    assert valkey.call("INFO", "stats")["total_connections_received"] == before + 1


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_loop_that_stood_still_reads_before_it_says_that_nothing_came(
    valkey: Valkey, new_loop: Loops
) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()

        def stand_still() -> None:
            # While the loop handles what sockets have brought: uvloop's next step is its timers.
            ours.recv(1)
            time.sleep(1.0)

        loop.add_reader(ours, stand_still)
        async with (state := State(valkey.url, timeout=0.6)).resources:
            await state.command("PING")
            for _ in range(3):
                theirs.send(b"x")
                calls = (state.command("ECHO", number) for number in range(5))
                assert len(await asyncio.gather(*calls)) == 5
        loop.remove_reader(ours)
        ours.close()
        theirs.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())


def test_redis_py_is_imported_when_a_store_is_first_used_and_off_the_loop(valkey: Valkey) -> None:
    program = f"""
import asyncio, sys
from asgi_llm_gateway.state import State
state = State({valkey.url!r})
assert not {{"redis", "hiredis"}} & set(sys.modules)
async def main():
    async with state.resources:
        assert "redis.asyncio" in sys.modules
        print(await state.command("PING"))
asyncio.run(main())
"""
    run = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(run, capture_output=True, timeout=50, check=False)
    assert (done.stdout.strip(), done.stderr) == (b"b'PONG'", b"")
