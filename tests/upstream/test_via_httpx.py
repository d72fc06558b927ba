"""HttpxUpstream: any httpx or httpx2 client behind our contract."""

import asyncio
import ssl
import subprocess
import sys
import time

import httpx
import httpx2
import pytest

from asgi_llm_gateway.errors import (
    BadAnswer,
    ClientLeft,
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
    InvalidRequest,
    PoolTimeout,
    UpstreamTimeout,
)
from asgi_llm_gateway.upstream import HttpxUpstream, Timeouts
from asgi_llm_gateway.upstream.via_httpx import proxied
from tests.upstream.socket_server import CHUNKED, OK, SHORT, answers, chunk, serve, until


@pytest.fixture(params=[httpx, httpx2], ids=lambda library: library.__name__)
def library(request):
    return request.param


@pytest.fixture(scope="module")
def tls() -> ssl.SSLContext:
    """One for all: a client that makes its own takes 50 ms."""
    return ssl.create_default_context()


@pytest.fixture
async def upstream(library, tls):
    made = HttpxUpstream(library.AsyncClient(verify=tls), aclose_client=True)
    yield made
    await made.aclose()


async def silent(peer):
    await peer.left()


async def begins_and_stalls(peer):
    await peer.request()
    peer.write(CHUNKED + chunk(b"one"))
    await peer.left()


async def test_a_call_goes_out_as_asked_and_comes_back_raw(upstream):
    data = (
        b"HTTP/1.1 201 Created\r\nX-Id: 1\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nraw"
    )
    async with serve(answers(data)) as server:
        request = server.post(b'{"a":1}', headers=[(b"authorization", b"Bearer k")])
        answer = await upstream.send(request)
        assert (answer.status, await answer.read(10)) == (201, b"raw")
        assert (b"x-id", b"1") in answer.headers
        await answer.aclose()
    (received,) = server.requests
    assert received.line == b"POST /v1/chat/completions HTTP/1.1"
    assert received.body == b'{"a":1}'
    assert received.header(b"authorization") == b"Bearer k"
    assert received.header(b"accept-encoding") == b"identity"
    assert received.header(b"content-length") == b"7"


async def test_an_accept_encoding_of_the_caller_stays(upstream):
    async with serve(answers(OK)) as server:
        answer = await upstream.send(server.get(headers=[(b"Accept-Encoding", b"br")]))
        await answer.read(10)
    assert server.requests[0].header(b"accept-encoding") == b"br"


async def test_redirects_are_not_followed(library):
    data = b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n"
    upstream = HttpxUpstream(library.AsyncClient(follow_redirects=True), aclose_client=True)
    async with serve(answers(data)) as server:
        answer = await upstream.send(server.get())
        assert (answer.status, await answer.read(10)) == (302, b"")
        assert len(server.requests) == 1
    await upstream.aclose()


@pytest.mark.parametrize("length", [None, 7])
async def test_a_streamed_body_goes_out_piece_by_piece(upstream, length):
    async def body():
        yield b"one "
        yield b"two"

    async with serve(answers(OK)) as server:
        answer = await upstream.send(server.post(body(), content_length=length))
        assert await answer.read(10) == b"ok"
    (received,) = server.requests
    assert received.body == b"one two"
    assert (received.header(b"content-length") is None) == (length is None)


async def test_what_a_streamed_body_raises_is_what_send_raises(upstream):
    async def body():
        yield b"one"
        raise ClientLeft

    async with serve(answers(OK)) as server:
        with pytest.raises(ClientLeft):
            await upstream.send(server.post(body()))
        assert await server.emptied()


@pytest.mark.parametrize("length", [2, 50])
async def test_a_body_of_another_length_than_announced_is_an_invalid_request(upstream, length):
    async def body():
        yield b"of eight"

    async with serve(answers(OK)) as server:
        with pytest.raises(InvalidRequest):
            await upstream.send(server.post(body(), content_length=length))
        assert await server.emptied()


