"""The way out that carries nearly every call: our own keep-alive pool, HTTP/1.1 on plain sockets.

    upstream = DirectUpstream()
    answer = await upstream.send(UpstreamRequest("GET", *Origin.split("https://example.com/")))
    body = await answer.read(1_000_000)

No HTTP/2, no proxies (via_httpx.py has those), no redirects, no cookies, no decoding: what the
provider sends is what the reader gets. A call in the ordinary case costs one future, no task and
no timer.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from .answer import Answer
from .bounds import Bounds
from .contract import Origin, UpstreamRequest
from .outbox import Outbox
from .pool import OriginPool
from .sweep import Sweep
from .tls import Tls

__all__ = ["DirectUpstream", "Stats"]

_MANY_POOLS = 64
"""Origins after which those without a connection are forgotten when another one comes."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Connections of one event loop, over all origins: open = idle + busy; waiting are callers."""

    open: int
    idle: int
    busy: int
    waiting: int


class DirectUpstream:
    """An Upstream with a pool of connections per origin and event loop.

    `max_connections` and `max_waiting` are per origin; a caller beyond the second gets PoolTimeout
    at once. `idle_expiry` (seconds) should be less than providers allow, which is mostly 60.
    `ssl_context` replaces the system's trust and certifi's; offer `http/1.1` by ALPN there.
    `clock` measures durations. Answers with a head over `max_head_bytes`, a header over
    `max_line_bytes` or more than `max_headers` of them are BadAnswer; of a body at most about
    `read_ahead` bytes lie unread before the provider is held back.
    """

    def __init__(
        self,
        *,
        max_connections: int = 1000,
        max_waiting: int = 10_000,
        idle_expiry: float = 55.0,
        ssl_context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
        max_head_bytes: int = 65_536,
        max_line_bytes: int = 32_768,
        max_headers: int = 200,
        read_ahead: int = 262_144,
    ) -> None:
        self._bounds = Bounds(
            max_connections=max_connections,
            max_waiting=max_waiting,
            idle_expiry=idle_expiry,
            max_head_bytes=max_head_bytes,
            max_line_bytes=max_line_bytes,
            max_headers=max_headers,
            read_ahead=read_ahead,
        )
        self._clock = clock
        self._tls = Tls(ssl_context)
        self._by_loop: dict[asyncio.AbstractEventLoop, _LoopPools] = {}
        self._latest: _LoopPools | None = None

    def send(self, request: UpstreamRequest) -> Coroutine[Any, Any, Answer]:
        """See contract.Upstream; also raises InvalidRequest for what cannot be put into HTTP."""
        loop = request.loop or asyncio.get_running_loop()
        here = self._latest
        if here is None or here.loop is not loop:
            here = self._enter(loop)
        pool = here.pools.get(request.origin)
        if pool is None:
            pool = here.add(request.origin)
        return pool.send(request)

    async def aclose(self) -> None:
        """Close the running loop's connections; calls under way get ConnectionLost."""
        here = self._by_loop.pop(asyncio.get_running_loop(), None)
        if here is None:
            return
        if self._latest is here:
            self._latest = None
        here.sweep.stop()
        for pool in here.pools.values():
            await pool.aclose()

    def stats(self) -> Stats:
        """What the running loop's pools hold now."""
        here = self._by_loop.get(asyncio.get_running_loop())
        pools = [] if here is None else list(here.pools.values())
        total = sum(pool.opened for pool in pools)
        idle = sum(len(pool.idle) for pool in pools)
        waiting = sum(len(pool.waiters) for pool in pools)
        return Stats(open=total, idle=idle, busy=total - idle, waiting=waiting)

    def _enter(self, loop: asyncio.AbstractEventLoop) -> _LoopPools:
        here = self._by_loop.get(loop)
        if here is None:
            # Weak keys would not do: connections hold their loop. Dead loops go when one comes.
            for other in [other for other in self._by_loop if other.is_closed()]:
                del self._by_loop[other]
            here = self._by_loop[loop] = _LoopPools(loop, self._bounds, self._clock, self._tls)
        self._latest = here
        return here


class _LoopPools:
    """The pools of one event loop and the sweep over them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        bounds: Bounds,
        clock: Callable[[], float],
        tls: Tls,
    ) -> None:
        self.loop = loop
        self.pools: dict[Origin, OriginPool] = {}
        self.sweep = Sweep(loop, clock, self.pools.values)
        self._outbox = Outbox(loop)
        self._bounds = bounds
        self._clock = clock
        self._tls = tls

    def add(self, origin: Origin) -> OriginPool:
        if len(self.pools) >= _MANY_POOLS:
            for other, pool in tuple(self.pools.items()):
                if not pool.opened:
                    del self.pools[other]
        pool = OriginPool(
            origin,
            loop=self.loop,
            sweep=self.sweep,
            outbox=self._outbox,
            bounds=self._bounds,
            clock=self._clock,
            tls=self._tls,
        )
        self.pools[origin] = pool
        return pool
