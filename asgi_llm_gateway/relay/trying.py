"""One try of a call: what it holds, what its failure means, and giving all of it back."""

from __future__ import annotations

import logging
import time
from collections.abc import Coroutine
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from ..channels.error_class import ErrorClass
from ..channels.health import ORDINARY, Probe
from ..channels.live import LiveChannel
from ..channels.retrying import asked_for, key_cooldown
from ..errors import GatewayError, KeyRevoked, ProviderRefused, StateUnavailable, UpstreamError
from ..exchange.attempt import Attempt
from ..exchange.record import Exchange
from ..keys.key import Key
from ..upstream.contract import UpstreamResponse
from .conduct import Conduct
from .opened import Flow, Whole
from .times import Times, hurried

log = logging.getLogger("asgi_llm_gateway.relay")

_FINE = ErrorClass("fine")
_SECRET = 8
"""Shorter keys are words put there for providers that want none ("ollama"), and no secrets."""


class Try:
    """An attempt under way: the channel and key it took, the guards it told, its answer."""

    answer: Whole | Flow
    """There once the attempt began to answer."""
    guarded = 0
    """How many guards were told of it."""
    sent = False
    response: UpstreamResponse | None = None
    verdict: ErrorClass = _FINE
    """What its failure means."""
    asked_for: float | None = None
    """Seconds the provider asked to be left alone, within the clamp."""
    probe: Probe = ORDINARY
    """Which of health's doubts this try is to settle."""
    wish: Times | None = None
    """Limits of the caller's own."""
    _hurried = False
    """It failed by such a limit, which says nothing of the channel."""

    def __init__(
        self,
        exchange: Exchange,
        conduct: Conduct,
        attempt: Attempt,
        channel: LiveChannel,
        key: Key,
        model: str,
    ) -> None:
        self._exchange, self._conduct = exchange, conduct
        self.attempt, self.channel, self.key = attempt, channel, key
        self.model = model
        """As the caller or a fallback names it, before the channel's mapping."""
        self.secret = key.secret

    async def admitted(self) -> bool:
        """Whether health lets the call go there, as a probe perhaps; another may have been
        quicker to be one, here or in another process."""
        health, channel = self._conduct.health, self.channel.name
        probe = health.begun(channel, self.model)
        if probe is None:
            return False
        self.probe = probe
        if await health.claimed(channel, self.model, probe):
            return True
        self.probe = ORDINARY
        return False

    def begin(self, *, again: bool) -> None:
        """The request is about to be sent; `again` to a channel that failed in this call."""
        self.sent = True
        channel, attempt = self.channel, self.attempt
        attempts = self._exchange.attempts
        attempts.append(attempt)
        if attempt.number != len(attempts):  # another one began while this one made ready
            attempt.number = len(attempts)
        channel.stats.begun()
        if not again:
            channel.budget.called(attempt.started)

    def began(self, now: float) -> None:
        """Its answer begins well: it serves the call."""
        self.attempt.first_byte = now
        if self.probe is not ORDINARY:
            self._conduct.health.answered(self.channel.name, self.model, self.probe)

    def failed(self, failure: GatewayError) -> None:
        """Note why it will not serve, and judge it if the provider was asked at all."""
        if not self.sent:
            return
        attempt, conduct = self.attempt, self._conduct
        attempt.failure = self.without_secret(failure)
        self.verdict = conduct.table.classify(failure, model=attempt.model, passed=not self.model)
        if self.wish is not None and self._by_wish(failure, self.wish):
            self._hurried, self.verdict = True, replace(self.verdict, health="none")
        self.asked_for = conduct.believed(asked_for(failure, time.time()))
        log.info(
            "call %s: attempt %d on %s (%.100r, key %s) failed: %s",
            self._exchange.request_id,
            attempt.number,
            attempt.channel,
            attempt.model,
            attempt.key,
            failure,
        )

    async def renew(self) -> bool | None:
        """Whether its key has a new credential after a refusal of the old one; None where nobody
        can tell, since the token host or the store failed: it may be good yet."""
        assert self.channel.credentials is not None
        try:
            return await self.channel.credentials.renew(self.key, self.secret)
        except KeyRevoked:
            return False
        except (UpstreamError, StateUnavailable) as failure:
            log.info("key %s has no new credential: %s", self.key.fingerprint, failure)
            return None

    async def take_out(self, reason: str) -> None:
        """Remove its key, which is dead; if its pool cannot, the call goes on all the same."""
        try:
            await self.channel.pool.remove(self.key, reason)
        except GatewayError as failure:
            log.warning("key %s cannot be taken out now: %s", self.key.fingerprint, failure)

    def reason(self) -> str:
        """Why the key is taken out, in a line without secrets."""
        return f"the provider answered {self.attempt.status} ({self.verdict.name})"

    def close(self, now: float, outcome: str) -> Coroutine[Any, Any, None]:
        """Give everything back; safe to await while the call is being cancelled."""
        attempt = self.attempt
        attempt.ended = now
        attempt.outcome = outcome
        return self._give_back(now, outcome)

    def _by_wish(self, failure: GatewayError, wish: Times) -> bool:
        now = self._exchange.loop.time()
        return hurried(failure, self.channel, self.model, wish, self.attempt.started, now)

    async def _give_back(self, now: float, outcome: str) -> None:
        """Everything the attempt held, also when a guard or a key pool of the host's raises."""
        attempt, channel, verdict = self.attempt, self.channel, self.verdict
        try:
            try:
                if self.sent:
                    self._tell_health(now, outcome)
                elif self.probe is not ORDINARY:
                    self._conduct.health.given_back(channel.name, self.model, self.probe)
            finally:
                if self.guarded:
                    with ExitStack() as told_in_order:
                        for guard in reversed(self._exchange.guards[: self.guarded]):
                            told_in_order.callback(guard.after, attempt)
        finally:
            cooldown = key_cooldown(verdict, self.asked_for)
            try:
                usage = attempt.usage if channel.counts_tokens else None
                channel.pool.report(self.key, outcome, usage=usage, cooldown=cooldown)
            finally:
                # A whole answer was read to its end: there is nothing to close.
                if self.response is not None and not (
                    attempt.first_byte is not None and isinstance(self.answer, Whole)
                ):
                    await self.response.aclose()

    def _tell_health(self, now: float, outcome: str) -> None:
        attempt, channel, health = self.attempt, self.channel, self._conduct.health
        started, began = attempt.started, attempt.first_byte
        first = None if began is None else began - started
        left = outcome in ("left", "lost")
        if self._hurried or (first is None and (left or self._is_the_callers)):
            if outcome == "lost":
                channel.stats.outrun(now - started)
            else:
                channel.stats.abandoned()
        else:
            channel.stats.ended(first)
        if channel.retired or (health.quiet and self.verdict is _FINE):
            return
        if left and first is None:
            health.given_back(channel.name, self.model, self.probe)
        else:
            health.ended(
                channel.name,
                self.model,
                verdict=None if self.verdict is _FINE else self.verdict,
                seconds=now - started,
                first=first,
                cooldown=self.asked_for,
                probe=self.probe,
            )

    @property
    def _is_the_callers(self) -> bool:
        """Whether it failed by what was asked, which says nothing of the channel."""
        verdict = self.verdict
        return verdict is not _FINE and not (verdict.here or verdict.elsewhere)

    def blot(self, words: bytes) -> bytes:
        """A provider's words without the key, should it repeat it."""
        for secret in {self.secret, self.key.secret}:
            if len(secret) >= _SECRET:
                words = words.replace(secret.encode(), b"[key]")
        return words

    def without_secret(self, failure: GatewayError) -> GatewayError:
        """The failure with the key blotted out of a provider's own words."""
        if isinstance(failure, ProviderRefused):
            failure.body = self.blot(failure.body)
        return failure
