"""A gateway's settings: its arguments by them, and what reading them again changes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from starlette.middleware import Middleware

from ..auth.middleware import TokenAuthMiddleware
from ..auth.store import MemoryTokenStore
from ..errors import ConfigurationError
from ..exchange.limits import BodyLimits
from ..relay import Relay
from ..settings import Settings, Source, read_settings, require_callers
from ..settings.running import failover_of, state_of, upkeep_of

log = logging.getLogger("asgi_llm_gateway.gateway")

_MB = 1024 * 1024


class Configuration:
    """Where a gateway's settings came from, and the access tokens that a reload swaps.

    Raises ConfigurationError for settings that cannot work and when nobody could call.
    """

    def __init__(
        self,
        given: Source | Settings | None,
        environ: Mapping[str, str] | None,
        flags: Mapping[str, Mapping[str, Any]] | None,
    ) -> None:
        self._given, self._environ, self._flags = given, environ, flags
        self._settings = self._read(given)
        self._tokens = MemoryTokenStore(self._settings.access_tokens)

    @property
    def source(self) -> str:
        """What errors call the place the settings came from."""
        return self._settings.source

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of Gateway that the settings stand for."""
        settings = self._settings
        server = settings.server
        return {
            "channels": settings.channels,
            "middleware": self._parts(),
            "cors_origins": server.cors_origins,
            "shutdown_timeout": server.shutdown_timeout,
            "aliases": settings.aliases,
            "default_models": settings.default_models,
            "anonymous": settings.auth.anonymous,
            "limits": BodyLimits(max_bytes=int(server.max_body_mb * _MB)),
            "failover": failover_of(settings),
            "state": state_of(settings),
            "keys": upkeep_of(settings),
        }

    def reload(self, relay: Relay, given: Source | Settings | None) -> None:
        """Read again (or read others); nothing changes when that raises ConfigurationError."""
        settings = self._read(self._given if given is None else given)
        try:
            relay.reload(settings.channels, settings.aliases)
        except ConfigurationError as problem:
            raise ConfigurationError(f"{settings.source}: {problem.message}") from problem
        self._tokens.swap(settings.access_tokens)
        for name in changed_beyond_reload(self._settings, settings):
            log.warning("%s has changed; it takes effect after a restart", name)
        log.info(
            "reloaded %s: %d channels, %d access tokens",
            settings.source,
            len(settings.channels),
            len(settings.access_tokens),
        )

    def _read(self, given: Source | Settings | None) -> Settings:
        settings = given
        if not isinstance(settings, Settings):
            settings = read_settings(settings, environ=self._environ, flags=self._flags)
        require_callers(settings)
        for made in (failover_of, state_of, upkeep_of):
            made(settings)  # says what cannot work, also on a reload, which only warns of changes
        return settings

    def _parts(self) -> list[Middleware]:
        settings = self._settings
        if settings.auth.anonymous:
            return []
        return [
            Middleware(
                TokenAuthMiddleware,
                store=self._tokens,
                trusted_proxies=settings.server.trusted_proxies,
                check_mapped_models=settings.auth.check_mapped_models,
                bypass=settings.auth.bypass,
            )
        ]


def changed_beyond_reload(old: Settings, new: Settings) -> Iterator[str]:
    """The settings that differ and only take effect after a restart."""
    for table in ("server", "auth", "failover", "state", "keys", "crypto"):
        before, after = getattr(old, table), getattr(new, table)
        for one in fields(before):
            if getattr(before, one.name) != getattr(after, one.name):
                yield f"{table}.{one.name}"
    for name in ("default_models", "health", "error_rules"):
        if getattr(old, name) != getattr(new, name):
            yield name
