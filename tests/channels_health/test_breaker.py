"""The breaker's states, against a clock that the tests move."""

from __future__ import annotations

from math import inf
from random import Random
from typing import Any

from asgi_llm_gateway.channels.health.breaker import Breaker
from asgi_llm_gateway.channels.health.events import Change
from asgi_llm_gateway.channels.health.rules import HealthRules

PLAIN = HealthRules(jitter=0, success_below=0)


def breaker(rules: HealthRules = PLAIN) -> Breaker:
    return Breaker(rules, Random(0))


def fail(b: Breaker, now: float, *, times: int = 1, **more: Any) -> Change | None:
    change = None
    for _ in range(times):
        change = b.failed(now, **{"began": now, "probe": 0, "reason": "x", **more})
    return change


def good(
    b: Breaker, now: float, *, probe: int = 0, slow: bool = False, began: float | None = None
) -> Change | None:
    return b.succeeded(now, began=now if began is None else began, probe=probe, slow=slow)


def opened(at: float = 100.0, rules: HealthRules = PLAIN) -> Breaker:
    b = breaker(rules)
    assert fail(b, at, times=rules.failures) is not None
    return b


def test_five_failures_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    b = breaker()
    assert fail(b, 1, times=4) is None
    assert good(b, 1) is None
    assert fail(b, 1, times=4) is None
    change = fail(b, 1)
    assert change == Change("closed", "open", "5 failures in a row, the last: x", 3)
    assert not b.admits(2.9)
    assert b.admits(3)


def test_one_probe_goes_at_a_time_and_a_good_one_closes() -> None:
    b = opened()
    number, change = b.begun(102)
    assert number
    assert change is not None
    assert (change.old, change.new) == ("open", "half_open")
    assert not b.admits(102)
    closed = good(b, 103, probe=number)
    assert closed is not None
    assert closed.new == "closed"
    assert b.admits(103)
    assert b.begun(103) == (0, None)


def test_a_bad_probe_opens_it_for_twice_as_long_up_to_the_longest() -> None:
    b = opened()
    now, lasted = 102.0, []
    for _ in range(6):
        number, _ = b.begun(now)
        change = fail(b, now, probe=number)
        assert change is not None
        assert change.until is not None
        lasted.append(change.until - now)
        now = change.until
    assert lasted == [4, 8, 16, 20, 20, 20]


def test_a_probe_that_is_never_heard_of_blocks_no_longer_than_its_lease() -> None:
    b = opened()
    lost, _ = b.begun(102)
    assert not b.admits(111.9)
    assert b.retry_at(105) == 112
    assert b.admits(112)
    second, change = b.begun(112)
    assert change is None
    assert fail(b, 113, probe=lost) is None  # it is not the probe any more
    assert b.state == "half_open"
    assert good(b, 114, probe=lost) is not None  # but that it went well is news all the same
    assert good(b, 115, probe=second) is None


def test_a_probe_of_an_earlier_opening_says_nothing() -> None:
    b = opened()
    lost, _ = b.begun(102)
    second, _ = b.begun(112)
    assert fail(b, 113, probe=second) is not None
    b.begun(130)
    assert good(b, 131, probe=lost) is None
    assert b.state == "half_open"


def test_a_probe_given_back_lets_the_next_call_be_one_at_once() -> None:
    b = opened()
    number, _ = b.begun(102)
    b.given_back(number)
    assert b.admits(102)


def test_an_answer_that_begins_well_closes_before_its_end() -> None:
    b = opened()
    number, _ = b.begun(102)
    assert b.answered(102.5, 0) is None
    assert b.answered(102.5, number) is not None
    assert b.state == "closed"


def test_calls_begun_before_the_last_change_count_for_nothing() -> None:
    b = opened()
    number, _ = b.begun(102)
    assert fail(b, 102.5, began=50, times=50) is None  # half open
    assert b.state == "half_open"
    good(b, 103, probe=number)
    assert fail(b, 110, began=50, times=50) is None  # closed again
    assert good(b, 110, began=50) is None
    assert fail(b, 111, began=104, times=4) is None
    assert fail(b, 111, began=104) is not None


def test_failures_while_it_is_open_do_not_prolong_it() -> None:
    b = opened()
    fail(b, 101, times=100)
    assert b.until == 102


