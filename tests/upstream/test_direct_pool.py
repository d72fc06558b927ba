"""Who gets which connection, who waits, and what a connection lives through."""

import asyncio
import random
import time

import pytest

from asgi_llm_gateway.errors import ConnectFailed, ConnectionLost, PoolTimeout, UpstreamTimeout
from asgi_llm_gateway.upstream import DirectUpstream, Timeouts
from tests.upstream.socket_server import OK, SHORT, answers, serve, until


async def fetch(upstream, request):
    return await (await upstream.send(request)).read(100)


def gated(gate: asyncio.Event):
    """A script that answers each request with its connection's number once the gate is open."""

    async def script(peer):
        while True:
            await peer.request()
            await gate.wait()
            peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%d" % peer.number)

    return script


async def test_the_connection_used_last_is_used_next(upstream):
    gate = asyncio.Event()
    async with serve(gated(gate)) as server:
        calls = [asyncio.create_task(fetch(upstream, server.get())) for _ in range(3)]
        await until(lambda: server.accepted == 3)
        assert upstream.stats().busy == 3
        gate.set()
        await asyncio.gather(*calls)
        assert upstream.stats().idle == 3
        assert len({await fetch(upstream, server.get()) for _ in range(5)}) == 1


async def test_origins_do_not_share_connections(upstream):
    async with serve(answers(OK)) as one, serve(answers(OK)) as other:
        for server in (one, other, one, other):
            await fetch(upstream, server.get())
        assert (one.accepted, other.accepted) == (1, 1)
        assert upstream.stats().idle == 2


async def test_callers_beyond_the_cap_are_served_in_the_order_they_came():
    upstream = DirectUpstream(max_connections=1)
    targets = [f"/{number}" for number in range(20)]
    async with serve(answers(OK)) as server:
        calls = [asyncio.create_task(fetch(upstream, server.get(target))) for target in targets]
        await asyncio.sleep(0)
        assert upstream.stats().waiting == 19
        late = asyncio.create_task(fetch(upstream, server.get("/late")))
        await asyncio.gather(*calls, late)
        assert [f.line.split()[1].decode() for f in server.requests] == [*targets, "/late"]
        assert server.accepted == 1
        stats = upstream.stats()
        assert (stats.open, stats.idle, stats.busy, stats.waiting) == (1, 1, 0, 0)
    await upstream.aclose()


async def test_waiting_too_long_for_a_connection_is_a_pool_timeout():
    upstream = DirectUpstream(max_connections=1)
    gate = asyncio.Event()
    async with serve(gated(gate)) as server:
        first = asyncio.create_task(fetch(upstream, server.get()))
        await until(lambda: server.accepted == 1)
        started = time.monotonic()
        with pytest.raises(PoolTimeout):
            await upstream.send(server.get(timeouts=SHORT))
        assert 0.25 < time.monotonic() - started < 2
        with pytest.raises(UpstreamTimeout) as caught:
            await upstream.send(server.get(timeouts=Timeouts(total=0.2)))
        assert caught.value.phase == "total"
        assert upstream.stats().waiting == 0
        gate.set()
        assert await first == b"1"
        assert await fetch(upstream, server.get()) == b"1"
    await upstream.aclose()


async def test_a_full_queue_refuses_at_once():
    upstream = DirectUpstream(max_connections=1, max_waiting=1)
    gate = asyncio.Event()
    async with serve(gated(gate)) as server:
        calls = [asyncio.create_task(fetch(upstream, server.get())) for _ in range(2)]
        await until(lambda: upstream.stats().waiting == 1)
        with pytest.raises(PoolTimeout):
            await upstream.send(server.get())
        gate.set()
        assert await asyncio.gather(*calls) == [b"1", b"1"]
    await upstream.aclose()


async def test_cancelled_waiters_lose_no_place():
    upstream = DirectUpstream(max_connections=1)
    gate = asyncio.Event()
    async with serve(gated(gate)) as server:
        calls = [asyncio.create_task(fetch(upstream, server.get())) for _ in range(50)]
        await until(lambda: upstream.stats().waiting == 49)
        for call in calls[1::2]:
            call.cancel()
        gate.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert results[::2] == [b"1"] * 25
        assert upstream.stats().open == 1
    await upstream.aclose()


