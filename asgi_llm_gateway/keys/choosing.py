"""Which of the free keys to use next. Pure: keys, a turn and a random source in, a key out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from random import Random

from .key import Key

Chooser = Callable[[Sequence[Key], int, Random], Key]

_load = attrgetter("in_flight", "uses")


def random_key(keys: Sequence[Key], turn: int, rng: Random) -> Key:  # noqa: ARG001 - one signature
    """Any of them, each as likely."""
    return keys[int(rng.random() * len(keys))]


def round_robin(keys: Sequence[Key], turn: int, rng: Random) -> Key:  # noqa: ARG001
    """One after the other, in the order given."""
    return keys[turn % len(keys)]


def least_used(keys: Sequence[Key], turn: int, rng: Random) -> Key:  # noqa: ARG001
    """The one with the fewest calls under way, then the fewest ever, then the first."""
    return min(keys, key=_load)


CHOOSERS: Mapping[str, Chooser] = {
    "least_used": least_used,
    "random": random_key,
    "round_robin": round_robin,
}
