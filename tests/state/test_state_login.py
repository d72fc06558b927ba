"""Passwords, users, databases, TLS and unix sockets: what redis-py opens, the line takes over."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme
import uvloop

from asgi_llm_gateway.errors import StateUnavailable
from asgi_llm_gateway.state import State
from tests.valkey import Valkey

SECRET = "p@ss/w:rd#%?"


async def works(url: str) -> None:
    """Set and get through a new State, then close it."""
    async with (state := State(url, timeout=5)).resources:
        answers = await asyncio.gather(*(state.command("INCR", "n") for _ in range(100)))
        assert answers == list(range(1, 101))
        assert await state.command("DEL", "n") == 1


async def test_a_password_and_a_user_let_one_in(valkey: Valkey) -> None:
    valkey.call("ACL", "SETUSER", "gate", "on", f">{SECRET}", "~*", "+@all")
    await works(valkey.url.replace("//", f"//gate:{quote(SECRET, safe='')}@"))


async def test_a_server_with_a_password_of_its_own() -> None:
    server = Valkey(password="hush")
    try:
        await works(server.start().url)
        with pytest.raises(StateUnavailable):  # NOAUTH
            await works(server.url.replace(":hush@", ""))
    finally:
        server.discard()


async def test_a_wrong_password_is_logged_without_it(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with (state := State(valkey.url.replace("//", "//gate:wr0ng@"))).resources:
        with pytest.raises(StateUnavailable) as caught:
            await state.command("PING")
    assert "invalid username-password pair" in caplog.text
    assert "wr0ng" not in caplog.text
    assert "wr0ng" not in str(caught.value)


async def test_databases_are_separate(valkey: Valkey) -> None:
    base = valkey.url.removesuffix("/0")
    three = State(f"{base}/3")
    async with three.resources:
        await three.command("SET", "where", 3)
    async with (zero := State(base)).resources:
        assert await zero.command("GET", "where") is None
    async with three.resources:
        assert await three.command("GET", "where") == b"3"


async def test_a_socket_of_the_file_system(valkey: Valkey) -> None:
    await works(f"unix://{quote(str(valkey.unix_path))}?db=1")


@asynccontextmanager
async def tls_before(valkey: Valkey, context: ssl.SSLContext) -> AsyncIterator[int]:
    """A port that speaks TLS and passes everything on: the wheel's Valkey is built without."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass  # one side is gone; the other is closed below
        finally:
            writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", valkey.port)
        await asyncio.gather(pump(reader, back), pump(there, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.fixture
def ca(tmp_path: Path) -> tuple[trustme.CA, str]:
    """An authority, and the path of its certificate."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return authority, quote(str(tmp_path / "ca.pem"))


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_connection_over_tls(
    valkey: Valkey,
    ca: tuple[trustme.CA, str],
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    authority, path = ca

    async def scenario() -> None:
        async with tls_before(valkey, server_context(authority, "127.0.0.1")) as port:
            await works(f"rediss://127.0.0.1:{port}?ca_file={path}")
            await works(f"rediss://127.0.0.1:{port}?verify=no")

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())


@pytest.mark.parametrize(
    ("names", "options"), [(("127.0.0.1",), ""), (("elsewhere.test",), "ca_file")]
)
async def test_a_certificate_that_is_not_to_be_trusted_is_refused(
    valkey: Valkey, ca: tuple[trustme.CA, str], names: tuple[str, ...], options: str
) -> None:
    authority, path = ca
    query = f"?ca_file={path}" if options else ""
    async with tls_before(valkey, server_context(authority, *names)) as port:
        with pytest.raises(StateUnavailable):
            await works(f"rediss://127.0.0.1:{port}{query}")
        if options:
            await works(f"rediss://127.0.0.1:{port}{query}&check_hostname=no")


async def test_a_client_certificate_is_shown(
    valkey: Valkey, ca: tuple[trustme.CA, str], tmp_path: Path
) -> None:
    authority, path = ca
    mine = authority.issue_cert("gateway.test")
    mine.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    mine.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    context = server_context(authority, "127.0.0.1")
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    own = (
        f"cert_file={quote(str(tmp_path / 'cert.pem'))}&key_file={quote(str(tmp_path / 'key.pem'))}"
    )
    async with tls_before(valkey, context) as port:
        await works(f"rediss://127.0.0.1:{port}?ca_file={path}&{own}")


async def test_a_reconnect_over_tls_makes_no_second_context(
    valkey: Valkey, ca: tuple[trustme.CA, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, path = ca
    made: list[ssl.SSLContext] = []
    make = ssl.create_default_context

    def counting() -> ssl.SSLContext:
        made.append(make())
        return made[-1]

    async with tls_before(valkey, server_context(authority, "127.0.0.1")) as port:
        monkeypatch.setattr(ssl, "create_default_context", counting)
        async with (state := State(f"rediss://127.0.0.1:{port}?ca_file={path}")).resources:
            for _ in range(3):
                assert await state.command("PING") == b"PONG"
                valkey.call("CLIENT", "KILL", "TYPE", "normal")
                await asyncio.sleep(0.05)
    assert len(made) == 1