def test_what_a_provider_asks_for_is_honoured_at_once_and_the_longest_counts() -> None:
    b = breaker()
    change = fail(b, 100, cooldown=30)
    assert change == Change("closed", "open", "x; it asked for 30 s", 130)
    assert fail(b, 101, cooldown=5) is None
    assert b.until == 130
    longer = fail(b, 101, cooldown=50)
    assert longer == Change("open", "open", "x; it asked for 50 s", 151)
    assert fail(b, 101.5, cooldown=50) is None  # half a second more is no news
    assert b.until == 151.5
    capped = breaker()
    fail(capped, 0, cooldown=9999)
    assert capped.until == 60


def test_asking_for_nothing_is_an_ordinary_failure() -> None:
    b = breaker()
    assert fail(b, 1, cooldown=0) is None
    assert b.state == "closed"


def test_after_a_calm_time_openings_begin_short_again() -> None:
    b = opened()
    number, _ = b.begun(102)
    fail(b, 102, probe=number)
    number, _ = b.begun(106)
    good(b, 106, probe=number)
    fail(b, 110, times=5)
    assert b.until == 118  # the third in a row: 8 s
    number, _ = b.begun(118)
    good(b, 118, probe=number)
    fail(b, 179, times=5)
    assert b.until == 181


def test_a_share_of_failures_within_the_window_opens_it() -> None:
    rules = HealthRules(failures=0, window_calls=10, least_calls=10, success_below=0.8, jitter=0)
    b = breaker(rules)
    for n in range(9):
        assert (fail(b, n) if n < 3 else good(b, n)) is None
    change = good(b, 9)
    assert change is not None
    assert change.reason == "3 of the last 10 calls failed"
    two = breaker(rules)
    fail(two, 0, times=2)
    for n in range(20):
        assert good(two, n) is None


def test_what_is_older_than_the_window_is_forgotten() -> None:
    rules = HealthRules(failures=0, window_seconds=60, least_calls=4, success_below=0.6, jitter=0)
    b = breaker(rules)
    fail(b, 0, times=3)
    assert fail(b, 61) is None
    assert fail(b, 62, times=3) is not None


def test_slow_calls_open_it_when_there_are_too_many() -> None:
    rules = HealthRules(slow_call=5, slow_above=0.5, least_calls=4, jitter=0)
    b = breaker(rules)
    for n in range(2):
        assert good(b, n, slow=False) is None
    assert good(b, 2, slow=True) is None
    assert good(b, 3, slow=True) is None
    change = good(b, 4, slow=True)
    assert change is not None
    assert change.reason == "3 of the last 5 calls took 5 s or longer"


def test_recovery_by_test_takes_out_instead_of_opening() -> None:
    b = breaker(HealthRules(recovery="test", failures=2))
    change = fail(b, 1, times=2)
    assert change is not None
    assert change.new == "out"
    assert not b.admits(1e9)
    assert b.retry_at(1) == inf
    assert b.restore(2, "tested", by_hand=False) is not None
    assert b.admits(2)


def test_a_hand_wins_over_everything() -> None:
    b = breaker()
    b.disable(1, "by hand")
    for change in (
        b.disable(2, "again"),
        b.out(2, "x"),
        b.open_until(2, 50, "x"),
        fail(b, 2, times=9),
        fail(b, 2, cooldown=9),
        good(b, 2),
        b.restore(2, "a test", by_hand=False),
    ):
        assert change is None
        assert b.state == "disabled"
    assert b.restore(3, "by hand", by_hand=True) == Change("disabled", "closed", "by hand")


def test_out_stays_out_through_openings_and_successes() -> None:
    b = breaker()
    b.out(1, "dead")
    assert b.open_until(1, 50, "x") is None
    assert fail(b, 1, cooldown=5) is None
    assert good(b, 60) is None
    assert b.state == "out"


def test_it_is_well_when_nothing_is_left_to_remember() -> None:
    b = breaker()
    assert b.well(0)
    fail(b, 0)
    assert not b.well(0)
    good(b, 1)
    assert not b.well(59)  # the failure is still in the window
    assert b.well(61)
    b = opened(at=0)
    number, _ = b.begun(2)
    assert not b.well(1000)
    good(b, 1000, probe=number)
    assert not b.well(1060)  # it remembers how long it was open last
    assert b.well(1061)


def test_answers_that_take_longer_than_the_lease_close_it_too() -> None:
    b = breaker()
    fail(b, 0, times=5)
    calls: list[tuple[int, int]] = []
    for now in range(10, 60):  # a call a second, every answer good after 30 s
        for began, probe in [call for call in calls if now - call[0] >= 30]:
            calls.remove((began, probe))
            good(b, now, began=began, probe=probe)
        if b.admits(now):
            calls.append((now, b.begun(now)[0]))
    assert b.state == "closed"
