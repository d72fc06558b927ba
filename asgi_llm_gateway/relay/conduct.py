"""What all calls of a relay go by: the rules of failover with the health they are kept on."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from random import Random

from ..channels.affinity import Affinity
from ..channels.choosing import STRATEGIES, Candidates
from ..channels.health.book import Health
from ..channels.index import Tiers
from ..channels.live import LiveChannel
from ..channels.policy import Failover
from ..errors import GatewayError, ProviderRefused, Unavailable

RETRY_AFTER = 5.0
"""Seconds a caller is told to wait when nothing healthy is left and nobody knows until when."""


class Conduct:
    """Failover as one relay runs it: the rules, the table of errors, health and chance."""

    def __init__(self, rules: Failover, health: Health, rng: Random) -> None:
        self.rules = rules
        self.clock = time.monotonic
        """The clock of `health`."""
        self.table = rules.table()
        self.health = health
        self.rng = rng
        self.max_attempts = rules.max_attempts
        self.sees_limits = rules.strategy == "headroom"
        """Answers are read for what is left of the provider's limits."""
        self.time_budget = rules.time_budget
        self.keep_alive = rules.keep_alive
        self.affinity = Affinity(rules.affinity) if rules.affinity else None
        self.tell = rules.tell
        self.buffers = rules.stream_recovery == "buffer"
        self.splices = rules.stream_recovery == "splice"
        self._choose = STRATEGIES[rules.strategy]
        self._lists: Mapping[str, Mapping[str, Sequence[str]]] = {
            "any": rules.fallback_models,
            "context": rules.context_fallbacks,
            "content": rules.content_fallbacks,
        }

    def candidates(self, tiers: Tiers, model: str, prefer: str | None) -> Candidates:
        """The channels of one model that may be asked now, best first."""
        health = self.health
        if health.quiet:
            return Candidates(tiers, self.rng, choose=self._choose, prefer=prefer)

        def admits(channel: LiveChannel) -> bool:
            return health.admits(channel.name, model)

        return Candidates(tiers, self.rng, choose=self._choose, admits=admits, prefer=prefer)

    def fallbacks(self, kind: str, names: Sequence[str]) -> tuple[str, ...]:
        """The models asked in place of one, by any of its names, after a failure of this kind."""
        lists = self._lists[kind]
        return next((tuple(lists[name]) for name in names if name in lists), ())

    def others(
        self, kinds: Collection[str], names: Sequence[str], meant: Sequence[str]
    ) -> tuple[str, ...]:
        """What is asked when a model has no candidate left, by the kinds of fallback its failures
        ask for; `meant` are the other models of the alias the caller named."""
        if not kinds or "any" in kinds:
            return (*meant, *self.fallbacks("any", names))
        wanted = [kind for kind in ("context", "content") if kind in kinds]
        return tuple(model for kind in wanted for model in self.fallbacks(kind, names))

    def believed(self, retry_after: float | None) -> float | None:
        """A provider's Retry-After in seconds, within the clamp."""
        return None if retry_after is None else min(retry_after, self.rules.retry_after_max)

    def unavailable(self, tiers: Tiers, model: str) -> Unavailable:
        """What a caller is told when the model is served but nothing may be asked."""
        moments = [
            moment
            for tier in tiers
            for channel in tier
            if (moment := self.health.retry_at(channel.name, model)) is not None
        ]
        soonest = min(moments, default=math.inf) - self.clock()
        wait = max(soonest, 1.0) if math.isfinite(soonest) else RETRY_AFTER
        return Unavailable(
            "this model is served here, but none of its channels can be used at the moment",
            retry_after=wait,
        )


def hides(failure: GatewayError) -> bool:
    """Whether a failure is no business of the caller's: the gateway's own keys and accounts."""
    return isinstance(failure, ProviderRefused) and failure.status in (401, 402, 403)
