"""Health told from process to process through the shared store, beside the calls.

No call waits for the store: changes are put on a list, and one task per event loop brings them to
the store and fetches those of the others, in one command, about twice a second. Only a call that is
to be a probe asks first, so that there is one at a time in all processes. When the store is away
every process goes by what it sees itself.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import cache
from hashlib import sha256
from random import Random
from typing import Any, Final

import msgspec

from ...errors import StateUnavailable
from ...runtime import Resources
from ...state import Lease, Script, State, StateFault
from .book import Health
from .events import Condition, Name, Record

log = logging.getLogger("asgi_llm_gateway.channels.health")

_PERIOD: Final = 0.4
"""Seconds; two of them are the longest another process takes to hear of a change."""
_MOST_AT_ONCE: Final = 200
_MOST_KEPT: Final = 2048
_BORDER: Final = "\n"
_LONGEST_REASON: Final = 200
_ROUNDING: Final = 0.01
"""Seconds; Lua's JSON has 14 digits, of which the date takes 10."""


class _Wire(msgspec.Struct):
    """One entry as the store holds it (health.lua)."""

    c: Condition
    r: str = ""
    l: float = 0.0  # noqa: E741 - short, since it is sent often
    h: bool = False


_read = msgspec.json.Decoder(_Wire).decode
_write = msgspec.json.Encoder().encode


@cache
def _script() -> Script:
    return Script.of("asgi_llm_gateway.channels.health", "health.lua")


