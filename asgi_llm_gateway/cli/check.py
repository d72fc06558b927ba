"""`llm-gateway check`."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator, Mapping, Sequence

from ..channels.index import ChannelTable
from ..channels.live import LiveChannel
from ..errors import GatewayError
from ..gateway import Gateway
from ..settings import (
    Settings,
    live_channels,
    read_settings,
    require_callers,
    require_shared_state,
)
from ..settings.running import state_of
from .files import settings_file
from .tables import table


def run(given: argparse.Namespace) -> int:
    """Read everything `serve` would read; raises ConfigurationError with a line per problem."""
    settings = read_settings(settings_file(given.file))
    channels = live_channels(settings)
    require_callers(settings)
    require_shared_state(settings)
    print(f"{settings.source} is good: {counted(settings)}\n")
    heading = ("channel", "provider", "base URL", "priority", "models", "keys")
    print(table([heading, *map(_row, channels)]))
    if settings.access_tokens:
        print()
        rows = [
            (
                t.name,
                ", ".join(t.caller.groups),
                ", ".join(t.models or ("all",)),
                "yes" if t.enabled else "no",
            )
            for t in settings.access_tokens
        ]
        print(table([("access token", "group", "models", "enabled"), *rows]))
    print(f"\n{_conduct(settings)}")
    for note in _notes(settings, channels):
        print(f"note: {note}")
    return asyncio.run(_test(settings)) if given.test else 0


async def _test(settings: Settings) -> int:
    """One test call on each channel that is on; 1 when one of them failed."""
    async with Gateway.from_settings(settings) as gateway:
        names = [channel.name for channel in settings.channels if channel.enabled]
        told = await asyncio.gather(*(_tested(gateway, name) for name in names))
    print()
    print(table([("channel", "test call"), *((name, said) for name, said, _ in told)]))
    return 0 if all(good for _, _, good in told) else 1


async def _tested(gateway: Gateway, name: str) -> tuple[str, str, bool]:
    try:
        seconds = await gateway.relay.test(name)
    except GatewayError as failure:
        return name, f"failed: {failure.message}", False
    return name, f"{seconds:.2f} s", True


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
    if config.credential == "caller":
        shown = "the callers' own"
    elif config.credential != "key":
        shown = f"{shown}, each a {config.credential.replace('_', ' ')}"
    # A query may hold a secret of the operator's.
    base_url = (config.base_url or provider.base_url or "in this process").partition("?")[0]
    name = config.name if config.enabled else f"{config.name} (off)"
    return (name, provider.name, base_url, str(config.priority), models, shown)


def _conduct(settings: Settings) -> str:
    """What is done when a call fails, and where keys, limits and health are kept."""
    failover = settings.failover
    rows = _number(len(settings.error_rules), "error row")
    changed = f", [health] {', '.join(settings.health)}" if settings.health else ""
    shared = state_of(settings).shared
    return (
        f"failover: {failover.strategy}, up to {_number(failover.max_attempts, 'attempt')} of a "
        f"model, errors {failover.errors} and {rows} above it{changed}\n"
        f"state: {'shared by all processes' if shared else 'kept in each process'}"
    )


def _notes(settings: Settings, channels: Sequence[LiveChannel]) -> Iterator[str]:
    """What works, and is hardly what was meant: names of models that nobody serves."""
    serving = [channel for channel in channels if channel.config.enabled]
    names = ChannelTable(channels, settings.aliases)
    told: list[tuple[str, Sequence[str]]] = [
        (f"aliases.{alias}", names.resolve(alias)) for alias in settings.aliases
    ]
    for kind in ("fallback_models", "context_fallbacks", "content_fallbacks"):
        lists: Mapping[str, Sequence[str]] = getattr(settings.failover, kind)
        told += [
            (f"failover.{kind}.{model}", [end for one in others for end in names.resolve(one)])
            for model, others in lists.items()
        ]
    for where, models in told:
        for model in models:
            if not any(channel.serves(model) for channel in serving):
                yield f"{where}: no channel serves {model!r}"