@pytest.mark.parametrize("dies", [False, True], ids=["given back", "gone"])
async def test_a_waiter_cancelled_in_the_moment_of_its_turn_passes_it_on(dies):
    upstream = DirectUpstream(max_connections=1)
    gate = asyncio.Event()
    async with serve(gated(gate)) as server:
        first = asyncio.create_task(upstream.send(server.get()))
        waiting = [asyncio.create_task(fetch(upstream, server.get())) for _ in range(3)]
        await until(lambda: server.accepted == 1)
        pool = next(iter(upstream._latest.pools.values()))
        turn = next(iter(pool.waiters))
        # Exactly when the first in the queue has been given its turn and not yet run.
        turn.add_done_callback(lambda _: waiting[0].cancel())
        if dies:
            first.cancel()
        gate.set()
        if not dies:
            await (await first).read(100)
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert not any(isinstance(result, BaseException) for result in results[1:])
        stats = upstream.stats()
        assert (stats.open, stats.idle, stats.waiting) == (1, 1, 0)
    await upstream.aclose()


async def test_a_connection_that_dies_on_its_way_to_a_waiter_is_replaced():
    upstream = DirectUpstream(max_connections=1)
    gate = asyncio.Event()
    async with serve(gated(gate)) as server:
        first = asyncio.create_task(fetch(upstream, server.get()))
        second = asyncio.create_task(fetch(upstream, server.get()))
        await until(lambda: server.accepted == 1)
        pool = next(iter(upstream._latest.pools.values()))
        release = pool.release

        def release_and_lose(connection):
            pool.release = release
            release(connection)
            connection.discard()

        pool.release = release_and_lose
        gate.set()
        assert await asyncio.gather(first, second) == [b"1", b"2"]
        assert upstream.stats().open == 1
    await upstream.aclose()


async def test_places_freed_by_failures_go_to_those_who_wait():
    upstream = DirectUpstream(max_connections=2)

    async def script(peer):
        await peer.request()
        await asyncio.sleep(0.005)

    async with serve(script) as server:
        calls = [asyncio.create_task(fetch(upstream, server.get())) for _ in range(12)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [ConnectionLost] * 12
        assert server.accepted == 12
        assert upstream.stats().open == 0
    await upstream.aclose()


async def test_a_refused_connection_is_connect_failed_and_frees_its_place():
    upstream = DirectUpstream(max_connections=1)
    async with serve(answers(OK)) as server:
        pass
    calls = [upstream.send(server.get()) for _ in range(3)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [ConnectFailed] * 3
    assert all("127.0.0.1" not in str(result) for result in results)
    assert upstream.stats().open == 0


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 70 + ".invalid", "a..b"])
async def test_a_name_that_cannot_be_looked_up_is_connect_failed(upstream, host):
    async with serve(answers(OK)) as server:
        server.host = host
        with pytest.raises(ConnectFailed) as caught:
            await upstream.send(server.get())
    assert host not in caught.value.message
    assert upstream.stats().open == 0


async def test_idle_connections_are_closed_by_themselves():
    upstream = DirectUpstream(idle_expiry=0.15)
    async with serve(answers(OK)) as server:
        await fetch(upstream, server.get())
        assert upstream.stats().idle == 1
        assert await until(lambda: upstream.stats().open == 0)
        assert await server.emptied()
        assert upstream._latest.sweep._handle is None
    await upstream.aclose()


async def test_an_expired_connection_is_not_used_though_nothing_has_closed_it_yet():
    now = [0.0]
    upstream = DirectUpstream(idle_expiry=55.0, clock=lambda: now[0])
    async with serve(answers(OK)) as server:
        for seconds, accepted in ((0, 1), (54.9, 1), (109.8, 1), (165, 2)):
            now[0] = seconds
            await fetch(upstream, server.get())
            assert server.accepted == accepted
        assert upstream.stats().open == 1
    await upstream.aclose()


async def test_a_reused_connection_that_dies_unheard_costs_one_retry(upstream):
    async def script(peer):
        await peer.request()
        peer.write(OK)
        if peer.number == 1:
            await peer.head()
            peer.reset()
            return
        await peer.request()
        peer.write(OK)

    async with serve(script) as server:
        assert await fetch(upstream, server.post()) == b"ok"
        assert await fetch(upstream, server.post(b'{"again":1}')) == b"ok"
        assert server.accepted == 2
        assert server.requests[-1].body == b'{"again":1}'


async def test_there_is_only_one_retry_and_none_once_a_byte_was_answered(upstream):
    async def dies_twice(peer):
        if peer.number == 1:
            await peer.request()
            peer.write(OK)
        await peer.head()
        peer.reset()

    async def dies_midway(peer):
        await peer.request()
        peer.write(OK)
        await peer.request()
        peer.write(b"H")
        await asyncio.sleep(0.02)
        peer.reset()

    for script, accepted in ((dies_twice, 2), (dies_midway, 1)):
        async with serve(script) as server:
            await fetch(upstream, server.post())
            with pytest.raises(ConnectionLost):
                await fetch(upstream, server.post())
            assert server.accepted == accepted
            assert upstream.stats().open == 0


