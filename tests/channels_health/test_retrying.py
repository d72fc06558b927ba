"""Waits, budgets, and what providers ask for."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llm_gateway.channels.error_class import ErrorClass
from asgi_llm_gateway.channels.retrying import Backoff, RetryBudget, asked_for, key_cooldown
from asgi_llm_gateway.errors import ConfigurationError, ConnectFailed, KeysBusy, ProviderRefused
from asgi_llm_gateway.wire.retryafter import LONGEST_ASKED, retry_after

NOW = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        ([(b"retry-after", b"20")], 20),
        ([(b"retry-after", b" 1.5 ")], 1.5),
        ([(b"retry-after", b"0")], 0),
        ([(b"retry-after", b"-5")], 0),
        ([(b"retry-after", b"999999999")], LONGEST_ASKED),
        ([(b"retry-after-ms", b"250")], 0.25),
        ([(b"retry-after", b"1"), (b"retry-after-ms", b"250")], 0.25),
        ([(b"retry-after", b"3"), (b"retry-after-ms", b"soon")], 3),
        ([(b"retry-after", b"Fri, 15 Jan 2027 08:00:30 GMT")], 30),
        ([(b"retry-after", b"Friday, 15-Jan-27 08:00:30 GMT")], 30),
        ([(b"retry-after", b"Fri, 15 Jan 2027 07:00:00 GMT")], 0),
        ([(b"retry-after", b"Fri, 15 Jan 9999 07:00:00 GMT")], LONGEST_ASKED),
        ([(b"retry-after", b"7"), (b"retry-after", b"9")], 7),
    ],
)
def test_what_a_provider_asks_for_is_read_and_clamped(
    headers: list[tuple[bytes, bytes]], seconds: float | None
) -> None:
    assert retry_after(headers, NOW) == seconds


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"soon",
        b"nan",
        b"inf",
        b"1e9",
        b"1_000",
        "٣".encode(),
        b"\xff",
        b"Fri, 99 Foo 2027 08:00:30 GMT",
        b"Fri, 15 Jan 2027 08:00:30 +9999999999",
        b"1" * 100,
        b"x" * 10_000,
    ],
)
def test_a_retry_after_that_is_none_is_passed_over(value: bytes) -> None:
    assert retry_after([(b"retry-after", value)], NOW) is None


@given(st.binary(max_size=100))
def test_no_retry_after_breaks_anything(value: bytes) -> None:
    for name in (b"retry-after", b"retry-after-ms"):
        seconds = retry_after([(name, value)], NOW)
        assert seconds is None or 0 <= seconds <= LONGEST_ASKED


def test_google_says_in_the_body_for_how_long() -> None:
    body = b'{"error": {"details": [{"retryDelay": "26.5s"}]}}'
    refusal = ProviderRefused("x", status=429, body=body, headers=[(b"a", b"b")])
    assert asked_for(refusal, NOW) == 26.5
    refusal.headers = [(b"retry-after", b"3")]
    assert asked_for(refusal, NOW) == 3


def test_a_caller_cannot_say_it_for_google() -> None:
    body = rb'{"error": {"message": "bad value \"retryDelay\": \"9999s\""}}'
    assert asked_for(ProviderRefused("x", status=429, body=body), NOW) is None


def test_other_failures_say_what_they_carry() -> None:
    assert asked_for(KeysBusy("x", retry_after=4), NOW) == 4
    assert asked_for(ConnectFailed("x"), NOW) is None
    assert asked_for(ProviderRefused("x", status=429, retry_after=2), NOW) == 2


def test_a_key_rests_for_as_long_as_asked_or_as_its_class_says() -> None:
    limited = ErrorClass("x", health="cooldown", scope="key", cooldown=5)
    assert key_cooldown(limited, None) == 5
    assert key_cooldown(limited, 40) == 40
    assert key_cooldown(limited, 0) == 0
    assert key_cooldown(limited, 90_000) == 3600
    assert key_cooldown(ErrorClass("x", health="remove", scope="key", cooldown=5), 9) == 0
    assert key_cooldown(ErrorClass("x", health="cooldown", scope="model", cooldown=5), 9) == 0


def test_bounds_of_the_backoff_double_up_to_the_cap() -> None:
    assert [Backoff().bound(n) for n in range(1, 8)] == [0.5, 1, 2, 4, 8, 8, 8]
    assert Backoff().bound(10_000) == 8
    assert Backoff(first=0).bound(5) == 0


def test_the_jitter_is_full() -> None:
    rng = Random(1)
    waits = [Backoff().wait(3, rng) for _ in range(1000)]
    assert all(0 <= wait < 2 for wait in waits)
    assert min(waits) < 0.1
    assert max(waits) > 1.9
    assert 0.9 < sum(waits) / 1000 < 1.1


@pytest.mark.parametrize("wrong", [{"first": -1}, {"factor": 0.5}, {"cap": float("nan")}])
def test_a_backoff_that_cannot_work_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="backoff"):
        Backoff(**wrong)


def test_little_traffic_may_be_retried_up_to_the_floor() -> None:
    budget = RetryBudget(floor=3)
    assert [budget.may_retry(100.0) for _ in range(5)] == [True, True, True, False, False]


def test_much_traffic_may_be_retried_by_its_share() -> None:
    budget = RetryBudget(floor=3)
    for _ in range(1000):
        budget.called(100.0)
    assert sum(budget.may_retry(101.0) for _ in range(1000)) == 100


def test_a_storm_is_held_down_for_as_long_as_it_lasts() -> None:
    budget = RetryBudget()
    retries = 0
    for n in range(60_000):  # 60 s of 1 000 failing calls each, every one of which wants 3 retries
        now = n / 1000
        budget.called(now)
        retries += sum(budget.may_retry(now) for _ in range(3))
    assert retries <= 0.1 * 60_000 + 100


def test_the_window_slides_and_idleness_empties_it() -> None:
    budget = RetryBudget(floor=1, window=10)
    assert budget.may_retry(0.5)
    assert not budget.may_retry(9.5)
    assert budget.may_retry(10.5)
    assert not budget.may_retry(19.9)
    assert budget.may_retry(1e6)
    assert not budget.may_retry(1e6 - 50)  # a clock that goes back changes nothing


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=300))
def test_retries_within_a_window_never_exceed_the_budget(steps: list[tuple[float, bool]]) -> None:
    budget = RetryBudget(0.5, window=10, floor=2)
    now = 0.0
    calls: list[float] = []
    retries: list[float] = []
    for pause, retry in steps:
        now += pause
        if not retry:
            budget.called(now)
            calls.append(now)
        elif budget.may_retry(now):
            retries.append(now)
            recent = sum(at > now - 10 for at in calls)
            # Slots of a second: what the budget still counts began at most 10 s ago.
            assert sum(at > now - 9 for at in retries) <= max(2, 0.5 * recent) + 1


@pytest.mark.parametrize("wrong", [{"ratio": 2}, {"window": 0}, {"floor": -1}])
def test_a_budget_that_cannot_work_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="retry budget"):
        RetryBudget(**wrong)  # type: ignore[arg-type]
