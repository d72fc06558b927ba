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
    exchange = out.exchange
    dialect = exchange.endpoint.dialect
    splicing = Splicing(dialect) if splice and can_splice(dialect) else None
    failure = await _forward(out, this, splicing)
    while failure is not None and splicing is not None and splicing.recovers(failure):
        log.warning("a stream was cut midway, another candidate goes on with it: %s", failure)
        try:
            this = await attempts.another(failure)
        except GatewayError as last:
            failure = last
            break
        splicing.restart()
        failure = await _forward(out, this, splicing)
    if failure is not None:
        await _break_off(out, this, failure)


async def _forward(out: Outbound, this: Try, through: Through | None) -> GatewayError | None:
    """Everything one provider sends, and the end of the stream; what cut it, if something did."""
    flow = this.answer
    if not isinstance(flow, Flow) or flow.whole is None or flow.tap is None:
        return Diverged("its restart is no stream")
    tap, whole = flow.tap, flow.whole
    this.attempt.usage_from(tap.usage)
    out.exchange.usage_from(this.attempt.read_usage)
    failure: GatewayError | None = None
    try:
        await _say(out, tap.feed(flow.begun), this, through)
        feed, forward, watch, send = whole.feed, tap.feed, out.watch, out.send
        time = watch.loop.time
        async for piece in flow.pieces:
            if (events := feed(piece)) and (data := forward(events)):
                if through is not None or _ERROR in data:
                    await _say(out, data, this, through)
                    continue
                watch.sending_since = time()
                await send({"type": "http.response.body", "body": data, "more_body": True})
                watch.sending_since = None
    except GatewayError as problem:
        failure = problem
    if isinstance(failure, Diverged):
        return failure
    return await _ended(out, whole, tap, this, through, failure)


async def _ended(
    out: Outbound,
    whole: WholeEvents,
    tap: Tap,
    this: Try,
    through: Through | None,
    failure: GatewayError | None,
) -> GatewayError | None:
    """The provider sends no more: the end the stream deserves, or what it lacks."""
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
    log.warning("a stream was cut midway: %s", failure)
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
