"""The pools of a running gateway, seen from beside it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from ..channels.channel import Channel
from ..channels.live import LiveChannel
from ..channels.surroundings import KEYLESS, Surroundings
from ..errors import ConfigurationError
from ..keys.key import Key
from ..keys.limits import KeyLimits
from ..keys.redis import RedisKeyPool
from ..settings import Settings
from ..settings.running import state_of, upkeep_of
from ..upstream.contract import Upstream
from ..upstream.direct import DirectUpstream


class Onlooker(RedisKeyPool):
    """A pool as it is in the store. Settings' keys are not put in, and none are taken out for not
    being there: this process may have another environment than the gateway."""

    def __init__(self, name: str, **how: Any) -> None:
        super().__init__(name, **how)
        self._lender.look_on()


@dataclass(frozen=True, slots=True)
class Kept:
    """A channel whose keys can be looked after."""

    channel: LiveChannel
    pool: Onlooker

    @property
    def name(self) -> str:
        return self.channel.name

    async def keys(self) -> list[Key]:
        """Those in use; not what stands for the key of a provider that needs none."""
        return [key for key in await self.pool.all() if key.secret != KEYLESS]

    async def key(self, fingerprint: str) -> Key | None:
        """The key in use that is called so."""
        return next((key for key in await self.keys() if key.fingerprint == fingerprint), None)


def kept_channels(settings: Settings) -> list[Kept]:
    """Every channel with keys of its own; the keys of settings are not read.

    Raises ConfigurationError where there is no shared store, or a channel cannot work.
    """
    state, upkeep = state_of(settings), upkeep_of(settings)
    if not state.shared:
        raise ConfigurationError(
            f"{settings.source}: with the store memory:// keys live in the serving process only: "
            "what becomes of them nobody else knows, and it ends with the process. Add [state] "
            'with store = "redis://localhost:6379/0" and restart the gateway'
        )
    around = Surroundings(
        environ=os.environ, state=state, seal=upkeep.seal, state_file=upkeep.state_file
    )
    found = []
    for config in settings.channels:
        if config.credential == "caller":
            continue
        assert isinstance(config.key_limits, KeyLimits)
        pool = Onlooker(config.name, state=state, limits=config.key_limits, seal=upkeep.seal)
        try:
            channel = LiveChannel(replace(config, keys=pool), _way_out(config), around)
        except ConfigurationError as problem:
            raise ConfigurationError(f"{settings.source}: {problem.message}") from problem
        found.append(Kept(channel, pool))
    return found


def _way_out(config: Channel) -> Upstream:
    """How the gateway reaches the channel's provider: through its proxy, if it has one."""
    if config.proxy is None:
        return DirectUpstream()
    from ..upstream.via_httpx import proxied

    return proxied(config.proxy)
