"""Which candidate is asked next: pure, and fair by weight."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest

from asgi_llm_gateway.channels.channel import Channel
from asgi_llm_gateway.channels.choosing import Candidates, weighted
from asgi_llm_gateway.channels.live import LiveChannel
from tests.upstreams import FakeUpstream


def live(name: str, **config: Any) -> LiveChannel:
    given = {"name": name, "base_url": "https://p.test/v1", "models": ["*"], **config}
    return LiveChannel(Channel(**given), FakeUpstream(), {})


class Point(Random):
    """A random source that gives one number."""

    def __init__(self, point: float) -> None:
        super().__init__(0)
        self.point = point

    def random(self) -> float:
        return self.point


@pytest.mark.parametrize("weights", [[1, 1], [3, 1], [0.5, 1.5, 2], [1000, 1]])
def test_each_channel_gets_its_weights_share_of_the_random_numbers(weights: list[float]) -> None:
    channels = [live(f"c{n}", weight=weight) for n, weight in enumerate(weights)]
    steps = 8008
    points = [(n + 0.5) / steps for n in range(steps)]
    shares = Counter(weighted(channels, Point(point)).name for point in points)
    for channel in channels:
        wanted = steps * channel.config.weight / sum(weights)
        assert abs(shares[channel.name] - wanted) <= 1


def test_the_ends_of_the_random_numbers_choose_the_first_and_the_last() -> None:
    channels = [live("a"), live("b", weight=0.1), live("c", weight=1e-9)]
    assert weighted(channels, Point(0.0)).name == "a"
    assert weighted(channels, Point(1 - 2**-53)).name == "c"


def order(candidates: Candidates, *, spend: bool) -> list[str]:
    found = []
    while (channel := candidates.channel()) is not None and len(found) < 20:
        found.append(channel.name)
        candidates.failed(channel, f"key {len(found)}")
        if spend:
            candidates.spend(channel)
    return found


def test_tiers_come_in_order_and_each_channel_once_when_spent() -> None:
    tiers = ((live("a"),), (live("b"), live("c")), (live("d"),))
    found = order(Candidates(tiers, Random(1)), spend=True)
    assert found[0] == "a"
    assert sorted(found[1:3]) == ["b", "c"]
    assert found[3:] == ["d"]


def test_the_same_random_source_gives_the_same_order() -> None:
    tiers = (tuple(live(f"c{n}", weight=n + 1) for n in range(6)),)
    one = order(Candidates(tiers, Random(9)), spend=True)
    assert one == order(Candidates(tiers, Random(9)), spend=True)
    assert sorted(one) == sorted(c.name for c in tiers[0])


def test_among_equals_one_that_has_not_failed_goes_first() -> None:
    tiers = ((live("a"), live("b"), live("c")),)
    for seed in range(20):
        found = order(Candidates(tiers, Random(seed)), spend=False)
        assert sorted(found[:3]) == ["a", "b", "c"]
        assert len(found) == 20


def test_what_was_tried_is_kept_by_channel() -> None:
    a, b = live("a"), live("b")
    candidates = Candidates(((a, b),), Random(1))
    candidates.failed(a, "k1")
    candidates.failed(a, "k2")
    candidates.failed(b, "k1")
    assert candidates.tried == {"a": {"k1", "k2"}, "b": {"k1"}}


def test_nothing_to_choose_from_is_nothing() -> None:
    assert Candidates((), Random(1)).channel() is None
