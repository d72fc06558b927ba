"""OpenAI's chat completions (OpenAI API reference, Chat)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .base import Dialect
from .tap import DoneTap
from .text import Text, descriptions, items, members, parts


def request_texts(document: Any) -> Iterator[Text]:
    """Messages, arguments of tool calls, and what tools and a wished-for format say."""
    for message in items(document, "messages"):
        yield from _message(message)
    if not isinstance(document, dict):
        return
    for said in ("tools", "functions", "response_format"):
        yield from descriptions(document.get(said))
    yield from parts(document.get("prediction"), "content")


def answer_texts(document: Any) -> Iterator[Text]:
    """Messages of a whole answer, deltas of a chunk."""
    for choice in items(document, "choices"):
        if isinstance(choice, dict):
            yield from _message(choice.get("message"))
            yield from _message(choice.get("delta"))


def _message(message: Any) -> Iterator[Text]:
    if not isinstance(message, dict):
        return
    yield from parts(message, "content")
    yield from members(message, "refusal", "reasoning_content", "reasoning")
    yield from members(message.get("function_call"), "arguments")
    yield from members(message.get("audio"), "transcript")
    for call in items(message, "tool_calls"):
        if isinstance(call, dict):
            yield from members(call.get("function"), "arguments")
            yield from members(call.get("custom"), "input")


OPENAI_CHAT = Dialect(
    "openai_chat",
    request_texts,
    answer_texts,
    required=(("messages", b"["),),
    answer_list="choices",
    tap=DoneTap,
)
