"""Which of OpenAI's endpoints a path is, under whatever prefix it stands."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ..row import PATHS
from .answer import Answer, Refusal
from .chat import chat, completions
from .media import images, speech, transcriptions
from .request import Request
from .responses import responses
from .scoring import embeddings, moderations

HANDLERS: Final[Mapping[str, Callable[[Request], Answer]]] = MappingProxyType(
    {
        "audio_speech": speech,
        "audio_transcriptions": transcriptions,
        "audio_translations": transcriptions,
        "chat": chat,
        "completions": completions,
        "embeddings": embeddings,
        "images_edits": images,
        "images_generations": images,
        "images_variations": images,
        "moderations": moderations,
        "responses": responses,
    }
)
"""What answers each endpoint that takes a model."""

FORMS: Final = frozenset(
    {"audio_transcriptions", "audio_translations", "files", "images_edits", "images_variations"}
)
"""Endpoints whose body is multipart."""

DEFAULT_MODELS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "images_edits": "dall-e-2",
        "images_generations": "dall-e-2",
        "images_variations": "dall-e-2",
        "moderations": "omni-moderation-latest",
    }
)
"""What a body that names no model means, where OpenAI lets it."""

_POSTS: Final = sorted(
    ((path, name) for name, path in PATHS.items() if name in HANDLERS),
    key=lambda entry: len(entry[0]),
    reverse=True,
)
_FILES: Final = re.compile(r"/files(?:/(?P<id>[^/]+)(?:/(?P<tail>content))?)?$")
_MODELS: Final = re.compile(r"/models(?:/(?P<id>.+))?$")


@dataclass(frozen=True, slots=True)
class Route:
    """An endpoint, and the object its path names."""

    endpoint: str
    id: str = ""
    tail: str = ""


def find(method: str, path: str) -> Route:
    """The route; raises Refusal with OpenAI's 404 or 405."""
    posted = next((name for suffix, name in _POSTS if path.endswith(suffix)), None)
    if posted is not None:
        return Route(posted) if method == "POST" else _wrong(method, path)
    found = _FILES.search(path)
    if found is not None:
        route = Route("files", found["id"] or "", found["tail"] or "")
        allowed = {"GET", "POST"}
        if route.id:
            allowed = {"GET"} if route.tail else {"GET", "DELETE"}
        return route if method in allowed else _wrong(method, path)
    found = _MODELS.search(path)
    if found is not None:
        return Route("models", found["id"] or "") if method == "GET" else _wrong(method, path)
    raise Refusal(404, f"Invalid URL ({method} {path})")


def _wrong(method: str, path: str) -> Route:
    raise Refusal(
        405,
        f"Not allowed to {method} on {path} (HINT: Perhaps you meant to use a different HTTP"
        " method?)",
        code="method_not_supported",
    )
