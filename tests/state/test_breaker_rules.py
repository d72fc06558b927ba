"""The breaker opens after failures in a row, and lets one call at a time find out about the end."""

from __future__ import annotations

import pytest

from asgi_llm_gateway.state.breaker import Breaker


@pytest.fixture
def opened() -> Breaker:
    """Opened at second 100, for one second."""
    breaker = Breaker(failures=3, cooldown=1.0, longest=4.0, patience=2.0)
    assert [breaker.failed(100.0) for _ in range(3)] == [False, False, True]
    return breaker


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    breaker = Breaker(failures=3)
    for _ in range(5):
        assert not breaker.failed(0.0, 2)
        assert breaker.admits(0.0)
        assert not breaker.succeeded()
    assert breaker.closed
    assert breaker.retry_after(0.0) == 0.0
    assert breaker.failed(0.0, 3)
    assert not breaker.closed


def test_open_it_lets_nothing_through_until_the_pause_is_over(opened: Breaker) -> None:
    assert not opened.admits(100.0)
    assert opened.retry_after(100.25) == 0.75
    assert not opened.admits(100.99)
    assert opened.admits(101.0)


def test_half_open_it_lets_one_call_through_at_a_time(opened: Breaker) -> None:
    assert opened.admits(101.0)
    assert not opened.admits(101.0)
    assert not opened.admits(102.9)
    assert opened.admits(103.0), "the probe was never heard of again"
    assert opened.succeeded()
    assert opened.closed
    assert opened.admits(103.0)


def test_the_pause_doubles_with_each_probe_that_fails_and_starts_over_after_a_success(
    opened: Breaker,
) -> None:
    now = 101.0
    for pause in (2.0, 4.0, 4.0):
        assert opened.admits(now)
        assert opened.failed(now + 0.5)
        assert opened.retry_after(now + 0.5) == pause
        now += 0.5 + pause
    assert opened.admits(now)
    opened.succeeded()
    assert opened.failed(now, 3)
    assert opened.retry_after(now) == 1.0


def test_what_was_under_way_when_it_opened_does_not_keep_it_open(opened: Breaker) -> None:
    assert not opened.failed(100.9)
    assert opened.admits(101.0)
