"""A cluster: every node gets its own batch, and one that is away holds up nobody else."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from asgi_llm_gateway.errors import StateUnavailable
from asgi_llm_gateway.state import Script, State, StateFault
from asgi_llm_gateway.state.cluster import ClusterLine
from tests.valkey import Valkey, ValkeyCluster

COUNT = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
NAMES = [f"k{number}" for number in range(60)]


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[ValkeyCluster]:
    """One that tests may hurt, as long as they mend it again."""
    cluster = ValkeyCluster()
    try:
        yield cluster.start()
    finally:
        cluster.discard()


async def outcome(call: Any) -> Any:
    """The answer, or which of the two was raised."""
    try:
        return await call
    except StateUnavailable:
        return StateUnavailable
    except StateFault:
        return StateFault


async def until_answered(ask: Callable[[], Awaitable[Any]]) -> None:
    """Ask until it works again; the bound is for a busy machine."""
    async with asyncio.timeout(20):
        while await outcome(ask()) is StateUnavailable:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def owner(cluster: ValkeyCluster, name: str) -> Valkey:
    """The node that holds a key's slot."""
    slot = cluster.nodes[0].call("CLUSTER", "KEYSLOT", name)
    (node,) = (
        node
        for number, node in enumerate(cluster.nodes)
        if number * 16384 // 3 <= slot < (number + 1) * 16384 // 3
    )
    return node


def node_name(node: Valkey) -> str:
    """As redis-py calls it."""
    return f"127.0.0.1:{node.port}"


def pipelines(cluster: ValkeyCluster, command: str) -> list[int]:
    """How often each node has been asked it."""
    stats = (node.call("INFO", "commandstats") for node in cluster.nodes)
    return [stat.get(f"cmdstat_{command}", {"calls": 0})["calls"] for stat in stats]


async def test_keys_of_all_slots_are_served_and_answers_look_as_on_one_server(
    valkey_cluster: ValkeyCluster,
) -> None:
    async with (state := State(valkey_cluster.url, timeout=5)).resources as line:
        assert isinstance(line, ClusterLine)
        for expected in (1, 2):
            answers = await asyncio.gather(*(state.command("INCR", name) for name in NAMES))
            assert answers == [expected] * len(NAMES)
        assert min(pipelines(valkey_cluster, "incr")) > 0
        await state.command("HSET", "h", "a", 1)
        assert await state.command(b"HGETALL", "h") == [b"a", b"1"]
        assert await state.command("SET", "s", 1) == b"OK"
        assert await state.command("GET", "nothing") is None
        assert await state.command("MGET", "{tag}a", "{tag}b") == [None, None]
        assert await state.command("PING") == b"PONG"
        assert len(line._lanes) <= 4


async def test_scripts_are_brought_to_every_node(valkey_cluster: ValkeyCluster) -> None:
    async with (state := State(valkey_cluster.url, timeout=5)).resources:
        for expected in (1, 2):
            for node in valkey_cluster.nodes:
                node.call("SCRIPT", "FLUSH")
            runs = (state.run(COUNT, [name], [1]) for name in NAMES)
            assert await asyncio.gather(*runs) == [expected] * len(NAMES)


async def test_a_command_that_no_node_can_serve_fails_alone(
    valkey_cluster: ValkeyCluster,
) -> None:
    async with (state := State(valkey_cluster.url, timeout=5)).resources:
        await state.command("SET", "k0", "text")
        for _ in range(2):
            calls = (
                state.command("GET", "k0"),
                state.command("DEL", "k0", "k1"),
                state.command("LPUSH", "k0", 1),
                state.run(COUNT, ["k0", "k1"], [1]),
                state.command("GET", "k0"),
            )
            answers = await asyncio.gather(*(outcome(call) for call in calls))
            assert answers == [b"text", StateFault, StateFault, StateFault, b"text"]
        with pytest.raises(TypeError):
            await state.command("GET", None)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await state.command()


async def test_a_slot_that_has_moved_is_found(own_cluster: ValkeyCluster) -> None:
    key = "moving"
    old = owner(own_cluster, key)
    new = next(node for node in own_cluster.nodes if node is not old)
    slot = old.call("CLUSTER", "KEYSLOT", key)
    async with (state := State(own_cluster.url, timeout=5)).resources:
        assert await state.command("INCR", key) == 1
        for there in (new, old):
            identity = there.call("CLUSTER", "MYID")
            await state.command("DEL", key)
            for node in (new, old):
                await asyncio.to_thread(node.call, "CLUSTER", "SETSLOT", slot, "NODE", identity)
            answers = await asyncio.gather(*(state.run(COUNT, [key], [1]) for _ in range(10)))
            assert sorted(answers) == list(range(1, 11))


