"""What billing pages say, read and judged: amounts, limits, ends, and what is none of these."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llm_gateway.keys.billing import (
    Balance,
    CannotTell,
    amount,
    judge,
    left_by_currency,
    read_deepseek,
    read_moonshot,
    read_openrouter,
    read_siliconflow,
    read_subscription,
    read_usage,
    shown,
    slices,
    usage_window,
    with_usage,
)

NOW = datetime(2026, 11, 23, tzinfo=UTC).timestamp()
DAY = 86_400.0

SUBSCRIPTION = {
    "object": "billing_subscription",
    "has_payment_method": True,
    "soft_limit_usd": 5,
    "hard_limit_usd": 5,
    "system_hard_limit_usd": 5,
    "access_until": 0,
}
DEEPSEEK = {
    "is_available": True,
    "balance_infos": [
        {
            "currency": "CNY",
            "total_balance": "110.00",
            "granted_balance": "10.00",
            "topped_up_balance": "100.00",
        }
    ],
}
OPENROUTER = {
    "data": {
        "label": "sk-or-v1-au7...890",
        "limit": 100,
        "limit_reset": None,
        "limit_remaining": 74.5,
        "usage": 250.5,
        "is_free_tier": False,
        "rate_limit": {"requests": -1, "interval": "10s"},
    }
}
SILICONFLOW = {
    "code": 20000,
    "message": "OK",
    "status": True,
    "data": {"balance": "0.88", "chargeBalance": "88.00", "totalBalance": "88.88"},
}
MOONSHOT = {
    "code": 0,
    "data": {
        "available_balance": 49.58894,
        "voucher_balance": 49.58894,
        "cash_balance": -3.00001,
    },
    "scode": "0x0",
    "status": True,
}


def siliconflow(document: object) -> Balance:
    return read_siliconflow(document, "CNY")


def moonshot(document: object) -> Balance:
    return read_moonshot(document, "USD")


def subscribed(**members: Any) -> Balance:
    return read_subscription({**SUBSCRIPTION, **members})


def openrouter(**members: Any) -> Balance:
    return read_openrouter({"data": {**OPENROUTER["data"], **members}})


@pytest.mark.parametrize(
    ("read", "document", "balance"),
    [
        (read_subscription, SUBSCRIPTION, Balance(limit=5.0)),
        (read_deepseek, DEEPSEEK, Balance(left=110.0, currency="CNY")),
        (read_openrouter, OPENROUTER, Balance(limit=100.0, used=25.5, left=74.5)),
        (siliconflow, SILICONFLOW, Balance(left=88.88, currency="CNY")),
        (moonshot, MOONSHOT, Balance(left=49.58894, currency="USD")),
    ],
)
def test_each_provider_is_read_as_its_reference_says(
    read: Callable[[object], Balance], document: object, balance: Balance
) -> None:
    assert read(document) == balance
    assert judge(balance, NOW).fate == "good"


def test_usage_is_told_in_cents_and_limits_in_dollars() -> None:
    assert read_usage({"total_usage": 1250}) == 12.5
    assert read_usage({"total_usage": "499.99"}) == pytest.approx(4.9999)
    assert judge(with_usage(subscribed(), read_usage({"total_usage": 499.99})), NOW).fate == "good"
    assert judge(with_usage(subscribed(), read_usage({"total_usage": 500})), NOW).fate == "gone"


@pytest.mark.parametrize(
    ("balance", "fate", "reason"),
    [
        (subscribed(access_until=NOW - 1), "gone", "expired on 2026-11-22"),
        (subscribed(access_until=int(NOW)), "gone", "expired on 2026-11-23"),
        (subscribed(access_until=NOW + 1), "good", ""),
        (subscribed(access_until=0), "good", ""),
        (subscribed(access_until=-1), "good", ""),
        (subscribed(access_until=None), "good", ""),
        (subscribed(access_until=4e12), "good", ""),
        (subscribed(hard_limit_usd=0), "gone", "no limit left: it is 0"),
        (subscribed(hard_limit_usd="0.00"), "gone", "no limit left: it is 0"),
        (subscribed(hard_limit_usd=0.01), "good", ""),
        (with_usage(subscribed(), 4.99), "good", ""),
        (with_usage(subscribed(), 5.0), "gone", "used up: 5.00 of 5.00 USD used"),
        (with_usage(subscribed(), 7.5), "gone", "used up: 7.50 of 5.00 USD used"),
        (with_usage(subscribed(hard_limit_usd=100_000_000), 10.0**9), "good", ""),
        (with_usage(subscribed(hard_limit_usd=1e300), 1e299), "good", ""),
        (openrouter(limit=None, limit_remaining=None), "good", ""),
        (openrouter(limit_remaining=0), "gone", "used up: 100.00 of 100.00 USD used"),
        (openrouter(limit_remaining=0, limit_reset="monthly"), "good", ""),
        (openrouter(expires_at="2026-11-22T23:59:59Z"), "gone", "expired on 2026-11-22"),
        (openrouter(expires_at="2026-11-24T00:00:00+01:00"), "good", ""),
        (openrouter(expires_at="1970-01-01"), "good", ""),
        (Balance(left=0.0, currency="CNY"), "gone", "used up: 0.00 CNY left"),
        (Balance(), "good", ""),
    ],
)
def test_only_what_expired_has_no_limit_or_is_used_up_is_gone(
    balance: Balance, fate: str, reason: str
) -> None:
    verdict = judge(balance, NOW)
    assert (verdict.fate, verdict.reason) == (fate, reason)
    assert verdict.balance is balance


@pytest.mark.parametrize(
    ("infos", "available", "expected"),
    [
        ([("CNY", "0.00"), ("USD", "3.00")], True, Balance(left=3.0, currency="USD")),
        ([("CNY", "4.00"), ("USD", "3.00")], True, Balance(left=4.0, currency="CNY")),
        ([("CNY", "0.00"), ("USD", "0.00")], False, Balance(left=0.0, currency="CNY")),
    ],
)
def test_deepseek_tells_the_first_currency_with_anything_on_it(
    infos: list[tuple[str, str]], available: bool, expected: Balance
) -> None:
    entries = [{"currency": name, "total_balance": total} for name, total in infos]
    assert read_deepseek({"is_available": available, "balance_infos": entries}) == expected


def test_a_balance_of_0_that_is_said_to_be_enough_is_not_believed() -> None:
    entry = {"currency": "USD", "total_balance": "0"}
    with pytest.raises(CannotTell):
        read_deepseek({"is_available": True, "balance_infos": [entry]})


ODD_AMOUNTS: list[Any] = [
    None,
    True,
    False,
    -1,
    -0.01,
    math.nan,
    math.inf,
    -math.inf,
    10**400,
    "",
    "five",
    "-5",
    "1,000.00",
    "5 USD",
    "nan",
    "inf",
    "1e5",
    "0x10",
    "١٢",
    "9" * 400,
    [5],
    {"value": 5},
]


@pytest.mark.parametrize("odd", ODD_AMOUNTS, ids=lambda odd: repr(odd)[:20])
def test_an_amount_that_is_none_is_not_believed(odd: Any) -> None:
    with pytest.raises(CannotTell):
        amount(odd, "it")
    with pytest.raises(CannotTell):
        subscribed(hard_limit_usd=odd)
    with pytest.raises(CannotTell):
        read_usage({"total_usage": odd})
    with pytest.raises(CannotTell):
        read_deepseek({"balance_infos": [{"currency": "USD", "total_balance": odd}]})
    with pytest.raises(CannotTell):
        siliconflow({**SILICONFLOW, "data": {"totalBalance": odd}})
    with pytest.raises(CannotTell):
        moonshot({**MOONSHOT, "data": {"available_balance": odd}})
    with pytest.raises(CannotTell):
        openrouter(limit_remaining=odd)


READERS = [read_subscription, read_usage, read_deepseek, read_openrouter, siliconflow, moonshot]


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        "ok",
        7,
        {"error": {"message": "no such key", "code": "invalid_api_key"}},
        {**SUBSCRIPTION, "total_usage": 1e9, "error": {"message": "try later"}},
        {"data": None, "status": True, "code": 20000},
        {"data": [], "status": True, "code": 0, "balance_infos": []},
        {"balance_infos": [None], "data": "x"},
        {"balance_infos": [{"currency": "gold", "total_balance": "0"}]},
        {"success": False, "message": "密钥无效", "data": None},
        {**SILICONFLOW, "status": False, "data": {"totalBalance": "0", "available_balance": 0}},
        {**SILICONFLOW, "code": 50000, "data": {"totalBalance": "0", "available_balance": 0}},
    ],
    ids=lambda document: repr(document)[:30],
)
@pytest.mark.parametrize("read", READERS)
def test_a_document_of_another_shape_is_not_believed(
    read: Callable[[object], object], document: object
) -> None:
    with pytest.raises(CannotTell):
        read(document)


@pytest.mark.parametrize("odd", [True, "soon", [], math.nan, math.inf, 10**400])
def test_an_end_that_is_no_time_is_not_believed(odd: Any) -> None:
    with pytest.raises(CannotTell):
        subscribed(access_until=odd)


def test_an_expiry_that_is_no_time_is_not_believed() -> None:
    with pytest.raises(CannotTell):
        openrouter(expires_at="some day")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "hard_limit_usd",
                    "access_until",
                    "total_usage",
                    "balance_infos",
                    "currency",
                    "total_balance",
                    "data",
                    "limit",
                    "limit_remaining",
                    "limit_reset",
                    "expires_at",
                    "usage",
                    "totalBalance",
                    "status",
                    "code",
                    "available_balance",
                    "is_available",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_whatever_the_document_a_reader_reads_or_cannot_tell(document: object) -> None:
    for read in READERS:
        try:
            found = read(document)
        except CannotTell:
            continue
        if isinstance(found, Balance):
            judge(found, NOW)
            amounts = [found.limit, found.used, found.left]
        else:
            amounts = [found]
        assert all(value is None or 0 <= value < math.inf for value in amounts)


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_a_key_is_used_up_exactly_when_usage_reaches_the_limit(limit: float, used: float) -> None:
    verdict = judge(with_usage(Balance(limit=limit), used), NOW)
    assert (verdict.fate == "gone") == (used >= limit)


def test_the_window_is_the_last_99_days_and_today() -> None:
    start, end = usage_window(date(2026, 11, 23))
    assert (start, end) == (date(2026, 8, 16), date(2026, 11, 24))
    assert slices(start, end) == [(start, end)]


@given(st.dates(date(2000, 1, 1), date(2100, 1, 1)), st.integers(-5, 1000))
def test_slices_cover_a_span_once_in_pieces_of_at_most_100_days(start: date, days: int) -> None:
    end = start + timedelta(days=days)
    pieces = slices(start, end)
    covered = [
        since + timedelta(days=n) for since, until in pieces for n in range((until - since).days)
    ]
    assert covered == [start + timedelta(days=n) for n in range(max(0, days))]
    assert all((until - since).days <= 100 for since, until in pieces)


def test_balances_are_shown_and_added_by_currency() -> None:
    assert shown(with_usage(subscribed(), 1.5)) == "1.50 of 5.00 USD used"
    assert shown(Balance(left=3.0, currency="CNY")) == "3.00 CNY left"
    assert shown(Balance(used=2.0)) == "2.00 USD used, no limit"
    assert shown(Balance()) == "no limit"
    some = [Balance(left=3.0), Balance(left=4.5), Balance(left=2.0, currency="CNY"), Balance()]
    assert left_by_currency(some) == {"USD": 7.5, "CNY": 2.0}
