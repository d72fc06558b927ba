"""Embeddings and moderations: numbers that depend on the text and on nothing else."""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from random import Random
from typing import Any, Final

from .answer import Answer, Refusal, encode, json_answer
from .request import Request, missing
from .text import count, text_of, tokenise

_DIMENSIONS: Final = {"text-embedding-3-large": 3072}
_DEFAULT_DIMENSIONS: Final = 1536
_FLAGGED: Final = {"attack": "violence", "hate": "hate", "kill": "violence", "suicide": "self-harm"}
_CATEGORIES: Final = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)


def embeddings(request: Request) -> Answer:
    """POST /embeddings: unit vectors; the same text and model have the same one."""
    size = request.integer(
        "dimensions", _DIMENSIONS.get(request.model, _DEFAULT_DIMENSIONS), high=4096
    )
    inputs = _inputs(request.body.get("input"))
    packed = request.body.get("encoding_format") == "base64"
    data = []
    for index, item in enumerate(inputs):
        vector = _vector(request.model, item, size)
        value: Any = vector
        if packed:
            value = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": value})
    tokens = sum(count(item) if isinstance(item, str) else len(item) for item in inputs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_answer({"object": "list", "data": data, "model": request.model, "usage": usage})


def moderations(request: Request) -> Answer:
    """POST /moderations: flagged by a few plain words (attack, hate, kill, suicide)."""
    value = request.body.get("input")
    if value is None:
        raise missing("input")
    several = isinstance(value, list) and all(isinstance(item, str) for item in value)
    texts = value if several else [text_of(value)]
    body = {
        "id": request.id("modr-"),
        "model": request.model,
        "results": [_judged(text) for text in texts],
    }
    return json_answer(body)


def _inputs(value: Any) -> list[str | list[int]]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(item, int) for item in value):
            return [value]
        if all(isinstance(item, str | list) for item in value):
            return value
    if value is None:
        raise missing("input")
    raise Refusal(400, "Invalid type for 'input'.", param="input", code="invalid_type")


def _vector(model: str, item: str | list[int], size: int) -> list[float]:
    seed = hashlib.sha256(encode([model, item])).hexdigest()
    rng = Random(seed)  # noqa: S311 - repeatable on purpose
    raw = [rng.uniform(-1.0, 1.0) for _ in range(size)]
    norm = math.sqrt(sum(number * number for number in raw))
    return [number / norm for number in raw]


def _judged(text: str) -> dict[str, Any]:
    words = {token.strip().lower() for token in tokenise(text)}
    hit = {category for word, category in _FLAGGED.items() if word in words}
    return {
        "flagged": bool(hit),
        "categories": {name: name in hit for name in _CATEGORIES},
        "category_scores": {name: 0.98 if name in hit else 0.001 for name in _CATEGORIES},
        "category_applied_input_types": {name: ["text"] for name in _CATEGORIES},
    }