async def test_a_line_break_in_a_header_is_an_invalid_request(upstream):
    async with serve(answers(OK)) as server:
        with pytest.raises(InvalidRequest):
            await upstream.send(server.get(headers=[(b"x", b"a\r\nb: c")]))
        assert server.received_bytes == 0


async def test_a_stream_arrives_as_it_is_sent(upstream):
    go_on = asyncio.Event()

    async def script(peer):
        await peer.request()
        peer.write(CHUNKED + chunk(b"one"))
        await go_on.wait()
        peer.write(chunk(b"two") + b"0\r\n\r\n")
        await peer.left()

    async with serve(script) as server:
        answer = await upstream.send(server.get())
        seen = []
        async for piece in answer:
            seen.append(piece)
            go_on.set()
        assert seen == [b"one", b"two"]


async def refuses(peer):
    await asyncio.sleep(0)


async def cut(peer):
    await peer.request()
    peer.write(CHUNKED + chunk(b"half"))


async def nonsense(peer):
    await peer.request()
    peer.write(b"<html>\r\n\r\n")


FAILURES = {
    "no head": (refuses, Timeouts(), ConnectionLost, None),
    "cut": (cut, Timeouts(), ConnectionLost, None),
    "not http": (nonsense, Timeouts(), ConnectionLost, None),
    "first byte": (silent, SHORT, UpstreamTimeout, "first_byte"),
    "idle": (begins_and_stalls, SHORT, UpstreamTimeout, "idle"),
    "idle over first byte": (
        begins_and_stalls,
        Timeouts(first_byte=0.1, idle=0.5),
        UpstreamTimeout,
        "idle",
    ),
    "total before the head": (silent, Timeouts(total=0.2), UpstreamTimeout, "total"),
    "total after it": (begins_and_stalls, Timeouts(total=0.2), UpstreamTimeout, "total"),
}


@pytest.mark.parametrize("case", FAILURES.values(), ids=FAILURES.keys())
async def test_failures_are_ours_and_leave_no_connection(upstream, case):
    script, timeouts, error, phase = case
    async with serve(script) as server:
        started = time.monotonic()
        with pytest.raises(error) as caught:
            await (await upstream.send(server.get(timeouts=timeouts))).read(100)
        if phase == "idle":
            assert time.monotonic() - started >= timeouts.idle - 0.05
        assert getattr(caught.value, "phase", None) == phase
        assert "127.0.0.1" not in caught.value.message
        assert await server.emptied()


async def test_a_refused_connection_is_connect_failed(upstream):
    async with serve(answers(OK)) as server:
        pass
    with pytest.raises(ConnectFailed):
        await upstream.send(server.get())


async def test_a_full_pool_is_a_pool_timeout(library):
    client = library.AsyncClient(limits=library.Limits(max_connections=1))
    upstream = HttpxUpstream(client, aclose_client=True)
    async with serve(begins_and_stalls) as server:
        first = await upstream.send(server.get())
        with pytest.raises(PoolTimeout):
            await upstream.send(server.get(timeouts=SHORT))
        await first.aclose()
    await upstream.aclose()


async def test_a_connect_timeout_is_told_as_such(upstream):
    async with serve(silent) as server:
        server.scheme = "https"
        with pytest.raises(UpstreamTimeout) as caught:
            await upstream.send(server.get(timeouts=Timeouts(connect=0.3)))
        assert caught.value.phase == "connect"
        assert await server.emptied()


async def test_a_body_over_the_limit_is_a_bad_answer_and_is_closed(upstream):
    async with serve(begins_and_stalls) as server:
        with pytest.raises(BadAnswer):
            await (await upstream.send(server.get())).read(2)
        assert await server.emptied()


