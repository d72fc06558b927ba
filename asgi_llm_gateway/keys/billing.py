"""What a provider's billing pages say of a key, and what follows. Pure: no network, no clock.

A reader takes a decoded JSON document and gives a `Balance`, or raises CannotTell: of a document
that is not what the provider's reference promises nothing is believed, since what follows from a
balance may be the end of a key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, Literal

from ..errors import UpstreamError

WINDOW_DAYS: Final = 99
"""How far back usage counts when it is held against the limit."""
LONGEST_QUERY_DAYS: Final = 100
"""What OpenAI's usage page refuses to go beyond in one request."""

_UNLIMITED: Final = 100_000_000
_CENTS: Final = 100
_EARLIEST: Final = 1_000_000_000
_NUMBER: Final = re.compile(r"[0-9]{1,30}(\.[0-9]{1,30})?")


class CannotTell(UpstreamError):
    """The billing host did not say how it stands with a key: no reason to take the key out."""

    code = "balance_unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What a provider says is left on a key, in `currency`; None is what it does not say.

    `limit` None means no limit, or none that is told. `access_until` and `checked` are Unix times.
    With `renews` what is used up comes back by itself, every day, week or month.
    """

    limit: float | None = None
    used: float | None = None
    left: float | None = None
    currency: str = "USD"
    access_until: float | None = None
    checked: float = 0.0
    renews: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a key is still good: `good`, `gone` (take it out) or `unknown` (leave it alone)."""

    fate: Literal["good", "gone", "unknown"]
    reason: str = ""
    balance: Balance | None = None


def judge(balance: Balance, now: float) -> Verdict:
    """Whether a key with this balance is still good at the Unix time `now`."""
    if balance.access_until is not None and balance.access_until <= now:
        ended = datetime.fromtimestamp(balance.access_until, UTC)
        return Verdict("gone", f"expired on {ended:%Y-%m-%d}", balance)
    if balance.limit == 0:
        return Verdict("gone", "no limit left: it is 0", balance)
    used_up = balance.left == 0 or (
        balance.limit is not None and balance.used is not None and balance.used >= balance.limit
    )
    if used_up and not balance.renews:
        return Verdict("gone", f"used up: {shown(balance)}", balance)
    return Verdict("good", balance=balance)


def shown(balance: Balance) -> str:
    """A balance in a few words: `3.20 of 5.00 USD used`."""
    if balance.limit is not None and balance.used is not None:
        return f"{balance.used:.2f} of {balance.limit:.2f} {balance.currency} used"
    if balance.left is not None:
        return f"{balance.left:.2f} {balance.currency} left"
    if balance.used is not None:
        return f"{balance.used:.2f} {balance.currency} used, no limit"
    return "no limit"


def left_by_currency(balances: Iterable[Balance]) -> dict[str, float]:
    """What is left on several keys together; keys without a limit are not in the sum."""
    sums: dict[str, float] = {}
    for balance in balances:
        if balance.left is not None:
            sums[balance.currency] = sums.get(balance.currency, 0.0) + balance.left
    return sums


def usage_window(today: date) -> tuple[date, date]:
    """The days whose usage counts against a limit: the last 99 and today; the end is exclusive."""
    return today - timedelta(days=WINDOW_DAYS), today + timedelta(days=1)


def slices(start: date, end: date) -> list[tuple[date, date]]:
    """A span of days in pieces that OpenAI's usage page takes; ends are exclusive."""
    found = []
    while start < end:
        until = min(end, start + timedelta(days=LONGEST_QUERY_DAYS))
        found.append((start, until))
        start = until
    return found


def read_subscription(document: object) -> Balance:
    """OpenAI's `/dashboard/billing/subscription`: the limit and the end of access.

    OpenAI withdrew the page for API keys in 2023; one-api, new-api and the services built on them
    serve it (one-api's controller/billing.go, docs.newapi.pro "fei-account-billing-panel"). They
    write 100000000 for "no limit" and 0 or -1 for "no end", so a time before 2001 is no end.
    """
    members = _members(document)
    limit: float | None = amount(members.get("hard_limit_usd"), "hard_limit_usd")
    until = members.get("access_until")
    return Balance(
        limit=None if limit == _UNLIMITED else limit,
        access_until=None if until is None else _moment(until),
    )


def read_usage(document: object) -> float:
    """OpenAI's `/dashboard/billing/usage`: `total_usage`, which is in cents, as dollars."""
    return amount(_members(document).get("total_usage"), "total_usage") / _CENTS


