"""Which candidate is asked next: pure, fair by weight, and never one that cannot be used."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi_llm_gateway.channels.choosing import LOOKS, STRATEGIES, Candidates, Strategy, weighted
from asgi_llm_gateway.channels.live import LiveChannel
from asgi_llm_gateway.channels.tier import Tier
from tests.channels.lives import Counting, Point, equals, live, many

EVERY = pytest.mark.parametrize("choose", STRATEGIES.values(), ids=STRATEGIES)


def order(candidates: Candidates, *, spend: bool, most: int = 20) -> list[str]:
    found = []
    while (channel := candidates.channel()) is not None and len(found) < most:
        found.append(channel.name)
        candidates.failed(channel, f"key {len(found)}")
        if spend:
            candidates.spend(channel)
    return found


def taken(tier: Tier, choose: Strategy, times: int, admits: Any = None) -> Counter[str]:
    """How often each was chosen."""
    rng = Random(1)
    found = [choose(tier, admits, rng) for _ in range(times)]
    return Counter(channel.name for channel in found if channel is not None)


# Weights


@pytest.mark.parametrize("weights", [[1, 1], [3, 1], [0.5, 1.5, 2], [1000, 1], [1e308, 1e308]])
def test_each_channel_gets_its_weights_share_of_the_random_numbers(weights: list[float]) -> None:
    tier = Tier(live(f"c{n}", weight=weight) for n, weight in enumerate(weights))
    steps = 8008
    points = [(n + 0.5) / steps for n in range(steps)]
    found = [weighted(tier, None, Point(point)) for point in points]
    shares = Counter(channel.name for channel in found if channel is not None)
    most = max(weights)
    for channel in tier:
        wanted = steps * (channel.config.weight / most) / sum(w / most for w in weights)
        assert abs(shares[channel.name] - wanted) <= 1


def test_the_ends_of_the_random_numbers_choose_the_first_and_the_last() -> None:
    tier = equals(live("a"), live("b", weight=0.1), live("c", weight=1e-9))
    assert weighted(tier, None, Point(0.0)) is tier[0]
    assert weighted(tier, None, Point(1 - 2**-53)) is tier[2]


@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.data())
@settings(max_examples=20, deadline=None)
def test_the_shares_of_those_that_may_be_used_are_by_weight_too(
    weights: list[int], data: Any
) -> None:
    tier = Tier(live(f"c{n}", weight=weight) for n, weight in enumerate(weights))
    ill = data.draw(st.integers(0, len(weights) - 1))
    shares = taken(tier, weighted, 3000, Counting(f"c{ill}"))
    left = sum(weights) - weights[ill]
    assert shares[f"c{ill}"] == 0
    for n, weight in enumerate(weights):
        if n != ill:
            assert abs(shares[f"c{n}"] / 3000 - weight / left) < 0.06


def test_one_that_is_hardly_ever_drawn_is_found_when_it_is_the_last() -> None:
    tier = equals(live("a", weight=1e12), live("b", weight=1e-12), live("c", weight=2e-12))
    shares = taken(tier, weighted, 900, Counting("a"))
    assert set(shares) == {"b", "c"}
    assert 1.5 < shares["c"] / shares["b"] < 2.7


# What every strategy keeps


@EVERY
def test_one_that_may_not_be_used_is_never_chosen(choose: Strategy) -> None:
    tier = many(40)
    ill = Counting(*(f"c{n}" for n in range(40) if n % 5))
    assert set(taken(tier, choose, 400, ill)) <= {f"c{n}" for n in range(0, 40, 5)}
    assert choose(tier, lambda _: False, Random(1)) is None
    assert choose(tier, Counting(*(f"c{n}" for n in range(39))), Random(1)) is tier[39]


@EVERY
def test_everyone_gets_something_when_all_are_alike(choose: Strategy) -> None:
    tier = many(6)
    shares = taken(tier, choose, 600)
    assert len(shares) == 6
    assert min(shares.values()) > 50


@EVERY
def test_all_get_the_same_among_more_than_are_compared(choose: Strategy) -> None:
    tier = many(100)
    shares = taken(tier, choose, 10_000)
    assert len(shares) == 100
    assert 50 < min(shares.values()) <= max(shares.values()) < 170


@EVERY
def test_the_same_random_source_gives_the_same_choices(choose: Strategy) -> None:
    def choices() -> list[str]:
        tier = Tier(live(f"c{n}", weight=n + 1) for n in range(40))
        rng = Random(9)
        return [c.name for _ in range(50) if (c := choose(tier, None, rng)) is not None]

    assert choices() == choices()
    assert len(choices()) == 50


@EVERY
def test_of_a_thousand_channels_few_are_looked_at(choose: Strategy) -> None:
    tier = many(1000)
    for ill in (0, 2):  # none, or every second one
        counting = Counting(*(f"c{n}" for n in range(1000) if ill and n % ill))
        rng = Random(1)
        for _ in range(100):
            assert choose(tier, counting, rng) is not None
        assert counting.asked < 100 * 12


@EVERY
@given(
    ill=st.sets(st.integers(0, 7)),
    priorities=st.lists(st.integers(0, 2), min_size=8, max_size=8),
    data=st.data(),
)
@settings(max_examples=25, deadline=None)
def test_every_admissible_candidate_comes_once_tier_by_tier(
    choose: Strategy, ill: set[int], priorities: list[int], data: Any
) -> None:
    tiers = tuple(
        Tier(CHANNELS[n] for n in range(8) if priorities[n] == priority) for priority in range(3)
    )
    sick = Counting(*(f"p{n}" for n in ill))
    prefer = data.draw(st.none() | st.text(max_size=3))
    seed = data.draw(st.integers(0, 99))
    candidates = Candidates(
        tuple(t for t in tiers if t), Random(seed), choose=choose, admits=sick, prefer=prefer
    )
    found = order(candidates, spend=True)
    wanted = [f"p{n}" for n in range(8) if n not in ill]
    assert sorted(found) == sorted(wanted)
    ranks = [priorities[int(name[1:])] for name in found]
    assert ranks == sorted(ranks)


CHANNELS = [live(f"p{n}", weight=n % 3 + 1, cost=n % 2) for n in range(8)]


# Each strategy


def test_round_robin_takes_turns_and_a_weight_of_two_has_two() -> None:
    rng = Random(1)
    choose = STRATEGIES["round_robin"]
    tier = equals("a", "b", "c")
    found = [choose(tier, None, rng) for _ in range(7)]
    assert "".join(c.name for c in found if c) == "abcabca"
    tier = equals(live("a", weight=2), live("b"))
    assert taken(tier, choose, 300) == {"a": 200, "b": 100}


def test_round_robin_passes_by_one_that_is_ill_and_goes_on_after_it() -> None:
    rng = Random(1)
    tier = equals("a", "b", "c")
    found = [STRATEGIES["round_robin"](tier, Counting("b"), rng) for _ in range(4)]
    assert "".join(c.name for c in found if c) == "acac"


def busy(name: str, calls: int, **config: Any) -> LiveChannel:
    channel = live(name, **config)
    for _ in range(calls):
        channel.stats.begun()
    return channel


def test_least_in_flight_takes_the_one_with_the_fewest_calls_for_its_weight() -> None:
    choose = STRATEGIES["least_in_flight"]
    tier = equals(busy("a", 3), busy("b", 1), busy("c", 2))
    assert taken(tier, choose, 50) == {"b": 50}
    assert taken(tier, choose, 50, Counting("b")) == {"c": 50}
    tier = equals(busy("a", 3, weight=4), busy("b", 1))
    assert taken(tier, choose, 50) == {"a": 50}


def test_least_in_flight_spreads_calls_that_stay_evenly() -> None:
    tier, rng = many(10), Random(1)
    for _ in range(105):
        chosen = STRATEGIES["least_in_flight"](tier, None, rng)
        assert chosen is not None
        chosen.stats.begun()
    assert {channel.stats.in_flight for channel in tier} == {10, 11}
    tier = many(300)
    for _ in range(3000):
        chosen = STRATEGIES["least_in_flight"](tier, None, rng)
        assert chosen is not None
        chosen.stats.begun()
    assert max(channel.stats.in_flight for channel in tier) <= 13


def test_where_the_better_ones_are_all_ill_the_one_that_was_drawn_is_taken() -> None:
    tier = equals(busy("a", 1), busy("b", 2), busy("c", 3))
    assert taken(tier, STRATEGIES["least_in_flight"], 20, Counting("a", "b")) == {"c": 20}
    tier = equals(busy("a", 1), busy("b", 1), busy("c", 0))
    assert set(taken(tier, STRATEGIES["least_in_flight"], 50, Counting("c"))) == {"a", "b"}


def test_of_many_the_least_is_nearly_always_one_of_the_best() -> None:
    tier, rng = many(LOOKS * 20), Random(3)
    for n, channel in enumerate(tier):
        channel.stats.in_flight = n
    found = [STRATEGIES["least_in_flight"](tier, None, rng) for _ in range(300)]
    ranks = sorted(channel.stats.in_flight for channel in found if channel is not None)
    assert ranks[270] < len(tier) / 6


def test_latency_takes_the_sooner_of_two() -> None:
    slow, fast = live("slow"), live("fast")
    for channel, seconds in ((slow, 2.0), (fast, 0.5)):
        channel.stats.begun()
        channel.stats.ended(seconds)
    choose = STRATEGIES["latency"]
    assert taken(equals(slow, fast), choose, 50) == {"fast": 50}
    assert taken(equals(slow, fast), choose, 50, Counting("fast")) == {"slow": 50}
    third = live("third")
    third.stats.latency = 1.0
    third.stats._touched = fast.stats._touched
    shares = taken(equals(slow, fast, third), choose, 3000)
    assert shares["slow"] == 0  # it is never the sooner of two
    assert shares["fast"] > shares["third"] > 500


def test_of_two_that_nobody_knows_the_one_with_fewer_calls_is_asked() -> None:
    tier = equals(busy("a", 2), busy("b", 1))
    assert taken(tier, STRATEGIES["latency"], 20) == {"b": 20}
    tier = equals(busy("a", 1), live("new"))
    assert taken(tier, STRATEGIES["latency"], 20) == {"new": 20}


def test_the_cheapest_is_taken_and_by_weight_among_those_that_cost_the_same() -> None:
    choose = STRATEGIES["cheapest"]
    tier = equals(
        live("dear", cost=9.0),
        live("a", cost=1.0, weight=3),
        live("b", cost=1.0),
        live("c", cost=2),
    )
    shares = taken(tier, choose, 4000)
    assert set(shares) == {"a", "b"}
    assert 2.6 < shares["a"] / shares["b"] < 3.4
    assert taken(tier, choose, 20, Counting("a", "b")) == {"c": 20}
    assert taken(tier, choose, 20, Counting("a", "b", "c")) == {"dear": 20}


def test_the_one_with_most_of_its_limits_left_is_taken() -> None:
    def told(name: str, remaining: bytes) -> LiveChannel:
        channel = live(name)
        channel.stats.limits_seen(
            [
                (b"x-ratelimit-limit-requests", b"100"),
                (b"x-ratelimit-remaining-requests", remaining),
            ],
            channel.stats.now(),
        )
        return channel

    choose = STRATEGIES["headroom"]
    tier = equals(told("a", b"10"), told("b", b"60"), told("c", b"30"))
    assert taken(tier, choose, 50) == {"b": 50}
    assert taken(tier, choose, 50, Counting("b")) == {"c": 50}
    assert taken(equals(told("a", b"99"), live("untold")), choose, 20) == {"untold": 20}


# The candidates of a call


def test_tiers_come_in_order_and_each_channel_once_when_spent() -> None:
    tiers = (equals("a"), equals("b", "c"), equals("d"))
    found = order(Candidates(tiers, Random(1)), spend=True)
    assert found[0] == "a"
    assert sorted(found[1:3]) == ["b", "c"]
    assert found[3:] == ["d"]


@EVERY
def test_among_equals_one_that_has_not_failed_goes_first(choose: Strategy) -> None:
    for seed in range(20):
        candidates = Candidates((equals("a", "b", "c"),), Random(seed), choose=choose)
        found = order(candidates, spend=False)
        assert sorted(found[:3]) == ["a", "b", "c"]
        assert len(found) == 20


def test_other_keys_of_one_that_failed_go_before_a_lower_tier() -> None:
    a, b = live("a"), live("b")
    candidates = Candidates(((a,), (b,)), Random(1))
    candidates.failed(a, "k1")
    assert candidates.channel() is a
    candidates.spend(a)
    assert candidates.channel() is b


def test_it_says_whether_a_channel_may_be_asked_once_more() -> None:
    a, b = live("a"), live("b")
    ill: set[str] = set()
    candidates = Candidates(((a, b),), Random(1), admits=lambda c: c.name not in ill)
    candidates.failed(a, "k1")
    assert candidates.again(a)
    ill.add("a")
    assert not candidates.again(a)
    ill.clear()
    assert candidates.again(a)
    candidates.spend(a)
    assert not candidates.again(a)
    assert candidates.again(b)


def test_one_that_falls_ill_between_two_tries_is_passed_by_and_may_come_back() -> None:
    a, b = live("a"), live("b")
    ill: set[str] = {"a"}
    candidates = Candidates(((a,), (b,)), Random(1), admits=lambda c: c.name not in ill)
    assert candidates.channel() is b
    ill.add("b")
    assert candidates.channel() is None
    ill.clear()
    assert candidates.channel() is a


def test_what_was_tried_is_kept_by_channel() -> None:
    a, b = live("a"), live("b")
    candidates = Candidates(((a, b),), Random(1))
    candidates.failed(a, "k1")
    candidates.failed(a, "k2")
    candidates.failed(b, "k1")
    assert candidates.tried == {"a": {"k1", "k2"}, "b": {"k1"}}


def test_nothing_to_choose_from_is_nothing() -> None:
    assert Candidates((), Random(1)).channel() is None
    assert Candidates((), Random(1), prefer="x").channel() is None
