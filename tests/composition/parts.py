"""Two toy parts, one that masks each text and one that takes and settles, and a host's middleware.

They use only what the contracts offer a part: the exchange, the dialect's texts, the decoded
events of an answer.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field
from typing import Any

from asgi_llm_gateway.dialects import answer
from asgi_llm_gateway.dialects.registry import DIALECTS
from asgi_llm_gateway.errors import ClientLeft, GatewayError, render
from asgi_llm_gateway.exchange import Exchange, JSONBody
from asgi_llm_gateway.exchange.record import PREFIXES

SECRET = re.compile(r"\d")


def masked(text: str) -> str:
    """Each digit hidden: a mask no split of a text can escape."""
    return SECRET.sub("#", text)


class Masking:
    """Masks each text: the request's before the model sees it, the answer's before the caller."""

    def __init__(self, app: Any, *, prefixes: tuple[str, ...] = PREFIXES) -> None:
        self.app, self.prefixes = app, prefixes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        exchange = Exchange.of(scope)
        if not exchange.concerns(scope, self.prefixes):
            return await self.app(scope, receive, send)
        try:
            body = await exchange.read(scope, receive)
            if isinstance(body, JSONBody) and mask_texts(exchange, body.document, "request_texts"):
                body.replace(body.document)
        except GatewayError as error:
            exchange.outcome = "refused"
            return await refuse(scope, send, error)
        except ClientLeft:
            exchange.outcome = "client_left"
            return None
        scope, receive = exchange.inward(scope, receive)
        return await self.app(scope, receive, MaskingResponder(exchange, send))


class MaskingResponder:
    """The way out of one call: whole answers are held for their length, streams never."""

    def __init__(self, exchange: Exchange, send: Any) -> None:
        self.exchange, self.send = exchange, send
        self.start: Any = None
        self.kind = b""

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.kind = dict(message["headers"]).get(b"content-type", b"")
            if self.kind.startswith(b"application/json"):
                self.start = message
                return
        elif self.kind.startswith(b"text/event-stream"):
            message = self.masked_events(message)
        elif self.start is not None:
            start, self.start = self.start, None
            body = self.masked_answer(message["body"])
            kept = [(k, v) for k, v in start["headers"] if k != b"content-length"]
            headers = [*kept, (b"content-length", b"%d" % len(body))]
            await self.send({**start, "headers": headers})
            message = {**message, "body": body}
        await self.send(message)

    def masked_events(self, message: Any) -> Any:
        events = answer.events(message)
        changed = False
        for event in events:
            if event.document and mask_texts(self.exchange, event.document, "answer_texts"):
                event.changed()
                changed = True
        return answer.rewritten(message, events) if changed else message

    def masked_answer(self, body: bytes) -> bytes:
        document = json.loads(body)
        changed = mask_texts(self.exchange, document, "answer_texts")
        return json.dumps(document).encode() if changed else body


def mask_texts(exchange: Exchange, document: Any, which: str) -> bool:
    """Mask every text the dialect finds; whether there was one to mask."""
    dialect = DIALECTS.get(exchange.endpoint.dialect)
    changed = False
    for text in getattr(dialect, which)(document) if dialect else ():
        if SECRET.search(text.value):
            text.value = masked(text.value)
            changed = True
    return changed


async def refuse(scope: Any, send: Any, error: GatewayError) -> None:
    exchange = Exchange.of(scope)
    request_id = exchange.request_id
    status, headers, body = render(error, exchange.endpoint.dialect, request_id)
    headers.append((b"x-request-id", request_id.encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


@dataclass
class Ledger:
    """What was taken and what was settled, by exchange; settling suspends as a store would."""

    taken: list[str] = field(default_factory=list)
    settled: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.01

    async def settle(self, exchange: Exchange) -> None:
        """Give back what was taken, by what the exchange knows at that moment."""
        seen = {
            "outcome": exchange.outcome,
            "usage": exchange.usage,
            "status": exchange.status,
            "channels": [attempt.channel for attempt in exchange.attempts],
            "ended": [attempt.ended is not None for attempt in exchange.attempts],
        }
        await asyncio.sleep(self.seconds)
        assert exchange.id not in self.settled, "settled twice"
        self.settled[exchange.id] = seen

    def only(self) -> dict[str, Any]:
        """The one settlement, after checking that what was taken was given back."""
        assert [*self.settled] == self.taken
        (seen,) = self.settled.values()
        return seen


class Settling:
    """Takes before the app inside runs, and gives back in the same function, come what may."""

    def __init__(self, app: Any, *, ledger: Ledger, prefixes: tuple[str, ...] = PREFIXES) -> None:
        self.app, self.ledger, self.prefixes = app, ledger, prefixes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        exchange = Exchange.of(scope)
        if not exchange.concerns(scope, self.prefixes):
            return await self.app(scope, receive, send)
        self.ledger.taken.append(exchange.id)
        try:
            return await self.app(scope, receive, send)
        finally:
            await exchange.settle(self.ledger.settle(exchange))


class Copying:
    """A host's middleware: it copies the scope and wraps receive and send, as some hosts do."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def received() -> Any:
            return dict(await receive())

        async def sent(message: Any) -> None:
            await send(dict(message))

        return await self.app({**scope, "host.key": 1}, received, sent)
