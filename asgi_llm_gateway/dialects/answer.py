"""The decoded events of a relayed answer, shared by every part that asks.

Every body message of a relayed stream holds whole events. Who needs them decoded calls `events`;
the first to ask decodes, and leaves the result in the message for the next. Who changes something
sends `rewritten`, so that body and events never disagree.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from ..wire.sse import Event, SSEReader, write
from .soundness import UNREADABLE

EVENTS_KEY = "asgi_llm_gateway.events"
"""Where a body message carries its decoded events."""


class AnswerEvent:
    """One event of a stream: its bytes, and its document if its data is a JSON object.

    `document` is for reading; a part that changes it calls `changed` so that the bytes follow.
    """

    __slots__ = ("_decoded", "_document", "event", "raw")

    def __init__(self, event: Event) -> None:
        self.event = event
        self.raw = event.raw
        self._document: Any = None
        self._decoded = False

    @property
    def document(self) -> dict[str, Any] | None:
        """The event's data decoded; None if it is no JSON object (`[DONE]`)."""
        if not self._decoded:
            self._decoded = True
            if self.event.data.lstrip().startswith(b"{"):
                try:
                    self._document = msgspec.json.decode(self.event.data)
                except UNREADABLE:
                    self._document = None  # malformed: passed on as it is, read by nobody
        found: dict[str, Any] | None = self._document
        return found

    def changed(self) -> None:
        """The document was altered: its bytes are written anew."""
        event = self.event
        self.raw = write(msgspec.json.encode(self._document), event.event, event.id)


def events(message: Any) -> list[AnswerEvent]:
    """The events of one `http.response.body` message of a stream."""
    found: list[AnswerEvent] | None = message.get(EVENTS_KEY)
    if found is None:
        reader = SSEReader()
        body = message.get("body", b"")
        found = [AnswerEvent(event) for event in (*reader.feed(body), *reader.finish())]
        message[EVENTS_KEY] = found
    return found


def rewritten(message: Any, changed: Iterable[AnswerEvent]) -> dict[str, Any]:
    """The message with these events in place of its own, body and events alike."""
    kept = list(changed)
    return {**message, "body": b"".join(event.raw for event in kept), EVENTS_KEY: kept}
