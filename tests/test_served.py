"""The servers the other tests run on: they start, tell what they do, and leave nothing behind."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest

from tests.served import SERVERS, Server, served


class Recorder:
    """Answers with its root path's words, and remembers its lifespan and who left."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.left = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            self.events.append("started")
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self.events.append("stopped")
            await send({"type": "lifespan.shutdown.complete"})
            return
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["path"] == "/forever":
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left.set()
            return
        loop = type(asyncio.get_running_loop()).__module__.encode()
        await send({"type": "http.response.body", "body": loop, "more_body": False})


@pytest.mark.parametrize("server", SERVERS)
def test_a_served_app_runs_its_lifespan_around_the_block(server: Server) -> None:
    app = Recorder()
    with served(app, server=server) as base:
        assert app.events == ["started"]
        assert httpx.get(base).text.startswith("uvloop")
    assert app.events == ["started", "stopped"]
    with pytest.raises(httpx.ConnectError):
        httpx.get(base)


@pytest.mark.parametrize("server", SERVERS)
def test_two_apps_are_served_side_by_side(server: Server) -> None:
    with served(Recorder(), server=server) as one, served(Recorder(), server=server) as other:
        assert one != other
        assert {httpx.get(base).status_code for base in (one, other)} == {200}


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_stops_although_a_client_keeps_its_connection_open(server: Server) -> None:
    app = Recorder()
    with httpx.Client() as client:
        with served(app, server=server) as base:
            assert client.get(base).status_code == 200
        assert app.events == ["started", "stopped"]


@pytest.mark.parametrize("server", SERVERS)
def test_a_served_app_hears_that_its_caller_left(server: Server) -> None:
    app = Recorder()
    with served(app, server=server) as base:
        with httpx.stream("GET", f"{base}/forever") as answer:
            assert next(answer.iter_raw()) == b"a"
        assert app.left.wait(5)


@pytest.mark.parametrize("server", SERVERS)
def test_an_app_that_cannot_start_fails_the_test(server: Server) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})

    with pytest.raises(AssertionError, match="server"), served(app, server=server):
        pass
