"""What a token that may use only some models may do."""

from __future__ import annotations

from collections.abc import Collection

from starlette.types import Scope

from ..endpoints import Endpoint
from ..errors import PermissionDenied
from ..exchange.attempt import Attempt
from ..exchange.caller import Caller
from ..exchange.record import Exchange


class ModelGuard:
    """Holds each attempt to the caller's list of models.

    What the caller asked for is looked at again (a default may have been put in, or a part changed
    the body), and with `mapped` also what an alias, a mapping or a fallback made of it.
    """

    __slots__ = ("_caller", "_exchange", "_mapped")

    def __init__(self, exchange: Exchange, caller: Caller, *, mapped: bool) -> None:
        self._exchange, self._caller, self._mapped = exchange, caller, mapped

    async def before(self, attempt: Attempt) -> None:
        """Raises PermissionDenied, naming only the model the caller itself asked for."""
        asked = self._exchange.model
        if asked is not None:
            check_model(self._caller, asked)
        if self._mapped and not self._caller.may_use(attempt.model):
            raise _not_allowed(asked)

    def after(self, attempt: Attempt) -> None:
        """Nothing was taken, nothing is given back."""


def check_model(caller: Caller, model: str) -> None:
    """Raises PermissionDenied when the caller's list does not allow the model."""
    if not caller.may_use(model):
        raise _not_allowed(model)


def check_endpoint(endpoint: Endpoint, scope: Scope, bypass: Collection[str]) -> bool:
    """Whether the endpoint is one of those let by although nobody sees the model.

    Raises PermissionDenied where a list of models cannot be kept, and that was not allowed.
    """
    if endpoint.name in bypass:
        return True
    if scope["type"] == "websocket" or endpoint.kind not in ("call", "models"):
        raise PermissionDenied(
            f"this access token is limited to certain models, and it cannot be seen which one "
            f"{endpoint.path or scope['path']} would use",
            code="model_not_allowed",
        )
    return False


def _not_allowed(model: str | None) -> PermissionDenied:
    named = "this model" if model is None else f"the model {model[:256]!r}"
    return PermissionDenied(
        f"this access token may not use {named}", code="model_not_allowed", param="model"
    )
