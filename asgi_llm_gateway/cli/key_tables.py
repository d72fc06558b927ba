"""What `llm-gateway keys` shows of keys: columns for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from ..keys.billing import Balance, left_by_currency, shown
from ..keys.key import DayUse, Quarantined
from .tables import table

_NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Row:
    """One key of one channel, and what is known of it."""

    channel: str
    fingerprint: str
    balance: Balance | None = None
    day: DayUse | None = None
    lost: Quarantined | None = None
    problem: str = ""
    """Why there is no balance."""

    def document(self) -> dict[str, Any]:
        """Everything that is known; times are ISO 8601 in UTC, amounts in `currency`."""
        found: dict[str, Any] = {
            "fingerprint": self.fingerprint,
            "channel": self.channel,
            "state": "quarantined" if self.lost else "in use",
        }
        if self.lost is not None:
            found |= {"reason": self.lost.reason, "since": _moment(self.lost.at)}
        if self.day is not None:
            found["today"] = {"requests": self.day.requests, "tokens": self.day.tokens}
        if self.balance is not None:
            balance = asdict(self.balance)
            until = self.balance.access_until
            balance["access_until"] = None if until is None else _moment(until)
            balance["checked"] = _moment(self.balance.checked)
            found["balance"] = balance
        if self.problem:
            found["problem"] = self.problem
        return found


def list_of_keys(rows: Sequence[Row], *, as_json: bool) -> str:
    """Every key with its state, what it did today and what was last known to be left on it."""
    if as_json:
        return _json(rows)
    heading = ("key", "channel", "balance", "as of", "today", "state")
    return table([heading, *((*_who(row), *_left(row), _today(row), _state(row)) for row in rows)])


def list_of_balances(rows: Sequence[Row], *, as_json: bool) -> str:
    """What each provider says is left, and what that is for each channel together."""
    if as_json:
        return _json(rows)
    text = table([("key", "channel", "balance"), *((*_who(row), _told(row)) for row in rows)])
    for channel in dict.fromkeys(row.channel for row in rows):
        sums = left_by_currency(
            row.balance for row in rows if row.channel == channel and row.balance is not None
        )
        for currency, left in sums.items():
            text += f"\nchannel {channel}: {left:.2f} {currency} left"
    return text


def _who(row: Row) -> tuple[str, str]:
    return row.fingerprint, row.channel


def _told(row: Row) -> str:
    return _NOTHING if row.balance is None and not row.problem else row.problem or _left(row)[0]


def _left(row: Row) -> tuple[str, str]:
    if row.balance is None:
        return _NOTHING, _NOTHING
    return shown(row.balance), _moment(row.balance.checked)


def _today(row: Row) -> str:
    if row.day is None or not (row.day.requests or row.day.tokens):
        return _NOTHING
    return f"{row.day.requests} requests, {row.day.tokens} tokens"


def _state(row: Row) -> str:
    if row.lost is None:
        return "in use"
    return f"quarantined {_moment(row.lost.at)}: {row.lost.reason}"


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _json(rows: Sequence[Row]) -> str:
    return json.dumps([row.document() for row in rows], indent=2)
