"""HTTPS: whom DirectUpstream believes."""

import asyncio
import ssl
import subprocess
import sys

import pytest
import trustme

from asgi_llm_gateway.errors import ConnectFailed, ConnectionLost
from asgi_llm_gateway.upstream import DirectUpstream
from asgi_llm_gateway.upstream.tls import Tls, client_context
from tests.upstream.socket_server import CHUNKED, OK, answers, chunk, serve


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2", "http/1.1"])
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.fixture
async def trusting(authority):
    """A DirectUpstream that trusts the test's authority, and no other."""
    context = client_context()
    authority.configure_trust(context)
    upstream = DirectUpstream(ssl_context=context)
    yield upstream
    await upstream.aclose()


async def test_calls_over_tls_name_the_host_agree_on_http_1_1_and_share_a_connection(
    trusting, authority
):
    context = server_context(authority, "localhost")
    asked = []
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    agreed = []

    async def script(peer):
        agreed.append(peer.transport.get_extra_info("ssl_object").selected_alpn_protocol())
        await answers(OK)(peer)

    async with serve(script, ssl_context=context, host="localhost") as server:
        for _ in range(3):
            assert await (await trusting.send(server.post(b"x" * 200_000))).read(10) == b"ok"
        assert server.accepted == 1
    assert asked == ["localhost"]
    assert agreed == ["http/1.1"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_certificate_for_another_host_is_refused(trusting, authority, host):
    context = server_context(authority, "elsewhere.example")
    async with serve(answers(OK), ssl_context=context, host=host) as server:
        with pytest.raises(ConnectFailed) as caught:
            await trusting.send(server.get())
        assert "certificate verify failed" in caught.value.message
        assert host not in caught.value.message
        assert trusting.stats().open == 0
        assert await server.emptied()


async def test_an_unknown_authority_is_refused_by_default(upstream, authority):
    context = server_context(authority, "localhost")
    async with serve(answers(OK), ssl_context=context, host="localhost") as server:
        with pytest.raises(ConnectFailed):
            await upstream.send(server.get())
        assert server.requests == []


async def test_a_server_that_speaks_no_tls_is_connect_failed(upstream):
    async def script(peer):
        while not peer.buffer:
            await peer.more()
        peer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await asyncio.sleep(0.05)

    async with serve(script) as server:
        server.scheme = "https"
        with pytest.raises(ConnectFailed):
            await upstream.send(server.get())


async def test_a_stream_over_tls_that_is_cut_is_an_error(trusting, authority):
    async def script(peer):
        await peer.request()
        peer.write(CHUNKED + chunk(b"half"))

    context = server_context(authority, "localhost")
    async with serve(script, ssl_context=context, host="localhost") as server:
        with pytest.raises(ConnectionLost):
            await (await trusting.send(server.get())).read(100)


async def test_leaving_a_stream_over_tls_closes_its_connection(trusting, authority):
    async def script(peer):
        await peer.request()
        peer.write(CHUNKED + chunk(b"half"))
        await peer.left()

    context = server_context(authority, "localhost")
    async with serve(script, ssl_context=context, host="localhost") as server:
        answer = await trusting.send(server.get())
        await anext(answer)
        await answer.aclose()
        assert await server.emptied()


async def test_the_default_context_is_built_once_and_checks_hosts():
    tls = Tls()
    contexts = await asyncio.gather(*(tls.context() for _ in range(5)))
    assert len({id(context) for context in contexts}) == 1
    assert contexts[0].check_hostname
    assert contexts[0].verify_mode == ssl.CERT_REQUIRED
    assert contexts[0].minimum_version >= ssl.TLSVersion.TLSv1_2
    assert contexts[0].cert_store_stats()["x509_ca"] > 100


def test_direct_upstream_is_had_without_importing_httpx():
    code = (
        "import sys; from asgi_llm_gateway.upstream import DirectUpstream, Timeouts;"
        "DirectUpstream(); assert not {'httpx', 'httpcore', 'httpx2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