async def test_a_retry_under_a_full_cap_gets_its_place_first():
    upstream = DirectUpstream(max_connections=1)
    served = []

    async def script(peer):
        while True:
            request = await peer.request()
            if len(server.requests) == 2:
                peer.reset()
                return
            served.append(request.body)
            peer.write(OK)

    async with serve(script) as server:
        await fetch(upstream, server.post(b"0"))
        calls = [asyncio.create_task(fetch(upstream, server.post(b"%d" % n))) for n in (1, 2, 3)]
        assert await asyncio.gather(*calls) == [b"ok"] * 3
        assert sorted(served) == [b"0", b"1", b"2", b"3"]
        assert server.accepted == 2
    await upstream.aclose()


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.slow)])
async def test_no_call_is_lost_when_the_provider_closes_as_we_ask(upstream, count):
    """The keep-alive race: it closes 50 ms after its last answer, we ask after 48.5 to 51.5 ms."""

    async def script(peer):
        while True:
            await peer.request()
            peer.write(OK)
            handle = asyncio.get_running_loop().call_later(0.05, peer.transport.close)
            while not peer.buffer:
                await peer.more()
            handle.cancel()

    rng = random.Random(2)
    async with serve(script) as server:
        for _ in range(count):
            assert await fetch(upstream, server.post()) == b"ok"
            due = time.perf_counter() + 0.0485 + rng.random() * 0.003
            await asyncio.sleep(0.046)
            while time.perf_counter() < due:  # noqa: ASYNC110 - sleep is too coarse for this
                await asyncio.sleep(0)
        assert server.accepted > 1


async def test_closing_ends_idle_busy_and_waiting_alike_and_can_be_followed_by_new_calls():
    upstream = DirectUpstream(max_connections=2)
    gate = asyncio.Event()
    async with serve(gated(gate)) as server:
        calls = [asyncio.create_task(fetch(upstream, server.get())) for _ in range(4)]
        await until(lambda: server.accepted == 2)
        await upstream.aclose()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [ConnectionLost] * 4
        assert upstream.stats().open == 0
        assert await server.emptied()
        gate.set()
        assert await fetch(upstream, server.get()) == b"3"
        await upstream.aclose()
        assert await server.emptied()
        await upstream.aclose()


async def test_closing_while_connecting_leaves_nothing():
    upstream = DirectUpstream()
    async with serve(answers(OK)) as server:
        call = asyncio.create_task(upstream.send(server.get()))
        await asyncio.sleep(0)
        await upstream.aclose()
        with pytest.raises(ConnectionLost):
            await call
        assert await server.emptied()


def test_each_event_loop_has_connections_of_its_own():
    upstream = DirectUpstream()

    async def use() -> int:
        async with serve(answers(OK)) as server:
            for _ in range(2):
                await fetch(upstream, server.get())
            assert server.accepted == 1
            assert upstream.stats().open == 1
            await upstream.aclose()
            return len(upstream._by_loop)

    for _ in range(2):
        assert asyncio.run(use()) == 0


def test_a_loop_that_was_closed_under_its_pools_is_forgotten():
    upstream = DirectUpstream()

    async def use(close: bool) -> int:
        async with serve(answers(OK)) as server:
            await fetch(upstream, server.get())
        assert await until(lambda: upstream.stats().open == 0)
        return len(upstream._by_loop)

    assert [asyncio.run(use(False)) for _ in range(3)] == [1, 1, 1]


async def test_origins_without_a_connection_are_forgotten_when_there_are_many(upstream):
    async with serve(answers(OK)) as server:
        await fetch(upstream, server.get())
        port = server.port
        for number in range(1, 130):
            server.host = f"127.0.1.{number}"
            with pytest.raises(ConnectFailed):
                await upstream.send(server.get())
        server.host, server.port = "127.0.0.1", port
        assert len(upstream._latest.pools) <= 64
        await fetch(upstream, server.get())
        assert server.accepted == 1


async def test_a_provider_that_goes_after_a_while_is_not_asked_again_unseen(upstream):
    """It may have worked on the request, and be paid for it: failover decides what comes next."""

    async def script(peer):
        await peer.request()
        peer.write(OK)
        await peer.request()
        await asyncio.sleep(1.2)
        peer.reset()

    async with serve(script) as server:
        await fetch(upstream, server.post())
        with pytest.raises(ConnectionLost):
            await fetch(upstream, server.post())
        assert server.accepted == 1
