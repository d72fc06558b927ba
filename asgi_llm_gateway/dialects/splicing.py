"""Going on with a stream that was cut from where its caller was left. Pure: events in, events out.

    sent = SentSoFar("openai_chat")
    sent.feed(events)                           # whatever goes to the caller, as it goes
    ...                                         # the provider's connection dies
    if sent.can_continue:
        continuation = Continuation(sent)
        out = continuation.feed(events)         # of a restarted stream: only what is new
        sent.feed(out)                          # should this one be cut as well
        continuation.end()                      # when it is over: raises if it fell short

A restarted stream is another answer to the same question. It is spliced on only where it begins
with exactly the text that was already sent, field by field and choice by choice; how that text is
cut into events does not matter. From there on it is one stream for the caller: chunks keep the id,
time and model of the first (clients key by id), and a role is told once.

Only text can be compared. Once a tool call, audio, log probabilities or anything unknown was sent,
or too much of it, a stream cannot be spliced any more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from io import StringIO
from typing import Any

from ..errors import BadAnswer
from ..wire.sse import SSEReader
from .answer import AnswerEvent

MAX_SENT = 1_000_000
"""Characters of a stream that are kept for comparing; beyond it splicing is off."""

_CHOICE = 256
"""Characters that a choice counts for, so that a stream of nothing but choices is bounded too."""
_KEPT = ("id", "created", "model")
"""Members that are the same in all chunks of one stream (OpenAI API reference, Chat, "The chat
completion chunk object")."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """Where a dialect's chunks keep their text: in `texts`, of the choice or of a member of it."""

    holder: str | None
    texts: frozenset[str]


_SHAPES = {
    "openai_chat": _Shape(
        "delta", frozenset({"content", "reasoning", "reasoning_content", "refusal"})
    ),
    "openai_completions": _Shape(None, frozenset({"text"})),
}


class Diverged(BadAnswer):
    """A restarted stream does not go on from what its caller was already sent."""

    code = "upstream_diverged"

    def __init__(self, what: str) -> None:
        super().__init__(f"the provider's stream was cut, and {what}")


def can_splice(dialect: str) -> bool:
    """Whether streams of this dialect can be gone on with at all."""
    return dialect in _SHAPES


@dataclass(slots=True)
class _Said:
    """What was sent of one choice: its text by field, and how it ended, if it did."""

    texts: dict[str, StringIO] = field(default_factory=dict)
    role: bool = False
    finish: Any = None


class SentSoFar:
    """What a caller was sent of one stream, as far as it is needed to go on with it.

    It keeps at most `limit` characters. Raises ValueError for a dialect that `can_splice` denies.
    """

    def __init__(self, dialect: str, limit: int = MAX_SENT) -> None:
        if not can_splice(dialect):
            raise ValueError(f"streams of {dialect} cannot be spliced")
        self.shape = _SHAPES[dialect]
        self.head: dict[str, Any] = {}
        """The first stream's id, created and model."""
        self.choices: dict[int, _Said] = {}
        self.can_continue = True
        """Whether all that was sent can be compared; once False it stays so."""
        self._room = limit

    def feed(self, events: bytes) -> None:
        """Whole events that go to the caller."""
        if not self.can_continue:
            return
        for event in _events(events):
            if not self._note(event) or self._room < 0:
                self.can_continue = False
                self.choices.clear()
                return

    def _note(self, event: AnswerEvent) -> bool:
        document = event.document
        if document is None:  # the end was told, or something that cannot be read was
            return not event.event.data.strip()
        choices = _choices(document, self.shape)
        if choices is None or _is_error(event, document):
            return False
        for name in _KEPT:
            # Azure's first chunk has an empty id and model.
            if (value := document.get(name)) and name not in self.head:
                self.head[name] = value
                self._room -= len(value) if isinstance(value, str) else 0
        return all(self._heard(*choice) for choice in choices)

    def _heard(self, index: int, choice: dict[str, Any], holder: dict[str, Any]) -> bool:
        """Notes one choice of a chunk; False if there is more in it than text."""
        said = self.choices.get(index)
        if said is None:
            said = self.choices[index] = _Said()
            self._room -= _CHOICE
        if choice.get("logprobs") or _other(holder, self.shape):
            return False
        said.role = said.role or bool(holder.get("role"))
        said.finish = choice.get("finish_reason") or said.finish
        for name in self.shape.texts:
            text = holder.get(name)
            if isinstance(text, str) and text:
                self._room -= len(text)
                said.texts.setdefault(name, StringIO()).write(text)
        return True


class _Left:
    """What a restarted stream has yet to repeat of one choice."""

    __slots__ = ("_at", "_said", "finish", "past", "role")

    def __init__(self, said: _Said) -> None:
        self._said = {name: text.getvalue() for name, text in said.texts.items()}
        self._at = dict.fromkeys(self._said, 0)
        self.role, self.finish = said.role, said.finish
        self.past = False
        """It has said something new."""

    @property
    def repeated(self) -> bool:
        """Whether all the text that was sent has come again."""
        return all(at == len(self._said[name]) for name, at in self._at.items())

    def swallow(self, name: str, text: str) -> str:
        """What of a field's next text is new; raises Diverged when it is not what was sent."""
        said, at = self._said.get(name, ""), self._at.get(name, 0)
        known = min(len(text), len(said) - at)
        if known:
            if not said.startswith(text[:known], at):
                raise Diverged("its restart says something else")
            self._at[name] = at + known
        return text[known:]


class Continuation:
    """A restarted stream, seen by a caller who knows its beginning.

    `skipped` counts events that could not be read; they are left out. Raises ValueError for a
    `sent` that is not all known.
    """

    def __init__(self, sent: SentSoFar) -> None:
        if not sent.can_continue:
            raise ValueError("what was sent is not all known; ask can_continue first")
        self.skipped = 0
        self._shape = sent.shape
        self._head = dict(sent.head)
        self._left = {index: _Left(said) for index, said in sent.choices.items()}

    @property
    def caught_up(self) -> bool:
        """Whether the restarted stream has come to where the caller was left."""
        return all(left.repeated for left in self._left.values())

    def feed(self, events: bytes) -> bytes:
        """What of these whole events the caller has not been sent, as events.

        Raises Diverged when they are not the same as what was sent; what was given out before
        stands. Comments between events pass, so that they go on keeping a connection open.
        """
        found = _events(events)
        return b"".join(map(self._continued, found)) if found else events

    def end(self) -> None:
        """The restarted stream is over: raises Diverged if it never got to where it was cut."""
        if not self.caught_up:
            raise Diverged("its restart ended before that point")

    def _continued(self, event: AnswerEvent) -> bytes:
        data = event.event.data.strip()
        if data == b"[DONE]":
            self.end()
            return event.raw
        document = event.document
        choices = None if document is None else _choices(document, self._shape)
        if document is None or choices is None:
            self.skipped += bool(data)
            return b""
        if _is_error(event, document):
            if not self.caught_up:
                raise Diverged("its restart failed before that point")
            return event.raw
        if choices:
            new = [choice for index, choice, holder in choices if self._new(index, choice, holder)]
            if not new:
                return b""
            document["choices"] = new
        elif not self.caught_up:
            return b""  # what a stream begins with, such as Azure's filter results of the prompt
        document.update((name, kept) for name, kept in self._head.items() if name in document)
        event.changed()
        return event.raw

    def _new(self, index: int, choice: dict[str, Any], holder: dict[str, Any]) -> bool:
        """Takes out of a choice what was sent; whether anything is left of it."""
        left = self._left.get(index)
        if left is None:  # nothing of it was sent before the cut
            return True
        if left.role:
            holder.pop("role", None)
        if left.past:
            return True
        more = _other(holder, self._shape)
        for name in self._shape.texts:
            text = holder.get(name)
            if isinstance(text, str) and text:
                fresh = holder[name] = left.swallow(name, text)
                more = more or bool(fresh)
                if fresh != text and "logprobs" in choice:
                    choice["logprobs"] = None  # they were of the whole text
        finish = choice.get("finish_reason")
        if finish == left.finish:
            finish = None
        if not (more or finish):
            return False
        if left.finish is not None or not left.repeated:
            raise Diverged("its restart goes on before that point or after the end")
        left.past = True
        return True


def _events(data: bytes) -> list[AnswerEvent]:
    reader = SSEReader()
    found = reader.feed(data)
    if data.endswith(b"\r"):  # which the reader takes for half of a CRLF
        found += reader.finish()
    return [AnswerEvent(event) for event in found]


def _choices(
    document: dict[str, Any], shape: _Shape
) -> list[tuple[int, dict[str, Any], dict[str, Any]]] | None:
    """Each choice of a chunk with its index and what holds its text; None if it is no chunk."""
    choices = document.get("choices") or []
    if not isinstance(choices, list):
        return None
    found = []
    for choice in choices:
        if not isinstance(choice, dict):
            return None
        index = choice.get("index") or 0
        holder = choice if shape.holder is None else (choice.get(shape.holder) or {})
        if not isinstance(index, int) or not isinstance(holder, dict):
            return None
        found.append((index, choice, holder))
    return found


def _other(holder: dict[str, Any], shape: _Shape) -> bool:
    """Whether something is said here that is no text: a tool call, audio, content in parts."""
    for name, value in holder.items():
        if not value or name == "role":
            continue
        if name in shape.texts:
            if not isinstance(value, str):
                return True
        elif shape.holder is not None:  # without one, the rest are facts about the choice itself
            return True
    return False


def _is_error(event: AnswerEvent, document: dict[str, Any]) -> bool:
    named = event.event.event == b"error" or document.get("type") == "error"
    return named or bool(document.get("error"))
