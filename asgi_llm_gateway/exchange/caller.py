"""Who calls the gateway, once authenticated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

_NO_EXTRA: Mapping[str, Any] = MappingProxyType({})


def _no_extra() -> Mapping[str, Any]:
    return _NO_EXTRA


@dataclass(frozen=True, slots=True)
class Caller:
    """The access token's owner as every part sees it; never the token itself.

    `token_id` identifies the access token (a hash, safe to store and log), `models` are globs of
    what it may ask for (None: everything), `channels` the names of the channels it is bound to
    (None: any). `extra` is whatever an authenticating callable of the host wants to hand on.
    """

    name: str
    token_id: str
    user: str | None = None
    group: str = "default"
    models: tuple[str, ...] | None = None
    channels: tuple[str, ...] | None = None
    extra: Mapping[str, Any] = field(default_factory=_no_extra, hash=False, compare=False)

    def may_use(self, model: str) -> bool:
        """Whether the token's list of models allows this one."""
        return self.models is None or matches(model, self.models)


def matches(model: str, globs: Iterable[str]) -> bool:
    """The one way models are matched everywhere: case counts, and `*` also spans `/`."""
    return any(glob == model or fnmatchcase(model, glob) for glob in globs)
