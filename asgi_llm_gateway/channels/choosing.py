"""Which candidate next. Pure: what there is and what was tried in, a channel out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from types import MappingProxyType

from .index import Tiers
from .live import LiveChannel


def weighted(channels: Sequence[LiveChannel], rng: Random) -> LiveChannel:
    """One of several equals, each as often as its weight says."""
    if len(channels) == 1:
        return channels[0]
    point = rng.random() * sum(c.config.weight for c in channels)
    for channel in channels:
        point -= channel.config.weight
        if point < 0:
            return channel
    return channels[-1]


class Candidates:
    """The untried (channel, key) pairs of a call, highest priority first.

    Among equals a channel that has not failed in this call goes before the other keys of one that
    has; a channel that is `spent` (nothing answers there, or its keys are all tried) is passed by.
    """

    # Sets are made by the first failure: most calls have none.
    _spent: frozenset[str] = frozenset()
    _failed: frozenset[str] = frozenset()
    tried: Mapping[str, frozenset[str]] = MappingProxyType({})
    """Fingerprints of the keys tried, by channel name."""

    def __init__(self, tiers: Tiers, rng: Random) -> None:
        self._tiers = tiers
        self._rng = rng

    def channel(self) -> LiveChannel | None:
        """The channel to ask next, None when there is nothing left."""
        if not self._spent and not self._failed:
            return weighted(self._tiers[0], self._rng) if self._tiers else None
        for tier in self._tiers:
            left = [c for c in tier if c.name not in self._spent]
            if left:
                fresh = [c for c in left if c.name not in self._failed]
                return weighted(fresh or left, self._rng)
        return None

    def failed(self, channel: LiveChannel, key: str) -> None:
        """This key of this channel was tried in vain."""
        name = channel.name
        self._failed |= {name}
        self.tried = {**self.tried, name: self.tried.get(name, frozenset()) | {key}}

    def spend(self, channel: LiveChannel) -> None:
        """No more of this channel in this call."""
        self._spent |= {channel.name}
