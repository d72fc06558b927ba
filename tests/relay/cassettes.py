"""Recorded exchanges as test cases: our own small ones, and the shared corpus where it is there.

Both have one shape (the corpus' README tells it). Which recorded rows speak OpenAI's dialect, and
how each of them ends, is decided here by what is in them, never by who sent them or by id.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

CORPUS: Final = Path(__file__).resolve().parents[2] / "../shared/cassettes/dev.jsonl"
OWN: Final = Path(__file__).parent / "fixtures"

PATHS: Final = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
    "responses": "/responses",
}
_FIRST_INPUT: Final[dict[str, dict[str, Any]]] = {
    "chat": {"messages": [{"role": "user", "content": "hello"}]},
    "completions": {"prompt": "hello"},
    "embeddings": {"input": "hello"},
    "responses": {"input": "hello"},
}
_SPACINGS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"separators": (",", ":")},
    {"indent": 2},
)
_BORDER: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")


@dataclass(frozen=True)
class Row:
    """One recorded exchange."""

    entry: dict[str, Any]

    @property
    def id(self) -> str:
        return f"{self.entry['provider']}-{self.endpoint}-{self.entry['id']}"

    @property
    def endpoint(self) -> str:
        return str(self.entry["endpoint"])

    @property
    def path(self) -> str:
        return "/v1" + PATHS[self.endpoint]

    @property
    def status(self) -> int:
        return int(self.entry["response"]["status"])

    @property
    def is_stream(self) -> bool:
        return bool(self.entry["response"]["kind"] == "sse")

    @cached_property
    def raw(self) -> bytes:
        """The provider's body. JSON was recorded parsed, so its spacing is made up."""
        body = self.entry["response"]["body"]
        return (body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)).encode()

    @property
    def chunk_sizes(self) -> list[int]:
        return list(self.entry["response"].get("chunk_sizes") or [])

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The provider's headers but for those of framing; the content type where it is missing."""
        given = self.entry["response"]["headers"]
        framing = {"transfer-encoding", "content-length", "content-encoding"}
        found = {
            name.lower().encode(): value.encode("latin-1", "replace")
            for name, value in given.items()
            if name.lower() not in framing
        }
        kind = b"text/event-stream" if self.is_stream else b"application/json"
        return list(({b"content-type": kind} | found).items())

    def request(self, *, ask_usage: bool = True) -> bytes:
        """The recorded request as bytes, spaced in one of three ways.

        Where only the answer was recorded it is the least one. A model that the URL named (Azure)
        is put in, as callers of a gateway must name one. A stream asks for its usage, so that
        nothing has to be hidden, unless `ask_usage` is False.
        """
        recorded = self.entry["request"]["body"]
        body = dict(recorded) if recorded else {**_FIRST_INPUT[self.endpoint]}
        if not body.get("model"):
            body["model"] = "some-model"
        if not recorded and self.entry["stream"]:
            body["stream"] = True
        if body.get("stream") and self.endpoint in ("chat", "completions"):
            options = dict(body.pop("stream_options", None) or {})
            options.pop("include_usage", None)
            if ask_usage:
                options["include_usage"] = True
            if options:
                body["stream_options"] = options
        spacing = _SPACINGS[len(self.raw) % len(_SPACINGS)]
        return json.dumps(body, ensure_ascii=bool(len(self.raw) % 2), **spacing).encode()

    @cached_property
    def events(self) -> list[bytes]:
        """A stream's events as they stand, each with its border, comments left in."""
        ends = [0, *(border.end() for border in _BORDER.finditer(self.raw)), len(self.raw)]
        return [self.raw[a:b] for a, b in pairwise(ends) if b > a]

    @cached_property
    def documents(self) -> list[Any]:
        """What each event holds: its JSON, `[DONE]`; None for a comment and half an event."""
        return [document_of(event) for event in self.events]

    @property
    def ending(self) -> str:
        """How a stream ends: terminated, finished (nothing after the finish reason but usage),
        error, or cut."""
        documents = [d for d in self.documents if d is not None]
        if any(_is_error(d) for d in documents):
            return "error"
        if documents[-1:] == ["[DONE]"] or any(_is_terminal(d) for d in documents):
            return "terminated"
        return "finished" if any(_finishes(d) for d in documents) else "cut"

    @property
    def middle(self) -> int:
        """How many events come before anything that could end the stream well."""
        ends = (
            at
            for at, d in enumerate(self.documents)
            if d == "[DONE]" or _is_error(d) or _is_terminal(d) or _finishes(d) or _reports(d)
        )
        return next(ends, len(self.events))

    @property
    def usage(self) -> dict[str, Any] | None:
        """The last usage that counts tokens, where OpenAI's dialect and its speakers put it."""
        documents = self.documents if self.is_stream else [json.loads(self.raw)]
        reports = chain.from_iterable(map(_reports, reversed(documents)))
        return next(reports, None)


