"""One gateway, whoever hosts it: what a caller sees and what the provider sees is the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest

from tests.asgi import STYLES, Style
from tests.asgi_lifespan import lifespan
from tests.composition.provider import UNARY
from tests.hosts.frameworks import HOSTS
from tests.hosts.hosting import PIECES, Hosted, ask, chat, streaming

pytestmark = pytest.mark.usefixtures("quick")
each_host = pytest.mark.parametrize("build", HOSTS.values(), ids=list(HOSTS))
each_style = pytest.mark.parametrize("style", STYLES)
Build = Callable[[], Hosted]


async def until_free(hosted: Hosted) -> None:
    """The provider's answer closed, the key given back."""
    await hosted.provider.until(lambda: not hosted.provider.open)
    async with asyncio.timeout(1.0):
        while hosted.held():  # noqa: ASYNC110 - the pool tells nobody
            await asyncio.sleep(0.002)


@each_host
async def test_a_plain_call_is_relayed_and_the_host_keeps_its_own_routes(build: Build) -> None:
    hosted = build()
    async with lifespan(hosted.app):
        answer = await ask(hosted.app, hosted.path)
        assert (answer.status, answer.body) == (200, UNARY)
        assert answer.header("content-type") == "application/json"
        assert answer.header("x-request-id")
        assert hosted.provider.keys == ["Bearer sk-provider"]
        assert hosted.provider.asked == [chat()]
        transport = httpx.ASGITransport(hosted.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://host") as client:
            assert (await client.get("/hello")).text == "hello"
    await until_free(hosted)


@each_host
async def test_a_call_without_a_good_token_is_refused_and_nobody_is_asked(build: Build) -> None:
    hosted = build()
    async with lifespan(hosted.app):
        for token in (None, "sk-mallory"):
            answer = await ask(hosted.app, hosted.path, token=token)
            assert answer.status == 401
            assert "access token" in answer.json["error"]["message"]
    assert hosted.provider.asked == []


@each_host
async def test_what_is_no_route_of_the_api_is_refused_in_its_words(build: Build) -> None:
    hosted = build()
    async with lifespan(hosted.app):
        answer = await ask(hosted.app, hosted.base + "/no/such/thing")
    assert (answer.status, answer.json["error"]["code"]) == (404, "unknown_url")


@each_host
@each_style
async def test_events_arrive_one_by_one_as_the_provider_says_them(
    build: Build, style: Style
) -> None:
    hosted = build()
    async with lifespan(hosted.app), streaming(hosted, style=style).open() as stream:
        seen: list[bytes] = []
        for number in range(1, len(PIECES) + 1):
            hosted.provider.released = number
            while b"".join(seen) != b"".join(PIECES[:number]):
                seen.append(await anext(stream))
                assert b"".join(PIECES[:number]).startswith(b"".join(seen))
        assert [piece async for piece in stream] in ([], [b""])
    answer = stream.answer
    assert answer.header("content-type") == "text/event-stream"
    assert [message for message in answer.messages if message] == list(PIECES)
    await until_free(hosted)


@each_host
@each_style
async def test_a_caller_who_leaves_mid_stream_leaves_nothing_open(
    build: Build, style: Style
) -> None:
    hosted = build()
    async with lifespan(hosted.app):
        hosted.provider.released = 1
        async with streaming(hosted, style=style, may_raise=style == "strict").open() as stream:
            assert await anext(stream) == PIECES[0]
            assert (hosted.provider.open, hosted.held()) == (1, 1)
            stream.leave()
            await until_free(hosted)


@each_host
@each_style
async def test_a_caller_who_leaves_before_the_answer_leaves_nothing_open(
    build: Build, style: Style
) -> None:
    hosted = build()
    hosted.provider.silent = "before head"
    # Starlette's own middlewares let the OSError of such a server's send go up.
    strict = style == "strict"
    async with (
        lifespan(hosted.app),
        streaming(hosted, style=style, may_raise=strict).open() as stream,
    ):
        await hosted.provider.until(lambda: hosted.provider.open > 0)
        stream.leave()
        await until_free(hosted)
    assert hosted.provider.given_up == 1


@each_host
@pytest.mark.parametrize("cancels", [1, 2])
async def test_a_cancelled_call_gives_everything_back(build: Build, cancels: int) -> None:
    hosted = build()
    async with lifespan(hosted.app):
        hosted.provider.released = 1
        async with streaming(hosted, may_raise=True, may_cut=True).open() as stream:
            assert await anext(stream) == PIECES[0]
            for _ in range(cancels):
                stream.cancel()
                await asyncio.sleep(0)
            await until_free(hosted)
        assert isinstance(stream.answer.exception, asyncio.CancelledError)


@each_host
async def test_many_calls_at_once_do_not_mix(build: Build) -> None:
    hosted = build()
    hosted.provider.released = len(PIECES)
    async with lifespan(hosted.app):
        plain = (ask(hosted.app, hosted.path) for _ in range(10))
        streamed = (streaming(hosted).run() for _ in range(10))
        answers = await asyncio.gather(*plain, *streamed)
    assert [a.body for a in answers] == [UNARY] * 10 + [b"".join(PIECES)] * 10
    await until_free(hosted)


@each_host
async def test_the_gateway_stops_with_the_host_that_was_given_its_lifespan(build: Build) -> None:
    hosted = build()
    async with lifespan(hosted.app):
        assert (await ask(hosted.app, hosted.path)).status == 200
        assert hosted.inside.resources.current is not None
    assert (hosted.inside.resources.current is None) == hosted.lifespan