async def test_a_node_that_stalls_costs_only_its_own_keys(own_cluster: ValkeyCluster) -> None:
    stalled = own_cluster.nodes[1]
    ours = [name for name in NAMES if owner(own_cluster, name) is not stalled]
    theirs = [name for name in NAMES if owner(own_cluster, name) is stalled]
    async with (state := State(own_cluster.url, timeout=0.4)).resources:
        await asyncio.gather(*(state.command("SET", name, 1) for name in NAMES))
        with stalled.paused():
            lost = [asyncio.ensure_future(outcome(state.command("INCR", name))) for name in theirs]
            for _ in range(10):
                answers = await asyncio.gather(*(state.command("GET", name) for name in ours))
                assert set(answers) == {b"1"}
            assert set(await asyncio.gather(*lost)) == {StateUnavailable}
            begun = time.monotonic()
            for _ in range(20):
                assert await outcome(state.command("GET", theirs[0])) is StateUnavailable
            assert time.monotonic() - begun < 4, "its breaker is open: nobody waits"
            assert await state.command("GET", ours[0]) == b"1"
        await until_answered(lambda: state.command("GET", theirs[0]))
        assert await state.command("GET", theirs[-1]) in {b"1", b"2"}, "never sent twice"


@pytest.mark.slow
async def test_calls_under_way_when_a_node_dies_fail_and_are_not_sent_again(
    own_cluster: ValkeyCluster,
) -> None:
    node = own_cluster.nodes[0]
    name = next(name for name in NAMES if owner(own_cluster, name) is node)
    async with (state := State(own_cluster.url, timeout=10)).resources:
        await state.command("SET", name, 0)
        node.pause()
        calls = [asyncio.ensure_future(outcome(state.command("INCR", name))) for _ in range(20)]
        await asyncio.sleep(0.05)
        await asyncio.to_thread(node.restart)
        assert set(await asyncio.gather(*calls)) == {StateUnavailable}
        await until_answered(lambda: state.command("GET", name))
        assert await state.command("GET", name) is None


@pytest.mark.usefixtures("quick")
async def test_a_silent_node_bounds_every_wait_and_how_many_may_wait(
    own_cluster: ValkeyCluster,
) -> None:
    node = own_cluster.nodes[0]
    name = next(name for name in NAMES if owner(own_cluster, name) is node)
    state = State(own_cluster.url, timeout=1.5)
    async with state.resources as line:
        assert isinstance(line, ClusterLine)
        line._limit = 30
        await until_answered(lambda: state.command("GET", name))
        with node.paused():
            calls = [asyncio.ensure_future(state.command("GET", name)) for _ in range(20)]
            await asyncio.sleep(0.05)
            calls += [asyncio.ensure_future(state.command("GET", name)) for _ in range(20)]
            await asyncio.sleep(0)
            calls[0].cancel()
            failed = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(failed[0], asyncio.CancelledError)
            assert {type(failure) for failure in failed[1:]} == {StateUnavailable}
            assert sum("too many" in str(failure) for failure in failed) == 10
            assert line._waiting == 0
            assert line._lanes[node_name(node)].gate.open
        await until_answered(lambda: state.command("GET", name))


async def test_closing_does_not_wait_for_ever_for_a_node_that_is_silent(
    own_cluster: ValkeyCluster,
) -> None:
    node = own_cluster.nodes[0]
    name = next(name for name in NAMES if owner(own_cluster, name) is node)
    state = State(own_cluster.url, timeout=0.3)
    async with state.resources:
        await until_answered(lambda: state.command("GET", name))
        node.pause()
        calls = [asyncio.ensure_future(outcome(state.command("GET", name))) for _ in range(3)]
        await asyncio.sleep(0.05)
    node.resume()
    assert set(await asyncio.gather(*calls)) == {StateUnavailable}
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.slow
async def test_a_node_that_was_restarted_is_used_again(own_cluster: ValkeyCluster) -> None:
    node = own_cluster.nodes[2]
    name = next(name for name in NAMES if owner(own_cluster, name) is node)
    async with (state := State(own_cluster.url, timeout=1)).resources:
        await state.run(COUNT, [name], [1])
        await asyncio.to_thread(node.restart)
        await until_answered(lambda: state.run(COUNT, [name], [1]))


async def test_closing_leaves_no_connection_and_no_task(valkey_cluster: ValkeyCluster) -> None:
    state = State(valkey_cluster.url)
    async with state.resources as line:
        call = asyncio.ensure_future(state.command("INCR", "n"))
        await asyncio.sleep(0)
    assert await call == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert line is not None
    with pytest.raises(StateUnavailable, match="closed"):
        await line.call(("GET", "n"))
    del line
    gc.collect()


async def test_a_cluster_that_is_not_there_is_told_in_bounded_time() -> None:
    async with (state := State("redis+cluster://127.0.0.1:1", connect_timeout=0.5)).resources:
        begun = time.monotonic()
        for _ in range(10):
            assert await outcome(state.command("GET", "k")) is StateUnavailable
        assert time.monotonic() - begun < 8


async def test_a_server_that_is_no_cluster_is_away(valkey: Valkey) -> None:
    async with (state := State(valkey.url.replace("redis:", "redis+cluster:")[:-2])).resources:
        assert await outcome(state.command("GET", "k")) is StateUnavailable
