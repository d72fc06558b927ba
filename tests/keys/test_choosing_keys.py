"""Which key is taken next: pure, the same for the same random source."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from asgi_llm_gateway.keys.choosing import CHOOSERS, least_used, random_key, round_robin
from asgi_llm_gateway.keys.key import Key

KEYS = [Key(f"sk-{name}") for name in "abcde"]


class Points(Random):
    """A random source whose numbers are given."""

    def __init__(self, *points: float) -> None:
        super().__init__(0)
        self.points = list(points)

    def random(self) -> float:
        return self.points.pop(0)


@pytest.mark.parametrize("name", CHOOSERS)
def test_the_same_input_gives_the_same_key_and_changes_nothing(name: str) -> None:
    choose = CHOOSERS[name]
    before = [(key.uses, key.in_flight) for key in KEYS]
    first = [choose(KEYS, turn, Random(7)) for turn in range(20)]
    again = [choose(KEYS, turn, Random(7)) for turn in range(20)]
    assert first == again
    assert [(key.uses, key.in_flight) for key in KEYS] == before


@pytest.mark.parametrize("name", CHOOSERS)
def test_a_single_key_is_always_the_one(name: str) -> None:
    assert CHOOSERS[name](KEYS[:1], 17, Random(1)) is KEYS[0]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_random_gives_each_key_the_same_share_of_the_random_numbers(count: int) -> None:
    points = [n / 1000 for n in range(1000)]
    shares = Counter(random_key(KEYS[:count], 0, Points(point)) for point in points)
    assert max(shares.values()) - min(shares.values()) <= 1
    assert len(shares) == count


def test_the_largest_random_number_is_no_index_too_far() -> None:
    assert random_key(KEYS, 0, Points(1 - 2**-53)) is KEYS[-1]


def test_round_robin_goes_around_in_the_order_given() -> None:
    taken = [round_robin(KEYS, turn, Random(1)) for turn in range(11)]
    assert taken == [*KEYS, *KEYS, KEYS[0]]


def test_least_used_looks_at_calls_under_way_then_at_all_then_at_the_order() -> None:
    busy, old, new, late = (Key(f"sk-{n}") for n in ("busy", "old", "new", "late"))
    busy.in_flight, busy.uses = 1, 1
    old.uses, new.uses, late.uses = 9, 2, 2
    assert least_used([busy, old, new, late], 0, Random(1)) is new
    assert least_used([busy, old], 0, Random(1)) is old
    assert least_used([late, new], 0, Random(1)) is late
