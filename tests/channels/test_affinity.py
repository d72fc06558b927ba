"""Calls that are alike stay on one channel, as long as it can be used."""

from __future__ import annotations

import json
from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi_llm_gateway import ConfigurationError
from asgi_llm_gateway.channels.affinity import Affinity, preferred
from asgi_llm_gateway.channels.choosing import STRATEGIES, Candidates
from asgi_llm_gateway.channels.tier import Tier, point_of
from asgi_llm_gateway.exchange.body import JSONBody, StreamBody
from tests.channels.lives import Counting, equals, live, many

POINTS = [point_of(f"user-{n}") for n in range(4000)]
EIGHT = [live(f"p{n}", weight=1 + n % 3) for n in range(8)]


def favourite(tier: Tier, point: int, admits: Any = None) -> str:
    found = preferred(tier, point, admits)
    assert found is not None
    return found.name


# Where it is looked for


def body(**members: Any) -> JSONBody:
    return JSONBody(json.dumps({"model": "m", **members}).encode())


EVERY = ["header:X-Session", "conversation", "prompt_cache_key", "user"]
ALIKE: list[tuple[list[tuple[bytes, bytes]], dict[str, Any], str | None]] = [
    ([], {}, None),
    ([(b"x-session", b"s1")], {"user": "u"}, "header:x-session\0s1"),
    ([(b"x-session", b"")], {"user": "u"}, "user\0u"),
    ([(b"x-conversation-id", b"c1")], {"user": "u"}, "conversation\0c1"),
    ([], {"conversation": "conv_1", "user": "u"}, "conversation\0conv_1"),
    ([], {"conversation": {"id": "conv_2"}, "user": "u"}, "conversation\0conv_2"),
    ([], {"prompt_cache_key": "k", "user": "u"}, "prompt_cache_key\0k"),
    ([], {"metadata": {"user_id": "u7"}}, "user\0u7"),
    ([], {"metadata": {"user_id": 7}}, None),
    ([], {"metadata": ["user_id"]}, None),
    ([], {"user": {"id": 1}, "prompt_cache_key": 5, "conversation": [1]}, None),
    ([], {"user": "x" * 5000}, "user\0" + "x" * 1024),
]


@pytest.mark.parametrize(("headers", "members", "alike"), ALIKE)
def test_the_first_place_that_has_a_word_decides(
    headers: list[tuple[bytes, bytes]], members: dict[str, Any], alike: str | None
) -> None:
    assert Affinity(EVERY).of(headers, body(**members)) == alike


def test_only_what_was_named_is_looked_at() -> None:
    assert Affinity(["user"]).of([(b"x-conversation-id", b"c")], body(prompt_cache_key="k")) is None
    assert Affinity([]).of([], body(user="u")) is None


def test_a_body_nobody_reads_has_only_headers() -> None:
    both = Affinity(["user", "header:x-s"])
    assert both.of([(b"x-s", b"1")], StreamBody()) == "header:x-s\x001"
    assert both.of([], None) is None


@pytest.mark.parametrize("sources", [["header:"], ["header:é"], ["session"], [""], "user"])
def test_a_place_there_is_not_is_refused(sources: Any) -> None:
    with pytest.raises(ConfigurationError, match="affinity"):
        Affinity(sources)


# Which channel it is


def test_a_preference_means_the_same_channel_in_every_process() -> None:
    tier = equals("alpha", "beta", "gamma")
    found = "".join(favourite(tier, point_of(f"user\0{n}"))[0] for n in range(6))
    assert found == "ggggag"  # computed once: it must not depend on the process, nor ever change


@pytest.mark.parametrize("weights", [[1, 1], [3, 1], [1, 2, 3, 4], [1e300, 2e300]])
def test_preferences_are_spread_by_weight(weights: list[float]) -> None:
    tier = Tier(live(f"w{n}", weight=weight) for n, weight in enumerate(weights))
    shares = Counter(favourite(tier, point) for point in POINTS)
    for n, weight in enumerate(weights):
        wanted = weight / sum(weights)
        assert abs(shares[f"w{n}"] / len(POINTS) - wanted) < 0.03


