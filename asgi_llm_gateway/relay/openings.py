"""What channels have open in one event loop: a reload opens what came and closes what went."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import AsyncExitStack

from ..channels.live import LiveChannel
from ..runtime import kept_tasks

log = logging.getLogger("asgi_llm_gateway.relay")


class Openings:
    """One loop's; everything here runs in that loop.

    What is closed still serves the calls under way: a pool or credential that is closed has told
    its store what it knew, and goes on telling it.
    """

    def __init__(self) -> None:
        self._stacks: dict[LiveChannel, AsyncExitStack] = {}
        self._lock = asyncio.Lock()
        self._over = False

    async def follow(self, channels: Iterable[LiveChannel], *, reloaded: bool = False) -> None:
        """Open what these channels need, then close what no channel needs any more.

        Raises what opening raises; `reloaded`: that is logged, and the others are served.
        """
        wanted = tuple(channels)
        async with self._lock:
            for channel in wanted:
                if channel in self._stacks or self._over:
                    continue
                try:
                    await self._open(channel)
                except Exception:  # supervisor: a pool may be the host's own
                    if not reloaded:
                        raise
                    log.exception("channel %s of a reload could not be opened", channel.name)
            for gone in [channel for channel in self._stacks if channel not in wanted]:
                await self._stacks.pop(gone).aclose()

    def follow_soon(self, channels: Iterable[LiveChannel]) -> None:
        """`follow` beside the calls, after a reload; what fails is logged."""
        kept_tasks().keep(self.follow(channels, reloaded=True))

    async def aclose(self) -> None:
        """Close everything, what was opened last first."""
        async with self._lock:
            self._over = True
            async with AsyncExitStack() as every:
                for stack in self._stacks.values():
                    every.push_async_callback(stack.aclose)
                self._stacks = {}

    async def _open(self, channel: LiveChannel) -> None:
        async with AsyncExitStack() as stack:
            await channel.open(stack)
            self._stacks[channel] = stack.pop_all()
