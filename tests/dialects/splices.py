"""Streams to splice, and what a client makes of them."""

from __future__ import annotations

import json
from typing import Any

from asgi_llm_gateway.dialects.splicing import Continuation, SentSoFar
from tests.upstreams import DONE


def said(delta: Any, *, index: int = 0, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """A chunk with one choice."""
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "c1", "created": 1, "model": "m", "choices": [choice], **more}


def sent(events: bytes, dialect: str = "openai_chat", **how: Any) -> SentSoFar:
    found = SentSoFar(dialect, **how)
    found.feed(events)
    return found


def continued(first: bytes, second: bytes, dialect: str = "openai_chat") -> bytes:
    """What goes on to a caller who was sent `first`."""
    continuation = Continuation(sent(first, dialect))
    out = continuation.feed(second)
    continuation.end()
    return out


def documents(events: bytes) -> list[Any]:
    """The JSON of each event, but for the end."""
    blocks = [block for block in events.decode().split("\n\n") if block]
    data = [block.removeprefix("data: ") for block in blocks if not block.startswith(":")]
    return [json.loads(item) for item in data if item != "[DONE]"]


def heard(events: bytes) -> dict[str, Any]:
    """What a client makes of a stream: the text of each choice, how it ended, the usage."""
    choices: dict[int, dict[str, str]] = {}
    usage = None
    for document in documents(events):
        usage = document.get("usage") or usage
        for choice in document["choices"]:
            found = choices.setdefault(choice["index"], {})
            for name, value in {**choice.get("delta", {}), **choice}.items():
                if value and isinstance(value, str):  # clients join strings, roles too
                    found[name] = found.get(name, "") + value
    return {"choices": choices, "usage": usage, "ends": events.count(DONE)}
