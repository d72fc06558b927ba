"""`llm-gateway demo`: what a gateway does, shown on real sockets in one process."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.middleware import Middleware

from ..auth.middleware import TokenAuthMiddleware
from ..auth.token import new_token
from ..channels.channel import Channel
from ..gateway import Gateway
from ..providers.row import Provider
from ..providers.rows import PROVIDERS
from ..providers.simulator import Simulator
from . import server
from .demo_calls import Call, fail_over_call, plain_call, streamed_call
from .tables import table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_DEAD, _GOOD = "sk-demo-dead", "sk-demo-good"
_PACE = 240.0
"""Tokens a second of the simulated model: slow enough to see, quick enough to wait for."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What is shown: the channels, the model to ask, and the one whose first key is dead."""

    title: str
    channels: list[Channel]
    model: str
    failing_model: str | None = None


def run(given: argparse.Namespace) -> int:
    """Exit code 1 when a call did not do what it should."""
    told = logging.StreamHandler(sys.stdout)
    told.setFormatter(logging.Formatter("(log) %(message)s"))
    logging.getLogger("asgi_llm_gateway").addHandler(told)
    with suppress(KeyboardInterrupt):
        return asyncio.run(_show(given))
    print()
    return 0


async def _show(given: argparse.Namespace) -> int:
    async with AsyncExitStack() as stack:
        provider = real_provider(os.environ)
        if provider is not None:
            scene = _real(provider, os.environ)
        else:
            scene = await _simulated(stack)
        token = new_token()
        gateway = Gateway(
            scene.channels,
            middleware=[Middleware(TokenAuthMiddleware, access_tokens={token: {"name": "demo"}})],
        )
        base_url = await stack.enter_async_context(_served(gateway, given.port))
        print(f"{scene.title}\nThe gateway is on {base_url}\n")
        calls = await _calls(scene, base_url, token)
        print(table([Call.HEADING, *(call.row() for call in calls)]))
        for call in calls:
            if call.problem:
                print(f"\n{call.name}: {call.problem}", file=sys.stderr)
        print(_how_to_call(base_url, token, scene.model), flush=True)
        if not given.once:
            print("Serving until Ctrl-C.", flush=True)
            await asyncio.Event().wait()
    return 1 if any(call.problem for call in calls) else 0


async def _calls(scene: Scene, base_url: str, token: str) -> list[Call]:
    import httpx

    signed = {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=base_url, headers=signed, timeout=120) as client:
        calls = [await plain_call(client, scene.model), await streamed_call(client, scene.model)]
        if scene.failing_model is not None:
            calls.append(await fail_over_call(client, scene.failing_model))
    return calls


async def _simulated(stack: AsyncExitStack) -> Scene:
    """Two providers on sockets of their own; the one asked first for gpt-4o has a dead key."""
    urls = [
        await stack.enter_async_context(
            _served(
                Simulator(
                    name=name,
                    keys=keys,
                    faults={_DEAD: "401"},
                    tokens_per_second=_PACE,
                    length=(16, 24),
                )
            )
        )
        for name, keys in (("north", [_GOOD]), ("south", [_GOOD]))
    ]
    return Scene(
        f"Two simulated providers: north on {urls[0]}, south on {urls[1]} (its key is dead)",
        [
            Channel(
                name="north",
                provider="simulator",
                base_url=urls[0],
                keys=[_GOOD],
                models=["gpt-4o", "gpt-4o-mini"],
            ),
            Channel(
                name="south",
                provider="simulator",
                base_url=urls[1],
                keys=[_DEAD],
                models=["gpt-4o"],
                priority=10,
            ),
        ],
        model="gpt-4o-mini",
        failing_model="gpt-4o",
    )


def real_provider(environ: Mapping[str, str]) -> Provider | None:
    """The first provider whose conventional variable is set and whose models are known."""
    first = PROVIDERS["openai"]
    for provider in (first, *(row for row in PROVIDERS.values() if row is not first)):
        if provider.env and provider.models and environ.get(provider.env, "").strip():
            return provider
    return None


def _real(provider: Provider, environ: Mapping[str, str]) -> Scene:
    """One channel to a real provider; OPENAI_BASE_URL and its like are heeded, as SDKs do."""
    assert provider.env is not None
    base_url = environ.get(provider.env.replace("_API_KEY", "_BASE_URL")) or None
    channel = Channel(
        name=provider.name,
        provider=provider.name,
        base_url=base_url,
        keys=[f"env:{provider.env}"],
        models=["*"],
    )
    return Scene(f"{provider.env} is set: relaying to {provider.name}", [channel], _cheap(provider))


def _cheap(provider: Provider) -> str:
    """The first known model whose name says that it is small; else the first."""
    small = (m for m in provider.models if m.endswith(("-mini", "-flash", "-instant")))
    return next(small, provider.models[0])


@asynccontextmanager
async def _served(app: Any, port: int = 0) -> AsyncIterator[str]:
    """Serve `app` in this event loop; its base URL."""
    configured = server.config(lambda: app, shutdown_timeout=1)
    import uvicorn

    started = asyncio.Event()

    class Quiet(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started.set()

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Ctrl-C is the demo's: three servers in one loop would take it from each other."""
            yield

    listener = server.listen("127.0.0.1", port)
    serving = Quiet(configured)
    task = asyncio.create_task(serving.serve([listener]))
    try:
        await started.wait()
        yield f"{server.address(listener)}/v1"
    finally:
        serving.should_exit = True
        await task


def _how_to_call(base_url: str, token: str, model: str) -> str:
    return f"""
Call it with curl:

  curl {base_url}/chat/completions \\
    -H "Authorization: Bearer {token}" -H "Content-Type: application/json" \\
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'

or with the OpenAI SDK:

  from openai import OpenAI
  client = OpenAI(base_url="{base_url}", api_key="{token}")
  client.chat.completions.create(
      model="{model}", messages=[{{"role": "user", "content": "Hello"}}])
"""
