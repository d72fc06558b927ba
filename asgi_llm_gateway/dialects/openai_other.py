"""OpenAI's embeddings, images, audio, moderations, and rerank as Cohere and Jina shaped it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .base import Dialect
from .text import Text, items, members, parts, strings


def _nothing(document: Any) -> Iterator[Text]:  # noqa: ARG001 - vectors and scores hold no text
    return iter(())


def _embedding_input(document: Any) -> Iterator[Text]:
    yield from strings(document, "input")


def _image_request(document: Any) -> Iterator[Text]:
    yield from members(document, "prompt")


def _image_answer(document: Any) -> Iterator[Text]:
    for image in items(document, "data"):
        yield from members(image, "revised_prompt")


def _audio_request(document: Any) -> Iterator[Text]:
    yield from members(document, "input", "instructions")


def _audio_answer(document: Any) -> Iterator[Text]:
    yield from members(document, "text", "delta")
    for segment in items(document, "segments"):
        yield from members(segment, "text")
    for word in items(document, "words"):
        yield from members(word, "word")


def _moderation_request(document: Any) -> Iterator[Text]:
    yield from parts(document, "input")


def _rerank_request(document: Any) -> Iterator[Text]:
    yield from members(document, "query")
    yield from members(document.get("query") if isinstance(document, dict) else None, "text")
    yield from parts(document, "documents")


def _rerank_answer(document: Any) -> Iterator[Text]:
    for result in items(document, "results"):
        yield from members(result, "document")
        if isinstance(result, dict):
            yield from members(result.get("document"), "text")


OPENAI_EMBEDDINGS = Dialect(
    "openai_embeddings",
    _embedding_input,
    _nothing,
    required=(("input", b'"['),),
    answer_list="data",
)
OPENAI_IMAGES = Dialect(
    "openai_images", _image_request, _image_answer, required=(("prompt", b'"'),), answer_list="data"
)
OPENAI_AUDIO = Dialect("openai_audio", _audio_request, _audio_answer, required=(("input", b'"'),))
OPENAI_MODERATIONS = Dialect(
    "openai_moderations",
    _moderation_request,
    _nothing,
    required=(("input", b'"['),),
    answer_list="results",
)
OPENAI_RERANK = Dialect(
    "openai_rerank",
    _rerank_request,
    _rerank_answer,
    required=(("query", b'"{'), ("documents", b"[")),
    answer_list="results",
)
