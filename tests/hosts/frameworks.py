"""The same gateway inside each host, as docs/embedding.md says."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio.lowlevel
from fastapi import FastAPI
from litestar import Litestar, Router, asgi, get
from litestar.middleware import DefineMiddleware
from litestar.types import Receive as LitestarReceive
from litestar.types import Scope as LitestarScope
from litestar.types import Send as LitestarSend
from quart import Quart
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from asgi_llm_gateway import Relay, TokenAuthMiddleware
from tests.hosts.hosting import TOKENS, Hosted, Stepped, channel_to, gateway_to


async def hello(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


class Stamping(BaseHTTPMiddleware):
    """A host's middleware of the kind that runs the app inside it in an anyio task group."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        await anyio.lowlevel.checkpoint()
        response = await call_next(request)
        response.headers["x-host"] = "stamped"
        return response


def in_starlette(mount: str = "/v1", *, lifespan: bool = True, stamping: int = 0) -> Hosted:
    provider = Stepped()
    gateway = gateway_to(provider)
    app = Starlette(
        routes=[Route("/hello", hello), Mount(mount or "/", app=gateway)],
        lifespan=gateway.lifespan if lifespan else None,
    )
    for _ in range(stamping):
        app.add_middleware(Stamping)
    return Hosted(app, provider, gateway, mount or "/v1", lifespan)


def parts_in_starlette() -> Hosted:
    provider = Stepped()
    relay = Relay([channel_to(provider)])
    app = Starlette(routes=[Route("/hello", hello), Mount("/v1", app=relay)])
    app.add_middleware(Stamping)
    app.add_middleware(TokenAuthMiddleware, access_tokens=TOKENS)
    return Hosted(app, provider, relay, lifespan=False)


def in_fastapi(mount: str = "/llm/v1") -> Hosted:
    provider = Stepped()
    gateway = gateway_to(provider)
    app = FastAPI(lifespan=gateway.lifespan)
    app.add_api_route("/hello", hello)
    app.mount(mount, gateway)

    @app.middleware("http")
    async def stamp(request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-host"] = "stamped"
        return response

    return Hosted(app, provider, gateway, mount)


@get("/hello", sync_to_thread=False, media_type="text/plain")
def litestar_hello() -> str:
    return "hello"


def below(prefix: str, app: Any) -> Any:
    """A Litestar route for everything below `prefix`; it takes the prefix off and says so."""

    @asgi(prefix, is_mount=True, copy_scope=True)
    async def mounted(scope: LitestarScope, receive: LitestarReceive, send: LitestarSend) -> None:
        root_path = scope.get("root_path", "") + prefix
        await app({**scope, "root_path": root_path}, receive, send)

    return mounted


def in_litestar(mount: str = "/v1") -> Hosted:
    provider = Stepped()
    gateway = gateway_to(provider)
    app = Litestar(
        [litestar_hello, below(mount, gateway)],
        lifespan=[gateway.lifespan],
        logging_config=None,
    )
    return Hosted(app, provider, gateway, mount)


def parts_in_litestar() -> Hosted:
    """On a router's layer, so that the host's other routes never see the part.

    Litestar takes the mount's prefix off the path before any middleware sees it.
    """
    provider = Stepped()
    relay = Relay([channel_to(provider)])
    auth = DefineMiddleware(TokenAuthMiddleware, access_tokens=TOKENS, prefixes=["/"])
    router = Router("/", route_handlers=[below("/v1", relay)], middleware=[auth])
    app = Litestar([litestar_hello, router], logging_config=None)
    return Hosted(app, provider, relay, lifespan=False)


def by_prefix(prefix: str, inside: Any, app: Any) -> Any:
    """What is below `prefix` goes to `inside`, all else to `app`."""

    async def dispatch(scope: Any, receive: Any, send: Any) -> None:
        ours = scope["type"] == "http" and scope["path"].startswith(prefix + "/")
        await (inside if ours else app)(scope, receive, send)

    return dispatch


def quart_app() -> Quart:
    app = Quart("tests.hosts.frameworks")

    @app.get("/hello")
    async def hello() -> str:
        return "hello"

    return app


def in_quart(prefix: str = "/v1") -> Hosted:
    provider = Stepped()
    gateway = gateway_to(provider)
    app = quart_app()

    @app.while_serving
    async def gateway_runs() -> AsyncIterator[None]:
        async with gateway:
            yield

    app.asgi_app = by_prefix(prefix, gateway, app.asgi_app)  # type: ignore[method-assign]
    return Hosted(app, provider, gateway, prefix)


def parts_in_quart() -> Hosted:
    provider = Stepped()
    relay = Relay([channel_to(provider)])
    app = quart_app()
    inner = by_prefix("/v1", relay, app.asgi_app)
    app.asgi_app = TokenAuthMiddleware(inner, access_tokens=TOKENS)  # type: ignore[method-assign, assignment]
    return Hosted(app, provider, relay, lifespan=False)


@functools.cache
def django_app() -> Any:
    """Django's settings are the process's, so there is one such host here; they are next to none.

    Nobody else in these tests uses Django, and its logging is left alone.
    """
    import django.conf
    from django.core.asgi import get_asgi_application
    from django.http import HttpResponse
    from django.urls import path

    async def hello(_request: Any) -> Any:
        return HttpResponse("hello")

    urls: Any = types.ModuleType("tests_hosts_django_urls")
    urls.urlpatterns = [path("hello", hello)]
    sys.modules[urls.__name__] = urls
    django.conf.settings.configure(
        ALLOWED_HOSTS=["*"],
        LOGGING_CONFIG=None,
        ROOT_URLCONF=urls.__name__,
        SECRET_KEY="a test's",
    )
    return get_asgi_application()


def in_django(prefix: str = "/v1") -> Hosted:
    """Django knows no lifespan: the gateway speaks that protocol for both."""
    provider = Stepped()
    gateway = gateway_to(provider)
    dispatch = by_prefix(prefix, gateway, django_app())

    async def application(scope: Any, receive: Any, send: Any) -> None:
        lifespan = scope["type"] == "lifespan"
        await (gateway if lifespan else dispatch)(scope, receive, send)

    return Hosted(application, provider, gateway, prefix)


HOSTS: dict[str, Callable[[], Hosted]] = {
    "starlette at /v1": in_starlette,
    "starlette at /llm/v1": lambda: in_starlette("/llm/v1"),
    "starlette at the root": lambda: in_starlette(""),
    "starlette without lifespan": lambda: in_starlette(lifespan=False),
    "starlette below BaseHTTPMiddleware": lambda: in_starlette(stamping=1),
    "starlette below BaseHTTPMiddleware twice": lambda: in_starlette(stamping=2),
    "parts in starlette": parts_in_starlette,
    "fastapi": in_fastapi,
    "litestar": in_litestar,
    "litestar at /llm": lambda: in_litestar("/llm/v1"),
    "parts in litestar": parts_in_litestar,
    "quart": in_quart,
    "parts in quart": parts_in_quart,
    "django": in_django,
}
