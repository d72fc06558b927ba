"""The same two parts around the relay, in every way the design offers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from starlette.applications import Starlette
from starlette.middleware import Middleware

from asgi_llm_gateway import Channel, Gateway, Relay
from tests.composition.parts import Copying, Ledger, Masking, Settling
from tests.composition.provider import EVENTS, Provider

Kind = Literal["gateway", "host"]
Order = Literal["masking outside", "settling outside"]
KINDS: tuple[Kind, ...] = ("gateway", "host")
ORDERS: tuple[Order, ...] = ("masking outside", "settling outside")
MOUNTS = ("/v1", "/llm/v1", "")
PROMPT = "my number is 0170 12345"


@dataclass
class Stack:
    """One app to call, and what stands at its two ends."""

    app: Any
    provider: Provider
    ledger: Ledger
    base: str
    """What stands before an endpoint's path."""
    gateway: Gateway | None = None

    @property
    def path(self) -> str:
        return self.base + "/chat/completions"


def stack(kind: Kind, order: Order, provider: Provider, mount: str = "/v1") -> Stack:
    """Merely mounted: no lifespan is run."""
    ledger = Ledger()
    channel = Channel(
        name="main",
        provider="custom",
        base_url="http://provider.test/v1",
        keys=["sk-p"],
        models=["*"],
        model_mapping={"mapped": "the-providers-name"},
        upstream=provider,
    )
    base = mount or "/v1"
    mask = Middleware(Masking, prefixes=(base,))
    settle = Middleware(Settling, ledger=ledger, prefixes=(base,))
    outer, inner = (mask, settle) if order == "masking outside" else (settle, mask)
    if kind == "gateway":
        gateway = Gateway(channels=[channel], middleware=[outer, Middleware(Copying), inner])
        if not mount:
            return Stack(gateway, provider, ledger, base, gateway)
        host = Starlette()
        host.mount(mount, gateway)
        return Stack(host, provider, ledger, base, gateway)
    host = Starlette()
    host.mount(mount or "/", Relay(channels=[channel]))
    for line in (inner, Middleware(Copying), outer):  # the last added is outermost
        host.add_middleware(line.cls, *line.args, **line.kwargs)
    return Stack(host, provider, ledger, base)


def chat(**members: Any) -> bytes:
    messages = [{"role": "user", "content": PROMPT}]
    return json.dumps({"model": "m", "messages": messages, **members}).encode()


def streaming(pieces: Any, **more: Any) -> Provider:
    return Provider(pieces=pieces, headers=EVENTS, **more)


def said(body: bytes) -> str:
    """The text of a streamed answer."""
    out = []
    for line in body.split(b"\n"):
        if line.startswith(b"data: {"):
            for choice in json.loads(line[6:]).get("choices", ()):
                out.append(choice["delta"].get("content", ""))
    return "".join(out)
