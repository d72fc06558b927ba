"""Parts around the relay: their order checked, the app they make built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from starlette.middleware import Middleware
from starlette.types import ASGIApp

from ..errors import ConfigurationError

ROLES: Final = (
    "telemetry",
    "auth",
    "ratelimit",
    "conversation",
    "contentfilter",
    "quota",
    "cache",
)
"""Outermost first. Auth names the caller that limits count; conversation adds the history that
the filter scans; the cache holds unmasked answers, so it stands innermost."""


def checked(middleware: Sequence[Middleware]) -> tuple[Middleware, ...]:
    """`middleware` as given; raises ConfigurationError, naming two lines, when they must swap.

    A class without a role (or with one of its own) may stand anywhere.
    """
    outer: tuple[int, str, int] | None = None
    for at, line in enumerate(middleware):
        if not isinstance(line, Middleware):
            raise ConfigurationError(
                f"middleware[{at}] must be starlette's Middleware(PartClass, …), not {line!r}"
            )
        role = getattr(line.cls, "role", None)
        if role not in ROLES:
            continue
        rank, name = ROLES.index(role), _name(line)
        if outer is not None and rank < outer[0]:
            raise ConfigurationError(
                f"middleware[{at}] ({name}) must stand before middleware[{outer[2]}] "
                f"({outer[1]}): outermost first the order is {', '.join(ROLES)}"
            )
        outer = (rank, name, at)
    return tuple(middleware)


def compose(
    middleware: Sequence[Middleware], innermost: ASGIApp
) -> tuple[ASGIApp, tuple[Any, ...]]:
    """The app that `middleware` makes around `innermost`, and its parts, outermost first."""
    app: Any = innermost
    parts: list[Any] = []
    for line in reversed(middleware):
        app = line.cls(app, *line.args, **line.kwargs)
        parts.insert(0, app)
    return app, tuple(parts)


def _name(line: Middleware) -> str:
    return str(getattr(line.cls, "__name__", line.cls))