def document_of(event: bytes) -> Any:
    data = [line[5:].removeprefix(b" ") for line in event.splitlines() if line[:5] == b"data:"]
    if not data:
        return None
    text = b"\n".join(data)
    try:
        return "[DONE]" if text.strip() == b"[DONE]" else json.loads(text)
    except json.JSONDecodeError:  # the recording of a stream that was cut
        return None


def _is_error(document: Any) -> bool:
    if not isinstance(document, dict):
        return False
    return document.get("type") == "error" or bool(document.get("error"))


def _is_terminal(document: Any) -> bool:
    kinds = ("response.completed", "response.incomplete", "response.failed")
    return isinstance(document, dict) and document.get("type") in kinds


def _choices(document: Any) -> list[Any]:
    choices = document.get("choices") if isinstance(document, dict) else None
    return choices if isinstance(choices, list) else []


def _finishes(document: Any) -> bool:
    return any(choice.get("finish_reason") for choice in _choices(document))


def _reports(document: Any) -> list[dict[str, Any]]:
    if not isinstance(document, dict):
        return []
    holders = [document, document.get("response"), document.get("x_groq")]
    holders += reversed(_choices(document))
    found = [holder.get("usage") for holder in holders if isinstance(holder, dict)]
    return [report for report in found if isinstance(report, dict) and _counts(report)]


def _counts(report: dict[str, Any]) -> bool:
    names = ("prompt_tokens", "input_tokens", "completion_tokens", "output_tokens", "total_tokens")
    return any(isinstance(report.get(name), int) for name in names)


def speaks_openai(entry: dict[str, Any]) -> bool:
    """Whether a row is OpenAI's dialect on one of its four endpoints.

    A good answer is told by its shape alone, since a channel's `paths` may lead anywhere; what an
    error says has no shape to go by, so there the URL must end in the endpoint's path.
    """
    endpoint, kind = entry["endpoint"], entry["response"]["kind"]
    if endpoint not in PATHS or kind not in ("json", "sse"):
        return False
    row = Row(entry)
    if row.status >= 400:
        path: str = urlsplit(entry["request"]["url"]).path
        return path.rstrip("/").endswith(PATHS[endpoint])
    if kind == "json":
        return _has_shape(endpoint, entry["response"]["body"])
    firsts = [d for d in row.documents if isinstance(d, dict)][:1]
    return any(_has_shape(endpoint, d) or _is_error(d) for d in firsts)


def _has_shape(endpoint: str, body: Any) -> bool:
    if isinstance(body, str):
        body = json.loads(body)
    if not isinstance(body, dict):
        return False
    if endpoint == "responses":
        kind = str(body.get("type", ""))
        return bool(body.get("object") == "response" or kind.startswith("response."))
    found: Any = body.get("data" if endpoint == "embeddings" else "choices")
    if not isinstance(found, list):
        return False
    inner = {"chat": ("message", "delta"), "completions": ("text",), "embeddings": ("embedding",)}
    names = inner[endpoint]
    return all(any(name in each for name in names) for each in found)


def _read() -> list[Row]:
    own = [json.loads(path.read_text("utf-8")) for path in sorted(OWN.glob("*.json"))]
    shared: list[dict[str, Any]] = []
    if CORPUS.is_file():
        with CORPUS.open(encoding="utf-8") as lines:
            shared = [json.loads(line) for line in lines]
    return [Row(entry) for entry in (*own, *filter(speaks_openai, shared))]


ROWS: Final = _read()


def cases(chosen: list[Row]) -> list[Any]:
    """Parameters for these rows, and one that says so when the corpus is missing."""
    found: list[Any] = [pytest.param(row, id=row.id) for row in chosen]
    if not CORPUS.is_file():
        why = pytest.mark.skip(reason="../shared/cassettes is not here; our own fixtures ran")
        found.append(pytest.param(None, id="shared", marks=why))
    return found
