"""The driver itself: good apps pass, each broken rule is named, each server is like its kind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.asgi import STYLES, Driver, Style, call
from tests.asgi_lifespan import StartupFailed, lifespan


def start(status: Any = 200, headers: Any = ()) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: Any = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def sends(*messages: Any) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Reads the whole body, then sends it back piece by piece."""
    pieces = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        pieces.append(message["body"])
        if not message["more_body"]:
            break
    await send(start(headers=[(b"x-pieces", b"%d" % len(pieces))]))
    for piece in pieces:
        await send(body(piece, more=True))
    await send(body())


async def until_left(scope: Any, receive: Any, send: Any) -> None:
    """Streams until the caller leaves, watching for it in a task of its own."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    watching = asyncio.ensure_future(watch())
    await send(start())
    try:
        while not watching.done():
            await send(body(b"tick", more=True))
        await send(body(b"into the void"))
    except OSError:
        scope["asgi_llm_gateway"] = "refused"
    await watching


@pytest.mark.parametrize("style", STYLES)
async def test_a_good_app_is_seen_from_start_to_end(style: Style) -> None:
    answer = await call(echo, "POST", "/", body=[b"one", b"two"], style=style)
    assert (answer.status, answer.body, answer.ended, answer.left) == (200, b"onetwo", True, False)
    assert answer.header("X-Pieces") == ("3" if style == "hypercorn" else "2")
    assert answer.messages[:2] == [b"one", b"two"]
    assert not answer.cut


async def test_a_request_body_can_arrive_slowly_from_an_iterator() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    answer = await call(echo, "POST", "/", body=pieces(), pause=0.001)
    assert answer.messages == [b"a", b"b", b"", b""]


BROKEN = {
    "without an answer": sends(),
    "body before": sends(body()),
    "second http.response.start": sends(start(), start(), body()),
    "after the last": sends(start(), body(), body()),
    "status '200'": sends(start("200"), body()),
    "status 600": sends(start(600), body()),
    "status True": sends(start(True), body()),
    "lower-case": sends(start(headers=[(b"X-Upper", b"1")]), body()),
    "two byte strings": sends(start(headers=[("name", "value")]), body()),
    "CR, LF or NUL": sends(start(headers=[(b"x", b"a\r\nset-cookie: b")]), body()),
    "the server's": sends(start(headers=[(b"transfer-encoding", b"chunked")]), body()),
    "bytes after content-length": sends(start(headers=[(b"content-length", b"1")]), body(b"ab")),
    "content-length said": sends(start(headers=[(b"content-length", b"3")]), body(b"ab")),
    "one plain number": sends(start(headers=[(b"content-length", b"-1")]), body()),
    "must be bytes": sends(start(), body("text")),
    "bool": sends(start(), body() | {"more_body": 1}),
    "not offered": sends({"type": "http.response.push"}, start(), body()),
    "unknown members": sends(start() | {"events": []}, body()),
    "with status 204": sends(start(204), body(b"x")),
}


@pytest.mark.parametrize("said", BROKEN)
async def test_each_broken_rule_of_an_answer_is_named(said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        await call(BROKEN[said], "GET", "/")


async def test_an_answer_to_head_may_announce_a_body_it_does_not_send() -> None:
    app = sends(start(headers=[(b"content-length", b"5")]), body())
    assert (await call(app, "HEAD", "/")).ended


async def test_an_answer_without_its_last_message_is_cut_and_only_allowed_where_said() -> None:
    app = sends(start(), body(b"half", more=True))
    with pytest.raises(AssertionError, match="without its last message"):
        await call(app, "GET", "/")
    answer = await call(app, "GET", "/", may_cut=True)
    assert answer.cut
    assert not answer.ended


async def test_what_an_app_raises_comes_through_unless_the_test_allows_it() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("ours")

    with pytest.raises(LookupError, match="ours"):
        await call(app, "GET", "/")
    assert isinstance((await call(app, "GET", "/", may_raise=True)).exception, LookupError)


async def test_two_readers_of_one_receive_are_flagged() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        readers = [asyncio.ensure_future(receive()) for _ in range(2)]
        await asyncio.wait(readers, return_when=asyncio.FIRST_COMPLETED)
        await send(start())
        await send(body())
        await asyncio.wait(readers)

    with pytest.raises(AssertionError, match="another receive"):
        await call(app, "GET", "/")


async def test_a_changed_scope_is_flagged_and_our_own_key_is_not() -> None:
    def writing(name: str, value: Any) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            scope[name] = value
            await sends(start(), body())(scope, receive, send)

        return app

    async def adds_a_header(scope: Any, receive: Any, send: Any) -> None:
        scope["headers"].append((b"x", b"y"))
        await sends(start(), body())(scope, receive, send)

    await call(writing("asgi_llm_gateway", 1), "GET", "/")
    for app in (writing("path", "/other"), writing("mine", 1), adds_a_header):
        with pytest.raises(AssertionError, match="was changed"):
            await call(app, "GET", "/")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    ("leave_after", "received"),
    [
        ("before body", ["http.disconnect"]),
        ("during body", ["http.request", "http.disconnect"]),
    ],
)
async def test_a_caller_can_leave_while_sending(
    leave_after: Any, received: list[str], style: Style
) -> None:
    how: Any = {"style": style, "leave_after": leave_after}
    answer = await call(echo, "POST", "/", body=[b"one", b"two"], **how)
    assert answer.received == received
    assert answer.left
    assert answer.status is None


@pytest.mark.parametrize("style", STYLES)
async def test_a_caller_can_leave_after_some_messages(style: Style) -> None:
    answer = await call(until_left, "GET", "/", style=style, leave_after=3)
    assert answer.messages == [b"tick"] * 3
    assert answer.left
    assert not answer.cut
    assert (answer.exchange == "refused") == (style == "strict")


async def test_a_caller_can_leave_before_the_first_byte_and_after_the_end() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.sleep(0.01)
        await sends(start(), body())(scope, receive, send)
        assert (await receive())["type"] == "http.disconnect"

    answer = await call(app, "GET", "/", leave_after="before first byte")
    assert (answer.status, answer.left) == (None, True)
    answer = await call(app, "GET", "/", leave_after="after the end")
    assert (answer.status, answer.left, answer.ended) == (200, True, True)


async def test_only_hypercorn_says_disconnect_a_single_time() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await sends(start(), body())(scope, receive, send)
        for _ in range(3):
            while (await receive())["type"] != "http.disconnect":
                pass

    for style in ("uvicorn", "strict"):
        answer = await call(app, "GET", "/", style=style)
        assert answer.received == ["http.disconnect"] * 3
    with pytest.raises(AssertionError, match="did not return"):
        await call(app, "GET", "/", style="hypercorn", timeout=0.05)


async def test_an_open_stream_gives_messages_as_they_come_and_leaves_at_the_end() -> None:
    async with Driver(until_left, "GET", "/", paced=True).open() as stream:
        assert await stream.started() == 200
        assert await anext(stream) == b"tick"
        assert await anext(stream) == b"tick"
    assert stream.answer.left
    assert len(stream.answer.messages) < 10


async def test_an_open_stream_that_ends_is_not_left() -> None:
    async with Driver(echo, "POST", "/", body=b"all").open() as stream:
        assert [piece async for piece in stream] == [b"all", b""]
    assert stream.answer.ended
    assert not stream.answer.left


async def test_the_apps_task_can_be_cancelled_natively() -> None:
    async with Driver(until_left, "GET", "/", may_raise=True, may_cut=True).open() as stream:
        await anext(stream)
        stream.cancel()
        async for _ in stream:
            pass
    assert isinstance(stream.answer.exception, asyncio.CancelledError)


def lifespan_app(*, fails: bool = False, stops_badly: bool = False) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        assert (await receive())["type"] == "lifespan.startup"
        if fails:
            await send({"type": "lifespan.startup.failed", "message": "no disk"})
            return
        scope["state"]["open"] = True
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        if not stops_badly:
            await send({"type": "lifespan.shutdown.complete"})

    return app


async def test_a_lifespan_is_driven_through_start_and_stop() -> None:
    async with lifespan(lifespan_app()) as life:
        assert life.state == {"open": True}
        assert life.sent == ["lifespan.startup.complete"]
    assert life.sent[-1] == "lifespan.shutdown.complete"


async def test_a_lifespan_that_fails_or_ends_badly_is_told() -> None:
    with pytest.raises(StartupFailed, match="no disk"):
        async with lifespan(lifespan_app(fails=True)):
            pytest.fail("the block must not run")
    with pytest.raises(AssertionError, match="startup"):
        async with lifespan(lifespan_app(stops_badly=True)):
            pass


async def test_an_app_without_a_lifespan_is_served_all_the_same() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError(scope["type"])

    async with lifespan(app) as life:
        assert not life.supported


async def test_starlettes_own_lifespan_passes() -> None:
    from starlette.applications import Starlette

    @asynccontextmanager
    async def held(app: Any) -> AsyncIterator[dict[str, Any]]:
        yield {"pool": 1}

    async with lifespan(Starlette(lifespan=held)) as life:
        assert life.state == {"pool": 1}
