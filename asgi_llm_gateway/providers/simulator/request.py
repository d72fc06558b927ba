"""One request to the simulator, read and checked: what its handlers are given."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec

from .answer import Refusal
from .forms import Upload

_PRESENTATION = ("stream", "stream_options")
"""Members that change how an answer is sent, not what it says."""


@dataclass(frozen=True, slots=True)
class Request:
    """`body` is the JSON object, or a form's fields as strings; `length` bounds generated text."""

    endpoint: str
    model: str
    body: dict[str, Any]
    created: int
    length: tuple[int, int] = (16, 64)
    files: dict[str, list[Upload]] = field(default_factory=dict)

    @property
    def streamed(self) -> bool:
        """Whether the caller asked for events."""
        return self.body.get("stream") in (True, "true")

    def digest(self) -> str:
        """A hash of everything that decides the answer: the same request has the same one."""
        kept = {name: value for name, value in self.body.items() if name not in _PRESENTATION}
        uploads = {name: [upload.sha256 for upload in each] for name, each in self.files.items()}
        seed = msgspec.json.encode([self.endpoint, self.model, kept, uploads], order="sorted")
        return hashlib.sha256(seed).hexdigest()

    def rng(self, purpose: object = 0) -> Random:
        """A source of choices that are the same for the same request and purpose."""
        return Random(f"{self.digest()}:{purpose}")  # noqa: S311 - repeatable on purpose

    def id(self, prefix: str, purpose: object = "") -> str:
        """An id in the provider's manner."""
        return prefix + hashlib.sha256(f"{self.digest()}:{purpose}".encode()).hexdigest()[:24]

    def integer(self, name: str, default: int, *, low: int = 1, high: int = 1 << 31) -> int:
        """An optional whole number of the body; raises Refusal when it is out of bounds."""
        value = self.body.get(name)
        if value is None:
            return default
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value[:12])
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise Refusal(
                400,
                f"Invalid '{name}': expected an integer between {low} and {high}.",
                param=name,
                code="invalid_value",
            )
        return value

    def text(self, name: str) -> str:
        """A required string of the body; raises Refusal without it."""
        value = self.body.get(name)
        if not isinstance(value, str):
            raise missing(name)
        return value


def missing(name: str) -> Refusal:
    """The refusal of a request that lacks a required member, or has another type there."""
    return Refusal(
        400,
        f"Missing required parameter: '{name}'.",
        param=name,
        code="missing_required_parameter",
    )