@pytest.mark.parametrize("how", ["close", "cancel", "stop"])
async def test_leaving_midway_closes_the_connection(upstream, how):
    async with serve(begins_and_stalls) as server:
        answer = await upstream.send(server.get())
        if how == "cancel":
            task = asyncio.create_task(answer.read(100))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        elif how == "stop":
            async for _ in answer:
                break
            await answer.aclose()
        else:
            await answer.aclose()
        assert await server.emptied()


async def test_cancelling_before_the_head_closes_the_connection(upstream):
    async with serve(silent) as server:
        task = asyncio.create_task(upstream.send(server.get()))
        await until(lambda: server.received_bytes > 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await server.emptied()


async def test_a_client_of_the_hosts_is_left_open(library):
    async with library.AsyncClient() as client:
        upstream = HttpxUpstream(client)
        await upstream.aclose()
        assert not client.is_closed


async def test_a_mock_transport_of_the_host_is_used(library):
    transport = library.MockTransport(lambda request: library.Response(200, content=b"mock"))
    upstream = HttpxUpstream(library.AsyncClient(transport=transport), aclose_client=True)
    async with serve(answers(OK)) as server:
        assert await (await upstream.send(server.post())).read(10) == b"mock"
        assert server.accepted == 0
    await upstream.aclose()


async def test_what_is_no_client_is_refused_by_name():
    class Other:
        def build_request(self):
            pass

    with pytest.raises(ConfigurationError, match=r"httpx\.AsyncClient"):
        HttpxUpstream(Other())


async def forward(peer):
    """A plain HTTP proxy: takes requests in absolute form, and answers for their hosts."""
    while True:
        request = await peer.request()
        target = request.line.split()[1]
        peer.write(b"HTTP/1.1 200 OK\r\nset-cookie: a=b\r\n")
        peer.write(b"content-length: %d\r\n\r\n%b" % (len(target), target))


async def test_a_call_through_a_proxy_reaches_it_in_absolute_form_and_keeps_no_cookie():
    async with serve(forward) as proxy, serve(answers(OK)) as server:
        upstream = proxied(f"http://user:pass@127.0.0.1:{proxy.port}")
        for _ in range(2):
            answer = await upstream.send(server.get("/v1/models?a=b"))
            asked = f"http://127.0.0.1:{server.port}/v1/models?a=b"
            assert await answer.read(100) == asked.encode()
        assert server.accepted == 0
        assert proxy.accepted == 1
        assert proxy.requests[0].header(b"proxy-authorization") is not None
        assert proxy.requests[1].header(b"cookie") is None
        await upstream.aclose()
        assert await proxy.emptied()


async def test_a_proxy_that_is_not_there_is_connect_failed():
    async with serve(forward) as proxy:
        pass
    upstream = proxied(f"http://127.0.0.1:{proxy.port}")
    with pytest.raises(ConnectFailed):
        await upstream.send(proxy.get())
    await upstream.aclose()


def test_httpx_is_imported_by_the_first_call_through_a_proxy_only():
    code = (
        "import sys; from asgi_llm_gateway.upstream import HttpxUpstream;"
        "from asgi_llm_gateway.upstream.via_httpx import proxied; proxied('http://p:1');"
        "assert not {'httpx', 'httpcore', 'httpx2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("begins", [begins_and_stalls, silent])
async def test_a_second_cancel_leaves_no_connection_counted_as_in_use(library, tls, begins):
    client = library.AsyncClient(verify=tls, limits=library.Limits(max_connections=1))
    upstream = HttpxUpstream(client, aclose_client=True)

    async def read_all(server):
        answer = await upstream.send(server.get())
        try:
            async for _ in answer:
                pass
        finally:
            await answer.aclose()

    async with serve(begins) as server:
        for count in range(1, 4):  # with one connection allowed, a lost one would starve the next
            reading = asyncio.ensure_future(read_all(server))
            assert await until(lambda count=count: server.accepted == count)
            await asyncio.sleep(0.02)
            reading.cancel()
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait({reading})
            assert reading.cancelled()
            assert await until(lambda: not client._transport._pool.connections)
    await upstream.aclose()
