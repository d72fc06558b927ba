"""What providers say in an answer's headers about their own rate limits. Pure.

Two spellings, each with a limit, what remains of it and when it is whole again, for requests,
tokens and whatever else a provider counts:

- `x-ratelimit-{limit,remaining,reset}-requests` and `-tokens` (OpenAI's guide "Rate limits", "Rate
  limits in headers"; many others have taken it over, some with other words at the end or none);
- `anthropic-ratelimit-requests-{limit,remaining,reset}` and `-tokens-`, `-input-tokens-`,
  `-output-tokens-` (Anthropic's API reference, "Rate limits: response headers").

A reset is a time span (`6m0s`, `20ms`, plain seconds), a moment in unix seconds or milliseconds, or
a moment by RFC 3339.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime

_UNTOLD = 60.0
"""Seconds a limit is believed whose reset was not told: most are by the minute."""
_LONGEST = 86_400.0
_LONG = 64
"""No number or date is longer."""
_PREFIXES = (b"x-ratelimit-", b"anthropic-ratelimit-")
_PARTS = frozenset({"limit", "remaining", "reset"})
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,15})?")
_SPAN = re.compile(r"(?:\d{1,9}(?:\.\d{1,15})?(?:ms|us|µs|ns|d|h|m|s))+")
_PIECE = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|d|h|m|s)")
_SECONDS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3}
_UNIX = 1e9  # seconds: 2001; nobody's limit is whole again in thirty years
_UNIX_MS = 1e12


@dataclass(frozen=True, slots=True)
class Told:
    """`left` of the limit that is nearest its end, as a share from 0 to 1; it is whole again in
    `resets` seconds."""

    left: float
    resets: float


def lowest(headers: Iterable[tuple[bytes, bytes]], wall: float | None = None) -> Told | None:
    """The limit nearest its end; None when the headers (names in lower case) tell of none.

    `wall` is the time now in unix seconds, for a reset that is a moment; without it the answer's
    own `date` header counts, which no difference between two clocks can falsify.
    """
    told: dict[str, dict[str, str]] = {}
    for name, value in headers:
        if name == b"date" and wall is None:
            wall = _date(value)
        elif name.startswith(_PREFIXES) and len(value) <= _LONG and len(name) <= _LONG:
            words = name.decode("latin-1").split("-")[2:]
            part = next((w for w in words if w in _PARTS), None)
            if part is not None:
                words.remove(part)
                told.setdefault("-".join(words), {})[part] = value.decode("latin-1").strip()
    found: Told | None = None
    for parts in told.values():
        limit, remaining = _number(parts.get("limit")), _number(parts.get("remaining"))
        if limit is None or remaining is None or limit <= 0:
            continue
        left = min(remaining / limit, 1.0)
        if found is None or left < found.left:
            found = Told(left, _span(parts.get("reset", ""), wall))
    return found


def _number(text: str | None) -> float | None:
    return float(text) if text and _NUMBER.fullmatch(text) else None


def _span(text: str, wall: float | None) -> float:
    """Seconds until a reset."""
    seconds: float | None = None
    if _SPAN.fullmatch(text):
        seconds = sum(float(n) * _SECONDS.get(unit, 0.0) for n, unit in _PIECE.findall(text))
    elif (number := _number(text)) is not None:
        seconds = number
        if number >= _UNIX:
            moment = number / 1000 if number >= _UNIX_MS else number
            seconds = None if wall is None else moment - wall
    elif "T" in text and wall is not None:
        moment_told = _rfc3339(text)
        seconds = None if moment_told is None else moment_told - wall
    return _UNTOLD if seconds is None else min(max(seconds, 0.0), _LONGEST)


def _rfc3339(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
        return None if moment.utcoffset() is None else moment.timestamp()
    except (ValueError, OverflowError):
        return None


def _date(value: bytes) -> float | None:
    """An HTTP date (RFC 9110, 5.6.7) in unix seconds."""
    try:
        return parsedate_to_datetime(value[:_LONG].decode("latin-1")).timestamp()
    except (ValueError, OverflowError):
        return None
