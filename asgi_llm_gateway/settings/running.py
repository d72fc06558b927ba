"""What a gateway is made of by its settings, beside channels and callers: plain values built."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..channels.health.rules import health_rules
from ..channels.policy import Failover
from ..channels.retrying import Backoff
from ..errors import ConfigurationError
from ..keys.sealing import Seal
from ..keys.upkeep import Upkeep
from ..state import State
from .tables import Settings

_WAITS = ("first_wait", "wait_factor", "longest_wait")


def failover_of(settings: Settings) -> Failover:
    """Raises ConfigurationError, naming the file, for values that do not fit together."""
    given: dict[str, Any] = {
        name: getattr(settings.failover, name) for name in settings.failover.__slots__
    }
    first, factor, cap = (given.pop(name) for name in _WAITS)
    try:
        made = Failover(
            **given, backoff=Backoff(first, factor, cap), error_rules=settings.error_rules
        )
        return replace(made, health=health_rules(made.errors, settings.health))
    except ConfigurationError as problem:
        raise ConfigurationError(f"{settings.source}: {problem.message}") from problem


def state_of(settings: Settings) -> State:
    """The shared store, or `memory://`; raises ConfigurationError for a URL that is none."""
    given = settings.state
    try:
        return State(given.store, timeout=given.timeout, on_failure=given.on_failure)
    except ConfigurationError as problem:
        raise ConfigurationError(f"{settings.source}: state.store: {problem.message}") from problem


def upkeep_of(settings: Settings) -> Upkeep:
    """How keys are looked after; a relative state_file stands beside the settings file."""
    given = settings.keys
    file = given.state_file
    if file is not None and settings.folder is not None:
        file = str(Path(settings.folder) / Path(file).expanduser())
    try:
        seal = Seal.of(settings.crypto.keys) if settings.crypto.keys else None
    except ConfigurationError as problem:
        raise ConfigurationError(f"{settings.source}: crypto.keys: {problem.message}") from problem
    return Upkeep(sweep=given.sweep, concurrency=given.concurrency, state_file=file, seal=seal)
