"""A provider that notices when two calls have one key at the same time."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from tests.faulty_peer import Fault, Peer, Tried

_LATE = 0.1
"""Seconds within which the end of a connection is noticed although another one's bytes were read
first: both may lie in the socket when the loop comes to look."""


@dataclass
class Watching:
    """Wraps faults; `overlaps` are the keys two calls had at a time."""

    under_way: dict[str, Peer] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    overlaps: list[str] = field(default_factory=list)

    def __call__(self, fault: Fault) -> Fault:
        async def play(peer: Peer, tried: Tried) -> None:
            key = tried.key
            self.calls[key] += 1
            await self._look(key)
            self.under_way[key] = peer
            try:
                await fault(peer, tried)
            finally:
                if self.under_way.get(key) is peer:
                    del self.under_way[key]

        return play

    async def _look(self, key: str) -> None:
        other = self.under_way.get(key)
        if other is None:
            return
        await asyncio.sleep(_LATE)
        if self.under_way.get(key) is other and not other.gone.is_set():
            self.overlaps.append(key)
