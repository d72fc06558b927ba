"""Limits by minute and by day: pure, so every moment can be tried."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llm_gateway.errors import ConfigurationError
from asgi_llm_gateway.keys.limits import KeyLimits, LimitDay, Meter, Window, limit_day

DAY = LimitDay(1, 0.0, 86_400.0)
STEPS = st.floats(0, 30, allow_nan=False)


def unix(text: str, zone: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@given(
    limit=st.integers(1, 20),
    steps=st.lists(st.tuples(STEPS, st.integers(1, 8)), max_size=120),
)
def test_no_minute_ever_has_more_than_the_limit(limit: int, steps: list[tuple[float, int]]) -> None:
    window, now, admitted = Window(), 1000.25, []
    for step, need in steps:
        now += step
        window.slide(now)
        if not window.opens(need, limit):
            window.add(now, need)
            admitted.append((now, need))
    for begin, need in admitted:
        within = sum(count for at, count in admitted if begin <= at < begin + 60)
        assert within <= max(limit, need)


@given(
    limit=st.integers(1, 20),
    steps=st.lists(st.tuples(STEPS, st.integers(1, 8)), max_size=60),
    need=st.integers(1, 30),
)
def test_a_window_opens_when_it_says_and_not_a_second_before(
    limit: int, steps: list[tuple[float, int]], need: int
) -> None:
    window, now = Window(), 1000.25
    for step, count in steps:
        now += step
        window.slide(now)
        window.add(now, count)
    opens = window.opens(need, limit)
    if opens:
        assert now < opens <= now + 61
        window.slide(opens - 1)
        assert window.opens(need, limit)
        window.slide(opens)
    assert not window.opens(need, limit)


def test_room_comes_back_when_a_request_is_a_minute_old() -> None:
    meter = Meter(KeyLimits(rpm=2))
    for now in (100.9, 130.5):
        assert meter.opens(now, now, DAY) == 0
        meter.take(now, DAY, 0)
    assert meter.opens(131, 131, DAY) == 161.0
    assert meter.opens(160.9, 160.9, DAY) == 161.0
    assert meter.opens(161.0, 161.0, DAY) == 0
    meter.take(161.0, DAY, 0)
    assert meter.opens(161.0, 161.0, DAY) == 191.0


def test_a_call_larger_than_the_limit_goes_when_nothing_else_counts() -> None:
    meter = Meter(KeyLimits(tpm=100, tpd=300))
    assert meter.opens(10, 10, DAY, 5000) == 0
    meter.take(10, DAY, 5000)
    assert meter.opens(20, 20, DAY, 1) == DAY.until
    meter.correct(10, 40 - 5000)
    assert meter.opens(20, 20, DAY, 60) == 0
    assert meter.opens(20, 20, DAY, 61) == 71.0


def test_tokens_are_corrected_in_the_second_they_were_counted_in() -> None:
    window = Window()
    window.add(10.5, 30)
    window.add(12.5, 40)
    window.correct(10.9, -20)
    window.correct(11.0, 1000)
    window.correct(3.0, 1000)
    assert window.total == 50
    window.slide(71.0)
    assert window.total == 40
    window.correct(10.5, 1000)
    assert window.total == 40
    window.slide(1e9)
    assert window.total == 0


def test_a_day_that_ends_begins_with_nothing_and_never_comes_back() -> None:
    meter = Meter(KeyLimits(rpd=2))
    tomorrow = LimitDay(2, 86_400.0, 172_800.0)
    meter.take(0, DAY, 7)
    meter.take(0, DAY, 7)
    assert meter.opens(50, 1000, DAY) == 50 + 86_400 - 1000
    assert meter.opens(50, 86_400, tomorrow) == 0
    meter.take(60, tomorrow, 3)
    assert (meter.use(tomorrow).requests, meter.use(tomorrow).tokens) == (1, 3)
    meter.take(60, DAY, 0)
    assert meter.day == tomorrow
    assert meter.use(tomorrow).requests == 2


def test_an_undone_call_was_never_counted() -> None:
    meter = Meter(KeyLimits(rpm=1, tpm=10, rpd=1))
    meter.take(5, DAY, 8)
    meter.correct(5, -8, requests=-1)
    assert meter.opens(5, 5, DAY, 10) == 0
    assert meter.use(DAY).requests == 0


def test_other_limits_go_on_with_what_was_counted() -> None:
    meter = Meter(KeyLimits(rpm=5, rpd=9))
    for _ in range(3):
        meter.take(5, DAY, 0)
    assert meter.under(KeyLimits(rpm=3, rpd=9)).opens(6, 6, DAY) == 66.0
    assert meter.under(KeyLimits(rpd=3)).opens(6, 6, DAY) == DAY.until


@pytest.mark.parametrize(
    ("hour", "zone", "at", "since", "until"),
    [
        (0, "UTC", "2026-03-01T00:00:00", "2026-03-01T00:00", "2026-03-02T00:00"),
        (0, "UTC", "2026-03-01T23:59:59", "2026-03-01T00:00", "2026-03-02T00:00"),
        (5, "Asia/Tokyo", "2026-03-01T04:59", "2026-02-28T05:00", "2026-03-01T05:00"),
        (5, "Asia/Tokyo", "2026-03-01T05:00", "2026-03-01T05:00", "2026-03-02T05:00"),
        # Clocks go from 02:00 to 03:00: the hour that is missing is the moment it would have been.
        (2, "Europe/Berlin", "2026-03-29T01:59", "2026-03-28T02:00", "2026-03-29T03:00"),
        (2, "Europe/Berlin", "2026-03-29T03:00", "2026-03-29T03:00", "2026-03-30T02:00"),
        # Clocks go from 03:00 back to 02:00: of two 02:00 the first one counts.
        (2, "Europe/Berlin", "2026-10-25T01:59", "2026-10-24T02:00", "2026-10-25T02:00"),
        (0, "America/Los_Angeles", "2026-11-01T23:00", "2026-11-01T00:00", "2026-11-02T00:00"),
    ],
)
def test_a_day_begins_at_its_hour_where_it_is(
    hour: int, zone: str, at: str, since: str, until: str
) -> None:
    day = limit_day(unix(at, zone), KeyLimits(reset_hour=hour, time_zone=zone))
    assert (day.since, day.until) == (unix(since, zone), unix(until, zone))


def test_a_day_does_not_end_again_when_clocks_go_back_over_its_beginning() -> None:
    limits = KeyLimits(time_zone="America/St_Johns")
    midnight = unix("2010-11-07T00:00", "America/St_Johns")
    again = midnight + 600  # clocks went back at 00:01, so this is 23:10 of the day before
    assert datetime.fromtimestamp(again, ZoneInfo("America/St_Johns")).day == 6
    assert limit_day(again, limits).since == midnight


@given(
    now=st.floats(0, 4e9),
    hour=st.integers(0, 23),
    zone=st.sampled_from(
        ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Pacific/Apia",
         "Australia/Lord_Howe", "Africa/Casablanca", "America/Sao_Paulo"]
    ),
)  # fmt: skip
def test_days_follow_each_other_without_gap_or_overlap(now: float, hour: int, zone: str) -> None:
    limits = KeyLimits(reset_hour=hour, time_zone=zone)
    day = limit_day(now, limits)
    assert day.since <= now < day.until
    assert limit_day(day.since, limits) == day
    after = limit_day(day.until, limits)
    assert after.since == day.until
    assert after.number > day.number
    assert limit_day((now + day.until) / 2, limits) == day


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"concurrency": 0}, "concurrency of a key"),
        ({"rpm": -1}, "rpm of a key"),
        ({"tpd": True}, "tpd of a key"),
        ({"reset_hour": 24}, "hour from 0 to 23"),
        ({"time_zone": "Mars/Olympus"}, "Europe/Berlin"),
        ({"time_zone": "../etc/passwd"}, "Europe/Berlin"),
        ({"wait": -1}, "0 to 3600"),
        ({"wait": float("nan")}, "0 to 3600"),
        ({"lease": 0.5}, "1 to 3600"),
    ],
)
def test_limits_that_cannot_work_are_refused(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        KeyLimits(**wrong)  # type: ignore[arg-type]


def test_limits_know_what_has_to_be_counted() -> None:
    assert not KeyLimits().any
    assert KeyLimits(concurrency=1).any
    assert not KeyLimits(concurrency=1).counted
    assert KeyLimits(rpd=1).counted
    assert not KeyLimits(rpd=1, rpm=1).counts_tokens
    assert KeyLimits(tpd=1).counts_tokens
