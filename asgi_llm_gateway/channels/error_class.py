"""What an error means and which errors a row of the table is about: plain values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from ..errors import ConfigurationError
from .expressions import MARK, expression, occurs

Effect = Literal["none", "cooldown", "remove"]
Scope = Literal["key", "model", "channel"]
Fallback = Literal["", "any", "context", "content"]

EFFECTS: Final = ("none", "cooldown", "remove")
SCOPES: Final = ("key", "model", "channel")
FALLBACKS: Final = ("", "any", "context", "content")

PHASES: Final = ("connect", "first_byte", "first_token", "idle", "total")
KINDS: Final = (
    "refused",  # an error status of the provider's
    "error_200",  # status 200 and an error in the body, or an error event first in the stream
    "connect",  # no connection: name, refusal, TLS
    "lost",  # the connection died before the answer began
    "timeout",  # a limit in time, of any phase
    *(f"timeout.{phase}" for phase in PHASES),
    "busy",  # our own pool of connections had none free
    "bad_answer",  # HTML, an empty stream, no JSON
    "revoked",  # the token host will never take this key again
    "upstream",  # another failure on the provider's side, such as its token host's
    "keys_busy",  # every key is at a limit of ours
    "own",  # nothing of the provider's: the gateway's own refusal
    "web_page",  # beside refused: the answer of something in between, not of the API
    "passed",  # beside refused: on a path of the caller's choice, which nobody here reads
)
"""How a failure came about; `timeout` stands for every phase."""


@dataclass(frozen=True, slots=True)
class ErrorClass:
    """What follows from a failed attempt.

    `here`: the same provider may be asked once more in this call, with another key if there is
    one. `elsewhere`: other candidates may be asked; those are other channels and, when the scope
    is the key, the channel's other keys. `health` is what becomes of what `scope` names (a model
    is that model on that channel): nothing, a failure that cools it down, or out until somebody
    or a test brings it back. `billable`: the provider may charge for the attempt. `fallback`
    names the list of models to go on with when no candidate is left; "" is none. `cooldown` is
    for how many seconds a key rests when the provider does not say (0: not at all); models and
    channels have the breaker's times.
    """

    name: str
    here: bool = False
    elsewhere: bool = False
    health: Effect = "none"
    scope: Scope = "channel"
    billable: bool = False
    fallback: Fallback = ""
    cooldown: float = 0.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a failure. Codes, types and messages are in lower case, each at most a
    few; `kinds` has "timeout" beside "timeout.idle"."""

    kinds: tuple[str, ...]
    status: int | None = None
    codes: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Match:
    """Which failures a row is about: of every field that is given, one entry must fit.

    `messages` are parts of the provider's message, whatever their case, or `re:` and a regular
    expression. A provider repeats words of the caller's in its messages: an expression that
    begins with ^ is one that callers cannot fake.
    """

    statuses: frozenset[int] = frozenset()
    kinds: frozenset[str] = frozenset()
    codes: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    messages: tuple[str, ...] = ()

    def fits(self, facts: Facts) -> bool:
        """Whether this failure is one of those."""
        if self.statuses and facts.status not in self.statuses:
            return False
        if self.kinds and self.kinds.isdisjoint(facts.kinds):
            return False
        if self.codes and self.codes.isdisjoint(facts.codes):
            return False
        if self.types and self.types.isdisjoint(facts.types):
            return False
        return not self.messages or self._says(facts.messages)

    def _says(self, messages: tuple[str, ...]) -> bool:
        return any(occurs(wanted, said) for said in messages for wanted in self.messages)


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """One row of a table: these failures mean that."""

    match: Match
    verdict: ErrorClass


def messages_of(texts: Iterable[str]) -> tuple[str, ...]:
    """Message patterns as a Match keeps them, checked."""
    kept = []
    for text in texts:
        if text.startswith(MARK):
            expression(text)
            kept.append(text)
        else:
            kept.append(text.lower())
    return tuple(kept)


def statuses_of(given: Iterable[int | str]) -> frozenset[int]:
    """Statuses written as 429, "5xx" or "505-523"; raises ConfigurationError for anything else."""
    found: set[int] = set()
    for one in given:
        text = str(one).strip().lower()
        if re.fullmatch(r"[1-5]xx", text):
            found.update(range(int(text[0]) * 100, int(text[0]) * 100 + 100))
        elif re.fullmatch(r"[1-5]\d\d", text):
            found.add(int(text))
        elif re.fullmatch(r"[1-5]\d\d-[1-5]\d\d", text) and text[:3] <= text[4:]:
            found.update(range(int(text[:3]), int(text[4:]) + 1))
        else:
            raise ConfigurationError(f'{one!r} is no status; write 429, "5xx" or "505-523"')
    return frozenset(found)


def row(
    verdict: ErrorClass,
    *,
    status: tuple[int | str, ...] = (),
    kind: tuple[str, ...] = (),
    code: tuple[str, ...] = (),
    type: tuple[str, ...] = (),
    message: tuple[str, ...] = (),
) -> ErrorRule:
    """A row as the presets write it: what it means, and of which failures."""
    match = Match(
        statuses_of(status),
        frozenset(kind),
        frozenset(c.lower() for c in code),
        frozenset(t.lower() for t in type),
        messages_of(message),
    )
    return ErrorRule(match, verdict)
