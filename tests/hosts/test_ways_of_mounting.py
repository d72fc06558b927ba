"""Several mounts, several gateways, lifespans together, and hosts that change the path."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from litestar import Litestar, Router, asgi
from litestar.middleware import DefineMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route

from asgi_llm_gateway import Gateway, Relay, TokenAuthMiddleware, combine_lifespans
from tests.asgi import call
from tests.asgi_lifespan import lifespan
from tests.composition.provider import UNARY
from tests.hosts.frameworks import Stamping, below, django_app, in_django
from tests.hosts.hosting import (
    PIECES,
    TOKEN,
    TOKENS,
    Anything,
    Hosted,
    Stepped,
    ask,
    channel_to,
    chat,
    gateway_to,
    streaming,
)

COMPLETIONS = "/chat/completions"


async def ready(app: Any, path: str, **how: Any) -> int | None:
    return (await call(app, "GET", path, may_write=Anything(), **how)).status


async def test_one_gateway_mounted_twice_is_started_once_and_serves_both() -> None:
    provider = Stepped()
    gateway = gateway_to(provider)
    app = Starlette(
        routes=[Mount("/v1", app=gateway), Mount("/llm/v1", app=gateway)],
        lifespan=gateway.lifespan,
    )
    async with lifespan(app):
        for mount in ("/v1", "/llm/v1"):
            assert (await ask(app, mount + COMPLETIONS)).body == UNARY
            assert (await ask(app, mount + COMPLETIONS, token=None)).status == 401
            assert await ready(app, mount + "/health/ready") == 200
    assert len(provider.asked) == 2
    assert (await ask(app, "/v1" + COMPLETIONS)).json["error"]["code"] == "shutting_down"


async def test_two_gateways_in_one_host_share_nothing() -> None:
    one, two = Stepped(), Stepped()
    first = gateway_to(one)
    auth = Middleware(TokenAuthMiddleware, access_tokens={"sk-bob": {"name": "bob"}})
    second = Gateway([channel_to(two)], middleware=[auth])
    app = Starlette(
        routes=[Mount("/one/v1", app=first), Mount("/two/v1", app=second)],
        lifespan=combine_lifespans(first.lifespan, second.lifespan),
    )
    async with lifespan(app):
        assert (await ask(app, "/one/v1" + COMPLETIONS)).status == 200
        assert (await ask(app, "/two/v1" + COMPLETIONS)).status == 401
        assert (await ask(app, "/two/v1" + COMPLETIONS, token="sk-bob")).status == 200
        assert (await ask(app, "/one/v1" + COMPLETIONS, token="sk-bob")).status == 401
        assert first.relay.channels is not second.relay.channels
    assert (len(one.asked), len(two.asked)) == (1, 1)


async def test_a_hosts_lifespan_and_the_gateways_run_together_and_the_hosts_state_is_seen() -> None:
    diary: list[str] = []
    provider = Stepped()
    gateway = gateway_to(provider)

    @asynccontextmanager
    async def hosts(_app: Any) -> AsyncIterator[dict[str, Any]]:
        assert gateway.resources.current is None
        diary.append("host starts")
        yield {"database": "open"}
        assert gateway.resources.current is None
        diary.append("host stops")

    async def database(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.state.database)

    app = Starlette(
        routes=[Route("/database", database), Mount("/v1", app=gateway)],
        lifespan=combine_lifespans(hosts, gateway.lifespan),
    )
    async with lifespan(app) as started:
        assert started.state == {"database": "open"}
        assert gateway.resources.current is not None
        state = dict(started.state)
        seen = await call(app, "GET", "/database", state=state, may_write=Anything())
        assert seen.body == b"open"
        assert (await ask(app, "/v1" + COMPLETIONS, state=state)).status == 200
    assert diary == ["host starts", "host stops"]


async def test_a_host_whose_start_fails_leaves_the_gateway_stopped() -> None:
    gateway = gateway_to(Stepped())

    @asynccontextmanager
    async def failing(_app: Any) -> AsyncIterator[None]:
        raise RuntimeError("no database")
        yield

    app = Starlette(lifespan=combine_lifespans(gateway.lifespan, failing))
    with pytest.raises(Exception, match="no database"):
        async with lifespan(app):
            pass
    assert gateway.resources.current is None


async def test_who_leaves_while_a_part_reads_the_body_raises_nothing_in_the_host() -> None:
    """BaseHTTPMiddleware raises RuntimeError when what it wraps answers nothing."""
    tokens = {TOKEN: {"name": "alice", "models": ["m"]}}  # to look at the model is to read
    auth = Middleware(TokenAuthMiddleware, access_tokens=tokens)
    gateway = Gateway([channel_to(Stepped())], middleware=[auth])
    app = Starlette(routes=[Mount("/v1", app=gateway)], middleware=[Middleware(Stamping)])
    body = [chat()[:10], chat()[10:]]
    answer = await ask(app, "/v1" + COMPLETIONS, body=body, leave_after="during body")
    assert answer.exception is None
    assert answer.left


async def test_in_an_app_mounted_in_an_app_it_starts_by_itself() -> None:
    """Starlette runs no lifespan of what is mounted; only the outermost app's."""
    provider = Stepped()
    gateway = gateway_to(provider)
    inner = FastAPI(lifespan=gateway.lifespan)
    inner.mount("/llm/v1", gateway)
    outer = Starlette(routes=[Mount("/api", app=inner)])
    hosted = Hosted(outer, provider, gateway, "/api/llm/v1")
    provider.released = len(PIECES)
    assert (await ask(outer, hosted.path)).body == UNARY
    assert (await streaming(hosted).run()).body == b"".join(PIECES)


