"""GET /models and /models/{id}: what this caller may ask for."""

from __future__ import annotations

import json
from typing import Any

from ..channels.index import ChannelTable
from ..errors import Headers, MethodNotAllowed, ModelNotFound
from ..exchange.record import Exchange


def answer(exchange: Exchange, method: str, table: ChannelTable) -> tuple[Headers, bytes]:
    """The listing, or one model, in the caller's dialect.

    Raises ModelNotFound for a model that is not on this caller's list.
    """
    endpoint = exchange.endpoint
    if method not in endpoint.methods:
        raise MethodNotAllowed(f"{method} is not allowed here", allow=endpoint.methods)
    listed = table.listed(exchange.caller)
    shape = _SHAPES.get(endpoint.dialect, _openai)
    if endpoint.model is None:
        document = _LISTS.get(endpoint.dialect, _openai_list)([shape(*m) for m in listed.items()])
    elif endpoint.model in listed:
        document = shape(endpoint.model, listed[endpoint.model])
    else:
        raise ModelNotFound(f"the model {endpoint.model!r} is not served here", param="model")
    body = json.dumps(document).encode()
    return [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
    ], body


def _openai(model: str, owner: str) -> dict[str, Any]:
    return {"id": model, "object": "model", "created": 0, "owned_by": owner}


def _anthropic(model: str, owner: str) -> dict[str, Any]:  # noqa: ARG001 - one signature
    return {
        "type": "model",
        "id": model,
        "display_name": model,
        "created_at": "1970-01-01T00:00:00Z",
    }


def _gemini(model: str, owner: str) -> dict[str, Any]:  # noqa: ARG001
    return {
        "name": f"models/{model}",
        "displayName": model,
        "supportedGenerationMethods": ["generateContent", "streamGenerateContent"],
    }


def _openai_list(models: list[dict[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "data": models}


def _anthropic_list(models: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "data": models,
        "has_more": False,
        "first_id": models[0]["id"] if models else None,
        "last_id": models[-1]["id"] if models else None,
    }


def _gemini_list(models: list[dict[str, Any]]) -> dict[str, Any]:
    return {"models": models}


_SHAPES = {"anthropic": _anthropic, "gemini": _gemini}
_LISTS = {"anthropic": _anthropic_list, "gemini": _gemini_list}
