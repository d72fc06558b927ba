"""Time limits as a context, for the upstreams that are not the hot path (direct.py has a sweep)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .faults import timed_out

__all__ = ["Budget"]


class Budget:
    """What is left of a call's `total` seconds, from now; None is no limit."""

    def __init__(self, total: float | None) -> None:
        self._total = total
        self._ends_at = None if total is None else asyncio.get_running_loop().time() + total

    @asynccontextmanager
    async def limit(self, phase: str, seconds: float | None) -> AsyncIterator[None]:
        """Raise UpstreamTimeout when the block takes longer than `seconds` or than what is left."""
        when, total = self._ends_at, self._total
        which: tuple[str, float | None] = ("total", total)
        if seconds is not None:
            ends_at = asyncio.get_running_loop().time() + seconds
            if when is None or ends_at < when:
                when, which = ends_at, (phase, seconds)
        try:
            async with asyncio.timeout_at(when) as scope:
                yield
        except TimeoutError as exc:
            if not scope.expired():
                raise
            raise timed_out(*which) from exc
