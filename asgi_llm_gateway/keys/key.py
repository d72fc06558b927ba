"""One secret the gateway shows a provider."""

from __future__ import annotations

import hashlib


class Key:
    """A provider's key and what its pool knows of it.

    Its repr and str show only the fingerprint: the first 12 hex digits of the secret's SHA-256,
    which is what logs, attempts and headers name it by.
    """

    __slots__ = ("fingerprint", "in_flight", "secret", "uses")

    def __init__(self, secret: str) -> None:
        self.secret = secret
        self.fingerprint = hashlib.sha256(secret.encode()).hexdigest()[:12]
        self.uses = 0
        """How often it was taken."""
        self.in_flight = 0
        """How many calls hold it now."""

    def __repr__(self) -> str:
        return f"Key({self.fingerprint})"
