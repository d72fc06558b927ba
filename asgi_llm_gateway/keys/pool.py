"""A channel's keys: take one, say how it went, drop the dead."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from random import Random
from typing import Any, Protocol, runtime_checkable

from ..errors import ConfigurationError
from ..runtime import Resources
from ..wire.usage import Usage
from .accounted import Accounted
from .billing import Balance
from .choosing import CHOOSERS, Chooser
from .estimating import input_tokens
from .key import DayUse, Key, Quarantined
from .limits import KeyLimits
from .memory import Busy, Keyring
from .places import Clock
from .sources import sendable
from .waiting import Waiter, caller_of

log = logging.getLogger("asgi_llm_gateway.keys")

Hook = Callable[[Key, str], None]
_NO_LIMITS = KeyLimits()
_MOST_TOKENS = 10**12


class KeyPool(Protocol):
    """Where a channel's keys come from; `MemoryKeyPool` is the reference.

    take and report are called for every attempt, so a store behind them must be quick.
    """

    async def add(self, keys: Iterable[str]) -> None:
        """Add secrets; one in use changes nothing, one in quarantine comes back."""
        ...

    async def take(
        self, exchange: Any, tried: Collection[str] = (), *, wait: float = 0.0
    ) -> Key | None:
        """A key for this exchange, none whose fingerprint is in `tried`, to be reported once.

        None when there is no untried key at all. KeysBusy when there are but none is free within
        `wait` seconds; its `retry_after` is when the first will be.
        """
        ...

    async def all(self) -> list[Key]:
        """Every key in use."""
        ...

    async def remove(self, key: Key, reason: str) -> None:
        """Take a key out, into quarantine; it is logged by its fingerprint."""
        ...

    def report(
        self, key: Key, outcome: str, *, usage: Usage | None = None, cooldown: float = 0.0
    ) -> None:
        """The call that took `key` is over: ok, failed or left. Must not suspend.

        Gives its slot back, puts the tokens it used in place of those estimated, and lets the key
        rest for `cooldown` seconds.
        """
        ...


@runtime_checkable
class ManagedPool(KeyPool, Protocol):
    """A pool whose keys can be looked after: both of ours."""

    limits: KeyLimits
    """What each key may do, and how long a call waits for one (`limits.wait`)."""
    on_removed: list[Hook]
    """Told of every key this process puts into quarantine, and why; must not suspend or raise."""
    resources: Resources[Any] | None
    """What is to be opened before use, if anything; the first call opens it otherwise."""

    async def quarantined(self) -> list[Quarantined]:
        """What was taken out, when and why; the oldest first."""
        ...

    async def restore(self, fingerprint: str) -> bool:
        """Bring a key back from quarantine; whether it was there."""
        ...

    async def day_use(self, key: Key) -> DayUse:
        """What a key did in the limit day of the moment."""
        ...

    async def save_balance(self, key: Key, balance: Balance) -> None:
        """Keep what a key's provider says is left on it."""
        ...

    async def balances(self) -> dict[str, Balance]:
        """What was kept, by fingerprint."""
        ...


def chooser(name: str) -> Chooser:
    """The way of choosing of that name; ConfigurationError names those there are."""
    if name not in CHOOSERS:
        known = ", ".join(sorted(CHOOSERS))
        raise ConfigurationError(f"keys are chosen by one of {known}, not {name!r}")
    return CHOOSERS[name]


def used_tokens(usage: Usage | None) -> int | None:
    """What counts against a key's limit of tokens: all that went in and came out.

    A provider's number that cannot be meant does not go on: a store's counters have 64 bits.
    """
    if usage is None:
        return None
    return max(0, min(usage.total_input + usage.total_output, _MOST_TOKENS))


def tell_removed(hooks: Iterable[Hook], key: Key, reason: str) -> None:
    """Log that a key was taken out, and tell those who want to know."""
    log.warning("key %s taken out: %s", key.fingerprint, reason)
    for hook in hooks:
        try:
            hook(key, reason)
        except Exception:  # supervisor: a host's hook must not fail the call that found the key out
            log.exception("a hook failed when told that key %s was taken out", key.fingerprint)


