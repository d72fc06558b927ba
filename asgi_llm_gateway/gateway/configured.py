"""From settings to a gateway's arguments, and what a reload can and cannot change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from starlette.middleware import Middleware

from ..auth.middleware import TokenAuthMiddleware
from ..auth.store import MemoryTokenStore
from ..exchange.body import BodyLimits
from ..settings import Settings

_MB = 1024 * 1024


def arguments(settings: Settings, tokens: MemoryTokenStore) -> dict[str, Any]:
    """The keyword arguments of Gateway that these settings stand for."""
    server = settings.server
    return {
        "channels": settings.channels,
        "middleware": _parts(settings, tokens),
        "cors_origins": server.cors_origins,
        "shutdown_timeout": server.shutdown_timeout,
        "aliases": settings.aliases,
        "default_models": settings.default_models,
        "anonymous": settings.auth.anonymous,
        "limits": BodyLimits(max_bytes=int(server.max_body_mb * _MB)),
        "max_attempts": settings.failover.max_attempts,
    }


def _parts(settings: Settings, tokens: MemoryTokenStore) -> list[Middleware]:
    if settings.auth.anonymous:
        return []
    return [
        Middleware(
            TokenAuthMiddleware,
            store=tokens,
            trusted_proxies=settings.server.trusted_proxies,
            check_mapped_models=settings.auth.check_mapped_models,
            bypass=settings.auth.bypass,
        )
    ]


def changed_beyond_reload(old: Settings, new: Settings) -> Iterator[str]:
    """The settings that differ and only take effect after a restart."""
    for table in ("server", "auth", "failover"):
        before, after = getattr(old, table), getattr(new, table)
        for one in fields(before):
            if getattr(before, one.name) != getattr(after, one.name):
                yield f"{table}.{one.name}"
    if old.default_models != new.default_models:
        yield "default_models"
