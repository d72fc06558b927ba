"""The same two parts around the relay, in every way the design offers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware

from asgi_llm_gateway import Channel, Gateway, Relay
from asgi_llm_gateway.runtime import kept_tasks
from asgi_llm_gateway.wire.sse import SSEReader
from tests.asgi import STARLETTE, STYLES, Answer, call
from tests.composition.parts import Copying, Ledger, Masking, Settling
from tests.composition.provider import EVENTS, Provider

Kind = Literal["gateway", "host"]
Order = Literal["masking outside", "settling outside"]
KINDS: tuple[Kind, ...] = ("gateway", "host")
HEADERS = {"content-type": "application/json", "x-request-id": "r-1"}
ORDERS: tuple[Order, ...] = ("masking outside", "settling outside")
MOUNTS = ("/v1", "/llm/v1", "")
PROMPT = "my number is 0170 12345"

each_kind = pytest.mark.parametrize("kind", KINDS)
each_order = pytest.mark.parametrize("order", ORDERS)
each_style = pytest.mark.parametrize("style", STYLES)
each_mount = pytest.mark.parametrize("mount", MOUNTS)


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


def events_of(body: bytes) -> list[bytes]:
    """The data of every event; comments are nobody's business."""
    reader = SSEReader()
    return [event.data for event in (*reader.feed(body), *reader.finish())]


def said(body: bytes) -> str:
    """The text of a streamed answer."""
    out = []
    for line in body.split(b"\n"):
        if line.startswith(b"data: {"):
            choices = json.loads(line[6:]).get("choices", ())
            out += [choice["delta"].get("content", "") for choice in choices]
    return "".join(out)


async def post(built: Stack, body: Any, **how: Any) -> Answer:
    how = {"headers": HEADERS, "may_write": STARLETTE, **how}
    return await call(built.app, "POST", built.path, body=body, **how)


async def until_settled(built: Stack) -> dict[str, Any]:
    """What was settled, once the tasks that settle are through."""
    await kept_tasks().join(5.0)
    if built.gateway is not None and (run := built.gateway.resources.current) is not None:
        await run.tasks.join(5.0)
    return built.ledger.only()


def upload(size: int = 40_000) -> bytes:
    part = '--b0\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n'
    fields = part.format("model", "") + "mapped\r\n" + part.format("file", '; filename="a"')
    return fields.encode() + b"\x00\xff" * (size // 2) + b"\r\n--b0--\r\n"
