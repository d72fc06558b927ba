"""What a provider's error body says, whatever its shape. Pure, bounded, and it believes nothing.

The shapes: OpenAI `{"error": {"message", "type", "code"}}`, Anthropic `{"type": "error", "error":
{"type", "message"}}`, Google `{"error": {"status", "message", "details": [{"reason"}]}}` (a list of
one such on its OpenAI-compatible paths), Azure's `innererror`, xAI `{"code", "error": "…"}`,
FastAPI's `detail`, `errors: […]`, `{"code", "msg"}`, MiniMax's `base_resp`, Spark's `header`,
Tencent's `{"Response": {"Error": {"Code", "Message"}}}`, and OpenRouter's `metadata.raw`, which
holds the error of the provider behind it as text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

import msgspec

MAX_BODY: Final = 64 * 1024
"""Bytes of a body that is decoded; of a longer one only the beginning is read, as text."""
_MAX_TEXT: Final = 2048
"""Characters of one message."""
_MAX_NAME: Final = 128
_MAX_OBJECTS: Final = 24
_MAX_MEMBERS: Final = 64
_MAX_EACH: Final = 16

_INSIDE: Final = frozenset(
    {
        "base_resp",
        "detail",
        "details",
        "error",
        "errors",
        "header",
        "innererror",
        "inner_error",
        "metadata",
        "raw",
        "response",
        "responsemetadata",
    }
)
"""Members whose objects are read too."""
_CODE: Final = frozenset(
    {
        "__type",
        "code",
        "errcode",
        "error_code",
        "limit_source",
        "reason",
        "status_code",
    }
)
_TYPE: Final = frozenset({"error_type", "status", "type"})
_MESSAGE: Final = frozenset(
    {
        "detail",
        "details",
        "errmsg",
        "error",
        "error_message",
        "error_msg",
        "errors",
        "message",
        "msg",
        "raw",
        "status_msg",
        "title",
    }
)


class Said:
    """Codes, types and messages of one body, in lower case and in their order."""

    def __init__(self) -> None:
        self.codes: dict[str, None] = {}
        self.types: dict[str, None] = {}
        self.messages: dict[str, None] = {}

    def take(self, name: str, value: Any) -> None:
        """One member of an error object."""
        if isinstance(value, bool) or not isinstance(value, str | int):
            return
        text = str(value)[:_MAX_TEXT].strip().lower()
        if not text:
            return
        if name in _CODE and len(text) <= _MAX_NAME:
            _add(self.codes, text)
        elif name in _TYPE and len(text) <= _MAX_NAME and text != "error":
            _add(self.types, text)
        elif name in _MESSAGE and isinstance(value, str):
            _add(self.messages, text)


def said_in(body: bytes) -> Said:
    """Everything of use in an error body; a body that is no JSON is one message."""
    said = Said()
    document = _decoded(body) if len(body) <= MAX_BODY else None
    if isinstance(document, dict | list):
        for name, value in _members(document):
            said.take(name, value)
    elif text := body[: 4 * _MAX_TEXT].decode("utf-8", "replace").strip():
        said.take("message", text)
    return said


def _add(kept: dict[str, None], text: str) -> None:
    if len(kept) < _MAX_EACH:
        kept[text] = None


def _decoded(text: bytes | str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _members(document: Any) -> Iterator[tuple[str, Any]]:
    """Names in lower case and values of the error objects in a document, outermost first."""
    waiting = deque([document])
    for _ in range(_MAX_OBJECTS):
        if not waiting:
            return
        item = waiting.popleft()
        if isinstance(item, list):
            waiting.extend(part for part in item[:_MAX_EACH] if isinstance(part, dict | str))
        elif isinstance(item, str):
            yield "message", item
        else:
            for spelt, value in islice(item.items(), _MAX_MEMBERS):
                name = spelt.lower()
                inner = _inner(name, value)
                if inner is None:
                    yield name, value
                else:
                    waiting.append(inner)


def _inner(name: str, value: Any) -> Any:
    """The object or list in a member that is read too, else None."""
    if name in _INSIDE and isinstance(value, dict | list):
        return value
    # A gateway behind the provider puts the error it was given into its own as text.
    if name in _MESSAGE and isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        found = _decoded(value) if len(value) <= MAX_BODY else None
        return found if isinstance(found, dict | list) and found else None
    return None
