"""What is measured of a channel, and what its provider tells of its limits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llm_gateway.channels.ratelimits import Told, lowest
from asgi_llm_gateway.channels.stats import ChannelStats


class Hand:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def measured(clock: Hand, *firsts: float | None) -> ChannelStats:
    stats = ChannelStats(clock)
    for first in firsts:
        stats.begun()
        stats.ended(first)
    return stats


def test_calls_under_way_are_counted() -> None:
    stats = ChannelStats(Hand())
    for _ in range(3):
        stats.begun()
    stats.ended(0.1)
    stats.abandoned()
    assert stats.in_flight == 1


def test_the_latency_follows_newer_calls_without_jumping() -> None:
    clock = Hand()
    assert ChannelStats(clock).latency is None
    assert measured(clock, 0.5).latency == 0.5
    assert measured(clock, 1.0, 2.0).latency == pytest.approx(1.3)
    steady = measured(clock, *[1.0] * 5, *[3.0] * 20).latency
    assert steady == pytest.approx(3.0, abs=0.01)


def test_a_call_that_never_answered_counts_as_a_slow_one() -> None:
    clock = Hand()
    assert measured(clock, None).latency == 1.0
    assert measured(clock, 4.0, None).latency == pytest.approx(5.2)
    worst = measured(clock, *[None] * 100).latency
    assert worst is not None
    assert 30.0 < worst <= 60.0


def test_a_caller_that_left_says_nothing_of_the_channel() -> None:
    stats = measured(Hand(), 0.5)
    stats.begun()
    stats.abandoned()
    assert (stats.latency, stats.in_flight) == (0.5, 0)


def test_what_was_slow_is_tried_again_in_the_end_with_one_call() -> None:
    clock = Hand()
    stats = measured(clock, 8.0)
    assert stats.expected() == 8.0
    clock.now += 30
    assert stats.expected() == pytest.approx(4.0)
    clock.now += 90
    assert stats.expected() == pytest.approx(0.5)
    stats.begun()
    assert stats.expected() == 8.0
    clock.now += 90
    assert stats.expected() == 8.0
    stats.ended(7.0)
    assert stats.expected() == stats.latency == pytest.approx(7.7)


def test_what_nobody_knows_is_asked_once_before_it_is_asked_by_all() -> None:
    stats = ChannelStats(Hand())
    assert stats.expected() == 0.0
    stats.begun()
    assert stats.expected() == float("inf")
    stats.ended(0.4)
    assert stats.expected() == 0.4


# Limits


def openai(remaining: bytes, reset: bytes = b"30s", what: bytes = b"requests") -> Any:
    return [
        (b"x-ratelimit-limit-" + what, b"100"),
        (b"x-ratelimit-remaining-" + what, remaining),
        (b"x-ratelimit-reset-" + what, reset),
    ]


def test_headroom_is_what_was_told_until_the_reset_that_was_told() -> None:
    clock = Hand()
    stats = ChannelStats(clock)
    assert stats.headroom(clock()) == 1.0
    stats.limits_seen([(b"content-type", b"application/json")], clock())
    assert stats.headroom(clock()) == 1.0
    stats.limits_seen(openai(b"20"), clock())
    assert stats.headroom(clock()) == pytest.approx(0.2)
    assert stats.headroom(clock() + 29.9) == pytest.approx(0.2)
    assert stats.headroom(clock() + 30) == 1.0
    stats.limits_seen(openai(b"40"), clock() + 40)
    assert stats.headroom(clock() + 41) == pytest.approx(0.4)


def test_of_several_keys_what_was_told_last_counts_half() -> None:
    clock = Hand()
    stats = ChannelStats(clock)
    stats.limits_seen(openai(b"100"), clock())
    stats.limits_seen(openai(b"0"), clock())
    assert stats.headroom(clock()) == pytest.approx(0.5)


DATE = (b"date", b"Thu, 01 Jan 2026 00:00:00 GMT")
MIDNIGHT = 1_767_225_600.0
ANTHROPIC = [
    (b"anthropic-ratelimit-requests-limit", b"50"),
    (b"anthropic-ratelimit-requests-remaining", b"49"),
    (b"anthropic-ratelimit-requests-reset", b"2026-01-01T00:00:01Z"),
    (b"anthropic-ratelimit-input-tokens-limit", b"40000"),
    (b"anthropic-ratelimit-input-tokens-remaining", b"10000"),
    (b"anthropic-ratelimit-input-tokens-reset", b"2026-01-01T00:00:45Z"),
]
SEEN: list[tuple[list[tuple[bytes, bytes]], float | None, Told | None]] = [
    ([], None, None),
    (openai(b"25"), None, Told(0.25, 30.0)),
    (openai(b"25") + openai(b"10", b"1s", b"tokens"), None, Told(0.10, 1.0)),
    (openai(b"25", b"6m0s"), None, Told(0.25, 360.0)),
    (openai(b"25", b"1h2m3.5s"), None, Told(0.25, 3723.5)),
    (openai(b"25", b"20ms"), None, Told(0.25, 0.02)),
    (openai(b"25", b"12.5"), None, Told(0.25, 12.5)),
    (openai(b"25", b"9d"), None, Told(0.25, 86400.0)),
    (openai(b"25", b"1767225610"), MIDNIGHT, Told(0.25, 10.0)),
    (openai(b"25", b"1767225610000"), MIDNIGHT, Told(0.25, 10.0)),
    ([*openai(b"25", b"1767225610"), DATE], None, Told(0.25, 10.0)),
    (openai(b"25", b"1767225610"), None, Told(0.25, 60.0)),
    (openai(b"25", b"1767225000"), MIDNIGHT, Told(0.25, 0.0)),
    (openai(b"25", b"2026-01-01T00:00:20+00:00"), MIDNIGHT, Told(0.25, 20.0)),
    (openai(b"25", b"2026-01-01T00:00:20"), MIDNIGHT, Told(0.25, 60.0)),
    (openai(b"25", b"Thursday"), MIDNIGHT, Told(0.25, 60.0)),
    (openai(b"120"), None, Told(1.0, 30.0)),
    ([*ANTHROPIC, DATE], None, Told(0.25, 45.0)),
    (ANTHROPIC, MIDNIGHT + 5, Told(0.25, 40.0)),
    # No words at the end, and other words.
    ([(b"x-ratelimit-limit", b"20"), (b"x-ratelimit-remaining", b"5")], None, Told(0.25, 60.0)),
    (openai(b"50", b"9.0", b"tokens-minute"), None, Told(0.5, 9.0)),
    # What cannot be.
    (openai(b"25")[1:], None, None),
    (openai(b"-1"), None, None),
    (openai(b"nan"), None, None),
    (openai(b"1e9"), None, None),
    (openai(b"\xff"), None, None),
    (openai(b"9" * 100), None, None),
    ([(b"x-ratelimit-limit-requests", b"0"), *openai(b"0")[1:]], None, None),
]


@pytest.mark.parametrize(("headers", "wall", "told"), SEEN)
def test_the_limit_nearest_its_end_is_read(
    headers: list[tuple[bytes, bytes]], wall: float | None, told: Told | None
) -> None:
    found = lowest(headers, wall)
    if told is None:
        assert found is None
    else:
        assert found is not None
        assert (found.left, found.resets) == pytest.approx((told.left, told.resets))


NAMES = st.sampled_from(
    [f"x-ratelimit-{part}-requests".encode() for part in ("limit", "remaining", "reset")]
    + [f"anthropic-ratelimit-tokens-{part}".encode() for part in ("limit", "remaining", "reset")]
    + [b"date", b"x-ratelimit-", b"x-ratelimit-limit-", b"anthropic-ratelimit-reset"]
)
VALUES = st.one_of(
    st.binary(max_size=80),
    st.integers(-10, 10**20).map(lambda n: str(n).encode()),
    st.from_regex(rb"[0-9.smhdTZ:+-]{1,30}", fullmatch=True),
)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8), st.none() | st.floats(0, 1e11))
def test_no_header_makes_it_fail_and_what_it_says_is_within_bounds(
    headers: list[tuple[bytes, bytes]], wall: float | None
) -> None:
    found = lowest(headers, wall)
    if found is not None:
        assert 0.0 <= found.left <= 1.0
        assert 0.0 <= found.resets <= 86_400.0
