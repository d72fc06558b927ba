"""A real Valkey for the tests of the lease."""

from __future__ import annotations

from tests.valkey import own_valkey, valkey

__all__ = ["own_valkey", "valkey"]
