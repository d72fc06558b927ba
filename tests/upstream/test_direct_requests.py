"""What DirectUpstream puts on the wire."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from asgi_llm_gateway.errors import (
    BadAnswer,
    BodyTooLarge,
    ClientLeft,
    ConnectionLost,
    InvalidRequest,
    UpstreamTimeout,
)
from asgi_llm_gateway.upstream import Origin, Timeouts
from tests.upstream.socket_server import OK, SHORT, answers, serve, until


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_a_bytes_body_goes_out_with_its_length_and_our_host_header(upstream):
    async with serve(answers(OK)) as server:
        request = server.post(b'{"a":1}', headers=[(b"authorization", b"Bearer k"), (b"X-A", b"1")])
        await upstream.send(request)
    (received,) = server.requests
    assert received.line == b"POST /v1/chat/completions HTTP/1.1"
    assert received.body == b'{"a":1}'
    assert received.headers == [
        (b"host", b"127.0.0.1:%d" % server.port),
        (b"authorization", b"Bearer k"),
        (b"X-A", b"1"),
        (b"content-length", b"7"),
    ]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_request_without_a_body_announces_none(upstream, method):
    async with serve(answers(b"HTTP/1.1 204 No Content\r\n\r\n")) as server:
        await upstream.send(server.get(method=method))
    assert server.requests[0].header(b"content-length") is None
    assert server.requests[0].header(b"transfer-encoding") is None


async def test_an_empty_post_says_that_it_is_empty(upstream):
    async with serve(answers(OK)) as server:
        await upstream.send(server.post(b""))
    assert server.requests[0].header(b"content-length") == b"0"


@pytest.mark.parametrize("size", [65_537, 3_000_000])
async def test_a_large_body_arrives_whole(upstream, size):
    body = bytes(range(256)) * (size // 256 + 1)
    async with serve(answers(OK)) as server:
        await (await upstream.send(server.post(body))).read(10)
    assert server.requests[0].body == body


async def test_a_streamed_body_of_unknown_length_is_chunked_and_empty_pieces_do_not_end_it(
    upstream,
):
    async with serve(answers(OK)) as server:
        for _ in range(2):
            answer = await upstream.send(server.post(pieces(b"one ", b"", b"two", b"x" * 100_000)))
            assert await answer.read(10) == b"ok"
        assert server.accepted == 1
    assert server.requests[1].body == b"one two" + b"x" * 100_000
    assert server.requests[0].header(b"transfer-encoding") == b"chunked"
    assert server.requests[0].header(b"content-length") is None


async def test_a_streamed_body_of_known_length_is_sent_with_it(upstream):
    async with serve(answers(OK)) as server:
        request = server.post(pieces(b"one ", b"two"), content_length=7)
        assert await (await upstream.send(request)).read(10) == b"ok"
        assert upstream.stats().idle == 1
    assert server.requests[0].body == b"one two"
    assert server.requests[0].header(b"content-length") == b"7"
    assert server.requests[0].header(b"transfer-encoding") is None


@pytest.mark.parametrize("length", [3, 50])
async def test_a_streamed_body_of_another_length_than_announced_is_refused(upstream, length):
    async with serve(answers(OK)) as server:
        with pytest.raises(InvalidRequest):
            await upstream.send(server.post(pieces(b"one ", b"two"), content_length=length))
        assert await server.emptied()
        assert server.requests == []
        assert upstream.stats().open == 0


async def test_a_streamed_body_waits_for_a_provider_that_reads_slowly(upstream):
    given = 0
    go_on = asyncio.Event()

    async def body():
        nonlocal given
        for _ in range(400):
            given += 1
            yield b"x" * 65_536

    async def script(peer):
        peer.transport.pause_reading()
        await go_on.wait()
        peer.transport.resume_reading()
        await peer.request()
        peer.write(OK)
        await peer.left()

    async with serve(script) as server:
        sending = asyncio.create_task(upstream.send(server.post(body())))
        await asyncio.sleep(0.3)
        stopped_at = given
        assert stopped_at < 300
        await asyncio.sleep(0.1)
        assert given == stopped_at
        go_on.set()
        assert await (await sending).read(10) == b"ok"
        assert len(server.requests[0].body) == 400 * 65_536


async def test_a_provider_that_takes_nothing_of_a_body_times_out(upstream):
    async def script(peer):
        peer.transport.pause_reading()
        await asyncio.sleep(5)

    async with serve(script) as server:
        with pytest.raises(UpstreamTimeout) as caught:
            await upstream.send(server.post(b"x" * 30_000_000, timeouts=SHORT))
        assert caught.value.phase == "idle"
        assert upstream.stats().open == 0


async def test_a_caller_that_uploads_slowly_does_not_count_against_the_provider(upstream):
    async def body():
        for _ in range(4):
            await asyncio.sleep(0.2)
            yield b"x"

    async with serve(answers(OK)) as server:
        answer = await upstream.send(server.post(body(), timeouts=SHORT))
        assert await answer.read(10) == b"ok"


async def test_an_early_answer_is_returned_and_the_upload_stopped(upstream):
    ended = asyncio.Event()

    async def body():
        try:
            yield b"first"
            await asyncio.sleep(60)
            yield b"never"
        finally:
            ended.set()

    async def script(peer):
        await peer.head()
        peer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 5\r\n\r\n")
        await asyncio.sleep(0.05)
        peer.write(b"large")
        await peer.left()

    async with serve(script) as server:
        answer = await upstream.send(server.post(body()))
        assert answer.status == 413
        await asyncio.wait_for(ended.wait(), 1)
        assert await answer.read(10) == b"large"
        assert upstream.stats().open == 0
        assert await server.emptied()


@pytest.mark.parametrize("error", [ClientLeft(), BodyTooLarge("no"), ValueError("no")], ids=repr)
async def test_what_a_streamed_body_raises_is_what_send_raises(upstream, error):
    async def body():
        yield b"first"
        raise error

    async with serve(answers(OK)) as server:
        with pytest.raises(type(error)) as caught:
            await upstream.send(server.post(body()))
        assert caught.value is error
        assert await server.emptied()
        assert upstream.stats().open == 0


async def test_a_connection_lost_during_an_upload_stops_the_body(upstream):
    ended = asyncio.Event()

    async def body():
        try:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0.001)
        finally:
            ended.set()

    async def script(peer):
        await peer.head()
        peer.reset()

    async with serve(script) as server:
        with pytest.raises(ConnectionLost):
            await upstream.send(server.post(body()))
        await asyncio.wait_for(ended.wait(), 1)
        assert server.accepted == 1


async def test_a_streamed_body_is_never_sent_twice(upstream):
    async def script(peer):
        await peer.request()
        peer.write(OK)
        await peer.head()
        peer.reset()

    async with serve(script) as server:
        await (await upstream.send(server.get())).read(10)
        with pytest.raises(ConnectionLost):
            await upstream.send(server.post(pieces(b"once")))
        assert server.accepted == 1


UNSENDABLE = {
    "line break in the target": {"target": "/a\r\nx: y"},
    "line feed in the target": {"target": "/a\nx"},
    "NUL in the target": {"target": "/a\0"},
    "blank in the target": {"target": "/a b HTTP/1.1"},
    "not ASCII": {"target": "/\u00e9"},
    "empty target": {"target": ""},
    "line break in the method": {"method": "GET\r\n"},
    "blank in the method": {"method": "GET /x"},
    "line break in a value": {"headers": [(b"x", b"a\r\nb: c")]},
    "carriage return in a value": {"headers": [(b"x", b"a\rb")]},
    "line feed in a value": {"headers": [(b"x", b"a\nb")]},
    "NUL in a value": {"headers": [(b"x", b"a\0b")]},
    "line break in a name": {"headers": [(b"x\r\ny", b"a")]},
    "NUL in a name": {"headers": [(b"x\0", b"a")]},
    "a second host": {"headers": [(b"Host", b"evil")]},
    "a second length": {"headers": [(b"Content-Length", b"0")]},
    "a second framing": {"headers": [(b"transfer-encoding", b"chunked")]},
}


@pytest.mark.parametrize("changes", UNSENDABLE.values(), ids=UNSENDABLE.keys())
async def test_what_could_become_two_requests_is_refused_before_anything_is_sent(upstream, changes):
    async with serve(answers(OK)) as server:
        with pytest.raises(InvalidRequest):
            await upstream.send(server.get(**changes))
        await asyncio.sleep(0)
        assert server.received_bytes == 0
        assert upstream.stats().open == 0


@pytest.mark.parametrize(
    ("url", "origin", "target", "host"),
    [
        ("http://h/v1?a=b", Origin("http", "h", 80), "/v1?a=b", "h"),
        ("https://h", Origin("https", "h", 443), "/", "h"),
        ("https://h:80/", Origin("https", "h", 80), "/", "h:80"),
        ("http://[::1]:8080/x", Origin("http", "::1", 8080), "/x", "[::1]:8080"),
    ],
)
def test_a_url_splits_into_origin_and_target(url, origin, target, host):
    assert Origin.split(url) == (origin, target)
    assert origin.netloc == host


async def test_an_answer_that_comes_whole_during_an_upload_does_not_free_the_connection(upstream):
    async def body():
        yield b"first"
        await asyncio.sleep(60)

    async def script(peer):
        await peer.head()
        peer.write(b"HTTP/1.1 401 No\r\ncontent-length: 2\r\n\r\nno")
        await peer.left()

    async with serve(script) as server:
        answer = await upstream.send(server.post(body(), timeouts=Timeouts(total=5.0)))
        assert (answer.status, await answer.read(10)) == (401, b"no")
        assert await until(lambda: upstream.stats().open == 0)
        assert await server.emptied()


async def test_garbage_during_an_upload_ends_both(upstream):
    async def body():
        yield b"first"
        await asyncio.sleep(60)

    async def script(peer):
        await peer.head()
        peer.write(b"nonsense\r\n\r\n")
        await peer.left()

    async with serve(script) as server:
        with pytest.raises(BadAnswer):
            await upstream.send(server.post(body()))
        assert await server.emptied()
