"""The dialects by name."""

from __future__ import annotations

from collections.abc import Mapping

from .base import Dialect
from .openai_chat import OPENAI_CHAT
from .openai_completions import OPENAI_COMPLETIONS
from .openai_other import (
    OPENAI_AUDIO,
    OPENAI_EMBEDDINGS,
    OPENAI_IMAGES,
    OPENAI_MODERATIONS,
    OPENAI_RERANK,
)
from .openai_responses import OPENAI_RESPONSES

DIALECTS: Mapping[str, Dialect] = {
    d.name: d
    for d in (
        OPENAI_AUDIO,
        OPENAI_CHAT,
        OPENAI_COMPLETIONS,
        OPENAI_EMBEDDINGS,
        OPENAI_IMAGES,
        OPENAI_MODERATIONS,
        OPENAI_RERANK,
        OPENAI_RESPONSES,
    )
}
"""Every wire format a channel can be spoken to in."""
