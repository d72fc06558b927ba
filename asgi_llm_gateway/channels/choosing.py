"""Which candidate next. Pure: what there is and what was tried in, a channel out.

A strategy takes one of several equals. It looks at few of them, however many there are: where most
can be used, a draw or two finds one, and only where hardly any can are all gone through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from heapq import heapreplace
from random import Random
from types import MappingProxyType
from typing import Protocol

from .affinity import preferred
from .index import Tiers
from .live import LiveChannel
from .tier import Tier, point_of

Admits = Callable[[LiveChannel], bool]
Scores = Callable[[Sequence[LiveChannel]], list[float]]
_DRAWS = 32
"""Draws that may hit a channel that cannot be used, before all are gone through."""
LOOKS = 32
"""Equals that are compared at most: all of them up to so many, and half as many or more of any
greater number. The best of those is nearly always among the best tenth of all."""


class Strategy(Protocol):
    """Takes one of a tier that `admits` lets pass (None: every one); None when it lets none."""

    def __call__(self, tier: Tier, admits: Admits | None, rng: Random) -> LiveChannel | None:
        """The channel to ask."""
        ...


def weighted(tier: Tier, admits: Admits | None, rng: Random) -> LiveChannel | None:
    """Each as often as its weight says."""
    place = _drawn(tier, admits, rng)
    return None if place is None else tier[place]


def round_robin(tier: Tier, admits: Admits | None, rng: Random) -> LiveChannel | None:
    """One after the other, a weight of 2 twice as often; one that cannot be used loses its turn."""
    with tier.lock:
        turns = tier.turns
        for _ in range(_DRAWS):
            turn, place = turns[0]
            channel = tier[place]
            heapreplace(turns, (turn + 1 / channel.config.weight, place))
            if admits is None or admits(channel):
                return channel
    return weighted(tier, admits, rng)


def least_in_flight(tier: Tier, admits: Admits | None, rng: Random) -> LiveChannel | None:
    """The one with the fewest calls under way for its weight, of `LOOKS`."""
    return _best(tier, admits, rng, _load)


def latency(tier: Tier, admits: Admits | None, rng: Random) -> LiveChannel | None:
    """Of two at random the one that answers sooner: the best of all would get every call at once.

    One is drawn by weight and the other evenly; of two alike the one with fewer calls under way.
    """
    place = _drawn(tier, admits, rng)
    if place is None:
        return None
    one = tier[place]
    others = len(tier) - 1
    for _ in range(min(_DRAWS, others)):
        at = int(rng.random() * others)
        other = tier[at + (at >= place)]
        if admits is None or admits(other):
            return other if _wait(other) < _wait(one) else one
    return one


def cheapest(tier: Tier, admits: Admits | None, rng: Random) -> LiveChannel | None:
    """The one with the lowest `cost`, by weight among those that cost the same."""
    for equals in tier.by_cost:
        found = weighted(equals, admits, rng)
        if found is not None:
            return found
    return None


def headroom(tier: Tier, admits: Admits | None, rng: Random) -> LiveChannel | None:
    """The one with the largest share of its provider's rate limits left, of `LOOKS`."""
    return _best(tier, admits, rng, _used)


STRATEGIES: Mapping[str, Strategy] = {
    "cheapest": cheapest,
    "headroom": headroom,
    "latency": latency,
    "least_in_flight": least_in_flight,
    "round_robin": round_robin,
    "weighted": weighted,
}


def _drawn(tier: Tier, admits: Admits | None, rng: Random) -> int | None:
    """A place drawn by weight from those that may be used."""
    if admits is None:
        return tier.at(rng.random())
    for _ in range(1 if len(tier) == 1 else _DRAWS):
        place = tier.at(rng.random())
        if admits(tier[place]):
            return place
    left = [place for place, channel in enumerate(tier) if admits(channel)]
    return left[Tier(tier[place] for place in left).at(rng.random())] if left else None


