"""DirectTransport: a stock httpx or httpx2 client on our own connections."""

import asyncio
import gzip
import ssl
import subprocess
import sys

import httpx
import httpx2
import pytest
import trustme

from asgi_llm_gateway.errors import ConfigurationError, StateUnavailable
from asgi_llm_gateway.providers.simulator import Simulator
from asgi_llm_gateway.upstream import DirectTransport, DirectUpstream, InProcessUpstream
from asgi_llm_gateway.upstream.both_httpx import library_of
from asgi_llm_gateway.upstream.tls import client_context
from tests.upstream.socket_server import CHUNKED, OK, answers, chunk, serve, until


@pytest.fixture(params=[httpx, httpx2], ids=lambda library: library.__name__)
def library(request):
    return request.param


@pytest.fixture
async def client(library):
    """A stock client on a DirectTransport, whose limits a test waits for are short."""
    timeout = library.Timeout(connect=5.0, read=0.3, write=0.3, pool=0.3)
    async with library.AsyncClient(transport=DirectTransport(), timeout=timeout) as made:
        yield made


def url(server, path="/"):
    return f"{server.scheme}://{server.host}:{server.port}{path}"


def test_a_transport_is_one_to_both_libraries():
    transport = DirectTransport()
    assert isinstance(transport, DirectTransport)
    assert isinstance(transport, httpx.AsyncBaseTransport)
    assert isinstance(transport, httpx2.AsyncBaseTransport)
    assert type(transport) is type(DirectTransport())


