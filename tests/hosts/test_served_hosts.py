"""The hosts on real servers, real sockets and both event loops."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import httpx
import pytest

from tests.composition.provider import UNARY
from tests.hosts.frameworks import HOSTS, in_starlette
from tests.hosts.hosting import HEADERS, PIECES, Hosted, chat
from tests.served import LOOPS, SERVERS, Loop, Server, served

SERVED = {
    name: HOSTS[name]
    for name in (
        "starlette at /v1",
        "starlette below BaseHTTPMiddleware",
        "parts in starlette",
        "fastapi",
        "litestar",
        "parts in litestar",
        "quart",
        "parts in quart",
        "django",
    )
}
each_host = pytest.mark.parametrize("build", SERVED.values(), ids=list(SERVED))
each_server = pytest.mark.parametrize("server", [s for s in SERVERS if s != "llm-gateway"])
"""What `llm-gateway serve` runs on serves no host apps."""
Build = Callable[[], Hosted]


def post(url: str, **how: object) -> httpx.Response:
    return httpx.post(url, **{"content": chat(), "headers": HEADERS, "timeout": 20, **how})  # type: ignore[arg-type]


def until(happened: Callable[[], object], what: str, seconds: float = 2.0) -> None:
    """Wait for it: the server is in another thread."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"after {seconds} s: {what}"
        time.sleep(0.01)


def read_one_by_one(hosted: Hosted, url: str, pieces: int) -> bytes:
    """What a caller has of a stream when the provider said so many pieces, each seen by itself."""
    seen = b""
    hosted.provider.released = 1  # an answer's head waits for its first event
    with httpx.stream("POST", url, content=chat(stream=True), headers=HEADERS) as answer:
        coming = answer.iter_raw()
        for number in range(1, pieces + 1):
            hosted.provider.released = number
            while seen != b"".join(PIECES[:number]):
                seen += next(coming)
                assert b"".join(PIECES[:number]).startswith(seen)
        if pieces == len(PIECES):
            seen += b"".join(coming)
    return seen


@each_host
@each_server
def test_a_served_host_relays_refuses_streams_and_notices_who_leaves(
    build: Build, server: Server
) -> None:
    hosted = build()
    provider = hosted.provider
    with served(hosted.app, server=server) as base:
        url = base + hosted.path
        assert httpx.get(base + "/hello", timeout=20).text == "hello"
        assert post(url).content == UNARY
        assert post(url, headers={}).status_code == 401
        assert read_one_by_one(hosted, url, len(PIECES)) == b"".join(PIECES)
        assert provider.open == 0
        provider.released = 0
        assert read_one_by_one(hosted, url, 1) == PIECES[0]
        until(lambda: not provider.open, "the provider was not let go")
        until(lambda: not hosted.held(), "a key is held")
        assert post(url).content == UNARY


@each_server
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("stamping", [0, 1])
def test_on_either_loop_many_leave_and_nothing_stays(
    server: Server, loop: Loop, stamping: int
) -> None:
    hosted = in_starlette(stamping=stamping)
    with served(hosted.app, server=server, loop=loop) as base:
        url = base + hosted.path
        for _ in range(5):
            hosted.provider.released = 0
            assert read_one_by_one(hosted, url, 1) == PIECES[0]
        until(lambda: not hosted.provider.open, "providers were not let go")
        until(lambda: not hosted.held(), "a key is held")
        assert read_one_by_one(hosted, url, len(PIECES)) == b"".join(PIECES)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("build", [in_starlette, HOSTS["quart"], HOSTS["django"]])
def test_a_server_that_stops_waits_for_streams_under_way(build: Build, loop: Loop) -> None:
    hosted = build()
    hosted.provider.released = 1
    rest: list[bytes] = []
    with ExitStack() as reading:
        with served(hosted.app, loop=loop, grace=10.0) as base:
            answer = reading.enter_context(
                httpx.stream(
                    "POST",
                    base + hosted.path,
                    content=chat(stream=True),
                    headers=HEADERS,
                    timeout=20,
                )
            )
            coming = answer.iter_raw()
            assert next(coming) == PIECES[0]
            # Once the gateway has been told to stop, the provider goes on.
            going_on = threading.Timer(0.5, setattr, (hosted.provider, "released", len(PIECES)))
            going_on.start()
        rest = list(coming)
    assert b"".join(rest) == b"".join(PIECES[1:])
    assert hosted.provider.open == 0
