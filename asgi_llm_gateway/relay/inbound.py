"""What a caller wants: which model, streamed or not, and whether the body can be used at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from ..channels.index import ChannelTable, Tiers
from ..dialects.base import Dialect
from ..dialects.registry import DIALECTS
from ..endpoints import Endpoint
from ..errors import InvalidRequest, ModelNotFound, NotSupported, PermissionDenied
from ..exchange.body import Body, JSONBody
from ..exchange.record import Exchange

DEFAULT_MODELS: Mapping[str, str] = {
    "audio_transcriptions": "whisper-1",
    "audio_translations": "whisper-1",
    "images_edits": "dall-e-2",
    "images_generations": "dall-e-2",
    "images_variations": "dall-e-2",
    "moderations": "text-moderation-latest",
}
"""What a call without a model asks for, by endpoint; the API's own historic defaults."""

_INCLUDE = msgspec.json.encode
_NULL, _BRACKET = ord("n"), ord("[")
_SHORT = 64
"""Longer than any list that holds nothing but blanks and is worth a look."""


@dataclass(slots=True)
class Wanted:
    """A call understood: its models after aliases, in order, and how its body leaves."""

    endpoint: Endpoint
    dialect: Dialect
    body: Body
    asked: str
    models: tuple[str, ...]
    stream: bool
    usage_asked: bool

    def choices(self) -> int:
        """How many answers are asked for side by side."""
        body = self.body
        many = body.view.n or 1 if isinstance(body, JSONBody) else 1
        if self.dialect.name == "openai_completions" and isinstance(body, JSONBody):
            prompts = body.get("prompt")
            # A list of numbers is one prompt in tokens (OpenAI API reference, Completions).
            if isinstance(prompts, list) and prompts and not isinstance(prompts[0], int):
                many *= len(prompts)
        return many

    def outgoing(self, model: str, *, ask_usage: bool) -> bytes:
        """The JSON body for one attempt: as it came, but for the provider's name of the model and
        `stream_options.include_usage` where that is asked for on the caller's behalf."""
        body = self.body
        assert isinstance(body, JSONBody)
        changes: dict[str, bytes] = {}
        if model != self.asked or body.view.model is None:  # absent, or null: the default's
            changes["model"] = _INCLUDE(model)
        if ask_usage:
            options = body.get("stream_options") or {}
            changes["stream_options"] = _INCLUDE({**options, "include_usage": True})
        return body.spliced(changes) if changes else body.raw


def understand(
    exchange: Exchange, body: Body, table: ChannelTable, defaults: Mapping[str, str]
) -> Wanted:
    """Check the request as far as the gateway acts on it; the rest is the provider's to judge.

    Raises InvalidRequest naming the member, PermissionDenied for a model the access token may not
    use, NotSupported for a dialect no channel here speaks.
    """
    endpoint = exchange.endpoint
    dialect = DIALECTS.get(endpoint.dialect)
    if dialect is None:
        raise NotSupported(f"no channel here can serve {endpoint.path}")
    view = body.view
    asked = view.model or endpoint.model or defaults.get(endpoint.name)
    if not asked:
        raise InvalidRequest("you must provide a model parameter", param="model")
    exchange.model = asked
    if isinstance(body, JSONBody):
        _check_required(endpoint, dialect, body)
    caller = exchange.caller
    if caller is not None and caller.models is not None and not caller.may_use(asked):
        raise PermissionDenied(
            f"this access token may not use the model {asked!r}",
            code="model_not_allowed",
            param="model",
        )
    options = view.stream_options
    return Wanted(
        endpoint,
        dialect,
        body,
        asked,
        table.resolve(asked),
        view.stream,
        bool(options and options.get("include_usage")),
    )


def _check_required(endpoint: Endpoint, dialect: Dialect, body: JSONBody) -> None:
    if endpoint.name == "edits":
        return
    members = body.members
    for member, starts in dialect.required:
        found = members.get(member)
        if found is None or (first := memoryview(found)[0]) == _NULL:
            raise InvalidRequest(f"you must provide {member}", param=member)
        if first not in starts:
            raise InvalidRequest(f"{member} has the wrong type", param=member)
        if first == _BRACKET and len(found) < _SHORT and not bytes(found)[1:-1].strip():
            raise InvalidRequest(f"{member} must not be empty", param=member)


def served(table: ChannelTable, wanted: Wanted, exchange: Exchange) -> Tiers:
    """The channels of the first of the wanted models that is served at all; those before it are
    wanted no more. Raises what the table says of the last one."""
    endpoint, caller = exchange.endpoint.name, exchange.caller
    while True:
        try:
            return table.tiers(wanted.models[0], endpoint, caller)
        except (ModelNotFound, NotSupported):
            if len(wanted.models) == 1:
                raise
            wanted.models = wanted.models[1:]
