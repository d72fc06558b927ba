"""Where a call goes next: which model, channel and key; and what a failed try means for that.

For each model in turn (the one asked for, then its fallbacks) the channels are offered as
channels/choosing.py has them. What a failure means is the error table's to say
(channels/error_table.py); a (channel, key, model) that was tried is not tried again in the call,
but for one retry after a single 5xx or reset.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from ..channels.index import ChannelTable, Tiers
from ..channels.live import LiveChannel
from ..errors import (
    GatewayError,
    KeyRevoked,
    KeysBusy,
    ModelNotFound,
    NotSupported,
    PoolTimeout,
    StateUnavailable,
    UpstreamError,
)
from ..exchange.record import Exchange
from ..keys.key import Key
from .conduct import RETRY_AFTER, Conduct, hides
from .plan import Plan
from .trying import Try

log = logging.getLogger("asgi_llm_gateway.relay")

_MOST_DEAD_KEYS = 64
"""Dead keys one call may find before they count as attempts."""
_NONE: Mapping[str, Any] = MappingProxyType({})
Found = tuple[LiveChannel, Key]


class Course:
    """The way of one call. Most calls need one try, so all that serves a second is made late."""

    _untried = True
    _counted = 0
    _last: GatewayError | None = None
    _ours = False
    """The last failure is about the gateway's own keys, and no business of the caller's."""
    _busy: tuple[tuple[KeysBusy, LiveChannel], ...] = ()
    """Channels whose keys were all at their limits."""
    _again: Mapping[str, tuple[str, float]] = _NONE
    """For a channel that failed once and may be asked once more: the key that failed, and the time
    before which it is left alone."""
    _stumbled: frozenset[str] = frozenset()
    """Channels that failed, and not just a key of theirs."""
    _renewed_keys: frozenset[str] = frozenset()
    """Fingerprints of keys whose credential was renewed in this call."""
    _kinds: frozenset[str] = frozenset()
    """Which fallbacks the failures of this model ask for (ErrorClass.fallback)."""
    _others: tuple[str, ...] | None = None
    """Models to take up when this one has no candidate left; None until somebody asks."""

    def __init__(
        self,
        exchange: Exchange,
        plan: Plan,
        tiers: Tiers,
        table: ChannelTable,
        conduct: Conduct,
        prefer: str | None = None,
    ) -> None:
        self._exchange, self._plan, self._table = exchange, plan, table
        self._conduct, self._prefer = conduct, prefer
        self._asked = plan.models[:1]
        self._candidates = conduct.candidates(tiers, self._asked[0], prefer)

    @property
    def model(self) -> str:
        """The model being tried: the one asked for, or a fallback."""
        return self._asked[-1]

    @property
    def fell_back(self) -> bool:
        """Whether another model than the one asked for is being tried."""
        return len(self._asked) > 1

    async def next(self) -> Found:
        """The channel to ask next and a key of it.

        Raises what the caller is told when there is none: the last provider's own error, KeysBusy
        when every key stayed at its limits, Unavailable when there was nobody to ask.
        """
        if self._untried:  # most calls come here once, so this is the short way
            self._untried = False
            channel = self._candidates.channel()
            if channel is not None:
                try:
                    key = await channel.pool.take(self._exchange)
                except (KeysBusy, StateUnavailable):
                    key = None  # the long way finds out again, and remembers it
                if key is not None:
                    return channel, key
        while (found := await self._candidate()) is None:
            if not self._next_model():
                raise self._told()
        return found

    async def elsewhere(self, late: LiveChannel, key: Key) -> Found | None:
        """One more of this model, on another channel than the one that is late, if an attempt is
        left beside that one; nobody waits for a key here."""
        self._candidates.failed(late, key.fingerprint)  # whoever serves the call, it was tried
        while self._counted + 1 < self._conduct.max_attempts:
            channel = self._candidates.channel(late)
            if channel is None:
                return None
            if (other := await self._key_of(channel)) is not None:
                return channel, other
        return None

    def lost(self) -> None:
        """A try was given up since another was quicker: it counts as one all the same."""
        self._counted += 1

    def stumbled(self, channel: LiveChannel) -> bool:
        """Whether the channel failed in this call before: asking it now is a retry."""
        return channel.name in self._stumbled

    def refused(self, channel: LiveChannel) -> None:
        """Another call was quicker to be the one that is let through to this channel."""
        self._untried = False
        self._candidates.spend(channel)

    async def learn(self, this: Try, failure: GatewayError) -> None:
        """What a failed try means for those to come. Raises what ends the call."""
        self._untried = False
        channel, verdict = this.channel, this.verdict
        self._last = this.without_secret(failure)
        failure.__traceback__ = None  # its frames lead back to the exchange that keeps it
        theirs = channel.config.credential == "caller"  # its refusal is theirs to see
        if not this.sent:
            self._ours = isinstance(failure, KeyRevoked) and not theirs
            return await self._not_sent(this, failure)
        dead = verdict.scope == "key" and verdict.health == "remove"
        self._ours = not theirs and (dead or (verdict.elsewhere and hides(failure)))
        self._kinds |= {verdict.fallback}
        renewed = await self._renewed(this) if dead else None
        if renewed:
            return None
        self._candidates.failed(channel, this.key.fingerprint)
        if renewed is False:
            await this.take_out(this.reason())
        # A dead key is gone for good, so it costs no attempt, unless a pool has no end of them.
        self._counted += not dead or len(self._exchange.attempts) >= _MOST_DEAD_KEYS
        goes_on = verdict.elsewhere or verdict.here
        if verdict.fallback in ("context", "content") and not verdict.elsewhere:
            self._others = self._conduct.fallbacks(verdict.fallback, self._names())
            self._counted = self._conduct.max_attempts  # of this model no more
            goes_on = bool(self._others)
        if not (goes_on and self._plan.replayable()) or self._time_is_up():
            raise self._told()
        if verdict.scope != "key":
            self._stumble(this)
        return None

    async def _candidate(self) -> Found | None:
        """The channel to ask next and a key of it; None when this model has no more."""
        while self._counted < self._conduct.max_attempts:
            channel = self._candidates.channel()
            if channel is None:
                return await self._await_key() if self._busy else None
            if (key := await self._key_of(channel)) is not None:
                return channel, key
        return None

    async def _key_of(self, channel: LiveChannel) -> Key | None:
        tried = self._candidates.tried.get(channel.name, ())
        again = self._again.get(channel.name) if self._again else None
        if again is not None:
            await self._pause(channel, again[1])
        key = await self._taken(channel, tried)
        if key is None and again is not None:  # no other key is free: the same one once more
            key = await self._taken(channel, [one for one in tried if one != again[0]])
        if key is None:
            self._candidates.spend(channel)
        return key

    async def _taken(
        self, channel: LiveChannel, tried: Collection[str], wait: float = 0.0
    ) -> Key | None:
        try:
            return await channel.pool.take(self._exchange, tried, wait=wait)
        except KeysBusy as busy:
            self._busy += ((busy, channel),)
        except StateUnavailable as failure:
            self._last, self._ours = failure, False
        return None

    async def _pause(self, channel: LiveChannel, until: float) -> None:
        """Leave a channel that failed alone for a moment; it is asked once more, not twice."""
        self._again = {name: a for name, a in self._again.items() if name != channel.name}
        wait = until - self._exchange.loop.time()
        if wait > 0:
            await asyncio.sleep(wait)

    async def _await_key(self) -> Found | None:
        """Nothing is free: wait where it is likely to be soonest, for as long as that channel
        lets its callers wait."""
        known = self._busy
        _, channel = min(known, key=lambda one: one[0].retry_after or 0.0)
        tried = self._candidates.tried.get(channel.name, ())
        wait, times = channel.patience, self._plan.times
        if times is not None and (left := times.left(self._exchange.loop.time())) is not None:
            wait = min(wait, left)
        key = await self._taken(channel, tried, wait)
        for busy, _ in self._busy[len(known) :]:
            if self._last is None or self._ours:
                self._last, self._ours = busy, False
        self._busy = ()
        return None if key is None else (channel, key)

    async def _not_sent(self, this: Try, failure: GatewayError) -> None:
        """Refused by a guard, or without a credential: it cost no attempt."""
        channel = this.channel
        self._candidates.failed(channel, this.key.fingerprint)
        if isinstance(failure, KeyRevoked):
            await this.take_out(failure.message)
        elif not isinstance(failure, UpstreamError):
            self._candidates.spend(channel)  # a guard asks of the channel, not of the key

    async def _renewed(self, this: Try) -> bool | None:
        """Whether a refused key has a new credential, once a call; None where nobody can tell."""
        mark = this.key.fingerprint
        if this.channel.credentials is None or mark in self._renewed_keys:
            return False
        self._renewed_keys |= {mark}
        return await this.renew()

    def _time_is_up(self, wait: float = 0.0) -> bool:
        times = self._plan.times
        return times is not None and times.over(self._exchange.loop.time() + wait)

    def _stumble(self, this: Try) -> None:
        """The channel failed, not the key: after a wait it is asked once more if that makes sense,
        with another key if there is one."""
        channel, conduct = this.channel, self._conduct
        backoff, name, now = conduct.rules.backoff, channel.name, self._exchange.loop.time()
        wait = backoff.wait(len(self._stumbled) + 1, conduct.rng)
        wait = max(wait, this.asked_for or 0.0)
        once = this.verdict.here and name not in self._stumbled and wait <= backoff.cap
        self._stumbled |= {name}
        if once and not self._time_is_up(wait) and channel.budget.may_retry(now):
            self._again = {**self._again, name: (this.key.fingerprint, now + wait)}
        else:
            self._candidates.spend(channel)

    def _next_model(self) -> bool:
        """Take up the next model, if there is one that is served and was not tried yet."""
        if self._others is None:
            meant = self._plan.models[1:]
            self._others = self._conduct.others(self._kinds, self._names(), meant)
        exchange = self._exchange
        while self._others:
            model, *others = self._others
            named = self._table.resolve(model)
            self._others = (*(() if model in named else named), *others)
            if model in self._asked or model not in named:  # an alias stands for others
                continue
            try:
                tiers = self._table.tiers(model, exchange.endpoint.name, exchange.caller)
            except (ModelNotFound, NotSupported) as problem:
                log.warning("the fallback model %r is not served here: %s", model, problem)
                continue
            self._asked += (model,)
            self._candidates = self._conduct.candidates(tiers, model, self._prefer)
            self._counted, self._busy, self._again = 0, (), _NONE
            self._stumbled = self._kinds = frozenset()
            return True
        return False

    def _names(self) -> tuple[str, ...]:
        """What fallbacks may be listed under: the model being tried, and what the caller said."""
        said = self._exchange.model if len(self._asked) == 1 else None
        return (self.model, said) if said else (self.model,)

    def _told(self) -> GatewayError:
        """What the caller is told when every candidate failed: the last provider's own error, but
        for refusals of the gateway's own key, which are no business of the caller's."""
        last = self._last
        if last is None or self._ours:
            return self._conduct.unavailable(self._candidates.tiers, self.model)
        if isinstance(last, PoolTimeout):
            last.retry_after = RETRY_AFTER
        return last
