"""The attempt loop: try after try until one begins to answer.

Whatever fails before its first event is invisible to the caller. Where a call goes next is its
course's to say (course.py); here a try is made: guards asked, the credential had, the request sent,
the answer opened, everything given back.
"""

from __future__ import annotations

import time
from collections.abc import Coroutine
from functools import partial
from typing import Any

from ..channels.live import LiveChannel
from ..errors import GatewayError
from ..exchange.attempt import Attempt
from ..exchange.record import Exchange
from ..keys.key import Key
from .conduct import Conduct
from .course import Course
from .hedging import hedged
from .plan import Plan
from .trying import Try


class Attempts:
    """The tries of one call."""

    running: Try | None = None
    """The try that began to answer."""

    def __init__(self, exchange: Exchange, plan: Plan, course: Course, conduct: Conduct) -> None:
        self._exchange = exchange
        self._plan = plan
        self._conduct = conduct
        self._clock = exchange.loop.time
        self.course = course

    async def first(self) -> Try:
        """The first candidate whose answer begins well.

        Raises the last failure when none is left or the caller itself is at fault, and what
        Course.next raises.
        """
        course, hedge = self.course, self._conduct.rules.hedge
        while True:
            channel, key = await course.next()
            late = channel.stats.late_after if hedge else None
            work = self._attempt(channel, key)
            if late is None:
                begun = await work
            else:
                begun = await hedged(work, late, partial(self._hedge, channel, key), self._lost)
            if begun is not None:
                self.running = begun
                return begun

    async def another(self, failure: GatewayError) -> Try:
        """In place of the running try, whose stream broke off, one that begins anew."""
        broken, self.running = self.running, None
        assert broken is not None
        await self._over(broken, failure)
        await self.course.learn(broken, failure)
        return await self.first()

    async def close(self, outcome: str) -> None:
        """Give back what the running try holds; safe to await while the call is cancelled."""
        running, self.running = self.running, None
        if running is not None:
            running.attempt.usage = self._exchange.usage
            await running.close(self._clock(), outcome)

    async def _hedge(self, late: LiveChannel, key: Key) -> Coroutine[Any, Any, Try | None] | None:
        found = await self.course.elsewhere(late, key)
        return None if found is None else self._attempt(*found)

    async def _lost(self, slower: Try | None) -> None:
        """Another attempt has answered first."""
        if slower is not None:
            return await slower.close(self._clock(), "lost")
        for attempt in self._exchange.attempts:
            if attempt.outcome is None and attempt.first_byte is None:
                attempt.outcome = "lost"
        return None

    async def _attempt(self, channel: LiveChannel, key: Key) -> Try | None:
        exchange, plan, model = self._exchange, self._plan, self.course.model
        number = len(exchange.attempts) + 1
        name, to = channel.upstream_model(model), channel.provider.name
        attempt = Attempt(number, channel.name, to, name, key.fingerprint, self._clock())
        this = Try(exchange, self._conduct, attempt, channel, key, model)
        failure: GatewayError | None = None
        try:
            if not self._conduct.health.quiet and not this.admitted():
                self.course.refused(channel)
                return None
            for guard in exchange.guards:
                this.guarded += 1
                await guard.before(attempt)
            if channel.credentials is not None:
                this.secret = await channel.credentials.secret(key)
            this.begin(again=self.course.stumbled(channel))
            request = plan.build(channel, this.secret, name)
            this.response = response = await channel.upstream.send(request)
            attempt.status = response.status
            if self._conduct.sees_limits:
                channel.stats.limits_seen(response.headers, channel.stats.now(), time.time())
            this.answer = await plan.open(response, channel, model)
            this.began(self._clock())
        except GatewayError as problem:
            failure = problem
        else:
            return this
        finally:
            if attempt.first_byte is None:
                await self._over(this, failure)
        await self.course.learn(this, failure)
        return None

    async def _over(self, this: Try, failure: GatewayError | None) -> None:
        """A try that will not serve: judged, noted, everything given back."""
        now = self._clock()
        if failure is None:
            return await this.close(now, this.attempt.outcome or "left")
        this.failed(failure)
        return await this.close(now, "failed")
