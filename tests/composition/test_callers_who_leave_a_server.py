"""The same leavings on real servers and real sockets."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from tests.asgi import PHASES, Phase
from tests.composition.provider import Provider, stream_events
from tests.composition.stacks import (
    Kind,
    Order,
    Stack,
    chat,
    each_kind,
    each_order,
    stack,
    streaming,
)
from tests.served import SERVERS, Server, served


def until(happened: Callable[[], object], what: str, seconds: float = 2.0) -> None:
    """Wait for it: the server is in another thread."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"after {seconds} s: {what}"
        time.sleep(0.01)


@contextmanager
def connection(base: str) -> Iterator[socket.socket]:
    where = urlsplit(base)
    with socket.create_connection((where.hostname, where.port), timeout=5.0) as sock:
        yield sock


def head(built: Stack, length: int) -> bytes:
    return (
        f"POST {built.path} HTTP/1.1\r\nhost: gateway.test\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    ).encode()


def received(sock: socket.socket, until_seen: bytes | None = None) -> bytes:
    """What the server sends, up to some bytes or to its end."""
    got = b""
    while until_seen is None or until_seen not in got:
        piece = sock.recv(65536)
        if not piece:
            assert until_seen is None, got
            return got
        got += piece
    return got


def provider_for(phase: Phase | int) -> Provider:
    if phase == "before first byte":
        return Provider(silent="before head")
    if isinstance(phase, int):
        return streaming(stream_events()[:4], silent="after pieces")
    return streaming(stream_events())


def call_and_leave(built: Stack, base: str, phase: Phase | int) -> None:
    """One call whose caller closes its connection in this phase."""
    body = chat(stream=True)
    with connection(base) as sock:
        sock.sendall(head(built, len(body)))
        if phase == "before body":
            until(lambda: built.ledger.taken, "the call has not begun")
            return
        sock.sendall(body[:20])
        if phase == "during body":
            until(lambda: built.ledger.taken, "the call has not begun")
            return
        sock.sendall(body[20:])
        if phase == "before first byte":
            until(lambda: built.provider.open, "the provider was not asked")
        elif isinstance(phase, int):
            assert b" 200 " in received(sock, b'"delta"')
        else:
            assert received(sock).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


@each_kind
@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("phase", PHASES)
def test_leaving_a_served_app_in_any_phase_gives_everything_back(
    kind: Kind, server: Server, phase: Phase | int
) -> None:
    built = stack(kind, "settling outside", provider_for(phase))
    with served(built.app, server=server) as base:
        call_and_leave(built, base, phase)
        until(lambda: built.ledger.settled, "nothing was settled")
        until(lambda: not built.provider.open, "the provider was not let go", 1.0)
        seen = built.ledger.only()
        assert seen["outcome"] == ("ok" if phase == "after the end" else "client_left")


@each_order
@pytest.mark.parametrize("server", SERVERS)
def test_a_served_app_goes_on_after_many_have_left(order: Order, server: Server) -> None:
    provider = streaming(stream_events()[:4], silent="after pieces")
    built = stack("gateway", order, provider)
    with served(built.app, server=server) as base:
        for _ in range(10):
            call_and_leave(built, base, 1)
        until(lambda: not provider.open, "providers were not let go")
        provider.pieces, provider.silent = stream_events(), "never"
        call_and_leave(built, base, "after the end")
        until(lambda: len(built.ledger.settled) == 11, "not all was settled")
