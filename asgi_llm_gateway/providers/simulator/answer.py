"""What the simulator is going to say, as a value: handlers make it, faults bend it, it is sent.

The error bodies are those of OpenAI's API (error codes guide), word for word where it is known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec

from ...errors import Headers

_JSON = (b"content-type", b"application/json")
_EVENTS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
]


class Ending(Enum):
    """How an answer stops."""

    WHOLE = "whole"
    DROPPED = "dropped"
    """The connection dies."""
    SILENT = "silent"
    """Nothing more comes, and the connection stays open."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One body message, and how many tokens of the answer it holds (for pacing)."""

    data: bytes
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer. A streamed one is sent piece by piece, without a content-length."""

    status: int
    headers: Headers
    pieces: tuple[Piece, ...]
    streamed: bool = False
    ending: Ending = Ending.WHOLE
    head: bool = True
    """False: not even the status goes out before the ending."""
    pause: float = 0.0
    """Seconds before the first piece."""


class Refusal(Exception):
    """The request gets an error of OpenAI's instead of an answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Headers | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"message": message, "type": type, "param": param, "code": code}
        self.headers = headers or []

    def answer(self) -> Answer:
        """The error as it goes out."""
        return json_answer({"error": self.error}, status=self.status, headers=self.headers)


def encode(value: Any) -> bytes:
    """Compact JSON."""
    return msgspec.json.encode(value)


def plain(
    body: bytes,
    content_type: bytes,
    *,
    status: int = 200,
    headers: Iterable[Any] = (),
    tokens: int = 0,
) -> Answer:
    """An answer sent in one go."""
    head: Headers = [(b"content-type", content_type), *headers]
    return Answer(status, head, (Piece(body, tokens),))


def json_answer(
    value: Any, *, status: int = 200, headers: Iterable[Any] = (), tokens: int = 0
) -> Answer:
    """A JSON answer; `tokens` is what it took to generate."""
    return plain(encode(value), _JSON[1], status=status, headers=headers, tokens=tokens)


def event_stream(pieces: Iterable[Piece]) -> Answer:
    """A stream of server-sent events, one piece each."""
    return Answer(200, list(_EVENTS), tuple(pieces), streamed=True)


def data_event(value: Any, tokens: int = 0) -> Piece:
    """An unnamed event, as chat and completions stream them."""
    return Piece(b"data: " + encode(value) + b"\n\n", tokens)


def named_event(value: dict[str, Any], tokens: int = 0) -> Piece:
    """An event named by its own type, as the Responses API streams them."""
    name = str(value["type"]).encode()
    return Piece(b"event: " + name + b"\ndata: " + encode(value) + b"\n\n", tokens)


DONE = Piece(b"data: [DONE]\n\n")
"""The terminator of chat and completions streams."""
