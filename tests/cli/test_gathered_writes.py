"""What `llm-gateway serve` writes to a caller: an answer's head together with what follows it."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httpx
import pytest

from asgi_llm_gateway.cli.http import Gathering
from asgi_llm_gateway.upstream.outbox import Outbox
from tests.served import LOOPS, Loop, served

each_loop = pytest.mark.parametrize("loop", LOOPS)
HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Wire:
    """A transport that notes each system call it would have made."""

    def __init__(self) -> None:
        self.calls: list[bytes] = []
        self.state = "open"

    def write(self, data: bytes) -> None:
        self.calls.append(data)

    def writelines(self, pieces: Any) -> None:
        self.calls.append(b"".join(pieces))

    def is_closing(self) -> bool:
        return self.state != "open"

    def close(self) -> None:
        self.state = "closed"

    def abort(self) -> None:
        self.state = "aborted"

    def get_extra_info(self, name: str) -> str:
        return f"the {name}"


def gathering() -> tuple[Wire, Any]:
    wire = Wire()
    return wire, Gathering(wire, Outbox(asyncio.get_running_loop()))  # type: ignore[arg-type]


async def test_a_head_and_what_follows_it_go_out_together_at_the_end_of_the_tick():
    wire, transport = gathering()
    transport.write(HEAD)
    transport.write(b"body")
    transport.write(b"more")
    assert wire.calls == []
    await asyncio.sleep(0)
    assert wire.calls == [HEAD + b"bodymore"]


async def test_pieces_that_come_later_are_written_at_once():
    wire, transport = gathering()
    transport.write(HEAD)
    await asyncio.sleep(0)
    transport.write(b"a")
    transport.write(b"b")
    assert wire.calls == [HEAD, b"a", b"b"]


async def test_much_is_not_kept_until_the_end_of_the_tick():
    wire, transport = gathering()
    transport.write(HEAD)
    transport.write(b"x" * 65_537)
    assert wire.calls == [HEAD + b"x" * 65_537]
    wire, transport = gathering()
    transport.write(HEAD)
    for _ in range(3):
        transport.write(b"x" * 65_536)
    assert wire.calls == [HEAD + b"x" * 131_072, b"x" * 65_536]
    await asyncio.sleep(0)
    assert len(wire.calls) == 2


async def test_a_head_that_nothing_follows_goes_out_at_the_end_of_the_tick():
    wire, transport = gathering()
    transport.write(HEAD)
    await asyncio.sleep(0)
    assert wire.calls == [HEAD]
    transport.write(b"late body")
    assert wire.calls == [HEAD, b"late body"]


async def test_closing_writes_the_head_first_and_aborting_drops_it():
    wire, transport = gathering()
    transport.write(HEAD)
    transport.close()
    assert (wire.calls, wire.state) == ([HEAD], "closed")
    wire, transport = gathering()
    transport.write(HEAD)
    transport.abort()
    await asyncio.sleep(0)
    assert (wire.calls, wire.state) == ([], "aborted")


async def test_a_head_for_a_caller_who_is_gone_is_dropped():
    wire, transport = gathering()
    transport.write(HEAD)
    wire.state = "lost"
    await asyncio.sleep(0)
    assert wire.calls == []


async def test_all_else_is_the_transport_s_own():
    _, transport = gathering()
    assert transport.get_extra_info("peername") == "the peername"
    assert not transport.is_closing()


class App:
    """Answers as the path says."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for _ in "ud":
                await send({"type": (await receive())["type"] + ".complete"})
            return
        while (await receive()).get("more_body"):
            pass
        path = scope["path"]
        headers = [] if path == "/stream" else [(b"content-length", path[1:].encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if path == "/stream":
            for number in range(3):
                await asyncio.sleep(0.05)
                body = b"data: %d\n\n" % number
                await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "http.response.body", "body": b"x" * int(path[1:])})


@each_loop
@pytest.mark.parametrize("size", [0, 5, 70_000, 5_000_000])
def test_answers_of_any_size_arrive_whole_on_one_connection(loop: Loop, size: int):
    with served(App(), server="llm-gateway", loop=loop) as base, httpx.Client() as client:
        for _ in range(3):
            assert client.post(f"{base}/{size}", content=b"{}").content == b"x" * size


@each_loop
def test_a_stream_s_head_does_not_wait_for_its_first_event(loop: Loop):
    with (
        served(App(), server="llm-gateway", loop=loop) as base,
        httpx.stream("GET", base + "/stream", timeout=5) as answer,
    ):
        arrived = list(answer.iter_raw())
    assert [piece for piece in arrived if piece] == [b"data: %d\n\n" % n for n in range(3)]


@each_loop
def test_requests_sent_without_waiting_are_answered_in_order(loop: Loop):
    with served(App(), server="llm-gateway", loop=loop) as base:
        host, port = base.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as caller:
            caller.sendall(b"".join(b"GET /%d HTTP/1.1\r\nhost: h\r\n\r\n" % n for n in (3, 1, 2)))
            seen = b""
            while seen.count(b"x") < 6:
                seen += caller.recv(65_536)
    bodies = [answer.partition(b"\r\n\r\n")[2] for answer in seen.split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == [b"xxx", b"x", b"xx"]


@each_loop
def test_a_caller_who_asks_first_whether_to_send_its_body_is_told_to_go_on(loop: Loop):
    with served(App(), server="llm-gateway", loop=loop) as base:
        host, port = base.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as caller:
            caller.sendall(
                b"POST /2 HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n"
            )
            assert caller.recv(65_536).startswith(b"HTTP/1.1 100 Continue")
            caller.sendall(b"body")
            seen = b""
            while not seen.endswith(b"xx"):
                seen += caller.recv(65_536)
    assert seen.startswith(b"HTTP/1.1 200 OK")
