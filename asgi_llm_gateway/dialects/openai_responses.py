"""OpenAI's Responses (OpenAI API reference, Responses and its streaming events)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .base import Dialect
from .tap import Tap
from .text import Text, descriptions, items, members, parts, strings


def request_texts(document: Any) -> Iterator[Text]:
    """Instructions, input items of every kind, and what tools say."""
    yield from members(document, "instructions", "input")
    for item in items(document, "input"):
        yield from _item(item)
    if isinstance(document, dict):
        yield from descriptions(document.get("tools"))
        yield from descriptions(document.get("text"))


def answer_texts(document: Any) -> Iterator[Text]:
    """Output items of a whole answer; deltas, parts and items of an event."""
    if not isinstance(document, dict):
        return
    yield from members(document, "delta", "text", "refusal", "arguments", "input", "code")
    yield from members(document, "output_text")
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
    yield from members(item, "arguments", "input", "code")
    yield from parts(item, "output")
    yield from parts(item, "summary")
    yield from strings(item, "queries")
    for result in items(item, "results"):
        yield from members(result, "text")
    for output in items(item, "outputs"):
        yield from members(output, "logs")


OPENAI_RESPONSES = Dialect(
    "openai_responses", request_texts, answer_texts, answer_list="output", tap=Tap
)
