"""A user's rows of the error table, as settings write them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, Final

from ..errors import ConfigurationError
from .error_class import (
    EFFECTS,
    FALLBACKS,
    KINDS,
    SCOPES,
    ErrorClass,
    Match,
    messages_of,
    statuses_of,
)

_MATCHES: Final = ("status", "kind", "code", "type", "message")
_CHANGES: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    "name": ("a text", lambda v: isinstance(v, str) and bool(v)),
    "here": ("true or false", lambda v: isinstance(v, bool)),
    "elsewhere": ("true or false", lambda v: isinstance(v, bool)),
    "health": (f"one of {', '.join(EFFECTS)}", lambda v: isinstance(v, str) and v in EFFECTS),
    "scope": (f"one of {', '.join(SCOPES)}", lambda v: isinstance(v, str) and v in SCOPES),
    "billable": ("true or false", lambda v: isinstance(v, bool)),
    "fallback": (
        'one of "", "any", "context", "content"',
        lambda v: isinstance(v, str) and v in FALLBACKS,
    ),
    "cooldown": ("seconds from 0", lambda v: _is_number(v) and v >= 0),
}


@dataclass(frozen=True, slots=True)
class Override:
    """A row that changes some of what the preset says of the failures it is about."""

    match: Match
    changes: Mapping[str, Any]
    _made: dict[ErrorClass, ErrorClass] = field(default_factory=dict, compare=False, repr=False)

    def onto(self, verdict: ErrorClass) -> ErrorClass:
        """The preset's verdict with this row's changes."""
        made = self._made.get(verdict)
        if made is None:
            made = self._made[verdict] = replace(verdict, **self.changes)
        return made


def override(row: Mapping[str, Any], where: str) -> Override:
    """A row as a settings file has it:

        { status = [429, "5xx"], message = ["re:^try later"], elsewhere = false, cooldown = 30 }

    `status`, `kind`, `code`, `type` and `message` (one or a list) say which failures, the others
    what of ErrorClass changes. Raises ConfigurationError, beginning with `where`, for a row that
    cannot work.
    """
    for name in row:
        if name not in _MATCHES and name not in _CHANGES:
            raise ConfigurationError(f"{where}: {_unknown(name)}")
    given = {name: _listed(row[name], name, where) for name in _MATCHES if name in row}
    if not given:
        raise ConfigurationError(
            f"{where} says for no error what it means; give one of {', '.join(_MATCHES)}"
        )
    changes = {name: value for name, value in row.items() if name in _CHANGES}
    for name, value in changes.items():
        expected, accepts = _CHANGES[name]
        if not accepts(value):
            raise ConfigurationError(f"{where}: {name} must be {expected}, not {value!r}")
    if not changes:
        raise ConfigurationError(f"{where} changes nothing; give one of {', '.join(_CHANGES)}")
    return Override(_match(given, where), changes)


def _match(given: Mapping[str, Sequence[Any]], where: str) -> Match:
    kinds = frozenset(str(kind) for kind in given.get("kind", ()))
    if unknown := sorted(kinds - set(KINDS)):
        raise ConfigurationError(f"{where}: kind {unknown[0]!r} is none of {', '.join(KINDS)}")
    try:
        return Match(
            statuses=statuses_of(given.get("status", ())),
            kinds=kinds,
            codes=frozenset(str(code).lower() for code in given.get("code", ())),
            types=frozenset(str(name).lower() for name in given.get("type", ())),
            messages=messages_of(str(text) for text in given.get("message", ())),
        )
    except ConfigurationError as exc:
        raise ConfigurationError(f"{where}: {exc.message}") from exc


def _listed(value: Any, name: str, where: str) -> Sequence[Any]:
    """A list of texts or numbers; one alone is a list of one."""
    many = list(value) if isinstance(value, list | tuple) else [value]
    good = (str, int) if name in ("status", "code") else (str,)
    if not many or any(isinstance(v, bool) or not isinstance(v, good) or v == "" for v in many):
        raise ConfigurationError(f"{where}: {name} must be a text or a list of texts")
    return many


def _unknown(name: object) -> str:
    known = (*_MATCHES, *_CHANGES)
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"{str(name)[:60]!r} is no member of a row; {hint}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
