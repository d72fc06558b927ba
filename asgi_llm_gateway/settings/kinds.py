"""What a setting's value may be: its name in errors, the test it passes, how text becomes one."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

Accepts = Callable[[Any], bool]


def _toml(text: str) -> Any:
    """A value written as in TOML; text that is none stays text, so that its check can name it."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _split(text: str) -> Any:
    """`a, b` or a TOML array."""
    if text.lstrip().startswith("["):
        return _toml(text)
    return [part.strip() for part in text.split(",") if part.strip()]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value.

    `expected` is how an error names it, `from_text` reads it from an environment variable.
    A `secret` is never repeated in an error. `late` values keep their `env:` and `file:` until
    the gateway starts. `becomes` makes of an accepted value what the gateway works with.
    """

    expected: str
    accepts: Accepts
    from_text: Callable[[str], Any] = _toml
    secret: bool = False
    late: bool = False
    becomes: Callable[[Any], Any] | None = None

    def refusal(self, given: object) -> str:
        """The second half of an error about a value that is not of this kind."""
        told = _told(given, secret=self.secret)
        if isinstance(given, Mapping) and self.accepts({}):  # a wrong member made it wrong
            for name, item in given.items():
                if not self.accepts({name: item}):
                    told = f"one whose {name} is {_told(item, secret=self.secret)}"
                    break
        return f"must be {self.expected}, not {told}"


def _told(given: object, *, secret: bool) -> str:
    told = next((name for kinds, name in _NAMES if isinstance(given, kinds)), "something else")
    if secret or not isinstance(given, bool | int | float | str):
        return told
    shown = given if len(str(given)) <= 60 else f"{str(given)[:57]}..."
    return f"{told} {str(shown).lower() if isinstance(given, bool) else repr(shown)}"


_NAMES: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    (bool, "the flag"),
    (str, "the text"),
    ((int, float), "the number"),
    ((list, tuple), "a list"),
    (Mapping, "a table"),
    (date, "a date"),
)


_BEYOND: Final = 10**15
"""No number of a setting is as great."""


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    """Whether it is a finite number; TOML's whole ones may have any number of digits."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) < _BEYOND
        and not math.isnan(value)
    )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def _table_of(accepts: Accepts) -> Accepts:
    def check(value: Any) -> bool:
        return isinstance(value, Mapping) and all(
            isinstance(key, str) and accepts(item) for key, item in value.items()
        )

    return check


def _one_of(*names: str) -> Kind:
    return Kind(f"one of {', '.join(names)}", lambda v: _is_text(v) and v in names, str)


_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_duration = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)").fullmatch


def _is_duration(value: Any) -> bool:
    if isinstance(value, str):
        return _duration(value) is not None
    return value is False or (_is_number(value) and value >= 0)


def _seconds(value: Any) -> float | None:
    if isinstance(value, str):
        found = _duration(value)
        assert found is not None
        return float(found[1]) * _UNITS[found[2]]
    return None if value is False else float(value)


def _text_or_toml(text: str) -> Any:
    return text if _duration(text) else _toml(text)


TEXT: Final = Kind("a text", _is_text, str)
SECRET: Final = Kind("a text", _is_text, str, secret=True)
TEXTS: Final = Kind('a list of texts like ["a", "b"]', _is_texts, _split)
KEYS: Final = Kind('a list of texts like ["env:NAME"]', _is_texts, _split, secret=True, late=True)
SECRETS: Final = Kind('a list of texts like ["env:NAME"]', _is_texts, _split, secret=True)
FLAG: Final = Kind("true or false", lambda v: isinstance(v, bool))
WHOLE: Final = Kind("a whole number", _is_whole)
COUNT: Final = Kind("a whole number from 1", lambda v: _is_whole(v) and v >= 1)
FROM_0: Final = Kind("a whole number from 0", lambda v: _is_whole(v) and 0 <= v < _BEYOND)
PORT: Final = Kind("a port from 0 to 65535", lambda v: _is_whole(v) and 0 <= v <= 65535)
ABOVE_0: Final = Kind("a number above 0", lambda v: _is_number(v) and v > 0)
SECONDS: Final = Kind("a number of seconds from 0", lambda v: _is_number(v) and v >= 0)
DURATION: Final = Kind(
    'a duration like 2.5 (seconds), "500ms", "60s" or "5m"; false for none',
    _is_duration,
    _text_or_toml,
    becomes=_seconds,
)
NUMBER: Final = Kind("a number from 0", lambda v: _is_number(v) and v >= 0)
TIME: Final = Kind(
    'a duration like 2.5 (seconds), "500ms", "60s" or "5m"',
    lambda v: v is not False and _is_duration(v),
    _text_or_toml,
    becomes=_seconds,
)
ONE_OR_MORE: Final = Kind(
    'a text or a list of texts like ["a", "b"]', lambda v: _is_text(v) or _is_texts(v), _split
)
SHARE: Final = Kind("a number from 0 to 1", lambda v: _is_number(v) and 0 <= v <= 1)
TABLE: Final = Kind("a table", lambda v: isinstance(v, Mapping))
SECRETS_TABLE: Final = Kind("a table", lambda v: isinstance(v, Mapping), secret=True)
LISTS: Final = Kind(
    'a table of lists like { a = ["b", "c"] }', _table_of(lambda v: _is_texts(v) and len(v) > 0)
)
ALIASES: Final = Kind(
    'a table like { fast = "gpt-4o-mini", best = ["gpt-4o", "claude-sonnet"] }',
    _table_of(lambda v: _is_text(v) or (_is_texts(v) and len(v) > 0)),
)
STATUSES: Final = Kind(
    'a status like 429 or a list of them like [429, "5xx"]',
    lambda v: all(_is_whole(i) or _is_text(i) for i in (v if isinstance(v, list | tuple) else [v])),
    _split,
)
NAMES: Final = Kind('a table of texts like { a = "b" }', _table_of(_is_text))
HEADERS: Final = Kind('a table of texts like { a = "b" }', _table_of(_is_text), secret=True)
LIMITS: Final = Kind(
    "a table of seconds like { idle = 60 }, false for no limit",
    _table_of(lambda v: v is False or _is_number(v)),
)
LIMITS_BY_MODEL: Final = Kind(
    'a table like { "o*" = { first_token = 120 } } in seconds, false for no limit',
    _table_of(LIMITS.accepts),
)
PATH: Final = Kind(
    "empty or a path like /llm, without a slash at its end",
    lambda v: _is_text(v) and (not v or (v.startswith("/") and not v.endswith("/"))),
    str,
)
LEVEL: Final = _one_of("debug", "info", "warning", "error")
OPEN_OR_CLOSED: Final = _one_of("open", "closed")
MOMENT: Final = Kind(
    "a date with its time zone like 2027-01-31T00:00:00Z",
    lambda v: isinstance(v, datetime) and v.tzinfo is not None,
)
