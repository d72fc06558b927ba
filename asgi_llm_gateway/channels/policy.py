"""How far a call that fails goes on, and what is remembered of it: one value, given whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigurationError
from .affinity import Affinity
from .choosing import STRATEGIES
from .error_table import ErrorTable
from .health.rules import HealthRules, health_rules
from .presets import PRESETS
from .retrying import Backoff

STREAM_RECOVERIES = ("error", "buffer", "splice")
"""What becomes of a stream whose provider fails after its first event."""

_BACKOFF = Backoff()
Lists = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failover:
    """The conduct of a call whose provider fails; every number has a default that is safe.

        Gateway(channels=[…], failover=Failover(fallback_models={"gpt-4o": ["deepseek-chat"]}))

    max_attempts: tries of one model; each fallback model has its own. Dead keys, and candidates
    that a guard refuses, are not counted. time_budget: seconds until an answer must have begun,
    whatever is tried and waited for; None for no limit. backoff: waits before the same channel is
    asked once more. retry_after_max: seconds a provider's Retry-After is believed at most.
    retry_budget: share of a channel's recent calls that may be retries at that channel.

    fallback_models: for each model, those asked in order when none of its channels serves the
    call; context_fallbacks and content_fallbacks the same for a refusal because the prompt is too
    long or breaks a content policy (which else are the caller's to see, and never retried).
    errors: what a failure means (`default`, `one-api` or `new-api`); error_rules: rows above that.

    strategy: which of equals is asked (choosing.STRATEGIES). affinity: what keeps a caller's
    calls on one channel while it works. stream_recovery: `error` ends a stream that was cut with
    the dialect's error event, `buffer` holds every stream until it is whole, `splice` goes on with
    another candidate that begins with exactly what was already sent. keep_alive: seconds of
    silence after which a streamed call is sent comments, which commits its status. hedge: one more
    attempt elsewhere (it counts as one) when the first event of a call with a JSON body is later
    than the channel's 95th percentile. tell: the
    `x-llm-*` headers. health: the numbers of the breaker; unless given, those of the preset that
    `errors` names. test_every: seconds between test calls on channels that are ill, or with
    test_all on every one; None for none. Raises ConfigurationError for values that cannot work.
    """

    max_attempts: int = 4
    time_budget: float | None = 300.0
    backoff: Backoff = _BACKOFF
    retry_after_max: float = 600.0
    retry_budget: float = 0.1
    fallback_models: Lists = field(default_factory=dict)
    context_fallbacks: Lists = field(default_factory=dict)
    content_fallbacks: Lists = field(default_factory=dict)
    errors: str = "default"
    error_rules: Sequence[Mapping[str, Any]] = ()
    strategy: str = "weighted"
    affinity: Sequence[str] = ()
    stream_recovery: str = "error"
    keep_alive: float | None = None
    hedge: bool = False
    tell: bool = True
    test_every: float | None = None
    test_all: bool = False
    health: HealthRules | None = None

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ConfigurationError("failover.max_attempts is a whole number from 1")
        for name in ("time_budget", "keep_alive", "test_every"):
            seconds = getattr(self, name)
            if seconds is not None and not seconds > 0:
                raise ConfigurationError(f"failover.{name} must be above 0 seconds")
        for name, known in (
            ("strategy", STRATEGIES),
            ("stream_recovery", STREAM_RECOVERIES),
            ("errors", PRESETS),
        ):
            if getattr(self, name) not in known:
                raise ConfigurationError(
                    f"failover.{name} is one of {', '.join(sorted(known))}, not "
                    f"{getattr(self, name)!r}"
                )
        for name in ("fallback_models", "context_fallbacks", "content_fallbacks"):
            for model, others in getattr(self, name).items():
                if isinstance(others, str):
                    raise ConfigurationError(f"failover.{name}: {model} needs a list: [{others!r}]")
        self.table()
        Affinity(self.affinity)

    def health_rules(self) -> HealthRules:
        """The numbers of the breaker."""
        return self.health or health_rules(self.errors)

    def table(self) -> ErrorTable:
        """The error classes, built and checked."""
        return ErrorTable(self.errors, self.error_rules)
