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

from ..channels.index import ChannelTable, Tiers
from ..channels.live import LiveChannel
from ..errors import GatewayError, KeysBusy, StateUnavailable
from ..exchange.attempt import Attempt
from ..exchange.body import JSONBody
from ..exchange.record import Exchange
from ..keys.key import Key
from .conduct import Conduct
from .course import Course
from .hedging import hedged
from .opened import Whole
from .plan import Plan
from .trying import Try


class Attempts:
    """The tries of one call."""

    running: Try | None = None
    """The try that began to answer."""
    _given_up = "left"
    """What becomes of a try that is cancelled."""

    _course: Course | None = None

    def __init__(
        self,
        exchange: Exchange,
        plan: Plan,
        tiers: Tiers,
        table: ChannelTable,
        conduct: Conduct,
        prefer: str | None = None,
    ) -> None:
        self._exchange = exchange
        self._plan = plan
        self._tiers = tiers
        self._table = table
        self._conduct = conduct
        self._prefer = prefer
        self._clock = exchange.loop.time

    @property
    def course(self) -> Course:
        """Where the call goes next; a call whose only candidate serves it never asks."""
        if self._course is None:
            self._course = Course(
                self._exchange, self._plan, self._tiers, self._table, self._conduct, self._prefer
            )
        return self._course

    @property
    def fell_back(self) -> bool:
        """Whether another model than the one asked for is being tried."""
        return self._course is not None and self._course.fell_back

    async def first(self) -> Try:
        """The first candidate whose answer begins well.

        Raises the last failure when none is left or the caller itself is at fault, and what
        Course.next raises.
        """
        hedge = self._conduct.rules.hedge
        only = None if hedge or self._course is not None else self._only()
        if only is not None and (key := await self._key_of(only)) is not None:
            self.running = begun = await self._attempt(only, key)
            if begun is not None:  # else the course finds out why, and goes on
                return begun
        course = self.course
        while True:
            channel, key = await course.next()
            late = self._late_after(channel) if hedge else None
            if late is None:
                self.running = begun = await self._attempt(channel, key)
            else:
                begun = await self._hedged(channel, key, late)
            if begun is not None:
                return begun

    def _only(self) -> LiveChannel | None:
        """The one channel there is, while nothing speaks against it."""
        tiers = self._tiers
        if len(tiers) == 1 and len(tiers[0]) == 1 and self._conduct.health.quiet:
            return tiers[0][0]
        return None

    async def _key_of(self, channel: LiveChannel) -> Key | None:
        try:
            return await channel.pool.take(self._exchange)
        except (KeysBusy, StateUnavailable):
            return None

    async def another(self, failure: GatewayError) -> Try:
        """In place of the running try, whose stream broke off, one that begins anew."""
        broken, self.running = self.running, None
        assert broken is not None
        await self._over(broken, failure)
        await self.course.learn(broken, failure)
        return await self.first()

    def close(self, outcome: str) -> Coroutine[Any, Any, None]:
        """Give back what the running try holds; safe to await while the call is cancelled."""
        running, self.running = self.running, None
        assert running is not None
        return running.close(self._clock(), outcome)

    def _late_after(self, channel: LiveChannel) -> float | None:
        """Seconds after which this call may be made elsewhere too; None for never.

        What is no JSON is never made twice: an upload can be read once, and nobody here knows what
        a call that is passed through does.
        """
        return channel.stats.late_after if isinstance(self._exchange.body, JSONBody) else None

    async def _hedged(self, channel: LiveChannel, key: Key, late: float) -> Try | None:
        other = partial(self._elsewhere, channel, key)
        await hedged(self._attempt(channel, key), late, other, self._won, self._lost)
        self._given_up = "left"
        return self.running

    async def _elsewhere(self, late: LiveChannel, key: Key) -> Try | None:
        found = await self.course.elsewhere(late, key)
        return None if found is None else await self._attempt(*found)

    def _won(self, quicker: Try) -> None:
        self.running = quicker
        self._given_up = "lost"

    async def _lost(self, slower: Try) -> None:
        """It has an answer too, which nobody will see; if that is whole, so is what it cost."""
        if isinstance(slower.answer, Whole):
            slower.attempt.usage_from(slower.answer.usage)
        self.course.lost()
        await slower.close(self._clock(), self._given_up)

    async def _attempt(self, channel: LiveChannel, key: Key) -> Try | None:
        exchange, plan, course = self._exchange, self._plan, self._course
        model = plan.models[0] if course is None else course.model
        number = len(exchange.attempts) + 1
        name, to = channel.upstream_model(model), channel.provider.name
        attempt = Attempt(number, channel.name, to, name, key.fingerprint, self._clock())
        this = Try(exchange, self._conduct, attempt, channel, key, model)
        if plan.times is not None:
            this.wish = plan.times
        failure: GatewayError | None = None
        try:
            if not self._conduct.health.quiet and not await this.admitted():
                self.course.refused(channel)
                return None
            for guard in exchange.guards:
                this.guarded += 1
                await guard.before(attempt)
            if channel.credentials is not None:
                this.secret = await channel.credentials.secret(key)
            this.begin(again=course is not None and course.stumbled(channel))
            request = plan.build(channel, this.secret, model)
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
        try:
            if failure is not None:
                this.failed(failure)
            elif this.sent:
                self.course.lost()
        finally:
            outcome = self._given_up if failure is None else "failed"
            await this.close(self._clock(), outcome)
