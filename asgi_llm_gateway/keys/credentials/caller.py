"""Keys that callers bring themselves: the bearer of each call is the key it is relayed with."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

from ...errors import ConfigurationError, KeysBusy
from ...wire.usage import Usage
from ..key import Key
from ..places import LONGEST_REST

log = logging.getLogger("asgi_llm_gateway.keys")

_MOST_CHARACTERS = 8192
_HELD = "held"


class CallerKeys:
    """A KeyPool without keys of its own: `take` makes one of `exchange.bearer`.

    With PlainCredentials the caller's bearer goes to the provider as it is; with
    ExchangedCredentials it is a refresh token, and the access token had for it goes there. Nothing
    of a bearer is kept between calls but its SHA-256, under which calls under way and a cooldown
    are counted: for the latest `most` callers, and `idle` seconds after their last call. Whoever
    does not show the same bearer never meets what was had for it.

    A call without a bearer has no key here. `concurrency` is how many calls one bearer may have
    under way. A refused bearer is not remembered: the provider's answer is its caller's to see.
    """

    resources = None

    def __init__(
        self,
        *,
        concurrency: int | None = None,
        most: int = 10_000,
        idle: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if concurrency is not None and concurrency < 1:
            raise ConfigurationError("concurrency must be at least 1")
        self._concurrency = concurrency
        self._most = most
        self._idle = idle
        self._clock = clock
        self._seen: dict[str, _Seen] = {}

    def __repr__(self) -> str:
        return f"CallerKeys({len(self._seen)} callers)"

    async def add(self, keys: Iterable[str]) -> None:  # noqa: ARG002 - one signature
        """Raises ConfigurationError: nobody can add a key for a caller."""
        raise ConfigurationError("this channel's keys are its callers' own: none can be added")

    async def take(
        self,
        exchange: Any,
        tried: Collection[str] = (),
        *,
        wait: float = 0.0,  # noqa: ARG002 - the one key a call has is not waited for
    ) -> Key | None:
        """The caller's key; None without a bearer, and when it was tried. Raises KeysBusy while
        it cools down or has all the calls under way it may have."""
        bearer = getattr(exchange, "bearer", None)
        if not isinstance(bearer, str) or not _can_be_sent(bearer):
            return None
        key = Key(bearer)
        if key.fingerprint in tried:
            return None
        now = self._clock()
        seen = self._seen.pop(key.id, None) or _Seen()
        self._seen[key.id] = seen  # the latest stand last
        seen.last = now
        self._drop_old(now)
        if now < seen.cool_until:
            raise KeysBusy("your key cools down", retry_after=seen.cool_until - now)
        if self._concurrency is not None and seen.in_flight >= self._concurrency:
            raise KeysBusy("your key has all the calls under way it may have", retry_after=1.0)
        seen.in_flight += 1
        seen.uses += 1
        key.in_flight, key.uses = seen.in_flight, seen.uses
        key.lease = _HELD
        return key

    async def all(self) -> list[Key]:
        """None: what a caller brought is not kept."""
        return []

    async def remove(self, key: Key, reason: str) -> None:
        """Logged; the next call with it is as good as the first."""
        log.info("a caller's key %s was refused: %s", key.fingerprint, reason)

    def report(
        self,
        key: Key,
        outcome: str,  # noqa: ARG002 - one signature
        *,
        usage: Usage | None = None,  # noqa: ARG002 - likewise
        cooldown: float = 0.0,
    ) -> None:
        """The call that took `key` is over; `cooldown` seconds its caller is kept away. A second
        time changes nothing: it would give back what another call holds."""
        seen = self._seen.get(key.id)
        if seen is None or key.lease is None:
            return
        key.lease = None
        seen.in_flight = max(0, seen.in_flight - 1)
        if cooldown > 0:
            rest = min(cooldown, LONGEST_REST)
            seen.cool_until = max(seen.cool_until, self._clock() + rest)

    def _drop_old(self, now: float) -> None:
        """The first stand longest: what is idle for too long, and what is too many. A caller with
        calls under way is not forgotten for being idle, but is when there are too many."""
        for key_id, seen in list(_first(self._seen, 8)):
            idle = seen.in_flight == 0 and now - seen.last >= self._idle
            if len(self._seen) > self._most or (idle and now >= seen.cool_until):
                del self._seen[key_id]


class _Seen:
    """What is known of one bearer."""

    __slots__ = ("cool_until", "in_flight", "last", "uses")

    def __init__(self) -> None:
        self.in_flight = 0
        self.uses = 0
        self.cool_until = 0.0
        self.last = 0.0


def _first(seen: dict[str, _Seen], count: int) -> Iterable[tuple[str, _Seen]]:
    return (pair for pair, _ in zip(seen.items(), range(count), strict=False))


def _can_be_sent(bearer: str) -> bool:
    return 0 < len(bearer) <= _MOST_CHARACTERS and all("!" <= char <= "~" for char in bearer)
