"""Scheduled test calls, which bring back what was taken out and find what is slow.

What a test call is, the relay knows; here it is an async callable. Off unless `every` is given.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Final, Literal

from ..errors import ConfigurationError, GatewayError, StateUnavailable
from ..runtime import Resources
from ..state import Lease, State, StateFault
from .error_table import ErrorTable
from .health.book import Health

log = logging.getLogger("asgi_llm_gateway.channels.checkup")

Test = Callable[[str], Awaitable[float]]
"""A test call on the channel of this name: the seconds it took. Raises GatewayError for a failed
one."""
Which = Literal["ill", "all"]

_WHICH: Final = ("ill", "all")
_LEASE: Final = 30.0
"""Seconds that a dead worker's turn lasts beyond the interval; then another one tests."""


class Checkup:
    """Tests channels every so many seconds, give or take a tenth.

        checkup = Checkup(health, table, test, channels=lambda: names, every=60)
        async with checkup.resources: ...

    `which = "ill"` tests those that are out or open, or have a model that is; "all" tests every
    one. A channel disabled by hand is never tested. `at_once` bounds the calls under way. Of the
    workers that share a `state` one tests for all, who share their health too; while the store is
    away each tests for itself. The first round comes after one interval; `every = 0` is off.
    Raises ConfigurationError for numbers that cannot work.
    """

    def __init__(
        self,
        health: Health,
        table: ErrorTable,
        test: Test,
        *,
        channels: Callable[[], Iterable[str]],
        every: float = 0.0,
        which: Which = "ill",
        at_once: int = 2,
        state: State | None = None,
        rng: Random | None = None,
    ) -> None:
        if every < 0 or at_once < 1 or which not in _WHICH:
            raise ConfigurationError(
                "checkup: every is seconds from 0, at_once from 1, which is ill or all"
            )
        self._health = health
        self._table = table
        self._test = test
        self._channels = channels
        self._every = every
        self._which = which
        self._at_once = at_once
        self._lease = Lease(state, "checkup", every * 1.1 + _LEASE)
        self._rng = rng or Random()  # noqa: S311 - spreads load, guards nothing
        self.resources: Resources[None] = Resources(self._running, started_by="gateway.lifespan")

    async def round(self) -> None:
        """Test each channel that is due, once."""
        gate = asyncio.Semaphore(self._at_once)
        tests = [self._one(name, gate) for name in self.due()]
        for outcome in await asyncio.gather(*tests, return_exceptions=True):
            if isinstance(outcome, Exception):  # one that is not ours: the others are not to blame
                log.error("a test call broke down", exc_info=outcome)

    def due(self) -> list[str]:
        """The channels a round would test."""
        states = self._health.states()
        by_hand = {s.channel for s in states if s.condition == "disabled"}
        ill = {s.channel for s in states}
        return [
            name
            for name in self._channels()
            if name not in by_hand and (self._which == "all" or name in ill)
        ]

    async def test(self, channel: str) -> float:
        """Test one channel now, and tell its health; the seconds it took, or what failed raised."""
        try:
            seconds = await self._test(channel)
        except GatewayError as failure:
            verdict = self._table.classify(failure)
            log.info("the test call on channel %s failed: %s", channel, verdict.name)
            self._health.tested(channel, verdict=verdict, seconds=0.0)
            raise
        self._health.tested(channel, verdict=None, seconds=seconds)
        return seconds

    async def _one(self, channel: str, gate: asyncio.Semaphore) -> None:
        async with gate:
            with suppress(GatewayError):  # logged, and told to health
                await self.test(channel)

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        if not self._every:
            yield
            return
        task = asyncio.get_running_loop().create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})  # awaiting it would take a cancel of ours for its own
            with suppress(StateUnavailable, StateFault):  # then it runs out by itself
                await self._lease.give_back()

    async def _ours(self) -> bool:
        """Whether it is this worker who tests."""
        try:
            return await self._lease.take()
        except (StateUnavailable, StateFault) as failure:
            log.info("whose turn it is to test cannot be told: %s", failure)
            return True

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every * (0.9 + 0.2 * self._rng.random()))
            try:
                if await self._ours():
                    await self.round()
            except Exception:  # supervisor: the task must outlive what it did not foresee
                log.exception("a round of test calls failed; the next one comes")
