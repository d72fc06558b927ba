"""Answers of a store or an authenticating callable, kept for a few seconds.

Keyed by the whole SHA-256 of the credential: a shortened key has let one caller in as another
elsewhere. Bad credentials have a book of their own, so that a flood of them pushes no good one out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
Timer = Callable[[], float]


class Book(Generic[T]):
    """At most `size` entries, each gone `ttl` seconds after it was put; 0 keeps nothing."""

    def __init__(self, ttl: float, size: int, timer: Timer) -> None:
        self._ttl, self._size, self._timer = ttl, size, timer
        self._entries: dict[str, tuple[float, T]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> T | None:
        """The entry's value while it is fresh."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._timer() >= entry[0]:
            del self._entries[key]
            return None
        return entry[1]

    def put(self, key: str, value: T) -> None:
        """Keep a value; the oldest entries make room."""
        if self._ttl <= 0:
            return
        entries, now = self._entries, self._timer()
        entries.pop(key, None)
        # All live equally long, so the order of putting is the order of ending.
        while entries:
            oldest = next(iter(entries))
            if len(entries) < self._size and now < entries[oldest][0]:
                break
            del entries[oldest]
        entries[key] = (now + self._ttl, value)

    def drop(self, key: str) -> None:
        """Forget an entry, if it is there."""
        self._entries.pop(key, None)


class ResultCache(Generic[T]):
    """What was found for a credential, and which credentials were found to be none."""

    def __init__(
        self,
        ttl: float = 5.0,
        negative_ttl: float = 1.0,
        *,
        size: int = 10_000,
        negative_size: int = 10_000,
        timer: Timer = time.monotonic,
    ) -> None:
        self._good: Book[T] = Book(ttl, size, timer)
        self._bad: Book[bool] = Book(negative_ttl, negative_size, timer)

    def __len__(self) -> int:
        return len(self._good) + len(self._bad)

    def good(self, digest: str) -> T | None:
        """What was found for this digest a short while ago."""
        return self._good.get(digest)

    def bad(self, digest: str) -> bool:
        """Whether nothing was found for this digest a short while ago."""
        return self._bad.get(digest) is not None

    def put(self, digest: str, result: T | None) -> None:
        """Remember an answer; None is the answer that this is no credential."""
        if result is None:
            self._good.drop(digest)
            self._bad.put(digest, True)
        else:
            self._bad.drop(digest)
            self._good.put(digest, result)
