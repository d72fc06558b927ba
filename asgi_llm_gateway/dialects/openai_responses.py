"""OpenAI's Responses (OpenAI API reference, Responses and its streaming events)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .base import Dialect
from .tap import Tap
from .text import Text, items, members, parts, within


def request_texts(document: Any) -> Iterator[Text]:
    """Instructions, input items of every kind, and what tools say."""
    yield from members(document, "instructions", "input")
    for item in items(document, "input"):
        yield from _item(item)
    for tool in items(document, "tools"):
        yield from members(tool, "description")


def answer_texts(document: Any) -> Iterator[Text]:
    """Output items of a whole answer; deltas, parts and items of an event."""
    if not isinstance(document, dict):
        return
    yield from members(document, "delta", "text", "refusal", "arguments", "output_text")
    yield from members(document.get("part"), "text", "refusal")
    yield from _item(document.get("item"))
    for item in items(document, "output"):
        yield from _item(item)
    response = document.get("response")
    if isinstance(response, dict):
        yield from answer_texts(response)


def _item(item: Any) -> Iterator[Text]:
    if not isinstance(item, dict):
        return
    yield from parts(item, "content")
    yield from members(item, "arguments", "input")
    yield from parts(item, "output")
    yield from within(items(item, "summary"), "text")
    for part in items(item, "summary"):
        yield from members(part, "text")


OPENAI_RESPONSES = Dialect(
    "openai_responses", request_texts, answer_texts, answer_list="output", tap=Tap
)