def with_usage(balance: Balance, used: float) -> Balance:
    """A subscription and what was used of it, in the same currency."""
    left = None if balance.limit is None else max(0.0, balance.limit - used)
    return replace(balance, used=used, left=left)


def read_deepseek(document: object) -> Balance:
    """DeepSeek's `GET /user/balance` (api-docs.deepseek.com/api/get-user-balance).

    `balance_infos` has one entry per currency, CNY or USD, its amounts written as strings. Of
    several the first with anything on it is told.
    """
    members = _members(document)
    infos = members.get("balance_infos")
    if not isinstance(infos, list) or not infos:
        raise CannotTell("the balance names no currency")
    balances = [
        Balance(
            left=amount(info.get("total_balance"), "total_balance"),
            currency=_currency(info.get("currency")),
        )
        for info in map(_members, infos)
    ]
    chosen = next((balance for balance in balances if balance.left), balances[0])
    if not chosen.left and members.get("is_available") is True:
        raise CannotTell("the balance is 0 and yet said to be enough for calls")
    return chosen


def read_openrouter(document: object) -> Balance:
    """OpenRouter's `GET /api/v1/key`.

    (openrouter.ai/docs/api/api-reference/api-keys/get-current-key.) `limit` and `limit_remaining`
    are USD, null for a key without a limit of its own; with `limit_reset` the limit starts anew
    every day, week or month. `/credits` would tell the account's balance, but takes only
    management keys, which cannot make calls.
    """
    data = _members(_members(document).get("data"))
    usage = amount(data.get("usage"), "usage")
    expires = _iso_moment(data["expires_at"]) if data.get("expires_at") is not None else None
    if data.get("limit") is None:
        return Balance(used=usage, access_until=expires)
    limit = amount(data["limit"], "limit")
    left = amount(data.get("limit_remaining"), "limit_remaining")
    return Balance(
        limit=limit,
        used=max(0.0, limit - left),  # not `usage`, which counts from the key's first day
        left=left,
        access_until=expires,
        renews=data.get("limit_reset") is not None,
    )


def read_siliconflow(document: object, currency: str) -> Balance:
    """SiliconFlow's `GET /v1/user/info`.

    (docs.siliconflow.cn/cn/api-reference/userinfo/get-user-info.) `totalBalance`, a string, is the
    granted `balance` and the `chargeBalance` together. The page names no currency: the host in
    China counts in CNY, the international one in USD.
    """
    members = _members(document)
    if members.get("status") is not True or members.get("code") != 20000:
        raise CannotTell("the balance says that it failed")
    data = _members(members.get("data"))
    return Balance(left=amount(data.get("totalBalance"), "totalBalance"), currency=currency)


def read_moonshot(document: object, currency: str) -> Balance:
    """Moonshot's `GET /v1/users/me/balance` (platform.moonshot.cn/docs/api/balance).

    `available_balance` is cash and vouchers together; at 0 no call is served. CNY on the host in
    China, USD on api.moonshot.ai.
    """
    members = _members(document)
    if members.get("status") is not True or members.get("code") != 0:
        raise CannotTell("the balance says that it failed")
    data = _members(members.get("data"))
    left = amount(data.get("available_balance"), "available_balance")
    return Balance(left=left, currency=currency)


def amount(value: object, name: str) -> float:
    """An amount of money, written as a number or as a plain decimal string.

    Raises CannotTell for anything else: absent, true, negative, not finite, in words.
    """
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CannotTell(f"{name} is not an amount")
    try:
        number = float(value)
    except OverflowError as exc:  # an integer of more digits than a float can hold
        raise CannotTell(f"{name} is not an amount") from exc
    if not math.isfinite(number) or number < 0:
        raise CannotTell(f"{name} is not an amount")
    return number


def _moment(value: object) -> float | None:
    """A Unix time; None for the 0 and -1 that stand for "never"."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
        return None
    return _plausible(amount(value, "access_until"))


def _iso_moment(value: object) -> float | None:
    """A Unix time written as ISO 8601 does."""
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError as exc:
        raise CannotTell("expires_at is not a time") from exc
    return _plausible((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _plausible(moment: float) -> float | None:
    return None if moment < _EARLIEST else moment


def _currency(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch("[A-Z]{3}", value):
        raise CannotTell("the balance names no currency")
    return value


def _members(document: object) -> Mapping[str, Any]:
    """The members of an object; where there is an error among them, nothing is believed."""
    if not isinstance(document, Mapping):
        raise CannotTell("the answer is not what the billing page promises")
    if document.get("error"):
        raise CannotTell("the answer tells of an error")
    return document
