"""The few answers the gateway gives by itself: health, refusals, and the end of a failed call."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

from starlette.types import Message, Scope, Send

from ..errors import ClientLeft, GatewayError, Headers, MethodNotAllowed, stream_event
from ..exchange.record import Exchange
from ..exchange.telling import answer, refuse

log = logging.getLogger("asgi_llm_gateway.gateway")


async def tell_health(scope: Scope, send: Send, state: str, *, healthy: bool) -> None:
    """Answer a probe: 200 when healthy, else 503, and the state in words."""
    if scope["method"] not in ("GET", "HEAD"):
        error = MethodNotAllowed("health is asked for with GET", allow=("GET", "HEAD"))
        return await refuse(Exchange.of(scope), scope, send, error)
    body = json.dumps({"status": state}).encode()
    headers: Headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    status = 200 if healthy else 503
    await answer(Exchange.of(scope), scope, send, status, headers, body)
    return None


class Outgoing:
    """A `send` that knows how far the answer has come; no coroutine of its own per message."""

    __slots__ = ("ended", "send", "start")

    def __init__(self, send: Send) -> None:
        self.send = send
        self.start: Message | None = None
        self.ended = False

    def __call__(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self.start = message
        elif not message.get("more_body"):
            self.ended = True
        return self.send(message)

    @property
    def streams_events(self) -> bool:
        """Whether what has begun is a stream of events."""
        headers: Any = self.start["headers"] if self.start else ()
        return any(
            name == b"content-type" and value.startswith(b"text/event-stream")
            for name, value in headers
        )


async def end_badly(scope: Scope, out: Outgoing, failure: Exception) -> None:
    """The last resort after an exception nobody inside caught: a bug of ours, or of a host's part.

    Before the first message: 500. In a stream of events: the dialect's error event, which no
    terminator follows, and the body's end. Any other body is left without its end, which servers
    turn into a cut connection: a caller must never take half an answer for a whole one.
    """
    exchange = Exchange.of(scope)
    if isinstance(failure, ClientLeft) or exchange.outcome == "client_left":
        exchange.outcome = "client_left"
        return
    request_id = exchange.request_id
    if isinstance(failure, OSError) and out.start is not None:
        # What send raises to a caller who left (ASGI 2.4); the body stays without its end.
        log.info("call %s ended early: %s", request_id, failure)
        exchange.outcome = "client_left"
        return
    log.error("call %s failed", request_id, exc_info=failure)
    exchange.outcome = "failed"
    error = failure if isinstance(failure, GatewayError) else GatewayError("internal error")
    with suppress(OSError):  # the caller may have gone meanwhile
        if out.start is None:
            await refuse(exchange, scope, out.send, error)
        elif not out.ended and out.streams_events:
            event = stream_event(error, exchange.endpoint.dialect, request_id)
            await out.send({"type": "http.response.body", "body": event, "more_body": True})
            await out.send({"type": "http.response.body", "body": b"", "more_body": False})