async def test_a_mount_by_host_name_serves_below_v1() -> None:
    provider = Stepped()
    app = Starlette(routes=[Host("llm.test", app=gateway_to(provider))])
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    answer = await ask(app, "/v1" + COMPLETIONS, headers={**headers, "host": "llm.test"})
    assert answer.body == UNARY


@pytest.mark.parametrize("taken_off", [True, False])
async def test_behind_a_proxy_that_serves_the_host_below_a_path(taken_off: bool) -> None:
    """The server's --root-path; the path it hands over has it (uvicorn) or not (hypercorn)."""
    provider = Stepped()
    gateway = gateway_to(provider)
    app = FastAPI()
    app.mount("/llm/v1", gateway)
    path = "/llm/v1" if taken_off else "/behind/llm/v1"
    behind = {"root_path": "/behind"}
    assert (await ask(app, path + COMPLETIONS, **behind)).body == UNARY
    assert (await ask(app, path + COMPLETIONS, token=None, **behind)).status == 401
    assert await ready(app, path + "/health/ready", **behind) == 200


async def test_django_is_answered_by_the_gateway_only_below_the_prefix() -> None:
    hosted = in_django("/llm/v1")
    assert (await ask(hosted.app, "/llm/v1" + COMPLETIONS)).body == UNARY
    async with lifespan(django_app()) as alone:
        assert not alone.supported
    async with lifespan(hosted.app) as both:
        assert both.supported


async def test_without_a_lifespan_one_line_in_the_log_names_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "asgi_llm_gateway")
    app = FastAPI()
    app.mount("/v1", gateway_to(Stepped()))
    for _ in range(2):
        assert (await ask(app, "/v1" + COMPLETIONS)).status == 200
    assert [r.getMessage() for r in caplog.records if "gateway.lifespan" in r.getMessage()] == [
        "started on the first call; give your app gateway.lifespan to start and stop it in order"
    ]


# Litestar takes a mount's prefix off scope["path"], ends the rest in a slash, and tells nobody:
# root_path stays empty. `raw_path` is the only trace.


async def test_litestar_mounts_a_gateway_as_it_mounts_any_asgi_app() -> None:
    provider = Stepped()
    gateway = gateway_to(provider)
    mounted = asgi("/v1", is_mount=True, copy_scope=True)(gateway)
    app = Litestar([mounted], lifespan=[gateway.lifespan], logging_config=None)
    async with lifespan(app):
        answer = await ask(app, "/v1" + COMPLETIONS)
        assert (answer.status, answer.body) == (200, UNARY)
        assert (await ask(app, "/v1" + COMPLETIONS, token=None)).status == 401
        assert await ready(app, "/v1/health/ready") == 200


async def test_litestars_middlewares_know_the_mount_by_its_prefix() -> None:
    provider = Stepped()
    auth = DefineMiddleware(TokenAuthMiddleware, access_tokens=TOKENS)
    mounted = below("/v1", Relay([channel_to(provider)]))
    app = Litestar([mounted], middleware=[auth], logging_config=None)
    answer = await ask(app, "/v1" + COMPLETIONS)
    assert (answer.status, answer.body) == (200, UNARY)


async def test_litestars_middlewares_below_any_prefix_still_let_nobody_slip_by() -> None:
    provider = Stepped()
    auth = DefineMiddleware(TokenAuthMiddleware, access_tokens=TOKENS, prefixes=["/elsewhere"])
    router = Router("/", route_handlers=[below("/v1", Relay([channel_to(provider)]))])
    app = Litestar([router], middleware=[auth], logging_config=None)
    for token in (None, "sk-mallory"):
        assert (await ask(app, "/v1" + COMPLETIONS, token=token, body=chat())).status == 401
    assert provider.asked == []


async def test_litestar_serves_a_gateway_below_a_path_of_its_own_without_help() -> None:
    """Mounted at /llm, what is left begins with /v1 and says all."""
    provider = Stepped()
    mounted = asgi("/llm", is_mount=True, copy_scope=True)(gateway_to(provider))
    app = Litestar([mounted], logging_config=None)
    assert (await ask(app, "/llm/v1" + COMPLETIONS)).body == UNARY
