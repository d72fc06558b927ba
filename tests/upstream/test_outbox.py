"""What one tick has to write is written together, after everything else of that tick has run."""

import asyncio

import pytest

from asgi_llm_gateway.upstream import DirectUpstream
from asgi_llm_gateway.upstream.connection import Connection
from asgi_llm_gateway.upstream.outbox import Outbox
from tests.upstream.socket_server import OK, answers, serve


class Wire:
    """Notes when it is flushed."""

    def __init__(self, name: str, notes: list[str], outbox: Outbox, *then: "Wire") -> None:
        self.name, self.notes, self.outbox, self.then = name, notes, outbox, then

    def flush(self) -> None:
        self.notes.append(f"{self.name} written")
        for other in self.then:
            self.outbox.add(other)


async def test_everything_else_of_the_tick_runs_before_the_first_write():
    notes: list[str] = []
    outbox = Outbox(asyncio.get_running_loop())

    async def call(name: str) -> None:
        notes.append(f"{name} worked out")
        outbox.add(Wire(name, notes, outbox))

    await asyncio.gather(call("a"), call("b"))
    await asyncio.sleep(0)
    assert notes == ["a worked out", "b worked out", "a written", "b written"]


async def test_what_is_added_while_the_outbox_empties_is_written_too():
    notes: list[str] = []
    outbox = Outbox(asyncio.get_running_loop())
    outbox.add(Wire("first", notes, outbox, Wire("second", notes, outbox)))
    await asyncio.sleep(0)
    assert notes == ["first written"]
    await asyncio.sleep(0)
    assert notes == ["first written", "second written"]


async def test_a_write_that_raises_keeps_back_nobody_elses():
    notes: list[str] = []
    told: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, what: told.append(str(what["exception"])))
    outbox = Outbox(loop)

    class Broken(Wire):
        def flush(self) -> None:
            raise RuntimeError("broken")

    for wire in (
        Wire("a", notes, outbox),
        Broken("", notes, outbox),
        Wire("b", notes, outbox),
        Wire("c", notes, outbox),
    ):
        outbox.add(wire)
    for _ in range(3):
        await asyncio.sleep(0)
    loop.set_exception_handler(None)
    assert notes == ["a written", "b written", "c written"]
    assert told == ["broken"]


async def test_a_connection_that_dies_before_its_request_is_written_costs_the_call_nothing(
    upstream: DirectUpstream,
):
    async with serve(answers(OK, OK)) as server:
        await (await upstream.send(server.post())).read(100)
        call = asyncio.ensure_future(upstream.send(server.post(b"[1]")))
        await asyncio.sleep(0)
        for peer in list(server.open):
            peer.reset()
        answer = await call
        assert await answer.read(100) == b"ok"


async def test_what_comes_before_the_request_is_written_is_not_its_answer(
    upstream: DirectUpstream, monkeypatch: pytest.MonkeyPatch
):
    begin = Connection.begin

    def begin_and_hear_at_once(self: Connection, *given: object, **how: object) -> None:
        reused = self.used
        begin(self, *given, **how)  # type: ignore[arg-type]
        if reused:
            self.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstale")

    monkeypatch.setattr(Connection, "begin", begin_and_hear_at_once)
    async with serve(answers(OK, OK)) as server:
        await (await upstream.send(server.post())).read(100)
        answer = await upstream.send(server.post(b"[1]"))
        assert await answer.read(100) == b"ok"
        assert len(server.requests) == 2
