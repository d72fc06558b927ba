"""Reading what token hosts answer. Pure, and of a host's bytes nothing is believed unchecked."""

from __future__ import annotations

import binascii
import math
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

MOST_CHARACTERS = 16_384
"""A token longer than this fits into no header a provider takes."""
_LONGEST_LIFE = 366 * 86_400.0
_MILLISECONDS = 1e11
"""A moment beyond this is in milliseconds: in seconds it would be the year 5138."""

_value_of = msgspec.json.Decoder().decode


def document_of(body: bytes) -> dict[str, Any] | None:
    """The JSON object a body is, None if it is anything else."""
    try:
        document = _value_of(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    return document if isinstance(document, dict) else None


def at_path(document: Any, path: str) -> Any:
    """What stands at a dotted path (`data.tokens.0.value`), None if nothing does.

    An empty path names nothing. A member whose own name has dots in it is found as well.
    """
    if not path:
        return None
    if isinstance(document, Mapping) and path in document:
        return document[path]
    here = document
    for step in path.split("."):
        if isinstance(here, Mapping):
            here = here.get(step)
        elif isinstance(here, list) and step.isascii() and step.isdigit() and len(step) < 6:
            at = int(step)
            here = here[at] if at < len(here) else None
        else:
            return None
    return here


def token_at(document: Any, path: str, *, blanks: bool = False) -> str | None:
    """The token at a path: visible ASCII, with `blanks` also spaces; None for anything else.

    RFC 6749 appendix A.17 allows spaces in a refresh token; RFC 6750 section 2.1 has none in what
    follows `Bearer`.
    """
    found = at_path(document, path)
    if not isinstance(found, str) or not 0 < len(found) <= MOST_CHARACTERS:
        return None
    first = " " if blanks else "!"
    return found if all(first <= char <= "~" for char in found) else None


def number(found: Any) -> float | None:
    """A finite number, also one written as a string; None for anything else."""
    if isinstance(found, bool) or not isinstance(found, int | float | str):
        return None
    if isinstance(found, str) and len(found) > 32:
        return None
    try:
        value = float(found)
    except (ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def moment(found: Any) -> float | None:
    """Unix seconds: of a number of seconds or milliseconds, or of an ISO 8601 time (UTC unless it
    says otherwise)."""
    value = number(found)
    if value is not None:
        return value / 1000 if value > _MILLISECONDS else value
    if not isinstance(found, str) or len(found) > 64:
        return None
    try:
        read = datetime.fromisoformat(found)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def jwt_expiry(token: str) -> float | None:
    """The `exp` of a JWT in unix seconds (RFC 7519 section 4.1.4), None if there is none.

    The signature is not looked at: the token is for the provider, and `exp` only says when to
    fetch the next one.
    """
    parts = token.split(".")
    if len(parts) != 3 or len(parts[1]) > MOST_CHARACTERS:
        return None
    try:
        claims = document_of(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return None
    return None if claims is None else number(claims.get("exp"))


def expiry(found_in: Any, found_at: Any, token: str, *, now: float, lifetime: float) -> float:
    """When a token expires, in unix seconds, always after `now`.

    `found_in` are the seconds it lives from now (`expires_in`, RFC 6749 section 5.1), which no
    clock can have wrong; else `found_at` is the moment; else the token is a JWT that says so; else
    it lives `lifetime` seconds. What is not a second ahead is passed over: a clock that is off must
    not make every call fetch a new token.
    """
    seconds = number(found_in)
    if seconds is not None and seconds >= 1:
        return now + min(seconds, _LONGEST_LIFE)
    for at in (moment(found_at), jwt_expiry(token)):
        if at is not None and at >= now + 1:
            return min(at, now + _LONGEST_LIFE)
    return now + lifetime
