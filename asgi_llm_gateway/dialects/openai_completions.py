"""OpenAI's legacy completions (OpenAI API reference, Completions)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .base import Dialect
from .tap import DoneTap
from .text import Text, items, members, strings


def request_texts(document: Any) -> Iterator[Text]:
    """The prompt or prompts, the suffix, and the legacy edit's input and instruction."""
    yield from strings(document, "prompt")
    yield from members(document, "suffix", "input", "instruction")


def answer_texts(document: Any) -> Iterator[Text]:
    """The text of each choice, whole or a chunk of it."""
    for choice in items(document, "choices"):
        yield from members(choice, "text")


OPENAI_COMPLETIONS = Dialect(
    "openai_completions",
    request_texts,
    answer_texts,
    required=(("prompt", b'"['),),
    answer_list="choices",
    tap=DoneTap,
)