class SharedHealth:
    """Makes the Health objects of many processes one.

        shared = SharedHealth(State("redis://localhost/0"))
        health = Health(shared=shared)
        async with shared.resources: ...

    Entering `resources` starts the task, once per event loop; Gateway does so.
    """

    def __init__(self, state: State, *, period: float = _PERIOD) -> None:
        self._state = state
        self._period = period
        self._rng = Random()  # noqa: S311 - keeps processes from asking all at once
        # One hash tag: both live in one slot of a cluster.
        self._keys = (state.name("{health}", "entries"), state.name("{health}", "number"))
        self._health: Health | None = None
        self._changed: dict[Name, bool] = {}
        """Entries to tell of, and whether by hand."""
        self._seen = 0
        self._memory: bytes | None = None
        self._away = False
        self._owner = secrets.token_hex(16)
        self._ended: set[Name] = set()
        """Probes that are over, whose claims are given back."""
        self.resources: Resources[None] = Resources(self._running, started_by="gateway.lifespan")

    def bind(self, health: Health) -> None:
        """Whose changes these are; Health calls it."""
        self._health = health

    def note(self, name: Name, *, by_hand: bool) -> None:
        """Something the task will pass on: what is true of it when it does so."""
        changed = self._changed
        if len(changed) >= _MOST_KEPT and name not in changed:
            # A store long away: what opens and closes by itself can be forgotten.
            changed.pop(next((n for n, hand in changed.items() if not hand), name), None)
        changed[name] = by_hand or changed.get(name, False)

    async def claim(self, name: Name, seconds: float) -> bool:
        """Whether no other process has a probe under way there; then none begins one for so many
        seconds, or until it is released. While the store is away everybody may."""
        self._ended.discard(name)
        try:
            return await self._claim_on(name, seconds).take()
        except (StateUnavailable, StateFault):
            return True

    def release(self, name: Name) -> None:
        """A probe is over; with the next sync others may try."""
        if len(self._ended) < _MOST_KEPT:  # else the claim runs out by itself
            self._ended.add(name)

    async def sync(self) -> None:
        """Bring what changed here and take what changed elsewhere; never raises for a store that
        is away: then everything is kept for the next time."""
        taken, self._changed = self._changed, {}
        sent = self._records(dict(list(taken.items())[:_MOST_AT_ONCE]))
        rest = dict(list(taken.items())[_MOST_AT_ONCE:])
        try:
            found = await self._exchange(sent)
        except (StateUnavailable, StateFault) as failure:
            rest = taken
            self._say(away=True, why=failure)
        except BaseException:
            rest = taken
            raise
        else:
            self._say(away=False)
            self._take(found, sent)
            await self._give_claims_back()
        finally:
            for name, by_hand in rest.items():
                self.note(name, by_hand=by_hand)

    def _claim_on(self, name: Name, seconds: float = 1.0) -> Lease:
        # Callers choose the names of models: hashed, they are short and hold no brace.
        about = sha256(_field(name)).hexdigest()
        return Lease(self._state, f"probe:{about}", seconds, owner=self._owner)

    async def _give_claims_back(self) -> None:
        ended, self._ended = self._ended, set()
        if ended:
            await asyncio.gather(*map(self._give_back, ended))

    async def _give_back(self, name: Name) -> None:
        with suppress(StateUnavailable, StateFault):  # then it runs out by itself
            await self._claim_on(name).give_back()

    def _records(self, changed: dict[Name, bool]) -> dict[Name, Record]:
        assert self._health is not None
        found = {name: self._health.record(name) for name in changed}
        return {
            name: replace(record, by_hand=record.by_hand or changed[name])
            for name, record in found.items()
            if record is not None
        }

    async def _exchange(self, sent: dict[Name, Record]) -> list[Any]:
        arguments: list[bytes | str | int | float] = [self._seen]
        for name, record in sent.items():
            # A reason given by hand may hold what no UTF-8 can.
            reason = record.reason[:_LONGEST_REASON].encode("utf-8", "replace").decode()
            wire = _Wire(record.condition, reason, record.left, record.by_hand)
            arguments += [_field(name), _write(wire)]
        found: list[Any] = await self._state.run(_script(), self._keys, arguments)
        return found

    def _take(self, found: list[Any], sent: dict[Name, Record]) -> None:
        health = self._health
        assert health is not None
        last, memory = int(found[0]), bytes(found[1])
        if last < self._seen or memory != (self._memory or memory):
            # The store has lost what it knew: it is told again, and asked again for everything.
            self._seen, self._memory = 0, memory
            for name in health.names():
                self.note(name, by_hand=False)
            return
        self._seen, self._memory = last, memory
        for field, text in zip(found[2::2], found[3::2], strict=True):
            try:
                name, wire = _name(field), _read(text)
            except (msgspec.DecodeError, UnicodeDecodeError):
                log.warning("an entry of shared health cannot be read and is passed over")
                continue
            # What changed here since is newer and on its way; what was just sent is no news.
            if name not in self._changed and not _echo(wire, sent.get(name)):
                health.adopt(name, Record(wire.c, wire.r, wire.l, wire.h))

    def _say(self, *, away: bool, why: Exception | None = None) -> None:
        if away and not self._away:
            log.warning("health is not shared for now (%s); this process judges by itself", why)
        elif self._away and not away:
            log.info("health is shared again")
        self._away = away

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        await self.sync()
        task = asyncio.get_running_loop().create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})  # awaiting it would take a cancel of ours for its own
            if self._changed or self._ended:
                await self.sync()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._period * (0.8 + 0.4 * self._rng.random()))
            try:
                await self.sync()
            except Exception:  # supervisor: the task must outlive what it did not foresee
                log.exception("sharing health failed; it is tried again")


def _echo(wire: _Wire, sent: Record | None) -> bool:
    return sent is not None and wire.c == sent.condition and wire.l <= sent.left + _ROUNDING


def _field(name: Name) -> bytes:
    channel, model = name
    text = channel if model is None else f"{channel}{_BORDER}{model}"
    # JSON lets callers name a model with half a surrogate pair.
    return text.encode("utf-8", "surrogatepass")


def _name(field: bytes) -> Name:
    channel, border, model = field.decode("utf-8", "surrogatepass").partition(_BORDER)
    return channel, model if border else None
