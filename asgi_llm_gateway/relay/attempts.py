"""The attempt loop: candidate after candidate until one begins to answer.

Whatever fails before its first event is invisible to the caller. The loop takes a key and gives it
back, calls the guards, and notes every try on the exchange; what a failure means is judged in
channels/judging.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from ..channels.choosing import Candidates
from ..channels.index import Tiers
from ..channels.judging import judge
from ..channels.live import LiveChannel
from ..errors import GatewayError, PoolTimeout, ProviderRefused, Unavailable
from ..exchange.attempt import Attempt, AttemptGuard
from ..exchange.record import Exchange
from ..keys.key import Key
from ..upstream.contract import UpstreamRequest, UpstreamResponse
from .opened import Flow, Whole

log = logging.getLogger("asgi_llm_gateway.relay")

Clock = Callable[[], float]
_MOST_DEAD_KEYS = 64
"""Dead keys one call may find before they count as attempts."""
RETRY_AFTER = 5.0
"""Seconds a caller is told to wait when nothing healthy is left."""
_SECRET = 8
"""Shorter keys are words put there for providers that want none ("ollama"), and no secrets."""


class Plan(Protocol):
    """How one call is tried: which model, and how a request is made and its answer opened."""

    model: str

    def build(self, channel: LiveChannel, key: Key, model: str) -> UpstreamRequest:
        """The request of one attempt."""
        ...

    def open(
        self, response: UpstreamResponse, channel: LiveChannel
    ) -> Coroutine[Any, Any, Whole | Flow]:
        """The beginning of one attempt's answer; raises what makes the attempt a failure."""
        ...

    def replayable(self) -> bool:
        """Whether the body can be sent once more: a streamed one until its first byte is out."""
        ...


@dataclass(slots=True)
class Running:
    """The attempt that began to answer, and what must be given back when it is over."""

    attempt: Attempt
    channel: LiveChannel
    key: Key
    response: UpstreamResponse
    answer: Whole | Flow

    def close(self, exchange: Exchange, now: float, outcome: str) -> Coroutine[Any, Any, None]:
        """Give everything back; safe to await while the call is being cancelled."""
        attempt, guards = self.attempt, exchange.guards
        attempt.ended = now
        if guards:
            attempt.usage = exchange.usage
        # A whole answer was read to its end: there is nothing to close.
        response = self.response if isinstance(self.answer, Flow) else None
        return _give_back(
            attempt, guards, self.channel, self.key, outcome=outcome, response=response
        )


async def first_to_answer(
    exchange: Exchange, plan: Plan, tiers: Tiers, max_attempts: int, rng: Random, clock: Clock
) -> Running:
    """The first candidate whose answer begins well.

    Raises the last failure when none is left or the caller itself is at fault, Unavailable when
    there was no key to try.
    """
    candidates = Candidates(tiers, rng)
    last: GatewayError | None = None
    counted = 0
    while counted < max_attempts:
        channel = candidates.channel()
        if channel is None:
            break
        key = await channel.pool.take(exchange, candidates.tried.get(channel.name, ()))
        if key is None:
            candidates.spend(channel)
            continue
        try:
            return await _try(exchange, plan, channel, key, clock)
        except GatewayError as failure:
            verdict = judge(failure)
            guarded = not exchange.attempts or exchange.attempts[-1].failure is not failure
            last = without_secret(failure, key)
            if not (verdict.retry or guarded):
                raise last from None
            failure.__traceback__ = None  # its frames lead back to the exchange that keeps it
        candidates.failed(channel, key.fingerprint)
        if guarded or verdict.spend_channel:
            candidates.spend(channel)
        if guarded:
            continue  # nothing was sent, and no channel is asked twice: it costs no attempt
        if verdict.drop_key:
            await channel.pool.remove(key, "the provider answered 401")
        # A dead key is gone for good, so it costs no attempt, unless a pool has no end of them.
        counted += not verdict.drop_key or len(exchange.attempts) >= _MOST_DEAD_KEYS
        if not plan.replayable():
            break
    raise told(last)


async def _try(
    exchange: Exchange, plan: Plan, channel: LiveChannel, key: Key, clock: Clock
) -> Running:
    model = channel.upstream_model(plan.model)
    number = len(exchange.attempts) + 1
    attempt = Attempt(number, channel.name, channel.provider.name, model, key.fingerprint, clock())
    guarded = 0
    response: UpstreamResponse | None = None
    running = False
    try:
        for guard in exchange.guards:
            guarded += 1
            await guard.before(attempt)
        exchange.attempts.append(attempt)
        response = await channel.upstream.send(plan.build(channel, key, model))
        attempt.status = response.status
        answer = await plan.open(response, channel)
        running = True
        return Running(attempt, channel, key, response, answer)
    except GatewayError as failure:
        if exchange.attempts and exchange.attempts[-1] is attempt:
            attempt.failure = failure
            log.info("attempt %d on %s failed: %s", number, channel.name, failure)
        raise
    finally:
        if not running:
            attempt.ended = clock()
            guards = exchange.guards[:guarded]
            await _give_back(attempt, guards, channel, key, outcome="failed", response=response)


async def _give_back(
    attempt: Attempt,
    guards: Sequence[AttemptGuard],
    channel: LiveChannel,
    key: Key,
    *,
    outcome: str,
    response: UpstreamResponse | None,
) -> None:
    """Everything the attempt held, also when a guard or a key pool of the host's raises."""
    try:
        if guards:
            with ExitStack() as told_in_order:
                for guard in reversed(guards):
                    told_in_order.callback(guard.after, attempt)
    finally:
        try:
            channel.pool.report(key, outcome)
        finally:
            if response is not None:
                await response.aclose()


def without_secret(failure: GatewayError, key: Key) -> GatewayError:
    """The failure with the key blotted out of a provider's own words."""
    if isinstance(failure, ProviderRefused):
        failure.body = blotted(failure.body, key)
    return failure


def blotted(words: bytes, key: Key) -> bytes:
    """A provider's words without the key, should it repeat it."""
    secret = key.secret.encode()
    return words.replace(secret, b"[key]") if len(secret) >= _SECRET else words


def told(last: GatewayError | None) -> GatewayError:
    """What the caller is told when every candidate failed: the last provider's own error, but for
    refusals of the gateway's own key, which are no business of the caller's."""
    if last is None or (isinstance(last, ProviderRefused) and last.status in (401, 403)):
        return Unavailable(
            "this model is served here, but none of its channels can be used at the moment",
            retry_after=RETRY_AFTER,
        )
    if isinstance(last, PoolTimeout):
        last.retry_after = RETRY_AFTER
    return last
