"""The gateway that the client's scenario talks to: served, with a simulator behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from starlette.middleware import Middleware

from asgi_llm_gateway.auth import TokenAuthMiddleware
from asgi_llm_gateway.channels.channel import Channel
from asgi_llm_gateway.gateway import Gateway
from asgi_llm_gateway.providers.simulator import MODELS, Simulator
from asgi_llm_gateway.upstream.in_process import InProcessUpstream
from tests.served import Server, served

Way = Literal["in process", "socket"]
WAYS: tuple[Way, ...] = ("in process", "socket")

TOKENS: dict[str, dict[str, Any]] = {
    "sk-alice": {"name": "alice"},
    "sk-bob": {"name": "bob", "models": ["gpt-4o-mini"]},
}
FAULTS = {
    **{f"gpt-{status}": status for status in ("400", "403", "404", "409", "422", "500", "503")},
    "gpt-429": "429:7",
    "gpt-cut": "cut:4",
    "gpt-error-first": "error_event_first",
    "gpt-hang": "hang",
    "gpt-html": "html",
    "gpt-reset": "reset",
    "tts-cut": "cut:2",
    "tts-stall": "stall:2",
    "sk-dead": "401",
}
"""By the provider's model, or by the gateway's key."""
REST = ["gpt-4o*", "gpt-40*", "gpt-422", "gpt-5*", "gpt-[!0-9]*"]
"""All of `gpt-*` but gpt-429: the key that is told so rests for a while, so it has its own."""


@dataclass
class House:
    """A served gateway and the provider it relays to."""

    base: str
    gateway: Gateway
    simulator: Simulator


@contextmanager
def house(way: Way = "in process", *, server: Server = "uvicorn") -> Iterator[House]:
    """A gateway at work; its provider in the same process or on a socket of its own."""
    simulator = Simulator(faults=FAULTS)
    with ExitStack() as stack:
        to: dict[str, Any] = {"upstream": InProcessUpstream(simulator)}
        if way == "socket":
            to = {"base_url": stack.enter_context(served(simulator))}
        gateway = Gateway(
            channels=_channels(to),
            aliases={"house-model": "gpt-4o"},
            middleware=[Middleware(TokenAuthMiddleware, access_tokens=TOKENS)],
        )
        base = stack.enter_context(served(gateway, server=server))
        yield House(base, gateway, simulator)


def _channels(to: dict[str, Any]) -> list[Channel]:
    main = Channel(
        name="main",
        provider="simulator",
        keys=["sk-of-the-gateway"],
        models=[name for name in MODELS if name not in ("simulator", "gpt-*")] + REST,
        model_mapping={"fast": "gpt-4o-mini", "ear": "whisper-1"},
        passthrough=True,
        **to,
    )
    hasty = Channel(
        name="hasty",
        provider="simulator",
        keys=["sk-hasty"],
        model_mapping={"hasty": "gpt-hang"},
        timeouts={"first_byte": 0.2},
        **to,
    )
    dead = Channel(
        name="dead",
        provider="simulator",
        keys=["sk-dead"],
        model_mapping={"dead-key": "gpt-4o"},
        **to,
    )
    limited = Channel(
        name="limited", provider="simulator", keys=["sk-limited"], models=["gpt-429"], **to
    )
    return [main, hasty, dead, limited]
