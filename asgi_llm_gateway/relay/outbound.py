"""What goes out to the caller: a whole answer, a stream, a refusal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from ..dialects.tap import UNREADABLE
from ..errors import (
    BadAnswer,
    GatewayError,
    Headers,
    ProviderRefused,
    render,
    stream_event,
)
from ..exchange.record import Exchange
from ..keys.key import Key
from .attempts import Running, blotted
from .headers import STREAM_ANSWER, TO_CALLER, allowed, first
from .opened import Flow, Whole, last_event
from .watch import Watch

log = logging.getLogger("asgi_llm_gateway.relay")

Send = Callable[[Any], Coroutine[Any, Any, None]]

_FITS = 65_536
"""Bytes that asyncio's transports take however little the caller reads."""


_ERROR = b"error"
"""What an error event of a provider's cannot do without; then its key is looked for in it."""
_BODILESS = frozenset({204, 304})
"""Statuses whose answers have no body, whatever an upstream hands out (RFC 9110 section 6.4.1)."""


class Outbound:
    """The way out of one call; remembers whether the caller has seen anything yet."""

    __slots__ = ("_exchange", "_scope", "_send", "started", "watch")

    def __init__(self, exchange: Exchange, scope: Any, send: Send, watch: Watch) -> None:
        self._exchange = exchange
        self._scope = scope
        self._send = send
        self.watch = watch
        self.started = False

    async def start(self, status: int, headers: Headers) -> None:
        """The head of the answer, with the request id every answer carries."""
        self.started = True
        self._exchange.status = status
        headers.append((b"x-request-id", self._exchange.request_id(self._scope).encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def body(self, data: bytes, *, more: bool) -> None:
        """One message of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def relay(self, running: Running, names: frozenset[bytes] = TO_CALLER) -> None:
        """Pass an answer on to its end."""
        exchange, answer = self._exchange, running.answer
        headers = allowed(answer.headers, names)
        headers.append((b"x-llm-channel", running.channel.label))
        headers.append((b"x-llm-attempts", b"%d" % len(exchange.attempts)))
        if isinstance(answer, Whole):
            body = answer.body
            headers.append((b"content-length", b"%d" % len(body)))
            exchange.usage_from(answer.usage)
            exchange.status = answer.status
            headers.append((b"x-request-id", exchange.request_id(self._scope).encode()))
            self.started = True
            send = self._send
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            if len(body) > _FITS:
                self.watch.sending_since = self.watch.loop.time()
            await send({"type": "http.response.body", "body": body, "more_body": False})
            exchange.outcome = "ok"
        elif answer.tap is None:
            await self._plain(answer, headers)
        else:
            await self._events(answer, headers, running.key)

    async def _plain(self, flow: Flow, headers: Headers) -> None:
        """Bytes as they come. Cut midway, the last message stays out: the server then breaks the
        connection, which is the only way to say that the file is not whole."""
        await self.start(flow.status, headers)
        try:
            if flow.begun:
                await self._paced(flow.begun)
            if flow.status not in _BODILESS and self._scope["method"] != "HEAD":
                async for piece in flow.pieces:
                    await self._paced(piece)
        except GatewayError as failure:
            self._exchange.outcome = "truncated"
            log.warning("an answer was cut midway: %s", failure)
            return
        await self.body(b"", more=False)
        self._exchange.outcome = "ok"

    async def _events(self, flow: Flow, headers: Headers, key: Key) -> None:
        """Whole events as they come, then the end they deserve."""
        whole, tap = flow.whole, flow.tap
        assert whole is not None
        assert tap is not None
        await self.start(flow.status, headers + STREAM_ANSWER)
        self._exchange.usage_from(tap.usage)
        failure: GatewayError | None = None
        try:
            if out := tap.feed(flow.begun):
                await self._paced(out)
            feed, forward, watch, send = whole.feed, tap.feed, self.watch, self._send
            async for piece in flow.pieces:
                if (events := feed(piece)) and (out := forward(events)):
                    if _ERROR in out:
                        out = blotted(out, key)
                    watch.sending_since = watch.loop.time()
                    await send({"type": "http.response.body", "body": out, "more_body": True})
                    watch.sending_since = None
        except GatewayError as exc:
            failure = exc
        rest = whole.finish() if failure else last_event(whole)
        if rest and (out := tap.feed(rest)):
            await self._paced(out)
        self._exchange.skipped_events = tap.skipped
        ending = tap.end()
        if ending is None:
            failure = failure or BadAnswer("the provider's stream ended before it was complete")
            self._exchange.outcome = "truncated"
            log.warning("a stream was cut midway: %s", failure)
            request_id = self._exchange.request_id(self._scope)
            dialect = self._exchange.endpoint.dialect
            number = tap.next_number()
            ending = stream_event(failure, dialect, request_id, sequence=number)
        else:
            self._exchange.outcome = "provider_error" if tap.failed else "ok"
        await self.body(ending, more=False)

    async def _paced(self, data: bytes) -> None:
        """Send with the clock on, so that a caller who takes nothing is noticed."""
        watch = self.watch
        watch.sending_since = watch.loop.time()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        watch.sending_since = None

    async def refuse(self, error: GatewayError) -> None:
        """Tell the caller of an error, in its dialect; a provider's own words word for word."""
        exchange = self._exchange
        dialect = exchange.endpoint.dialect
        if isinstance(error, ProviderRefused):
            exchange.outcome = "provider_error"
            if _speaks(error.body, dialect):
                headers = allowed(error.headers, TO_CALLER)
                if not first(headers, b"content-type"):  # an error that came with status 200
                    headers.append((b"content-type", b"application/json"))
                headers.append((b"content-length", b"%d" % len(error.body)))
                await self._whole(error.status, headers, error.body)
                return
        else:
            exchange.outcome = "failed" if error.status >= 500 else "refused"
        status, headers, body = render(error, dialect, exchange.request_id(self._scope))
        await self._whole(status, headers, body)

    async def _whole(self, status: int, headers: Headers, body: bytes) -> None:
        exchange = self._exchange
        if exchange.attempts:
            headers.append((b"x-llm-channel", exchange.attempts[-1].channel.encode("ascii")))
            headers.append((b"x-llm-attempts", b"%d" % len(exchange.attempts)))
        await self.start(status, headers)
        await self.body(b"" if self._scope["method"] == "HEAD" else body, more=False)


def _speaks(body: bytes, dialect: str) -> bool:
    """Whether a provider's error body can go to a caller of this dialect as it is.

    Not all who speak OpenAI's dialect shape their errors as OpenAI does (`detail`, a bare
    `message`, an `error` that is a text), and their callers know: any JSON object will do.
    """
    if not dialect.startswith("openai"):
        return False
    try:
        document = msgspec.json.decode(body)
    except UNREADABLE:
        return False
    return isinstance(document, dict) and bool(document)
