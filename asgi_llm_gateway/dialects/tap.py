"""Reads along with a stream that is passed on untouched: has it begun, is it whole, its usage.

Only the first events are decoded, and of the rest only the last ones, once the stream is over:
what a stream says about itself (finish reason, usage) stands at its end.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec

from ..errors import BadAnswer, ProviderRefused
from ..wire.sse import Event, SSEReader
from ..wire.usage import Usage, usage_in
from .soundness import UNREADABLE, sound, without_malformed

_KEPT = 6
"""Messages kept for the end: finish reason and usage stand in the last two or three events."""
_NUMBER = re.compile(rb'"sequence_number"\s*:\s*(\d{1,15})')
_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_COLON = ord(":")
_ERROR_MARKS = (b'"error"', b"event: error", b"event:error")


class Tap:
    """One stream of events that ends by a terminal event or with the connection.

    The relay calls `opening` until it says that a real event is there, `feed` for every message
    of whole events, `end` when the connection is over.
    """

    terminator = b""

    def __init__(self, hide_usage: bool = False) -> None:
        self.hide_usage = hide_usage
        self.failure: ProviderRefused | None = None
        """The error event the provider ended it with, as a refusal."""
        self.skipped = 0
        """Malformed events that were left out."""
        self._last: deque[bytes] = deque(maxlen=_KEPT)

    def opening(self, events: bytes) -> bool:
        """Whether `events` hold a real event.

        Raises ProviderRefused when an error event comes first, BadAnswer when what comes first is
        no event of this dialect or the stream ends with nothing in it.
        """
        for event in _one_by_one(events):
            if event.data.strip() == b"[DONE]":
                raise BadAnswer("the provider's stream is empty")
            document = _object(event.data)
            if event.event == b"error":
                raise _refused(document or {}, event.data)
            if not event.data.strip():  # `data:` alone, which some send to keep a line open
                continue
            if document is None:
                raise BadAnswer("the provider's stream begins with something that is no event")
            refuse_error(document, event.data)
            if not self._is_one(document):
                raise BadAnswer("the provider's stream begins with an event of another dialect")
            return True
        return False

    def anew(self) -> Tap:
        """Another that reads the same stream from its beginning, and hides nothing."""
        return type(self)()

    def of_many(self, choices: int) -> Tap:  # noqa: ARG002 - most dialects have one answer only
        """One for a stream of so many answers side by side, to be used in place of this one."""
        return self

    def _is_one(self, document: dict[str, Any]) -> bool:
        """Whether the first event's document can be one of this dialect's."""
        return isinstance(document.get("type"), str)

    def feed(self, events: bytes) -> bytes:
        """What of these whole events goes to the caller: no malformed one, whose readers raise."""
        if not sound(events):
            events, skipped = without_malformed(events)
            self.skipped += skipped
            if not events:
                return b""
        if events[0] != _COLON or b"data" in events:  # comments alone say nothing of the end
            self._last.append(events)
        if self.hide_usage and _NO_CHOICES.search(events):
            return _without_usage(events)
        return events

    def end(self) -> bytes | None:
        """The bytes that complete the stream (mostly none); None when it was cut short."""
        tail = b"".join(self._last)
        self.failure = error_in(tail)
        return self._complete(tail) if self.failure is None else b""

    def _complete(self, tail: bytes) -> bytes | None:
        for event in reversed(_events(tail)):
            if _type_of(event.data) in _TERMINAL:
                return b""
        return None

    @property
    def failed(self) -> bool:
        """The provider sent an error event of its own."""
        return self.failure is not None

    def next_number(self) -> int:
        """What an event added at the end is numbered, where a dialect numbers its events."""
        found = _NUMBER.findall(b"".join(self._last))
        return int(found[-1]) + 1 if found else 0

    def usage(self) -> Usage | None:
        """The last usage that is not null among the last events."""
        for events in reversed(self._last):
            if b'"usage"' in events:
                for event in reversed(_events(events)):
                    if found := usage_in(event.data):
                        return found
        return None


class DoneTap(Tap):
    """A stream that ends in `data: [DONE]`, after a chunk that names its finish reason."""

    terminator = b"data: [DONE]\n\n"
    _done = re.compile(rb"(?:\A|[\r\n])data: ?\[DONE\]")
    _finish = re.compile(rb'"finish_reason"\s*:\s*"(?!"|null")')  # both of which some send for null

    def of_many(self, choices: int) -> Tap:
        """For `n` above 1: each choice ends by a finish reason of its own."""
        return ChoicesTap(choices, self.hide_usage)

    def _is_one(self, document: dict[str, Any]) -> bool:
        return isinstance(document.get("choices"), list)

    def _complete(self, tail: bytes) -> bytes | None:
        if tail.endswith(self.terminator) or self._done.search(tail):
            return b""
        return self.terminator if self._finish.search(tail) else None


class ChoicesTap(DoneTap):
    """A stream of several choices, whose chunks come mixed: it is whole after `[DONE]`, or once
    each of them has its finish reason."""

    def __init__(self, choices: int, hide_usage: bool = False) -> None:
        super().__init__(hide_usage)
        self._choices = choices
        self._finished: set[int] = set()

    def anew(self) -> Tap:
        """See Tap."""
        return ChoicesTap(self._choices)

    def feed(self, events: bytes) -> bytes:
        """See Tap; the first of many choices may be finished long before the last."""
        if self._finish.search(events):
            for event in _events(events):
                self._note(_object(event.data) or {})
        return super().feed(events)

    def _note(self, document: dict[str, Any]) -> None:
        choices = document.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            finish = choice.get("finish_reason") if isinstance(choice, dict) else None
            if isinstance(finish, str) and finish not in ("", "null"):
                index = choice.get("index", 0)
                if isinstance(index, int) and 0 <= index < self._choices:
                    self._finished.add(index)

    def _complete(self, tail: bytes) -> bytes | None:
        if tail.endswith(self.terminator) or self._done.search(tail):
            return b""
        return self.terminator if len(self._finished) >= self._choices else None


def _one_by_one(data: bytes) -> Iterator[Event]:
    """The events, parsed only as far as somebody asks: a fast provider sends hundreds at once."""
    while (border := data.find(b"\n\n")) >= 0 and b"\r" not in data[:border]:
        yield from _events(data[: border + 2])
        data = data[border + 2 :]
    yield from _events(data)


def refuse_error(document: dict[str, Any], body: bytes) -> None:
    """Raise ProviderRefused for a document that is an error although its status says 200."""
    if document.get("object") == "response" or "response" in document:
        return  # a response that failed is an answer, and says so in its status
    if document.get("error") or document.get("type") == "error":
        raise _refused(document, body)


def _refused(document: dict[str, Any], body: bytes) -> ProviderRefused:
    error = document.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    status = code if isinstance(code, int) and 400 <= code <= 599 else 502
    return ProviderRefused("the provider answered 200 with an error", status=status, body=body)


def unended(rest: bytes) -> bytes:
    """What a stream that ended without its last border left behind, with the border, if it is a
    whole event; else nothing, as the WHATWG standard has it."""
    events = _events(rest)
    if not events or not all(_object(e.data) or e.data.strip() == b"[DONE]" for e in events):
        return b""
    return rest + (b"\n" if rest.endswith(b"\n") else b"\n\n")


class _Typed(msgspec.Struct, gc=False):
    type: str | None = None


_typed = msgspec.json.Decoder(_Typed).decode

_TERMINAL = frozenset(
    {
        "image_edit.completed",
        "image_generation.completed",
        "response.completed",
        "response.failed",
        "response.incomplete",
        "speech.audio.done",
        "transcript.text.done",
    }
)
"""Types of the events that end a stream; `response.output_text.done` and its like end a part of
one (OpenAI API reference, streaming events of responses, images and audio)."""


def _type_of(data: bytes) -> str | None:
    try:
        return _typed(data).type
    except UNREADABLE:
        return None


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        document = msgspec.json.decode(data)
    except UNREADABLE:
        return None
    return document if isinstance(document, dict) else None


def _events(data: bytes) -> list[Event]:
    reader = SSEReader()
    return [*reader.feed(data), *reader.finish()]


def _without_usage(events: bytes) -> bytes:
    """The events but for those that carry nothing but usage."""
    kept = bytearray(events)
    for event in reversed(_events(events)):
        document = _object(event.data)
        if document and document.get("choices") == [] and isinstance(document.get("usage"), dict):
            at = kept.rfind(event.raw)
            del kept[at : at + len(event.raw)]
    return bytes(kept)


def error_in(tail: bytes) -> ProviderRefused | None:
    """The refusal in one of these whole events, if one is an error of the provider's."""
    # Plain searches first: over a fast provider's last pieces a pattern takes longer than the call.
    if not any(mark in tail for mark in _ERROR_MARKS):
        return None
    for event in _events(tail):
        document = _object(event.data) or {}
        # Also beside choices: OpenRouter ends a stream that failed with such a chunk.
        if event.event == b"error" or document.get("type") == "error" or document.get("error"):
            return _refused(document, event.data)
    return None
