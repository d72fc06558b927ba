"""What is asked of settings before a server starts: may anybody call, do keys and URLs work, do
several processes share what they must."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..channels.accounts import accounts_of
from ..channels.index import ChannelTable
from ..channels.live import LiveChannel
from ..channels.surroundings import Surroundings
from ..errors import ConfigurationError
from ..upstream import DirectUpstream
from .running import failover_of, state_of, upkeep_of
from .tables import Settings


def require_callers(settings: Settings) -> None:
    """Raises ConfigurationError, naming the line to add, when nobody or anybody may call by
    mistake."""
    anonymous = settings.auth.anonymous
    if not settings.access_tokens and not anonymous:
        raise ConfigurationError(
            f"{settings.source}: nobody may call: add an [[access_tokens]] table (`llm-gateway "
            "token new` makes one), set LLM_GATEWAY_ACCESS_TOKEN, or write anonymous = true "
            "below [auth]"
        )
    own = next((c.name for c in settings.channels if c.credential == "caller"), None)
    if own is not None and not anonymous:
        raise ConfigurationError(
            f'{settings.source}: channel {own!r} has credential = "caller", but what callers show '
            "here is one of the access tokens, which goes to no provider: serve that channel by a "
            "gateway with auth.anonymous = true"
        )
    if settings.access_tokens and anonymous:
        raise ConfigurationError(
            f"{settings.source}: auth.anonymous = true lets everybody call, and there are access "
            "tokens: remove one or the other"
        )


def require_shared_state(settings: Settings) -> None:
    """Raises ConfigurationError, naming the line to add, for several processes that would share
    nothing: each would have keys, limits and health of its own."""
    workers = settings.server.workers
    if workers > 1 and not state_of(settings).shared:
        raise ConfigurationError(
            f"{settings.source}: server.workers = {workers} needs a store that the processes "
            'share: add [state] with store = "redis://localhost:6379/0", or serve with one worker'
        )


def live_channels(
    settings: Settings, environ: Mapping[str, str] | None = None
) -> tuple[LiveChannel, ...]:
    """The channels as they will run: keys read, URLs joined, nothing connected.

    Raises ConfigurationError with one line for each channel that cannot work, and when there is
    none at all.
    """
    keys = upkeep_of(settings)
    around = Surroundings(
        environ=os.environ if environ is None else environ,
        state=state_of(settings),
        seal=keys.seal,
        state_file=keys.state_file,
    )
    failover_of(settings)
    if not settings.channels:
        raise ConfigurationError(
            f'{settings.source}: there is no channel: add a [[channels]] table with name = "main", '
            'provider = "openai", keys = ["env:OPENAI_API_KEY"] and models = ["gpt-*"]'
        )
    live: list[LiveChannel] = []
    problems: list[str] = []
    for channel in settings.channels:
        try:
            live.append(LiveChannel.built(channel, channel.upstream or DirectUpstream(), around))
            accounts_of(live[-1])
        except ConfigurationError as exc:
            problems.append(f"{settings.source}: {exc.message}")
    if problems:
        raise ConfigurationError("\n".join(problems))
    try:
        ChannelTable(live, settings.aliases)
    except ConfigurationError as exc:
        raise ConfigurationError(f"{settings.source}: {exc.message}") from exc
    return tuple(live)
