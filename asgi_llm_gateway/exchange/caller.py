"""Who calls the gateway, once authenticated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

from ..errors import ConfigurationError

_DEFAULT = "default"
_NO_EXTRA: Mapping[str, Any] = MappingProxyType({})


def _no_extra() -> Mapping[str, Any]:
    return _NO_EXTRA


@dataclass(frozen=True, slots=True)
class Caller:
    """The access token's owner as every part sees it; never the token itself.

    `token_id` identifies the access token (a hash, safe to store and log), `models` are globs of
    what it may ask for (None: everything), `channels` the names of the channels it is bound to
    (None: any). `groups` are asked for channels in order, `group` is the first of them; either is
    enough. `pinned` is the one channel it asked for by its credential (None: it asked for none);
    that one serves it whatever its groups. `extra` is whatever an authenticating callable of the
    host wants to hand on. Raises ConfigurationError for a group that is not the first of `groups`.
    """

    name: str
    token_id: str
    user: str | None = None
    group: str = _DEFAULT
    models: tuple[str, ...] | None = None
    channels: tuple[str, ...] | None = None
    extra: Mapping[str, Any] = field(default_factory=_no_extra, hash=False, compare=False)
    groups: tuple[str, ...] = ()
    pinned: str | None = None

    def __post_init__(self) -> None:
        groups = self.groups
        if not groups:
            object.__setattr__(self, "groups", (self.group,))
        elif self.group != groups[0]:
            if self.group != _DEFAULT:
                raise ConfigurationError(
                    f"caller {self.name!r}: group is the first of groups; give groups alone"
                )
            object.__setattr__(self, "group", groups[0])

    def may_use(self, model: str) -> bool:
        """Whether the token's list of models allows this one."""
        return self.models is None or matches(model, self.models)


def matches(model: str, globs: Iterable[str]) -> bool:
    """The one way models are matched everywhere: case counts, and `*` also spans `/`."""
    return any(glob == model or fnmatchcase(model, glob) for glob in globs)
