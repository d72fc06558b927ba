"""Time limits, back-pressure and leaving: nothing may be left behind by any of them."""

import asyncio
import time

import pytest

from asgi_llm_gateway.errors import ConnectionLost, UpstreamTimeout
from asgi_llm_gateway.upstream import DirectUpstream, Timeouts
from asgi_llm_gateway.upstream.answer import Answer
from tests.upstream.socket_server import CHUNKED, OK, SHORT, answers, chunk, serve, until


async def silent(peer):
    await peer.left()


async def begins_and_stalls(peer):
    await peer.request()
    peer.write(CHUNKED + chunk(b"one"))
    await peer.left()


async def trickles(peer):
    await peer.request()
    peer.write(CHUNKED)
    while not peer.gone:
        peer.write(chunk(b"x"))
        await asyncio.sleep(0.05)


async def hints_for_ever(peer):
    await peer.request()
    while not peer.gone:
        peer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await asyncio.sleep(0.05)


RUN_OUT = {
    "first byte": (silent, SHORT, "first_byte"),
    "first byte, in spite of hints": (hints_for_ever, SHORT, "first_byte"),
    "idle": (begins_and_stalls, SHORT, "idle"),
    "total, silent": (silent, Timeouts(total=0.3), "total"),
    "total, answering": (trickles, Timeouts(idle=1, total=0.5), "total"),
}


@pytest.mark.parametrize("case", RUN_OUT.values(), ids=RUN_OUT.keys())
async def test_a_limit_that_runs_out_ends_the_call_and_its_connection(upstream, case):
    script, timeouts, phase = case
    async with serve(script) as server:
        started = time.monotonic()
        with pytest.raises(UpstreamTimeout) as caught:
            await (await upstream.send(server.get(timeouts=timeouts))).read(10_000)
        assert caught.value.phase == phase
        assert 0.2 < time.monotonic() - started < 3
        assert upstream.stats().open == 0
        assert await server.emptied()


async def test_a_timeout_while_reading_comes_after_the_bytes_that_had_arrived(upstream):
    async with serve(begins_and_stalls) as server:
        answer = await upstream.send(server.get(timeouts=SHORT))
        assert await anext(answer) == b"one"
        with pytest.raises(UpstreamTimeout):
            await anext(answer)


async def test_a_server_that_never_accepts_a_connection_is_a_connect_timeout(upstream):
    async with serve(answers(OK)) as server:
        # TLS towards a peer that says nothing: the TCP connection stands, the handshake does not.
        server.scheme = "https"
        server.script = silent
        with pytest.raises(UpstreamTimeout) as caught:
            await upstream.send(server.get(timeouts=Timeouts(connect=0.3)))
        assert caught.value.phase == "connect"
        with pytest.raises(UpstreamTimeout) as caught:
            await upstream.send(server.get(timeouts=Timeouts(connect=None, total=0.2)))
        assert caught.value.phase == "total"
        assert upstream.stats().open == 0
        assert await server.emptied()


async def test_no_limit_is_no_limit(upstream):
    async def script(peer):
        await peer.request()
        await asyncio.sleep(0.3)
        peer.write(CHUNKED)
        await asyncio.sleep(0.3)
        peer.write(chunk(b"ok") + b"0\r\n\r\n")

    unlimited = Timeouts(None, None, None, None, None, None)
    async with serve(script) as server:
        answer = await upstream.send(server.get(timeouts=unlimited))
        assert await answer.read(10) == b"ok"


async def test_a_stream_may_last_longer_than_idle_while_it_flows(upstream):
    async with serve(trickles) as server:
        answer = await upstream.send(server.get(timeouts=Timeouts(idle=0.25, total=None)))
        ends_at = time.monotonic() + 0.8
        async for _ in answer:
            if time.monotonic() > ends_at:
                break
        await answer.aclose()
        assert await server.emptied()


async def test_nothing_ticks_when_nothing_is_open(upstream):
    closing = b"HTTP/1.1 404 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    async with serve(answers(closing)) as server:
        await (await upstream.send(server.get())).read(10)
        sweep = upstream._latest.sweep
        assert await until(lambda: sweep._handle is None)


async def test_a_reader_who_does_not_read_holds_the_provider_back_and_loses_nothing():
    upstream = DirectUpstream(read_ahead=65_536)
    size = 40_000_000
    written = 0

    async def script(peer):
        nonlocal written
        await peer.request()
        peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        while written < size and not peer.gone:
            if peer.transport.get_write_buffer_size() < 65_536:
                peer.write(b"x" * 100_000)
                written += 100_000
            else:
                await asyncio.sleep(0.001)
        await peer.left()

    async with serve(script) as server:
        timeouts = Timeouts(idle=0.3)
        answer = await upstream.send(server.get(timeouts=timeouts))
        await asyncio.sleep(0.6)  # longer than idle: a reader's pause is not the provider's
        assert written < size
        assert sum(map(len, answer.parts)) <= 65_536 + 300_000
        assert len(await answer.read(size)) == size
        assert upstream.stats().idle == 1
    await upstream.aclose()


