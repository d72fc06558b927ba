"""Channels of equal priority, and what choosing computes of them once instead of at every call."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from functools import cached_property
from hashlib import blake2b
from itertools import accumulate, groupby
from threading import Lock

from .live import LiveChannel


class Tier(tuple[LiveChannel, ...]):
    """Equals, in the order they were written down.

    A plain tuple to whoever reads it; the index keeps one object for equal tiers, so what hangs on
    it is computed once and a round goes on from call to call.
    """

    def __init__(self, channels: Iterable[LiveChannel] = ()) -> None:  # noqa: ARG002 - tuple's own
        self.lock = Lock()
        """Guards `turns`, should event loops of several threads share the tier."""

    @cached_property
    def cumulative(self) -> list[float]:
        """Running sums of the weights, the greatest weight taken as 1."""
        most = max(channel.config.weight for channel in self)
        return list(accumulate(channel.config.weight / most for channel in self))

    def at(self, point: float) -> int:
        """The place at `point` (from 0 up to, not including, 1) of the weights' sum."""
        sums = self.cumulative
        return min(bisect_right(sums, point * sums[-1]), len(self) - 1)

    @cached_property
    def turns(self) -> list[tuple[float, int]]:
        """A heap of (turn, place): whose turn comes first is next; a weight of 2 has two."""
        return [(0.0, place) for place in range(len(self))]

    @cached_property
    def by_cost(self) -> tuple[Tier, ...]:
        """Its channels of equal cost together, the cheapest first."""
        ordered = sorted(self, key=_cost)
        return tuple(Tier(group) for _, group in groupby(ordered, key=_cost))

    @cached_property
    def ring(self) -> tuple[list[int], list[tuple[int, float, LiveChannel]]]:
        """Each channel's own point among 64-bit numbers, sorted; and (point, weight, channel) in
        that order, twice over, so that a stretch may begin anywhere."""
        entries = sorted(
            ((point_of(channel.name), channel.config.weight, channel) for channel in self),
            key=lambda entry: entry[0],
        )
        return [entry[0] for entry in entries], entries * 2


def point_of(text: str) -> int:
    """A 64-bit number that is the same for this text everywhere and always."""
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _cost(channel: LiveChannel) -> float:
    return channel.config.cost
