"""A streamed answer on its way to the caller: whole events, then the end they deserve.

When the provider cuts it, the caller is told by the dialect's error event, or, where recovery by
`splice` is on, another candidate goes on from where the caller was left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..dialects.splicing import Continuation, Diverged, SentSoFar, can_splice
from ..dialects.tap import Tap, error_in
from ..errors import BadAnswer, GatewayError
from ..wire.sse import WholeEvents
from .attempts import Attempts
from .opened import Flow, last_event
from .trying import Try

if TYPE_CHECKING:
    from .outbound import Outbound

log = logging.getLogger("asgi_llm_gateway.relay")

_ERROR = b"error"
"""What an error event of a provider's cannot do without; then its key is looked for in it."""
Through = Callable[[bytes], bytes]


async def stream(out: Outbound, attempts: Attempts, this: Try, *, splice: bool) -> None:
    """Pass the stream of the running try on to its end; its head has gone out."""
    dialect = out.exchange.endpoint.dialect
    splicing = Splicing(dialect) if splice and can_splice(dialect) else None
    watch, send, time = out.watch, out.send, out.watch.loop.time
    while True:
        failure: GatewayError | None = None
        try:
            flow, whole, tap = _tapped(out, this)
            feed, forward = whole.feed, tap.feed
            await _say(out, forward(flow.begun), this, splicing)
            # The try is closed whatever happens, so pieces may be waited for the cheaper way.
            piece = getattr(flow.pieces, "piece", flow.pieces.__anext__)
            while True:
                if (events := feed(await piece())) and (data := forward(events)):
                    if splicing is not None or _ERROR in data:
                        await _say(out, data, this, splicing)
                        continue
                    watch.sending_since = time()
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                    watch.sending_since = None
        except StopAsyncIteration:
            failure = None
        except GatewayError as problem:
            failure = problem
        if not isinstance(failure, Diverged):
            failure = await _ended(out, this, splicing, failure)
        if failure is None:
            return None
        if splicing is None or not splicing.recovers(failure):
            return await _break_off(out, this, failure)
        call = out.exchange.request_id
        log.warning("call %s: a stream was cut midway, another goes on with it: %s", call, failure)
        try:
            this = await attempts.another(failure)
        except GatewayError as last:
            return await _break_off(out, this, last)
        splicing.restart()


def _tapped(out: Outbound, this: Try) -> tuple[Flow, WholeEvents, Tap]:
    """What one provider sends, and who reads along; raises Diverged for what is no stream."""
    flow = this.answer
    if not isinstance(flow, Flow) or flow.whole is None or flow.tap is None:
        raise Diverged("its restart is no stream")
    this.attempt.usage_from(flow.tap.usage)
    out.exchange.usage_from(this.attempt.read_usage)
    return flow, flow.whole, flow.tap


async def _ended(
    out: Outbound, this: Try, through: Through | None, failure: GatewayError | None
) -> GatewayError | None:
    """The provider sends no more: the end the stream deserves, or what it lacks."""
    _, whole, tap = _tapped(out, this)
    try:
        if rest := whole.finish() if failure else last_event(whole):
            await _say(out, tap.feed(rest), this, through)
        ending = tap.end()
        if ending is None or (through is not None and tap.failed):  # its error was not passed on
            return failure or BadAnswer("the provider's stream ended before it was complete")
        if isinstance(through, Splicing):
            through.end()
    except GatewayError as problem:
        return problem
    finally:
        out.exchange.skipped_events += tap.skipped
    if tap.failure is not None:
        this.failed(tap.failure)
    out.exchange.outcome = "provider_error" if tap.failed else "ok"
    await out.body(ending, more=False)
    return None


async def _say(out: Outbound, data: bytes, this: Try, through: Through | None) -> None:
    """One message of whole events, without the key should the provider repeat it."""
    if data and _ERROR in data:
        data = this.blot(data)
    if data and through is not None:
        data = through(data)
    if data:
        await out.paced(data)


async def _break_off(out: Outbound, this: Try, failure: GatewayError) -> None:
    """The dialect's error event and no terminator: never an end that looks complete."""
    exchange = out.exchange
    exchange.outcome = "truncated"
    if this.attempt.ended is None:  # else another was sought in vain, and that is what is told
        this.failed(failure)
    log.warning("call %s: a stream was cut midway: %s", exchange.request_id, failure)
    flow = this.answer
    number = flow.tap.next_number() if isinstance(flow, Flow) and flow.tap else 0
    await out.body(out.error_event(failure, number), more=False)


class Splicing:
    """What was sent so far, and what of a restarted stream is new."""

    def __init__(self, dialect: str) -> None:
        self._sent = SentSoFar(dialect)
        self._continuation: Continuation | None = None

    def __call__(self, events: bytes) -> bytes:
        """What of whole events goes to the caller; raises what makes the stream a broken one."""
        if (refusal := error_in(events)) is not None:
            raise refusal
        if self._continuation is not None:
            events = self._continuation.feed(events)
        if events:
            self._sent.feed(events)
        return events

    def recovers(self, failure: GatewayError) -> bool:
        """Whether another candidate may go on after this failure."""
        return self._sent.can_continue and not isinstance(failure, Diverged)

    def restart(self) -> None:
        """The next events are another candidate's, from the beginning."""
        self._continuation = Continuation(self._sent)

    def end(self) -> None:
        """Raises Diverged when a restarted stream never got to where the first was cut."""
        if self._continuation is not None:
            self._continuation.end()