def _best(tier: Tier, admits: Admits | None, rng: Random, scores: Scores) -> LiveChannel | None:
    """The one with the lowest score; of several alike the one that was drawn by weight."""
    place = _drawn(tier, admits, rng)
    if place is None:
        return None
    drawn = tier[place]
    least = scores((drawn,))[0]
    some = _some(tier, rng)
    found = scores(some)
    for at in sorted(range(len(some)), key=found.__getitem__):
        if found[at] >= least:
            break
        if admits is None or admits(some[at]):
            return some[at]
    return drawn


def _some(tier: Tier, rng: Random) -> tuple[LiveChannel, ...]:
    """At most `LOOKS` of a tier, each as likely, beginning anywhere.

    Every n-th of them, and n another each time: others are compared with one another, and one slice
    takes them.
    """
    apart = -(-len(tier) // LOOKS)
    apart += int(rng.random() * apart)
    some = tier[int(rng.random() * apart) :: apart]
    cut = int(rng.random() * len(some))
    return some[cut:] + some[:cut]


def _load(channels: Sequence[LiveChannel]) -> list[float]:
    return [channel.stats.in_flight / channel.config.weight for channel in channels]


def _used(channels: Sequence[LiveChannel]) -> list[float]:
    now = channels[0].stats.now()
    return [1.0 - channel.stats.headroom(now) for channel in channels]


def _wait(channel: LiveChannel) -> tuple[float, int]:
    stats = channel.stats
    return stats.expected(), stats.in_flight


class Candidates:
    """The untried (channel, key) pairs of a call, highest priority first.

    Among equals a channel that has not failed in this call goes before the other keys of one that
    has; a channel that is `spent` (nothing answers there, or its keys are all tried) is passed by,
    and so is one that `admits` does not let pass at the moment. `prefer` is what makes calls alike
    (see affinity.py): they go to the same of several equals while it can be used, and are served
    by another when it cannot.
    """

    # Made by the first failure: most calls have none.
    _spent: frozenset[str] = frozenset()
    _failed: Mapping[str, LiveChannel] = MappingProxyType({})
    tried: Mapping[str, frozenset[str]] = MappingProxyType({})
    """Fingerprints of the keys tried, by channel name."""

    def __init__(
        self,
        tiers: Tiers,
        rng: Random,
        *,
        choose: Strategy = weighted,
        admits: Admits | None = None,
        prefer: str | None = None,
    ) -> None:
        self.tiers = tiers
        self._rng = rng
        self._choose = choose
        self._admits = admits
        self._prefer = None if prefer is None else point_of(prefer)

    def channel(self, besides: LiveChannel | None = None) -> LiveChannel | None:
        """The channel to ask next, None when there is nothing left; not the one `besides` which it
        is asked, of which a key was tried."""
        if self._admits is None and not self._failed and not self._spent:
            tier = self.tiers[0] if self.tiers else ()
            if len(tier) == 1:
                return tier[0]
        admits = self._fresh if self._spent or self._failed else self._admits
        for equals in self.tiers:
            tier = equals if isinstance(equals, Tier) else Tier(equals)
            found = self._one_of(tier, admits)
            if found is None and self._failed:
                known = self._failed.values()
                again = Tier(c for c in known if c is not besides and self.again(c) and c in tier)
                found = self._one_of(again, None) if again else None
            if found is not None:
                return found
        return None

    def again(self, channel: LiveChannel) -> bool:
        """Whether this channel may be asked once more, with a key of it that was not tried."""
        if channel.name in self._spent:
            return False
        return self._admits is None or self._admits(channel)

    def failed(self, channel: LiveChannel, key: str) -> None:
        """This key (its fingerprint) of this channel was tried in vain; its others may do."""
        name = channel.name
        self._failed = {**self._failed, name: channel}
        self.tried = {**self.tried, name: self.tried.get(name, frozenset()) | {key}}

    def spend(self, channel: LiveChannel) -> None:
        """No more of this channel in this call."""
        self._spent |= {channel.name}

    def _fresh(self, channel: LiveChannel) -> bool:
        return channel.name not in self._failed and self.again(channel)

    def _one_of(self, tier: Tier, admits: Admits | None) -> LiveChannel | None:
        if self._prefer is not None:
            found = preferred(tier, self._prefer, admits)
            if found is not None:
                return found
        return self._choose(tier, admits, self._rng)
