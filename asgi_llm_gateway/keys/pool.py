"""A channel's keys: take one, say how it went, drop the dead."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from random import Random
from typing import Any, Protocol

from ..errors import ConfigurationError
from .choosing import CHOOSERS
from .key import Key

log = logging.getLogger("asgi_llm_gateway.keys")


class KeyPool(Protocol):
    """Where a channel's keys come from; `MemoryKeyPool` is the reference.

    take, report and remove are awaited on every call, so a store behind them must be quick.
    """

    async def add(self, keys: Iterable[str]) -> None:
        """Add secrets; one that is there already changes nothing."""
        ...

    async def take(self, exchange: Any, tried: Collection[str] = ()) -> Key | None:
        """A key for this exchange, none whose fingerprint is in `tried`; None if none is free."""
        ...

    def all(self) -> list[Key]:
        """Every key that may be taken."""
        ...

    async def remove(self, key: Key, reason: str) -> None:
        """Take a key out for good; it is logged by its fingerprint."""
        ...

    def report(self, key: Key, outcome: str) -> None:
        """The call that took `key` is over: ok, failed or left. Must not suspend."""
        ...


class MemoryKeyPool:
    """Keys of one process. Loop-free: it may be shared by event loops and threads' loops."""

    def __init__(
        self, keys: Iterable[str] = (), *, choose: str = "random", rng: Random | None = None
    ) -> None:
        if choose not in CHOOSERS:
            known = ", ".join(sorted(CHOOSERS))
            raise ConfigurationError(f"keys are chosen by one of {known}, not {choose!r}")
        self._choose = CHOOSERS[choose]
        self._rng = rng or Random()  # noqa: S311 - spreads load, guards nothing
        self._turn = 0
        self._keys: list[Key] = []
        self.removed: dict[str, str] = {}
        """Fingerprints of keys taken out, with the reason."""
        self._add(keys)

    async def add(self, keys: Iterable[str]) -> None:
        """Add secrets; also brings back one that was removed."""
        self._add(keys)

    def _add(self, keys: Iterable[str]) -> None:
        known = {key.secret for key in self._keys}
        for secret in dict.fromkeys(keys):
            if secret not in known:
                key = Key(secret)
                self.removed.pop(key.fingerprint, None)
                self._keys = [*self._keys, key]

    async def take(self, exchange: Any, tried: Collection[str] = ()) -> Key | None:  # noqa: ARG002
        """A key that was not tried yet."""
        free = self._keys
        if tried:
            free = [key for key in free if key.fingerprint not in tried]
        if not free:
            return None
        key = free[0] if len(free) == 1 else self._choose(free, self._turn, self._rng)
        self._turn += 1
        key.uses += 1
        key.in_flight += 1
        return key

    def all(self) -> list[Key]:
        """Every key that may be taken."""
        return list(self._keys)

    async def remove(self, key: Key, reason: str) -> None:
        """Take a key out; calls that hold it go on."""
        if any(other is key for other in self._keys):
            self._keys = [other for other in self._keys if other is not key]
            self.removed[key.fingerprint] = reason
            log.warning("key %s taken out: %s", key.fingerprint, reason)

    def report(self, key: Key, outcome: str) -> None:  # noqa: ARG002 - health is judged later
        """Give a taken key back."""
        key.in_flight -= 1

    def adopt(self, old: MemoryKeyPool) -> None:
        """Go on from a pool of the same channel after a reload: what was dead stays dead."""
        kept = {key.fingerprint: key for key in old.all()}
        dead = old.removed
        self._keys = [
            kept.get(key.fingerprint, key) for key in self._keys if key.fingerprint not in dead
        ]
        self.removed = {**dead}
