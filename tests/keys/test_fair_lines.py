"""Who is served next."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from asgi_llm_gateway.keys.waiting import FairQueue


def served(line: FairQueue[str], count: int) -> list[str]:
    order = []
    for _ in range(count):
        caller, item = next(line.in_turn())
        assert line.discard(caller, item)
        line.turn_over(caller)
        order.append(item)
    return order


def test_callers_take_turns_and_each_ones_calls_keep_their_order() -> None:
    line: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3", "b1", "b2", "c1"):
        line.add(item[0], item)
    assert [item for _, item in line.in_turn()] == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert served(line, 6) == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert len(line) == 0


def test_who_leaves_unserved_costs_its_caller_no_turn() -> None:
    line: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "b1"):
        line.add(item[0], item)
    assert line.discard("a", "a1")
    assert not line.discard("a", "a1")
    assert not line.discard("x", "a1")
    assert served(line, 2) == ["a2", "b1"]


def test_who_came_first_stands_first_although_it_joins_later() -> None:
    line: FairQueue[str] = FairQueue()
    early = line.arrival()
    line.add("a", "second")
    line.add("a", "first", early)
    line.add("a", "third")
    assert served(line, 3) == ["first", "second", "third"]


@given(st.lists(st.integers(0, 4), max_size=60))
def test_nobody_is_served_twice_more_than_another_who_waits_as_long(callers: list[int]) -> None:
    line: FairQueue[tuple[int, int]] = FairQueue()
    for number, caller in enumerate(callers):
        line.add(caller, (caller, number))
    assert len(list(line.in_turn())) == len(line) == len(callers)
    counts: Counter[int] = Counter()
    while len(line):
        waiting = {caller for caller, _ in line.in_turn()}
        caller, item = next(line.in_turn())
        assert line.discard(caller, item)
        line.turn_over(caller)
        assert all(counts[caller] <= counts[other] for other in waiting)
        counts[caller] += 1