@pytest.mark.parametrize("end", [b"0\r\n\r\n", b""], ids=["kept", "cut"])
async def test_an_answer_that_ends_while_reading_is_held_back_ends_rightly(end):
    upstream = DirectUpstream(read_ahead=10_000)
    data = chunk(b"x" * 100_000) * 5 + end

    async def script(peer):
        await peer.request()
        peer.write(CHUNKED + chunk(b"x" * 20_000))
        await asyncio.sleep(0.05)
        peer.write(data)
        if end:
            await peer.request()
            peer.write(OK)

    async with serve(script) as server:
        answer = await upstream.send(server.get())
        await asyncio.sleep(0.2)
        if end:
            assert len(await answer.read(1_000_000)) == 520_000
            assert await (await upstream.send(server.get())).read(10) == b"ok"
            assert server.accepted == 1
        else:
            with pytest.raises(ConnectionLost):
                await answer.read(1_000_000)
    await upstream.aclose()


async def cancel_in(upstream, request, arrived):
    """Start the call, wait for `arrived`, cancel it, and see it end."""

    async def call():
        answer = await upstream.send(request)
        async for _ in answer:
            pass

    task = asyncio.create_task(call())
    assert await until(arrived)
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


PHASES = {
    "waiting for the head": (silent, {}),
    "reading the body": (begins_and_stalls, {}),
    "sending a large body": (silent, {"method": "POST", "body": b"x" * 30_000_000}),
}


@pytest.mark.parametrize("phase", PHASES.values(), ids=PHASES.keys())
async def test_cancelling_closes_the_connection_at_once(upstream, phase):
    script, changes = phase
    async with serve(script) as server:
        await cancel_in(upstream, server.get(**changes), lambda: server.accepted == 1)
        assert upstream.stats().open == 0
        assert await server.emptied(0.5)
        assert not upstream._latest.sweep.busy


async def test_cancelling_while_tls_is_being_agreed_on_leaves_nothing(upstream):
    async with serve(silent) as server:
        server.scheme = "https"
        await cancel_in(upstream, server.get(), lambda: server.received_bytes > 0)
        assert upstream.stats().open == 0
        assert await server.emptied(0.5)


async def test_cancelling_as_a_connection_is_begun_leaves_nothing(upstream):
    async with serve(silent) as server:
        for steps in range(12):
            task = asyncio.create_task(upstream.send(server.get()))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert upstream.stats().open == 0
        assert await server.emptied(0.5)


async def test_cancelling_an_upload_ends_it_and_its_body(upstream):
    ended = asyncio.Event()

    async def body():
        try:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    async with serve(silent) as server:
        request = server.post(body())
        await cancel_in(upstream, request, lambda: server.received_bytes > 2000)
        await asyncio.wait_for(ended.wait(), 1)
        assert upstream.stats().open == 0
        assert await server.emptied(0.5)


async def test_cancelling_in_the_moment_the_head_arrives_leaves_nothing(upstream, monkeypatch):
    wake = Answer.wake

    def wake_and_cancel(answer):
        wake(answer)
        task.cancel()

    monkeypatch.setattr(Answer, "wake", wake_and_cancel)
    async with serve(begins_and_stalls) as server:
        task = asyncio.create_task(upstream.send(server.get()))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert upstream.stats().open == 0
        assert await server.emptied(0.5)


async def test_a_closed_answer_is_an_error_to_read_not_an_end(upstream):
    async with serve(begins_and_stalls) as server:
        answer = await upstream.send(server.get())
        assert await anext(answer) == b"one"
        await answer.aclose()
        await answer.aclose()
        with pytest.raises(ConnectionLost):
            await anext(answer)
        assert await server.emptied(0.5)


async def test_closing_an_answer_ends_the_read_of_another_task(upstream):
    async with serve(begins_and_stalls) as server:
        answer = await upstream.send(server.get())
        reading = asyncio.create_task(answer.read(100))
        await asyncio.sleep(0.02)
        await answer.aclose()
        with pytest.raises(ConnectionLost):
            await reading
        assert await server.emptied(0.5)


async def test_closing_an_answer_that_was_read_keeps_its_connection(upstream):
    async with serve(answers(OK)) as server:
        answer = await upstream.send(server.get())
        assert await answer.read(10) == b"ok"
        await answer.aclose()
        assert upstream.stats().idle == 1
        # What is closed twice must not touch the call its connection carries by then.
        other = await upstream.send(server.get())
        await answer.aclose()
        assert await other.read(10) == b"ok"


async def test_200_callers_who_leave_midway_leave_no_connection(upstream):
    async with serve(trickles) as server:

        async def call(number):
            answer = await upstream.send(server.get())
            async for _ in answer:
                if number % 2:
                    break
            await answer.aclose()

        calls = [asyncio.create_task(call(number)) for number in range(200)]
        assert await until(lambda: server.accepted == 200, 5)
        await asyncio.sleep(0.2)
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert await server.emptied(1.0)
        stats = upstream.stats()
        assert (stats.open, stats.busy) == (0, 0)
        assert not upstream._latest.sweep.busy
