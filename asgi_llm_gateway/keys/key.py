"""One secret the gateway shows a provider, and what is told of keys."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

FINGERPRINT = 12
"""How many hex digits of a key's id name it in logs and headers."""


class Key:
    """A provider's key and what its pool knows of it.

    Its repr and str show only the fingerprint: the first 12 hex digits of the secret's SHA-256,
    which is what logs, attempts and headers name it by. Where a pool counts what each call does,
    every call is lent a Key of its own (`lend`) that remembers what is to be given back.
    """

    __slots__ = (
        "fingerprint",
        "id",
        "in_flight",
        "lease",
        "origin",
        "seat",
        "secret",
        "taken",
        "tokens",
        "uses",
    )

    def __init__(self, secret: str) -> None:
        self.secret = secret
        self.id = hashlib.sha256(secret.encode()).hexdigest()
        """The secret's whole SHA-256."""
        self.fingerprint = self.id[:FINGERPRINT]
        self.uses = 0
        """How often it was taken."""
        self.in_flight = 0
        """How many calls hold it now."""
        self.lease: str | None = None
        """What the slot of this one call is known by; None once it was given back."""
        self.tokens = 0
        """Input tokens of this one call, as estimated when it was taken."""
        self.taken = 0.0
        """When this one call took it, by the pool's clock."""
        self.origin: Key | None = None
        """The key this one was lent from."""
        self.seat: Any = None
        """Where the pool keeps it; the pool's own affair."""

    def lend(self, lease: str, tokens: int, taken: float) -> Key:
        """The key for one call."""
        lent = Key.__new__(Key)
        lent.secret, lent.id, lent.fingerprint = self.secret, self.id, self.fingerprint
        lent.uses, lent.in_flight = self.uses, self.in_flight
        lent.lease, lent.tokens, lent.taken = lease, tokens, taken
        lent.origin, lent.seat = self, None
        return lent

    def __repr__(self) -> str:
        return f"Key({self.fingerprint})"


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A key that was taken out: why, and when (unix time)."""

    fingerprint: str
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class DayUse:
    """What a key did in the limit day that began at `since` and ends at `until` (unix times).

    Counted while the pool has a limit by minute or by day; zero otherwise.
    """

    requests: int
    tokens: int
    since: float
    until: float