def test_the_class_is_had_without_importing_either_library():
    code = (
        "import sys; from asgi_llm_gateway.upstream import DirectTransport;"
        "assert not {'httpx', 'httpcore', 'httpx2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_httpx2_a_transport_is_httpxs_alone():
    code = (
        "import sys; sys.modules['httpx2'] = None\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name: None if name == 'httpx2' else find(name)\n"
        "from asgi_llm_gateway.upstream import DirectTransport; import httpx\n"
        "assert isinstance(DirectTransport(), httpx.AsyncBaseTransport)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_a_request_and_its_answer_pass_unchanged(client):
    answer = (
        b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
        b"X-One: 1\r\n\r\nok"
    )
    async with serve(answers(answer)) as server:
        response = await client.post(
            url(server, "/v1/a%2Fb?q=1&q=%20"), json={"a": 1}, headers={"X-Mine": "yes"}
        )
        [asked] = server.requests
    assert (response.status_code, response.content, response.http_version) == (
        201,
        b"ok",
        "HTTP/1.1",
    )
    assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert response.headers["x-one"] == "1"
    assert response.elapsed.total_seconds() >= 0
    assert asked.line == b"POST /v1/a%2Fb?q=1&q=%20 HTTP/1.1"
    assert asked.header(b"host") == f"127.0.0.1:{server.port}".encode()
    assert asked.header(b"content-length") == b"%d" % len(asked.body)
    assert asked.header(b"x-mine") == b"yes"
    assert asked.body.replace(b" ", b"") == b'{"a":1}'


async def test_calls_one_after_the_other_share_a_connection(client):
    async with serve(answers(OK, CHUNKED + chunk(b"ok") + chunk(b""))) as server:
        for _ in range(3):
            assert (await client.get(url(server))).content == b"ok"
        async with client.stream("GET", url(server)) as response:
            assert [piece async for piece in response.aiter_raw()] == [b"ok"]
        assert server.accepted == 1
    assert [asked.header(b"content-length") for asked in server.requests] == [None] * 4


async def test_an_answer_streams_as_it_comes(client):
    heard = asyncio.Event()

    async def script(peer):
        await peer.request()
        peer.write(CHUNKED + chunk(b"one"))
        await heard.wait()
        peer.write(chunk(b"two") + chunk(b""))
        await peer.left()

    async with serve(script) as server, client.stream("GET", url(server)) as response:
        pieces = response.aiter_bytes()
        assert await anext(pieces) == b"one"
        heard.set()
        assert [piece async for piece in pieces] == [b"two"]


@pytest.mark.parametrize(
    ("length", "framed"),
    [(None, b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"), (6, b"onetwo")],
    ids=["chunked", "measured"],
)
async def test_a_request_streams_as_it_comes(client, length, framed):
    half_is_there = asyncio.Event()
    heads = []

    async def script(peer):
        heads.append(await peer.head())
        while b"one" not in peer.buffer:
            await peer.more()
        half_is_there.set()
        while bytes(peer.buffer) != framed:
            await peer.more()
        peer.write(OK)
        await peer.left()

    async def body():
        yield b"one"
        await half_is_there.wait()
        yield b"two"

    headers = {} if length is None else {"content-length": str(length)}
    async with serve(script) as server:
        await client.post(url(server), content=body(), headers=headers)
    framing = (heads[0].header(b"content-length"), heads[0].header(b"transfer-encoding"))
    assert framing == ((None, b"chunked") if length is None else (b"6", None))


async def test_a_form_with_a_file_is_sent_whole(client):
    async with serve(answers(OK)) as server:
        await client.post(url(server), files={"file": ("a.wav", b"sound" * 1000)})
        [asked] = server.requests
    assert asked.body.count(b"sound") == 1000
    assert asked.header(b"content-length") == b"%d" % len(asked.body)


async def test_the_client_decodes_and_follows_redirects(client):
    packed = gzip.compress(b"unpacked")
    there = b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /there\r\ncontent-length: 0\r\n\r\n"
    found = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(packed)
    async with serve(answers(there, found + packed)) as server:
        response = await client.post(url(server), content=b"again", follow_redirects=True)
    assert response.text == "unpacked"
    assert [(asked.line.split()[1], asked.body) for asked in server.requests] == [
        (b"/", b"again"),
        (b"/there", b"again"),
    ]


async def test_leaving_a_stream_closes_its_connection(client):
    async def script(peer):
        await peer.request()
        peer.write(CHUNKED + chunk(b"half"))
        await peer.left()

    async with serve(script) as server:
        async with client.stream("GET", url(server)) as response:
            assert await anext(response.aiter_bytes()) == b"half"
        assert await server.emptied()


@pytest.mark.parametrize("said", [b"", CHUNKED + chunk(b"half")], ids=["head", "body"])
async def test_cancelling_a_call_closes_its_connection(library, said):
    heard = asyncio.Event()

    async def script(peer):
        await peer.request()
        peer.write(said)
        heard.set()
        await peer.left()

    upstream = DirectUpstream()
    async with (
        serve(script) as server,
        library.AsyncClient(transport=DirectTransport(upstream), timeout=None) as client,
    ):
        call = asyncio.create_task(client.get(url(server)))
        await heard.wait()
        await asyncio.sleep(0.02)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await server.emptied()
        assert upstream.stats().open == 0
    await upstream.aclose()


async def test_an_upstream_that_was_given_outlives_the_client(library):
    upstream = DirectUpstream()
    async with serve(answers(OK)) as server:
        for _ in range(2):
            async with library.AsyncClient(transport=DirectTransport(upstream)) as client:
                await client.get(url(server))
        assert server.accepted == 1
        assert upstream.stats().idle == 1
        await upstream.aclose()
        assert await server.emptied()


async def test_a_clients_end_closes_its_connections(library):
    async with serve(answers(OK)) as server:
        async with library.AsyncClient(transport=DirectTransport()) as client:
            await client.get(url(server))
        assert await server.emptied()


async def test_over_tls_the_upstreams_own_trust_counts(library):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    trust = client_context()
    authority.configure_trust(trust)
    upstream = DirectUpstream(ssl_context=trust)
    async with (
        serve(answers(OK), ssl_context=context, host="localhost") as server,
        library.AsyncClient(transport=DirectTransport(upstream)) as client,
        library.AsyncClient(transport=DirectTransport()) as stranger,
    ):
        for _ in range(2):
            assert (await client.get(url(server))).content == b"ok"
        assert server.accepted == 1
        with pytest.raises(library.ConnectError, match="certificate verify failed"):
            await stranger.get(url(server))
    await upstream.aclose()


async def _silent(peer):
    await peer.request()
    await peer.left()


async def _cut_before_the_head(peer):
    await peer.request()


async def _cut_in_the_body(peer):
    await peer.request()
    peer.write(CHUNKED + chunk(b"half"))


async def _stalls_in_the_body(peer):
    await _cut_in_the_body(peer)
    await peer.left()


async def _babbles(peer):
    await peer.request()
    peer.write(b"220 mail.example ESMTP\r\n\r\n")
    await peer.left()


@pytest.mark.parametrize(
    ("script", "name"),
    [
        (_silent, "ReadTimeout"),
        (_cut_before_the_head, "ReadError"),
        (_cut_in_the_body, "ReadError"),
        (_stalls_in_the_body, "ReadTimeout"),
        (_babbles, "RemoteProtocolError"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__[1:],
)
async def test_a_providers_failure_is_the_librarys_own_error(client, library, script, name):
    async with serve(script) as server:
        with pytest.raises(getattr(library, name)) as caught:
            await client.get(url(server), headers={"authorization": "Bearer sk-secret"})
        assert await server.emptied()
    assert caught.value.request.url.port == server.port
    assert "sk-secret" not in str(caught.value)


async def test_a_port_where_nobody_listens_is_a_connect_error(client, library):
    async with serve(answers(OK)) as server:
        pass
    with pytest.raises(library.ConnectError):
        await client.get(url(server))


async def test_a_peer_that_takes_nothing_is_a_write_timeout(client, library):
    async def script(peer):
        peer.transport.pause_reading()
        await asyncio.sleep(3)

    async def body():
        while True:
            yield b"x" * 65_536

    async with serve(script) as server:
        with pytest.raises(library.WriteTimeout):
            await client.post(url(server), content=body())


async def test_reads_may_take_longer_than_writes(library):
    async def script(peer):
        await peer.request()
        peer.write(CHUNKED)
        await asyncio.sleep(0.5)
        peer.write(chunk(b"ok") + chunk(b""))
        await peer.left()

    timeout = library.Timeout(None, write=0.1)
    async with (
        serve(script) as server,
        library.AsyncClient(transport=DirectTransport(), timeout=timeout) as client,
    ):
        assert (await client.get(url(server))).content == b"ok"


async def test_a_connection_that_does_not_become_free_is_a_pool_timeout(library):
    upstream = DirectUpstream(max_connections=1)
    timeout = library.Timeout(None, pool=0.2)
    async with (
        serve(_silent) as server,
        library.AsyncClient(transport=DirectTransport(upstream), timeout=timeout) as client,
    ):
        first = asyncio.create_task(client.get(url(server)))
        assert await until(lambda: server.requests)
        with pytest.raises(library.PoolTimeout):
            await client.get(url(server))
        first.cancel()
        await asyncio.wait({first})
    await upstream.aclose()


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({"url": "ftp://localhost/"}, "UnsupportedProtocol"),
        (
            {"url": "http://localhost:9/", "headers": {"host": "other.example"}},
            "LocalProtocolError",
        ),
        (
            {"url": "http://localhost:9/", "headers": {"content-length": b"\xb2"}},
            "LocalProtocolError",
        ),
    ],
    ids=["ftp", "another host", "no number"],
)
async def test_a_request_that_cannot_be_sent_is_refused(client, library, asked, name):
    async def body():
        yield b"never read"

    with pytest.raises(getattr(library, name)):
        await client.post(content=body(), **asked)


async def test_a_body_of_another_length_than_announced_is_refused(client, library):
    async def body():
        yield b"short"

    async with serve(_silent) as server:
        with pytest.raises(library.LocalProtocolError):
            await client.post(url(server), content=body(), headers={"content-length": "10"})


async def test_what_a_body_raises_reaches_its_maker(client):
    class Mine(Exception):
        pass

    async def body():
        yield b"half"
        raise Mine

    async with serve(_silent) as server:
        with pytest.raises(Mine):
            await client.post(url(server), content=body())
        assert await server.emptied()


async def test_an_error_that_is_no_providers_stays_as_it_is(library):
    class Broken:
        async def send(self, request):
            raise StateUnavailable("no store")

    async with library.AsyncClient(transport=DirectTransport(Broken())) as client:
        with pytest.raises(StateUnavailable):
            await client.get("http://localhost:9/")


async def test_an_app_in_process_streams_through_a_stock_client(library):
    simulator = Simulator(tokens_per_second=200)
    transport = DirectTransport(InProcessUpstream(simulator))
    asked = {"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    async with (
        library.AsyncClient(transport=transport, base_url="http://provider/v1") as client,
        client.stream("POST", "/chat/completions", json=asked) as response,
    ):
        lines = [line async for line in response.aiter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert len(lines) > 5


async def test_what_no_library_made_is_refused():
    with pytest.raises(ConfigurationError, match="neither httpx's nor httpx2's"):
        await DirectTransport().handle_async_request(object())
    assert library_of(httpx2.Request("GET", "http://a/")) is httpx2


async def test_addresses_and_international_names_are_dialled_as_they_must_be(library):
    seen = []

    class Recording:
        async def send(self, request):
            seen.append(request.origin)
            raise StateUnavailable("far enough")

    async with library.AsyncClient(transport=DirectTransport(Recording())) as client:
        for address in ("http://[::1]:8000/", "https://bücher.example/", "http://h/"):
            with pytest.raises(StateUnavailable):
                await client.get(address)
    found = [(origin.scheme, origin.host, origin.port, origin.netloc) for origin in seen]
    assert found == [
        ("http", "::1", 8000, "[::1]:8000"),
        ("https", "xn--bcher-kva.example", 443, "xn--bcher-kva.example"),
        ("http", "h", 80, "h"),
    ]
