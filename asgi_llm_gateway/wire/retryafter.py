"""How long a provider asks to be left alone, as its headers say. Pure."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Final

from ..errors import Headers

LONGEST_ASKED: Final = 86_400.0
"""Seconds; whatever a provider asks for beyond them is taken for a day."""
_LONGEST_TEXT: Final = 64
_NUMBER: Final = re.compile(r"-?\d{1,12}(?:\.\d{1,9})?")


def retry_after(headers: Headers, now_wall: float) -> float | None:
    """The seconds a provider asks to be left alone for, within 0 and a day; None if it says none.

    `retry-after-ms` (Azure, OpenAI) is the finer one and goes first; Retry-After is seconds or a
    date (RFC 9110 section 10.2.3), of which `now_wall`, unix time, is subtracted.
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in (b"retry-after", b"retry-after-ms"):
            found.setdefault(name, value)
    in_ms = _number(found.get(b"retry-after-ms", b""))
    if in_ms is not None:
        return clamped(in_ms / 1000)
    value = found.get(b"retry-after", b"")
    seconds = _number(value)
    if seconds is None:
        seconds = _until(value, now_wall)
    return None if seconds is None else clamped(seconds)


def clamped(seconds: float) -> float:
    """Seconds somebody asked for, within 0 and a day."""
    return min(max(seconds, 0.0), LONGEST_ASKED) if isfinite(seconds) else LONGEST_ASKED


def _number(value: bytes) -> float | None:
    text = value[: _LONGEST_TEXT + 1].decode("latin-1").strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def _until(value: bytes, now_wall: float) -> float | None:
    if not value or len(value) > _LONGEST_TEXT:
        return None
    try:
        return parsedate_to_datetime(value.decode("latin-1")).timestamp() - now_wall
    except (ValueError, TypeError, OverflowError, IndexError):
        return None  # email.utils raises each of them for some text that is no date
