"""What goes out to the caller: a whole answer, a stream, a refusal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from ..dialects.soundness import UNREADABLE
from ..errors import (
    BadAnswer,
    GatewayError,
    Headers,
    ProviderRefused,
    render,
    stream_event,
)
from ..exchange.record import Exchange
from .attempts import Attempts
from .conduct import Conduct
from .headers import EVENT_STREAM, STREAM_ANSWER, TO_CALLER, allowed, first
from .opened import Flow, Whole
from .streaming import stream
from .trying import Try
from .watch import Watch

log = logging.getLogger("asgi_llm_gateway.relay")

Send = Callable[[Any], Coroutine[Any, Any, None]]

_FITS = 65_536
"""Bytes that asyncio's transports take however little the caller reads."""

_BODILESS = frozenset({204, 304})
"""Statuses whose answers have no body, whatever an upstream hands out (RFC 9110 section 6.4.1)."""


class Outbound:
    """The way out of one call; remembers whether the caller has seen anything yet."""

    started = False
    kept_alive = False
    """Only comments have gone out: whatever comes is told inside a stream."""

    def __init__(
        self, exchange: Exchange, scope: Any, send: Send, watch: Watch, conduct: Conduct
    ) -> None:
        self.exchange = exchange
        self._scope = scope
        self.send = send
        self.watch = watch
        self._conduct = conduct

    async def start(self, status: int, headers: Headers) -> None:
        """The head of the answer, with the request id every answer carries."""
        self.started = True
        self.exchange.status = status
        headers.append((b"x-request-id", self.exchange.request_id.encode()))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def body(self, data: bytes, *, more: bool) -> None:
        """One message of the body."""
        self.watch.over = not more
        await self.send({"type": "http.response.body", "body": data, "more_body": more})

    async def comment(self) -> None:
        """A sign of life before the provider's first event; it commits the status."""
        if not self.started:
            self.kept_alive = True
            await self.start(200, [*EVENT_STREAM, *STREAM_ANSWER])
        await self.paced(b": keep-alive\n\n")

    async def relay(
        self, attempts: Attempts, running: Try, names: frozenset[bytes] = TO_CALLER
    ) -> None:
        """Pass an answer on to its end."""
        exchange, answer = self.exchange, running.answer
        if isinstance(answer, Flow) and answer.tap is not None:
            if not self.started:
                headers = self._told(allowed(answer.headers, names), running, attempts)
                await self.start(answer.status, headers + STREAM_ANSWER)
            return await stream(self, attempts, running, splice=self._conduct.splices)
        if self.kept_alive:
            raise self._no_stream(answer, running)
        headers = self._told(allowed(answer.headers, names), running, attempts)
        if isinstance(answer, Whole):
            body = answer.body
            headers.append((b"content-length", b"%d" % len(body)))
            running.attempt.usage_from(answer.usage)
            exchange.usage_from(running.attempt.read_usage)
            exchange.status = answer.status
            headers.append((b"x-request-id", exchange.request_id.encode()))
            self.started = True
            send = self.send
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            self.watch.over = True
            if len(body) > _FITS:
                self.watch.sending_since = self.watch.loop.time()
            await send({"type": "http.response.body", "body": body, "more_body": False})
            exchange.outcome = "ok"
        else:
            await self._plain(answer, headers, running)
        return None

    def _no_stream(self, answer: Whole | Flow, running: Try) -> BadAnswer:
        """The failure of a try whose answer cannot follow the comments that have gone out."""
        failure = BadAnswer("the provider answered a streamed call with no stream")
        if isinstance(answer, Whole):  # nobody will see it, but it is paid for
            running.attempt.usage_from(answer.usage)
            self.exchange.usage_from(running.attempt.read_usage)
        self.exchange.outcome = "truncated"
        running.failed(failure)
        return failure

    def _told(self, headers: Headers, running: Try, attempts: Attempts) -> Headers:
        if self._conduct.tell:
            headers.append((b"x-llm-channel", running.channel.label))
            headers.append((b"x-llm-attempts", b"%d" % len(self.exchange.attempts)))
            if attempts.fell_back:
                headers.append((b"x-llm-fallback", _shown(running.model)))
        return headers

    async def _plain(self, flow: Flow, headers: Headers, this: Try) -> None:
        """Bytes as they come. Cut midway, the last message stays out: the server then breaks the
        connection, which is the only way to say that the file is not whole."""
        await self.start(flow.status, headers)
        try:
            if flow.begun:
                await self.paced(flow.begun)
            if flow.status not in _BODILESS and self._scope["method"] != "HEAD":
                async for piece in flow.pieces:
                    await self.paced(piece)
        except GatewayError as failure:
            self.exchange.outcome = "truncated"
            this.failed(failure)
            log.warning("call %s: an answer was cut midway: %s", self.exchange.request_id, failure)
            return
        await self.body(b"", more=False)
        self.exchange.outcome = "ok"

    async def paced(self, data: bytes) -> None:
        """Send with the clock on, so that a caller who takes nothing is noticed."""
        watch = self.watch
        watch.sending_since = watch.loop.time()
        await self.send({"type": "http.response.body", "body": data, "more_body": True})
        watch.sending_since = None

    async def refuse(self, error: GatewayError) -> None:
        """Tell the caller of an error, in its dialect; a provider's own words word for word."""
        exchange = self.exchange
        dialect = exchange.endpoint.dialect
        if self.kept_alive:
            exchange.outcome = "truncated"
            return await self.body(self.error_event(error, 0), more=False)
        if isinstance(error, ProviderRefused):
            exchange.outcome = "provider_error"
            if _speaks(error.body, dialect):
                headers = allowed(error.headers, TO_CALLER)
                if not first(headers, b"content-type"):  # an error that came with status 200
                    headers.append((b"content-type", b"application/json"))
                headers.append((b"content-length", b"%d" % len(error.body)))
                return await self._whole(error.status, headers, error.body)
        else:
            exchange.outcome = "failed" if error.status >= 500 else "refused"
        status, headers, body = render(error, dialect, exchange.request_id)
        return await self._whole(status, headers, body)

    def error_event(self, error: GatewayError, number: int) -> bytes:
        """The dialect's error event; `number` is its place where a dialect numbers events."""
        request_id = self.exchange.request_id
        return stream_event(error, self.exchange.endpoint.dialect, request_id, sequence=number)

    async def _whole(self, status: int, headers: Headers, body: bytes) -> None:
        exchange = self.exchange
        if self._conduct.tell and exchange.attempts:
            headers.append((b"x-llm-channel", exchange.attempts[-1].channel.encode("ascii")))
            headers.append((b"x-llm-attempts", b"%d" % len(exchange.attempts)))
        await self.start(status, headers)
        await self.body(b"" if self._scope["method"] == "HEAD" else body, more=False)


def _shown(model: str) -> bytes:
    """A model's name as a header's value: settings may name it by what no header can carry."""
    return "".join(c if c.isprintable() else "?" for c in model).encode("latin-1", "replace")


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
