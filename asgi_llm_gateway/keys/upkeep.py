"""How keys are looked after while a gateway runs: plain values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..errors import ConfigurationError
from .key import Key
from .sealing import Seal


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """Given to a Gateway or Relay as `keys=`.

    sweep: seconds between two looks at every key (None: never), concurrency: how many are asked
    about at a time. state_file: where tokens outlive a restart without a shared store. seal: seals
    secrets in the store and the file. on_removed: told of every key that is taken out, and why.
    Raises ConfigurationError for numbers that cannot work.
    """

    sweep: float | None = 60.0
    concurrency: int = 4
    state_file: str | None = None
    seal: Seal | None = field(default=None, repr=False)
    on_removed: Sequence[Callable[[Key, str], None]] = ()

    def __post_init__(self) -> None:
        if self.sweep is not None and self.sweep < 0:
            raise ConfigurationError("keys.sweep is a number of seconds from 0")
        if self.concurrency < 1:
            raise ConfigurationError("keys.concurrency is a whole number from 1")
