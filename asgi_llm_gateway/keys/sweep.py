"""The background task that takes out keys which expired, were used up or are no longer valid."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

from ..errors import ConfigurationError, StateUnavailable
from ..runtime import Resources
from ..state import Lease, State, StateFault
from .accounts import KeyAccounts
from .key import Key
from .pool import MemoryKeyPool

log = logging.getLogger("asgi_llm_gateway.keys")

_MOST_LOST = 60.0
"""Seconds that one provider may be waited for in vain in a round: a thousand keys of one that hangs
would keep those of all others from being asked about for hours."""
STATE_FAILED = (StateUnavailable, StateFault)
"""The shared store does not answer, or refuses: what concerns every key and not one."""


@dataclass(slots=True)
class Swept:
    """What one round found: how many keys were asked about, taken out, left as unknown.

    `failed` counts what raised: hooks, callables and pools of the user's own. `passed` are keys not
    asked about, since their provider had held up this round for too long. `cut` is a round that
    ended early, for want of the lease or of the store.
    """

    asked: int = 0
    removed: int = 0
    unknown: int = 0
    failed: int = 0
    passed: int = 0
    cut: bool = False
    lost: dict[str, float] = field(default_factory=dict, repr=False, compare=False)
    """Seconds that each channel's provider was waited for in vain."""


class Sweep:
    """Asks about every key once in `every` seconds, and takes out those that are gone.

        sweep = Sweep([accounts], every=60.0, state=state)
        async with sweep.resources: ...

    `accounts` may be a callable, asked anew for each round. The first round is one interval after
    the start; an interval varies by `jitter` of itself. `every` 0 is off. Of all workers on one
    `state` one sweeps the keys they share; when it dies, another does `lease` seconds after the
    round it would have made. Keys in a worker's memory it sweeps itself. At most `concurrency`
    keys are asked about at a time. What fails is logged; only leaving `resources` ends the sweep.
    """

    def __init__(
        self,
        accounts: Iterable[KeyAccounts] | Callable[[], Iterable[KeyAccounts]],
        *,
        every: float = 60.0,
        jitter: float = 0.1,
        concurrency: int = 4,
        state: State | None = None,
        lease: float = 30.0,
        rng: Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if not (0 <= every < math.inf and 0 <= jitter < 1 and concurrency >= 1 and lease > 0):
            raise ConfigurationError(
                "the sweep of keys needs every of 0 or more seconds, jitter of 0 to below 1, "
                "concurrency of at least 1 and lease above 0 seconds"
            )
        given = accounts if callable(accounts) else tuple(accounts)
        self._accounts = given if callable(given) else lambda: given
        self._every, self._jitter, self._concurrency = every, jitter, concurrency
        self._lease = Lease(state, "sweep", every * (1 + jitter) + lease)
        self._ours = False
        self._rng = rng or Random()  # noqa: S311 - spreads load, guards nothing
        self._sleep = sleep
        self._sweeping = threading.Lock()
        """Event loops of one process share its pools: one of them sweeps at a time."""
        self.resources: Resources[None] = Resources(self._running, started_by="gateway.lifespan")

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        if not self._every:
            yield
            return
        task = asyncio.create_task(self._run(), name="sweep of keys")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _run(self) -> None:
        try:
            while True:
                await self._sleep(self._every * (1 + self._rng.uniform(-1, 1) * self._jitter))
                await self._turn()
        finally:
            await self._give_back()

    async def _turn(self) -> None:
        """One round, unless another loop of this process or another worker sees to it."""
        if not self._sweeping.acquire(blocking=False):
            return
        try:
            self._ours = await self._lease.take()
            await (self._round_under_lease() if self._ours else self.round(shared=False))
        except STATE_FAILED as failure:
            log.warning("keys were not swept: %s", failure.message)
        except Exception:  # supervisor: the next round may fare better
            log.exception("the sweep of keys failed")
        finally:
            self._sweeping.release()

    async def _round_under_lease(self) -> None:
        holding = asyncio.create_task(self._hold())
        try:
            swept = await self.round()
        finally:
            holding.cancel()
            await asyncio.wait({holding})
        if self._ours:
            self._ours = await self._lease.take()  # for the pause until the next round
        level = logging.INFO if swept.removed or swept.failed else logging.DEBUG
        log.log(level, "swept keys: %s", swept)

    async def _hold(self) -> None:
        """Renew the lease while a round goes on; a round that has lost it stops early."""
        while self._ours:
            await asyncio.sleep(self._lease.seconds / 3)
            try:
                self._ours = await self._lease.take()
            except STATE_FAILED as failure:  # to be tried again; it may be ours all the time
                log.warning("the lease of the sweep was not renewed: %s", failure.message)

    async def _give_back(self) -> None:
        if not self._ours:
            return
        self._ours = False
        try:
            await self._lease.give_back()
        except STATE_FAILED as failure:
            log.info("the lease of the sweep runs out by itself: %s", failure.message)

    async def round(self, *, shared: bool = True) -> Swept:
        """Ask about every key now, lease or not; without `shared`, those of this process only."""
        swept = Swept()
        pending = iter(await self._questions(swept, shared=shared))
        async with asyncio.TaskGroup() as group:
            for _ in range(self._concurrency):
                group.create_task(self._ask_in_turn(pending, swept))
        return swept

    async def _questions(self, swept: Swept, *, shared: bool) -> list[tuple[KeyAccounts, Key]]:
        found = []
        for accounts in self._accounts():
            if not (shared or isinstance(accounts.pool, MemoryKeyPool)):
                continue
            try:
                found += [(accounts, key) for key in await accounts.pool.all()]
            except STATE_FAILED:
                raise
            except Exception:  # supervisor: a pool of the user's own
                swept.failed += 1
                log.exception("the keys of channel %s are not known", accounts.name)
        self._rng.shuffle(found)  # lest one slow host holds up everybody behind it
        return found

    async def _ask_in_turn(self, pending: Iterator[tuple[KeyAccounts, Key]], swept: Swept) -> None:
        leased = self._ours
        for accounts, key in pending:
            swept.cut = swept.cut or (leased and not self._ours)
            if swept.cut:
                return
            if swept.lost.get(accounts.name, 0.0) >= _MOST_LOST:
                swept.passed += 1
                continue
            swept.asked += 1
            try:
                await self._ask(accounts, key, swept)
            except STATE_FAILED as failure:
                swept.cut = True
                log.warning("keys were not all swept: %s", failure.message)
            except Exception:  # supervisor: a hook, or a callable of the user's own
                swept.failed += 1
                log.exception(
                    "key %s of channel %s could not be asked about", key.fingerprint, accounts.name
                )

    async def _ask(self, accounts: KeyAccounts, key: Key, swept: Swept) -> None:
        began = time.monotonic()
        verdict = await accounts.check(key)
        if verdict.fate == "gone":
            await accounts.pool.remove(key, verdict.reason)
            swept.removed += 1
        elif verdict.fate == "unknown":
            swept.unknown += 1
            lost = swept.lost.get(accounts.name, 0.0)
            swept.lost[accounts.name] = lost + time.monotonic() - began
            log.debug("key %s of channel %s: %s", key.fingerprint, accounts.name, verdict.reason)
