"""`llm-gateway check`."""

from __future__ import annotations

import argparse

from ..channels.live import LiveChannel
from ..settings import Settings, live_channels, read_settings, require_callers
from .files import settings_file
from .tables import table


def run(given: argparse.Namespace) -> int:
    """Read everything `serve` would read; raises ConfigurationError with a line per problem."""
    settings = read_settings(settings_file(given.file))
    channels = live_channels(settings)
    require_callers(settings)
    print(f"{settings.source} is good: {counted(settings)}\n")
    heading = ("channel", "provider", "base URL", "priority", "models", "keys")
    print(table([heading, *map(_row, channels)]))
    if settings.access_tokens:
        print()
        rows = [
            (t.name, t.group, ", ".join(t.models or ("all",)), "yes" if t.enabled else "no")
            for t in settings.access_tokens
        ]
        print(table([("access token", "group", "models", "enabled"), *rows]))
    return 0


def counted(settings: Settings) -> str:
    """How many channels and access tokens there are."""
    callers = _number(len(settings.access_tokens), "access token")
    if settings.auth.anonymous:
        callers = "open to everybody"
    return f"{_number(len(settings.channels), 'channel')}, {callers}"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _row(channel: LiveChannel) -> tuple[str, ...]:
    config, provider = channel.config, channel.provider
    models = ", ".join([*config.models, *config.model_mapping]) or "pass-through only"
    keys = getattr(channel.pool, "keys", ()) if config.keys else ()
    prints = ", ".join(key.fingerprint for key in keys[:3])
    shown = f"{len(keys)} ({prints}{', …' if len(keys) > 3 else ''})" if keys else "none"
    base_url = config.base_url or provider.base_url or "in this process"
    return (config.name, provider.name, base_url, str(config.priority), models, shown)
