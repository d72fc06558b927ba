"""Every way a provider goes wrong, by name.

| name | what the caller sees |
|---|---|
| `400` … `599` | that status, OpenAI's error body; Retry-After with 429, 503 and `500:30` |
| `html` | 200 with a web page |
| `empty` | 200 with no body, or a stream without an event |
| `error_body` | 200 with `{"error": …}` as JSON |
| `error_event_first` | 200, and a stream whose only event is an error; else `error_body` |
| `reset` | the connection dies before the head |
| `hang` | silence: no head ever comes |
| `cut:N` | the stream dies after N events; a plain body after half of it |
| `stall:N` | the stream goes silent after N events; a plain body after half of it |
| `no_done` | the stream ends cleanly, without its last event (`[DONE]`, `response.completed`) |
| `malformed` | an event that is no JSON among the good ones; a plain body that is no JSON |
| `slow_first_token:S` | S seconds between the head and the first event |

`once:NAME` strikes the first call only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from ...errors import ConfigurationError
from .answer import Answer, Ending, Piece, Refusal, data_event, event_stream, json_answer, plain

_PAGE: Final = b"<!doctype html><title>Bad gateway</title><h1>Something went wrong</h1>\n"
_BROKEN: Final = Piece(b'data: {"id": "broken", "choices": [{"delta": {"content": \n\n')
_PLAIN: Final = frozenset(
    {"empty", "error_body", "error_event_first", "hang", "html", "malformed", "no_done", "reset"}
)
_COUNTED: Final = frozenset({"cut", "stall"})
_SERVER: Final = {
    "message": "The server had an error while processing your request. Sorry about that!",
    "type": "server_error",
    "param": None,
    "code": None,
}
_STATUSES: Final[dict[int, tuple[str, str, str | None]]] = {
    401: ("Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
    403: (
        "You have insufficient permissions for this operation.",
        "invalid_request_error",
        "insufficient_permissions",
    ),
    404: ("The model does not exist.", "invalid_request_error", "model_not_found"),
    429: ("Rate limit reached. Please try again later.", "requests", "rate_limit_exceeded"),
    503: ("The engine is currently overloaded, please try again later.", "server_error", None),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One entry of the table above; `amount` is its number: events or seconds."""

    kind: str
    amount: float | None = None
    once: bool = False

    @staticmethod
    def parse(text: str) -> Fault:
        """Read a fault's name; raises ConfigurationError, which lists the names there are."""
        once = text.startswith("once:")
        kind, _, number = text.removeprefix("once:").partition(":")
        status = re.fullmatch(r"[45]\d\d", kind) is not None
        seconds = kind == "slow_first_token"
        counted = kind in _COUNTED
        well_formed = re.fullmatch(r"\d+" if counted else r"\d+(\.\d+)?", number) is not None
        if well_formed and (status or seconds or counted):
            return Fault(kind, float(number), once)
        if not number and ":" not in text.removeprefix("once:") and (status or kind in _PLAIN):
            return Fault(kind, None, once)
        known = ", ".join(sorted(_PLAIN))
        raise ConfigurationError(
            f"no fault is named {text!r}; there are an HTTP status from 400, {known},"
            " cut:N, stall:N, slow_first_token:SECONDS, and once: before any of them"
        )

    @property
    def refusal(self) -> Refusal | None:
        """The error this fault answers with at once, if it is a status."""
        if not self.kind.isdigit():
            return None
        status = int(self.kind)
        message, kind, code = _STATUSES.get(
            status,
            (str(_SERVER["message"]), "server_error", None)
            if status >= 500
            else ("The request was refused by the simulator.", "invalid_request_error", None),
        )
        headers = []
        if status in (429, 503) or self.amount is not None:
            headers.append((b"retry-after", b"%d" % round(self.amount or 1)))
        return Refusal(status, message, type=kind, code=code, headers=headers)

    def bend(self, answer: Answer) -> Answer:
        """The answer as this fault spoils it."""
        kind = self.kind
        if kind == "html":
            return plain(_PAGE, b"text/html; charset=utf-8")
        if kind == "empty":
            pieces = () if answer.streamed else (Piece(b""),)
            return replace(answer, pieces=pieces)
        if kind == "error_body" or (kind == "error_event_first" and not answer.streamed):
            return json_answer({"error": _SERVER})
        if kind == "error_event_first":
            return event_stream([data_event({"error": _SERVER})])
        if kind in ("reset", "hang"):
            ending = Ending.DROPPED if kind == "reset" else Ending.SILENT
            return replace(answer, pieces=(), head=False, ending=ending)
        if kind in _COUNTED:
            ending = Ending.DROPPED if kind == "cut" else Ending.SILENT
            return replace(answer, pieces=self._first(answer), ending=ending)
        if kind == "no_done":
            return replace(answer, pieces=answer.pieces[:-1]) if answer.streamed else answer
        if kind == "malformed":
            return replace(answer, pieces=_malformed(answer))
        return replace(answer, pause=answer.pause + (self.amount or 0.0))

    def _first(self, answer: Answer) -> tuple[Piece, ...]:
        if answer.streamed:
            return answer.pieces[: int(self.amount or 0)]
        return tuple(Piece(piece.data[: len(piece.data) // 2]) for piece in answer.pieces)


def _malformed(answer: Answer) -> tuple[Piece, ...]:
    if answer.streamed:
        middle = len(answer.pieces) // 2
        return (*answer.pieces[:middle], _BROKEN, *answer.pieces[middle:])
    return tuple(Piece(piece.data[: len(piece.data) // 2]) for piece in answer.pieces)
