"""Letting browsers of other origins call: Starlette's CORSMiddleware with this gateway's headers.

It belongs outside authentication: it answers preflights itself, which carry no credential, and
refusals going out through it get their CORS headers too, so that a browser shows them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from ..errors import ConfigurationError

EXPOSED = (
    "x-request-id",
    "x-llm-channel",
    "x-llm-attempts",
    "x-cache",
    "retry-after",
)
"""The headers of ours that a script in a browser may read."""

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\sA-Z/?#@]+")


def cors(app: ASGIApp, origins: Iterable[str]) -> ASGIApp:
    """`app`, open to scripts from `origins` (`https://chat.example`, or `*` for all).

    Cookies are never asked for or accepted (no `access-control-allow-credentials`): callers are
    known by their access token alone. No origins: `app` as it is. Raises ConfigurationError for
    what is no origin.
    """
    if isinstance(origins, str):
        raise ConfigurationError(f"cors_origins is a list; put {origins!r} in [ ]")
    allowed = tuple(origins)
    for origin in allowed:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ConfigurationError(
                f"cors_origins: {origin!r} is no origin; write it like https://chat.example, "
                "lower case, without a path or a slash at the end"
            )
    if not allowed:
        return app
    return CORSMiddleware(
        app,
        allow_origins=allowed,
        allow_methods=("*",),
        allow_headers=("*",),
        allow_credentials=False,
        expose_headers=EXPOSED,
    )
