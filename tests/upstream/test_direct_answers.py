"""What DirectUpstream makes of the bytes a provider sends."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi_llm_gateway.errors import BadAnswer, ConnectionLost
from asgi_llm_gateway.upstream import DirectUpstream
from asgi_llm_gateway.upstream.answer import Answer
from asgi_llm_gateway.upstream.bounds import Bounds
from asgi_llm_gateway.upstream.connection import Connection
from asgi_llm_gateway.upstream.contract import Timeouts
from tests.upstream.socket_server import CHUNKED, OK, answers, chunk, serve, until

LIMIT = 1_000_000


async def fetch(upstream, request):
    answer = await upstream.send(request)
    body = await answer.read(LIMIT)
    await answer.aclose()
    return answer.status, answer.headers, body


KEPT = {
    "content-length": (OK, 200, b"ok"),
    "chunked": (CHUNKED + chunk(b"o") + chunk(b"k") + b"0\r\n\r\n", 200, b"ok"),
    "chunk extensions": (CHUNKED + b"2;a=b\r\nok\r\n0;c\r\n\r\n", 200, b"ok"),
    "trailers": (CHUNKED + chunk(b"ok") + b"0\r\nx-sum: 1\r\nstatus: 500\r\n\r\n", 200, b"ok"),
    "empty body": (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", 404, b""),
    "no reason phrase": (b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok", 200, b"ok"),
    "100 and 103 before": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + OK,
        200,
        b"ok",
    ),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", 304, b""),
    "HTTP/1.0 keep-alive": (
        b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok",
        200,
        b"ok",
    ),
}


@pytest.mark.parametrize("case", KEPT.values(), ids=KEPT.keys())
async def test_a_whole_answer_is_read_and_its_connection_used_again(upstream, case):
    data, status, body = case
    async with serve(answers(data)) as server:
        for _ in range(3):
            got = await fetch(upstream, server.get())
            assert (got[0], got[2]) == (status, body)
        assert server.accepted == 1
        assert upstream.stats().idle == 1


NOT_KEPT = {
    "connection: close": b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    "bytes after the end": OK + b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong",
    "half an answer after the end": OK + b"HTTP/1.",
    "garbage after the end": OK + b"!",
    "close and more bytes": OK.replace(b"OK\r\n", b"OK\r\nconnection: close\r\n") + b"!",
}


@pytest.mark.parametrize("data", NOT_KEPT.values(), ids=NOT_KEPT.keys())
async def test_a_connection_that_cannot_be_trusted_again_is_dropped(upstream, data):
    async with serve(answers(data)) as server:
        for _ in range(2):
            assert (await fetch(upstream, server.get()))[2] == b"ok"
        assert server.accepted == 2
        assert upstream.stats().open == 0
        assert await server.emptied()


async def test_header_names_are_lower_case_and_values_trimmed_of_blanks(upstream):
    data = b"HTTP/1.1 200 OK\r\nX-Request-ID:  Ab c \t\r\nX-Empty:\r\nContent-Length: 2\r\n\r\nok"
    async with serve(answers(data)) as server:
        _, headers, _ = await fetch(upstream, server.get())
    assert headers == [(b"x-request-id", b"Ab c"), (b"x-empty", b""), (b"content-length", b"2")]


async def test_trailers_are_not_headers(upstream):
    async with serve(answers(KEPT["trailers"][0])) as server:
        _, headers, _ = await fetch(upstream, server.get())
    assert headers == [(b"transfer-encoding", b"chunked")]


HEADS = {
    "with a length": b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n",
    "length nought": b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "chunked": CHUNKED,
}


@pytest.mark.parametrize("data", HEADS.values(), ids=HEADS.keys())
async def test_an_answer_to_head_has_no_body_whatever_its_headers_say(upstream, data):
    async with serve(answers(data, OK)) as server:
        assert (await fetch(upstream, server.get(method="HEAD")))[2] == b""
        assert (await fetch(upstream, server.get()))[2] == b"ok"
        assert server.accepted == 1


async def test_a_body_sent_to_head_poisons_the_connection(upstream):
    async with serve(answers(OK)) as server:
        assert (await fetch(upstream, server.get(method="HEAD")))[2] == b""
        assert await server.emptied()


async def test_a_body_without_a_length_ends_with_the_connection(upstream):
    async def script(peer):
        await peer.request()
        peer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\none ")
        await asyncio.sleep(0.02)
        peer.write(b"two")

    async with serve(script) as server:
        assert (await fetch(upstream, server.get()))[2] == b"one two"
        assert upstream.stats().open == 0


CUT = {
    "content-length": b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
    "chunk": CHUNKED + b"9\r\nhalf",
    "before the last chunk": CHUNKED + chunk(b"half"),
    "in the trailers": CHUNKED + chunk(b"half") + b"0\r\nx-a: 1\r\n",
}


@pytest.mark.parametrize("data", CUT.values(), ids=CUT.keys())
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_an_answer_cut_midway_gives_its_bytes_and_then_an_error(upstream, data, reset):
    async def script(peer):
        await peer.request()
        peer.write(data)
        await asyncio.sleep(0.05)
        if reset:
            peer.reset()

    async with serve(script) as server:
        answer = await upstream.send(server.get())
        assert answer.status == 200
        assert await anext(answer) == b"half"
        for _ in range(2):
            with pytest.raises(ConnectionLost):
                await anext(answer)
        assert upstream.stats().open == 0


async def test_a_reset_is_no_end_of_a_body_without_a_length(upstream):
    async def script(peer):
        await peer.request()
        peer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await asyncio.sleep(0.05)
        peer.reset()

    async with serve(script) as server:
        answer = await upstream.send(server.get())
        with pytest.raises(ConnectionLost):
            await answer.read(LIMIT)


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 OK\r\ncontent-le"], ids=["none", "half"])
async def test_a_fresh_connection_that_dies_before_the_head_is_lost(upstream, data):
    async def script(peer):
        await peer.request()
        peer.write(data)

    async with serve(script) as server:
        with pytest.raises(ConnectionLost):
            await upstream.send(server.post())
        assert len(server.requests) == 1
        assert upstream.stats().open == 0


BAD = {
    "html": b"<html>502</html>",
    "status 0": b"HTTP/1.1 000 No\r\ncontent-length: 0\r\n\r\n",
    "status 99": b"HTTP/1.1 99 No\r\n\r\n",
    "status 600": b"HTTP/1.1 600 No\r\ncontent-length: 0\r\n\r\n",
    "status 101": b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nxx",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok!",
    "length and chunked": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n"
    b"\r\n2\r\nok\r\n0\r\n\r\n",
    "chunked and length": CHUNKED[:-2] + b"content-length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "length not a number": b"HTTP/1.1 200 OK\r\ncontent-length: 0x2\r\n\r\nok",
    "negative length": b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nok",
    "length over 64 bits": b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\nok",
    "folded header": b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 2\r\n\r\nok",
    "blank before the colon": b"HTTP/1.1 200 OK\r\nx : a\r\ncontent-length: 2\r\n\r\nok",
    "bare line feeds": b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
    "NUL in a header": b"HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 2\r\n\r\nok",
    "201 headers": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 201 + b"content-length: 0\r\n\r\n",
    "a line over its limit": b"HTTP/1.1 200 OK\r\nx: " + b"y" * 33_000 + b"\r\n\r\n",
    "a head over its limit": b"HTTP/1.1 200 OK\r\n" + b"x: %b\r\n" % (b"y" * 30_000) * 3 + b"\r\n",
    "a head that never ends": b"HTTP/1.1 200 OK\r\nx: " + b"y" * 400_000,
    "interim answers without end": b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 20_000,
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
async def test_what_is_not_http_or_too_large_is_a_bad_answer(upstream, data):
    async def script(peer):
        await peer.request()
        peer.write(data)
        await peer.left()

    async with serve(script) as server:
        with pytest.raises(BadAnswer) as caught:
            await upstream.send(server.get())
        assert "127.0.0.1" not in caught.value.message
        assert upstream.stats().open == 0
        assert await server.emptied()


BAD_BODIES = {
    "chunk size not a number": CHUNKED + b"zz\r\nok\r\n0\r\n\r\n",
    "no line end after a chunk": CHUNKED + b"2\r\nok!!0\r\n\r\n",
    "a chunk extension without end": CHUNKED + b"2;" + b"x" * 400_000,
    "trailers without end": CHUNKED + chunk(b"ok") + b"0\r\n" + b"a: b\r\n" * 100_000,
}


@pytest.mark.parametrize("data", BAD_BODIES.values(), ids=BAD_BODIES.keys())
async def test_a_body_that_is_not_http_is_a_bad_answer_when_it_is_read(upstream, data):
    async def script(peer):
        await peer.request()
        peer.write(data[:60])
        await asyncio.sleep(0.02)
        peer.write(data[60:])
        await peer.left()

    async with serve(script) as server:
        answer = await upstream.send(server.get())
        with pytest.raises(BadAnswer):
            await answer.read(LIMIT)
        assert await server.emptied()


async def test_a_long_stream_of_small_chunks_is_not_taken_for_endless_framing():
    upstream = DirectUpstream(max_head_bytes=1000, max_line_bytes=500)

    async def script(peer):
        await peer.request()
        peer.write(CHUNKED)
        for _ in range(300):
            # The chunk's size and its data arrive apart: many reads bring no body.
            peer.write(b"2\r\n")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            peer.write(b"ok\r\n")
            await asyncio.sleep(0)
        peer.write(b"0\r\n\r\n")

    async with serve(script) as server:
        assert (await fetch(upstream, server.get()))[2] == b"ok" * 300
    await upstream.aclose()


@pytest.mark.parametrize("whole", [True, False], ids=["at once", "in pieces"])
async def test_read_refuses_a_body_over_its_limit(upstream, whole):
    async def script(peer):
        while await peer.request():
            peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234")
            await asyncio.sleep(0 if whole else 0.02)
            peer.write(b"56789")

    async with serve(script) as server:
        answer = await upstream.send(server.get())
        with pytest.raises(BadAnswer):
            await answer.read(4)
        await answer.aclose()
        assert (await fetch(upstream, server.get()))[2] == b"0123456789"


async def test_bytes_on_an_idle_connection_never_become_an_answer(upstream):
    async def script(peer):
        await peer.request()
        peer.write(OK)
        if peer.number == 1:
            await asyncio.sleep(0.02)
            peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong")
        await peer.left()

    async with serve(script) as server:
        await fetch(upstream, server.get())
        assert await until(lambda: upstream.stats().open == 0)
        assert (await fetch(upstream, server.get()))[2] == b"ok"
        assert server.accepted == 2


async def test_an_idle_connection_the_provider_closes_leaves_the_pool(upstream):
    async def script(peer):
        await peer.request()
        peer.write(OK)

    async with serve(script) as server:
        await fetch(upstream, server.get())
        assert await until(lambda: upstream.stats().open == 0)


class FakeTransport:
    """Takes everything, and remembers whether it was aborted."""

    aborted = False

    def write(self, data):
        pass

    def abort(self):
        self.aborted = True

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


class FakeOwner:
    released = 0

    def gone(self, connection):
        pass

    def lost(self, connection):
        pass

    def release(self, connection):
        self.released += 1


def parsed(data: bytes, cuts: list[int]):
    """Status, headers, body and fate of what one connection receives in these pieces."""
    bounds = Bounds(1, 1, 55.0, 65_536, 32_768, 200, 262_144)
    connection = Connection(owner := FakeOwner(), bounds)
    connection.connection_made(FakeTransport())
    answer = Answer(None, set(), Timeouts(), 0.0, 1.0)
    connection.begin(answer, b"", b"", head_only=False)
    edges = [0, *sorted(cuts), len(data)]
    for start, end in pairwise(edges):
        if start < end:
            connection.data_received(data[start:end])
    return answer.status, answer.headers, b"".join(answer.parts), answer.complete, owner.released


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_same_bytes_make_the_same_answer_however_they_are_cut(data):
    case = data.draw(st.sampled_from([value[0] for value in KEPT.values()]))
    cuts = data.draw(st.lists(st.integers(0, len(case)), max_size=8))
    assert parsed(case, cuts) == parsed(case, [])
    assert parsed(case, list(range(len(case)))) == parsed(case, [])
