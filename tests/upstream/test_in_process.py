"""InProcessUpstream: an ASGI app in the place of a provider."""

import asyncio

import pytest

from asgi_llm_gateway.errors import BadAnswer, ClientLeft, ConnectionLost, UpstreamTimeout
from asgi_llm_gateway.upstream import InProcessUpstream, Origin, Timeouts, UpstreamRequest
from tests.upstream.socket_server import until

ORIGIN = Origin("http", "simulator", 80)
SHORT = Timeouts(first_byte=0.1, idle=0.1, total=2.0)


def post(body=b"{}", **changes) -> UpstreamRequest:
    return UpstreamRequest("POST", ORIGIN, "/v1/a%20b?x=1", body=body, **changes)


async def begin(send, status=200):
    headers = [(b"X-App", b"Yes")]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def body(send, data, more=True):
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def test_an_app_gets_a_request_as_a_server_would_give_it_and_its_answer_comes_back():
    seen = {}

    async def app(scope, receive, send):
        seen.update(scope)
        seen["message"] = await receive()
        await begin(send, 201)
        await body(send, b"done", more=False)

    upstream = InProcessUpstream(app)
    answer = await upstream.send(post(b'{"a":1}', headers=[(b"X-A", b"1")]))
    assert (answer.status, answer.headers) == (201, [(b"x-app", b"Yes")])
    assert await answer.read(10) == b"done"
    assert seen["message"] == {"type": "http.request", "body": b'{"a":1}', "more_body": False}
    assert (seen["method"], seen["path"], seen["query_string"]) == ("POST", "/v1/a b", b"x=1")
    assert seen["raw_path"] == b"/v1/a%20b"
    assert seen["headers"] == [(b"host", b"simulator"), (b"x-a", b"1"), (b"content-length", b"7")]


async def test_bodies_stream_both_ways():
    steps = []

    async def pieces():
        for piece in (b"one", b"", b"two"):
            steps.append(f"gave {piece!r}")
            yield piece

    async def app(scope, receive, send):
        await begin(send)
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await body(send, message["body"])
        await body(send, b"", more=False)

    answer = await InProcessUpstream(app).send(post(pieces()))
    assert b"".join([piece async for piece in answer]) == b"onetwo"
    assert steps == ["gave b'one'", "gave b''", "gave b'two'"]


async def test_an_app_is_held_back_by_a_reader_who_does_not_read():
    sent = 0

    async def app(scope, receive, send):
        nonlocal sent
        await begin(send)
        for _ in range(100):
            await body(send, b"x" * 100_000)
            sent += 1
        await body(send, b"", more=False)

    answer = await InProcessUpstream(app).send(post())
    await asyncio.sleep(0.05)
    assert sent < 10
    assert len(await answer.read(10_000_000)) == 10_000_000


async def test_closing_an_answer_disconnects_the_app():
    told = []

    async def app(scope, receive, send):
        await receive()
        await begin(send)
        await body(send, b"one")
        told.append((await receive())["type"])

    upstream = InProcessUpstream(app)
    answer = await upstream.send(post())
    assert await anext(answer) == b"one"
    await answer.aclose()
    assert told == ["http.disconnect"]
    with pytest.raises(ConnectionLost):
        await anext(answer)
    assert not upstream._running


@pytest.mark.parametrize("how", ["closed", "cancelled", "upstream closed"])
async def test_an_app_that_does_not_listen_is_cancelled(how):
    ended = []

    async def app(scope, receive, send):
        try:
            if how != "cancelled":
                await begin(send)
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    upstream = InProcessUpstream(app)
    if how == "cancelled":
        task = asyncio.create_task(upstream.send(post()))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    elif how == "closed":
        await (await upstream.send(post())).aclose()
    else:
        await upstream.send(post())
        await upstream.aclose()
    assert ended == [True]
    assert await until(lambda: not upstream._running)


async def test_an_app_may_go_on_working_after_its_answer_is_whole():
    worked = asyncio.Event()

    async def app(scope, receive, send):
        await begin(send)
        await body(send, b"done", more=False)
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"
        await asyncio.sleep(0.02)
        worked.set()

    answer = await InProcessUpstream(app).send(post())
    assert await answer.read(10) == b"done"
    await answer.aclose()
    await asyncio.wait_for(worked.wait(), 1)


async def raises_at_once(scope, receive, send):
    raise RuntimeError("secret")


async def raises_midway(scope, receive, send):
    await begin(send)
    await body(send, b"half")
    raise RuntimeError("secret")


async def returns_at_once(scope, receive, send):
    pass


async def returns_midway(scope, receive, send):
    await begin(send)
    await body(send, b"half")


APPS = [raises_at_once, raises_midway, returns_at_once, returns_midway]


@pytest.mark.parametrize("app", APPS, ids=lambda app: app.__name__)
async def test_an_app_that_does_not_finish_its_answer_is_a_lost_connection(app):
    with pytest.raises(ConnectionLost) as caught:
        await (await InProcessUpstream(app).send(post())).read(10)
    assert "secret" not in caught.value.message
    assert isinstance(caught.value.__cause__, RuntimeError) == app.__name__.startswith("raises")


async def test_bytes_before_a_failure_are_read_first():
    answer = await InProcessUpstream(raises_midway).send(post())
    assert await anext(answer) == b"half"
    with pytest.raises(ConnectionLost):
        await anext(answer)


@pytest.mark.parametrize(
    ("begun", "timeouts", "phase"),
    [
        (False, SHORT, "first_byte"),
        (True, SHORT, "idle"),
        (False, Timeouts(total=0.1), "total"),
        (True, Timeouts(total=0.1), "total"),
    ],
)
async def test_a_silent_app_times_out_and_is_ended(begun, timeouts, phase):
    async def app(scope, receive, send):
        if begun:
            await begin(send)
        await asyncio.sleep(60)

    upstream = InProcessUpstream(app)

    async def call():
        answer = await upstream.send(post(timeouts=timeouts))
        try:
            await answer.read(10)
        finally:
            await answer.aclose()

    with pytest.raises(UpstreamTimeout) as caught:
        await call()
    assert caught.value.phase == phase
    assert not upstream._running


async def test_the_first_byte_is_waited_for_from_the_end_of_the_upload():
    async def pieces():
        for _ in range(3):
            await asyncio.sleep(0.08)
            yield b"x"

    async def app(scope, receive, send):
        while (await receive())["more_body"]:
            pass
        await begin(send)
        await body(send, b"ok", more=False)

    answer = await InProcessUpstream(app).send(post(pieces(), timeouts=SHORT))
    assert await answer.read(10) == b"ok"


async def test_what_a_streamed_body_raises_is_what_send_raises():
    async def pieces():
        yield b"x"
        raise ClientLeft

    async def app(scope, receive, send):
        while True:
            await receive()

    with pytest.raises(ClientLeft):
        await InProcessUpstream(app).send(post(pieces()))


async def test_a_body_over_the_limit_is_a_bad_answer():
    async def app(scope, receive, send):
        await begin(send)
        while True:
            await body(send, b"x" * 100)

    upstream = InProcessUpstream(app)
    with pytest.raises(BadAnswer):
        await (await upstream.send(post())).read(1000)
    assert not upstream._running
