"""What one event loop does for a shared pool: gives slots back, renews them, serves its line."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from itertools import islice
from random import Random
from typing import Any

from ..errors import GatewayError, StateUnavailable
from ..runtime import kept_tasks, sweep
from ..state import StateFault
from .key import Key
from .limits import KeyLimits
from .memory import Busy
from .redis_store import Give, PoolStore
from .waiting import FairQueue, Waiter

log = logging.getLogger("asgi_llm_gateway.keys")

Answer = Key | Busy | None
Ask = Callable[[Waiter], Coroutine[Any, Any, Answer]]

_BATCH = 500
"""Slots given back in one script call; a script holds up the whole store while it runs."""
_WIDEST = 32
"""How many of a line are asked for at once."""
_AGAIN = 0.5
"""Seconds until what the store did not take is given back again."""
_MOST_OVERDUE = 10_000
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.1
"""Seconds between looking whether another process has given a key back."""


class Desk:
    """One loop's share of the work; everything here runs in that loop."""

    def __init__(
        self, store: PoolStore, limits: KeyLimits, ask: Ask, undo: Callable[[Key], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._lease = limits.lease
        self._ask = ask
        self._undo = undo
        self._held: dict[str, str] = {}
        self._gives: list[Give] = []
        self._overdue: deque[Give] = deque(maxlen=_MOST_OVERDUE)
        """What the store did not take."""
        self._again_at = 0.0
        self._giving: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._renew_at = 0.0
        self._serving: asyncio.Task[None] | None = None
        self._given = asyncio.Event()
        self._jitter = Random()  # noqa: S311 - spreads load, guards nothing
        self.line: FairQueue[Waiter] = FairQueue()
        self.crowd = 0
        """How many in line would take any key there is."""
        self.seeding = asyncio.Lock()

    def hold(self, lease: str, identity: str) -> None:
        """Renew a slot until it is given back."""
        if not self._held:
            self._renew_at = self._loop.time() + self._lease / 3
            sweep(self._loop).add(self)
        self._held[lease] = identity

    def give(self, slot: Give) -> None:
        """Give a slot back soon, together with what else this tick gives back."""
        self._held.pop(slot.lease, None)
        self._gives.append(slot)
        if self._giving is None:
            self._giving = kept_tasks().keep(self._give_all())

    async def _give_all(self) -> None:
        try:
            await asyncio.sleep(0)  # the rest of the tick
            while self._gives:
                batch, self._gives = self._gives[:_BATCH], self._gives[_BATCH:]
                await self._give_some(batch)
                self._given.set()
        finally:
            self._giving = None

    async def _give_some(self, batch: list[Give]) -> None:
        now = self._loop.time()
        try:
            await self._store.give([slot.after(now) for slot in batch])
        except StateUnavailable:
            # To be given back again when the store is back, or the keys would be thought busy until
            # the leases are over. What was counted is not told again: it may have been carried out.
            log.debug("%d slots of keys could not be given back yet", len(batch))
            self._overdue.extend(
                slot._replace(requests=0, tokens=0, since=slot.since or now)
                for slot in batch
                if slot.lease or slot.rest
            )
            now = self._loop.time()
            self._again_at = now + _AGAIN
            sweep(self._loop).add(self)
        except StateFault as fault:
            log.error("%d slots of keys could not be given back: %s", len(batch), fault)  # noqa: TRY400 - the trace has nothing more to say

    def _give_again(self, now: float) -> None:
        """What the store did not take, but for what is over by now."""
        overdue = list(self._overdue)
        self._overdue.clear()
        for slot in overdue:
            if now - slot.since < max(self._lease, slot.rest):
                self.give(slot)

    async def close(self) -> None:
        """Wait until everything that was given back so far has reached the store."""
        self._overdue.clear()
        if self._giving is not None:
            await asyncio.wait({self._giving})

    def tick(self, now: float) -> None:
        """Called by the loop's sweep while slots are held."""
        if self._overdue and now >= self._again_at and self._giving is None:
            self._give_again(now)
        if not self._held:
            if not self._overdue:
                sweep(self._loop).remove(self)
        elif now >= self._renew_at and self._renewing is None:
            self._renew_at = now + self._lease / 3
            self._renewing = kept_tasks().keep(self._renew())

    async def _renew(self) -> None:
        try:
            leases = list(self._held)
            for start in range(0, len(leases), _BATCH):
                # Asked anew for each batch: a slot given back meanwhile must not be held again.
                held = [
                    (self._held[lease], lease)
                    for lease in leases[start : start + _BATCH]
                    if lease in self._held
                ]
                lost = await self._store.renew(held)
                for identity, lease in held:
                    if lease not in self._held:  # given back meanwhile, perhaps before it was held
                        self.give(Give(identity, lease))
                if lost:
                    log.warning("%d slots of keys had expired while calls held them", lost)
        except StateUnavailable:
            self._renew_at = self._loop.time()  # at the next tick
        finally:
            self._renewing = None

    async def stand_in_line(self, waiter: Waiter, arrived: int, seconds: float) -> None:
        """Wait until served (the waiter's key or refusal says how) or so many seconds."""
        undemanding = not (waiter.tried or waiter.tokens > 1)
        self.crowd += undemanding
        self.line.add(waiter.caller, waiter, arrived)
        if self._serving is None:
            self._serving = kept_tasks().keep(self._serve())
        served = False
        try:
            await waiter.wait(seconds)
            served = True
        finally:
            self.crowd -= undemanding
            self.line.discard(waiter.caller, waiter)
            if waiter.key is not None and not served:  # cancelled at that very moment
                self._undo(waiter.key)
                waiter.key = None

    async def _serve(self) -> None:
        """Ask for those in line, in turn, until nobody is left there.

        Another process says nothing when it gives a key back, so there is a look every now and
        then; what this loop gives back is looked for at once.
        """
        pause, width = _FIRST_PAUSE, 1
        try:
            while len(self.line):
                self._given.clear()
                asked = self._next(width)
                answers = await asyncio.gather(*map(self._answer, asked))
                refused = [answer for answer in answers if isinstance(answer, Busy)]
                for waiter, answer in zip(asked, answers, strict=True):
                    self._hand(waiter, answer)
                if not refused:
                    pause, width = _FIRST_PAUSE, min(width * 2, _WIDEST)
                    continue
                width = 1
                most = pause if any(busy.held for busy in refused) else _LONGEST_PAUSE
                await self._until_given(min(most, *(busy.by_itself for busy in refused), 1.0))
                pause = min(pause * 1.5, _LONGEST_PAUSE)
        finally:
            self._serving = None

    def _next(self, width: int) -> list[Waiter]:
        """Whom to ask for now: so many, and on to one who would take any key there is; when that
        one gets none, nobody behind would."""
        chosen: list[Waiter] = []
        plain = False
        for _, waiter in islice(self.line.in_turn(), _WIDEST):
            if len(chosen) >= width and plain:
                break
            chosen.append(waiter)
            plain = plain or not (waiter.tried or waiter.tokens > 1)
        return chosen

    async def _until_given(self, seconds: float) -> None:
        """Until this loop gives something back, or so long, with jitter: processes that look at
        the same moments would come in the same order every time."""
        timer = self._loop.call_later(
            max(seconds, 0.001) * (0.75 + self._jitter.random() / 2), self._given.set
        )
        try:
            await self._given.wait()
        finally:
            timer.cancel()

    async def _answer(self, waiter: Waiter) -> Answer | GatewayError:
        try:
            return await self._ask(waiter)
        except GatewayError as failure:
            return failure

    def _hand(self, waiter: Waiter, answer: Answer | GatewayError) -> None:
        if isinstance(answer, Busy):
            waiter.refusal = answer.refusal()
            return
        if not self.line.discard(waiter.caller, waiter):  # it left meanwhile
            if isinstance(answer, Key):
                self._undo(answer)
            return
        if isinstance(answer, Key):
            waiter.key = answer
            self.line.turn_over(waiter.caller)
        waiter.refusal = answer if isinstance(answer, GatewayError) else None
        waiter.wake()
