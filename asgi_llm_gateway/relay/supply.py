"""What a relay runs on: its channels built, its ways out, shared state, health, the keys' sweep."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from weakref import WeakKeyDictionary

from ..channels.accounts import accounts_of
from ..channels.channel import Channel
from ..channels.checkup import Checkup
from ..channels.health.shared import SharedHealth
from ..channels.index import ChannelTable
from ..channels.live import LiveChannel
from ..channels.mapping import Names
from ..channels.surroundings import Surroundings
from ..errors import NotSupported
from ..exchange.snapshot import Snapshot
from ..keys.accounts import KeyAccounts
from ..keys.sweep import Sweep
from ..keys.upkeep import Upkeep
from ..state import State
from ..upstream.contract import Upstream
from ..upstream.direct import DirectUpstream
from .checking import test_call, warn_of_untestable
from .conduct import Conduct
from .openings import Openings


class Supply:
    """Made with a relay; `open` holds what lives as long as the relay runs in a loop.

    `upstream` is how channels without a way out of their own connect; one that was given is not
    closed here.
    """

    def __init__(
        self,
        upstream: Upstream | None,
        environ: Mapping[str, str] | None,
        state: State | None,
        keys: Upkeep,
        sharing: SharedHealth | None,
        conduct: Conduct,
    ) -> None:
        self._conduct = conduct
        self._given = upstream is not None
        self._upstream: Upstream = upstream or DirectUpstream()
        self._proxies: dict[str, Upstream] = {}
        self._environ = environ
        self._state = state
        self._keys = keys
        self._sharing = sharing
        self._openings: WeakKeyDictionary[asyncio.AbstractEventLoop, Openings] = WeakKeyDictionary()

    def table(self, channels: Sequence[Channel], aliases: Mapping[str, Names]) -> ChannelTable:
        """The channels, built: keys read, URLs joined, nothing connected.

        Raises ConfigurationError for what cannot work.
        """
        keys = self._keys
        around = Surroundings(
            environ=os.environ if self._environ is None else self._environ,
            state=self._state,
            seal=keys.seal,
            state_file=keys.state_file,
            on_removed=tuple(keys.on_removed),
            retry_budget=self._conduct.rules.retry_budget,
        )
        live = [LiveChannel.built(c, self._upstream_of(c), around) for c in channels]
        for channel in live:
            accounts_of(channel)  # says what cannot work now, and not in the first sweep
        return ChannelTable(live, aliases)

    def swap(self, snapshot: Snapshot[ChannelTable], table: ChannelTable) -> None:
        """After a reload: what was known of a channel that goes on stays known, what was held
        against one that is gone or leads elsewhere is forgotten, and each running loop opens what
        came and closes what went."""
        old = snapshot.current.by_name
        for channel in table.channels:
            before = old.get(channel.name)
            if before is not None:
                channel.adopt(before)
        snapshot.swap(table)
        for name, before in old.items():
            after = table.by_name.get(name)
            if after is None or not after.goes_on(before):
                before.retired = True
                self._conduct.health.forget(name, "a reload leads elsewhere" if after else "gone")
        for loop, openings in list(self._openings.items()):
            if not loop.is_closed():
                loop.call_soon_threadsafe(openings.follow_soon, table.channels)

    async def open(self, stack: AsyncExitStack, table: Snapshot[ChannelTable]) -> None:
        """Everything that is closed with the stack: the state's connection, what channels have
        open, shared health, the sweep."""
        keys = self._keys

        def accounts() -> Iterable[KeyAccounts]:
            found = [accounts_of(channel) for channel in table.current.channels]
            return [one for one in found if one is not None]

        sweep = Sweep(
            accounts,
            every=keys.sweep or 0.0,
            concurrency=keys.concurrency,
            state=self._state,
        )
        if self._state is not None and self._state.shared:
            await stack.enter_async_context(self._state.resources)
            await self._state.greet()
        if self._sharing is not None:
            await stack.enter_async_context(self._sharing.resources)
        loop = asyncio.get_running_loop()
        openings = self._openings[loop] = Openings()
        stack.callback(self._openings.pop, loop, None)
        stack.push_async_callback(openings.aclose)
        await openings.follow(table.current.channels)
        await stack.enter_async_context(sweep.resources)
        if self._conduct.rules.test_every:
            warn_of_untestable(table.current.channels)
        await stack.enter_async_context(self.checkup(table).resources)

    def checkup(self, table: Snapshot[ChannelTable]) -> Checkup:
        """Test calls on these channels."""
        conduct, rules = self._conduct, self._conduct.rules

        async def test(name: str) -> float:
            channel = table.current.by_name.get(name)
            if channel is None:  # a reload was quicker
                raise NotSupported(f"there is no channel {name!r} any more")
            return await test_call(channel, time.monotonic)

        return Checkup(
            conduct.health,
            conduct.table,
            test,
            channels=lambda: [c.name for c in table.current.channels if c.config.enabled],
            every=rules.test_every or 0.0,
            which="all" if rules.test_all else "ill",
            state=self._state,
        )

    async def close(self) -> None:
        """Close the ways out that were made here."""
        if not self._given:
            await self._upstream.aclose()
        for upstream in self._proxies.values():
            await upstream.aclose()

    def _upstream_of(self, channel: Channel) -> Upstream:
        """The channel's own way out, one through its proxy, the simulator's, or the shared one."""
        if channel.upstream is not None:
            return channel.upstream
        if channel.provider == "simulator" and channel.base_url is None:
            from ..providers.simulator import simulator_app
            from ..upstream.in_process import InProcessUpstream

            return InProcessUpstream(simulator_app())
        if channel.proxy is not None:
            from ..upstream.via_httpx import proxied

            if channel.proxy not in self._proxies:
                self._proxies[channel.proxy] = proxied(channel.proxy)
            return self._proxies[channel.proxy]
        return self._upstream