class MemoryKeyPool(Accounted):
    """Keys of one process. Loop-free: it may be shared by event loops and threads.

    Everything it knows (quarantine, windows, cool-downs, balances) ends with the process: a
    restart tries every key of the settings again. A Redis pool remembers.
    """

    resources: Resources[Any] | None = None

    def __init__(
        self,
        keys: Iterable[str] = (),
        *,
        choose: str = "random",
        limits: KeyLimits = _NO_LIMITS,
        rng: Random | None = None,
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
    ) -> None:
        rng = rng or Random()  # noqa: S311 - spreads load, guards nothing
        self._secrets = sendable(keys)
        self._ring = Keyring(chooser(choose), limits, rng, clock, wall)
        self._ring.add(self._secrets, by_hand=False)
        self.limits = limits
        self.on_removed: list[Hook] = []

    @property
    def keys(self) -> tuple[Key, ...]:
        """Every key in use."""
        return tuple(self._ring.in_use.values())

    @property
    def removed(self) -> Mapping[str, str]:
        """Fingerprints of keys in quarantine, with the reason."""
        return {name: kept.told.reason for name, kept in self._ring.quarantine.items()}

    async def add(self, keys: Iterable[str]) -> None:
        """Add secrets; also brings back one that was removed."""
        self._ring.add(sendable(keys), by_hand=True)

    async def take(
        self, exchange: Any, tried: Collection[str] = (), *, wait: float = 0.0
    ) -> Key | None:
        """A key that was not tried yet: at once, or within `wait` seconds, callers in turn."""
        ring = self._ring
        tokens = input_tokens(exchange) if ring.limits.counts_tokens else 0
        with ring.lock:
            key = ring.draw(tried, tokens)
            if key is not None:
                return key
            if not ring.has_untried(tried):
                return None
            busy = ring.busy(tried, tokens)
            if wait <= 0 or (busy.by_itself > wait and not busy.held):
                raise busy.refusal()
            waiter = Waiter(caller_of(exchange), tried, tokens)
            ring.join(waiter)
        return await _in_line(ring, waiter, wait)

    def take_now(self, tried: Collection[str] = ()) -> Key | None:
        """`take` for code without an event loop: a key that is free now, or None.

        Like every method here it may be called from any thread.
        """
        with self._ring.lock:
            return self._ring.draw(tried, 1 if self._ring.limits.counts_tokens else 0)

    def busy_now(self) -> Busy:
        """When a key will be free, for those to whom `take_now` gave none."""
        return self._ring.busy((), 1 if self._ring.limits.counts_tokens else 0)

    async def all(self) -> list[Key]:
        """Every key in use."""
        return list(self.keys)

    async def remove(self, key: Key, reason: str) -> None:
        """Take a key out; calls that hold it go on."""
        self.remove_now(key, reason)

    def remove_now(self, key: Key, reason: str) -> None:
        """`remove` for code without an event loop; from any thread."""
        if self._ring.remove(key, reason):
            tell_removed(self.on_removed, key, reason)

    def report(
        self,
        key: Key,
        outcome: str,  # noqa: ARG002 - health is judged by whoever sets `cooldown`
        *,
        usage: Usage | None = None,
        cooldown: float = 0.0,
    ) -> None:
        """Give a taken key back; may be called from any thread."""
        tokens = None if usage is None else used_tokens(usage)
        self._ring.give_back(key, tokens=tokens, cooldown=cooldown)

    async def quarantined(self) -> list[Quarantined]:
        """What was taken out since the process began; the oldest first."""
        return [kept.told for kept in list(self._ring.quarantine.values())]

    async def restore(self, fingerprint: str) -> bool:
        """Bring a key back from quarantine; whether it was there."""
        return self._ring.restore(fingerprint)

    async def day_use(self, key: Key) -> DayUse:
        """What a key did in the limit day of the moment, in this process."""
        return self._ring.day_use(key)

    async def save_balance(self, key: Key, balance: Balance) -> None:
        """Keep what a key's provider says is left on it."""
        self._ring.balances[key.fingerprint] = balance

    async def balances(self) -> dict[str, Balance]:
        """What was kept, by fingerprint."""
        return dict(self._ring.balances)

    def adopt(self, old: MemoryKeyPool) -> None:
        """Go on from a pool of the same channel after a reload: what was dead stays dead, what was
        counted stays counted, and keys that were added by hand stay."""
        ring = old._ring
        ring.change(self._ring.choose, self.limits, self._secrets)
        self._ring = ring


async def _in_line(ring: Keyring, waiter: Waiter, wait: float) -> Key | None:
    """The key a waiting call is handed within so many seconds."""
    served = False
    try:
        await waiter.wait(wait)
        served = True
    finally:
        with ring.lock:
            ring.part(waiter)
            key = waiter.key
            if key is not None and not served:  # cancelled at the moment it was handed over
                ring.undo(key)
    if key is not None:
        return key
    if not ring.has_untried(waiter.tried):
        return None
    raise ring.busy(waiter.tried, waiter.tokens).refusal()