def test_among_many_everyone_is_somebody_s_favourite() -> None:
    tier = many(200)
    shares = Counter(favourite(tier, point) for point in POINTS)
    assert len(shares) == 200
    assert max(shares.values()) < 4 * len(POINTS) / 200


@given(st.sets(st.integers(0, 7), min_size=1), st.integers(0, 7), st.integers(0, 2**64 - 1))
@settings(max_examples=200, deadline=None)
def test_a_channel_that_comes_or_goes_moves_only_what_prefers_it(
    present: set[int], changed: int, point: int
) -> None:
    before = Tier(EIGHT[n] for n in sorted(present | {changed}))
    after = Tier(EIGHT[n] for n in sorted(present - {changed})) or before
    first = favourite(before, point)
    if first != f"p{changed}":
        assert favourite(after, point) == first


@given(st.sets(st.integers(0, 7), max_size=7), st.integers(0, 2**64 - 1))
@settings(max_examples=200, deadline=None)
def test_one_that_is_ill_is_passed_by_as_if_it_were_not_there(ill: set[int], point: int) -> None:
    well = Tier(channel for n, channel in enumerate(EIGHT) if n not in ill)
    sick = Counting(*(f"p{n}" for n in ill))
    assert favourite(Tier(EIGHT), point, sick) == favourite(well, point)


@given(st.permutations(range(8)), st.integers(0, 2**64 - 1))
@settings(max_examples=50, deadline=None)
def test_the_order_of_the_channels_does_not_matter(order: list[int], point: int) -> None:
    assert favourite(Tier(EIGHT[n] for n in order), point) == favourite(Tier(EIGHT), point)


def test_of_many_one_that_comes_moves_hardly_any_others() -> None:
    before, after = many(100), many(101)
    moved = [p for p in POINTS if favourite(before, p) != favourite(after, p)]
    stolen = [p for p in moved if favourite(after, p) != "c100"]
    assert len(moved) < 3.5 * len(POINTS) / 101
    assert len(stolen) < 2 * len(POINTS) / 101


def test_few_of_many_are_looked_at() -> None:
    counting = Counting()
    tier = many(1000)
    for point in POINTS[:200]:
        assert preferred(tier, point, counting) is not None
    assert counting.asked < 200 * 8


def test_when_all_that_compete_are_ill_the_strategy_chooses() -> None:
    tier = many(100)
    point = point_of("u")
    near = {favourite(tier, point)}
    while (found := preferred(tier, point, Counting(*near))) is not None:
        near.add(found.name)
    assert len(near) == 16
    candidates = Candidates((tier,), Random(1), admits=Counting(*near), prefer="u")
    chosen = candidates.channel()
    assert chosen is not None
    assert chosen.name not in near


@pytest.mark.parametrize("choose", STRATEGIES.values(), ids=STRATEGIES)
def test_a_preference_is_kept_whatever_the_strategy_and_never_blocks(choose: Any) -> None:
    tier = equals("a", "b", "c")
    firsts, seconds = set(), set()
    for seed in range(20):
        candidates = Candidates((tier,), Random(seed), choose=choose, prefer="user\0u1")
        first = candidates.channel()
        assert first is not None
        candidates.failed(first, "k")
        candidates.spend(first)
        second = candidates.channel()
        assert second is not None
        candidates.failed(second, "k")
        third = candidates.channel()
        assert third is not None
        firsts.add(first.name)
        seconds.add(second.name)
        assert {first.name, second.name, third.name} == {"a", "b", "c"}
    assert len(firsts) == len(seconds) == 1


def test_a_preference_does_not_lead_past_a_higher_tier() -> None:
    high, low = equals("h"), equals("a", "b", "c", "d")
    for n in range(20):
        found = Candidates((high, low), Random(1), prefer=f"u{n}").channel()
        assert found is high[0]
