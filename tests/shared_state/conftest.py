"""Gateways on a real store: the servers the tests ask for."""

from tests.valkey import own_valkey, valkey

__all__ = ["own_valkey", "valkey"]
