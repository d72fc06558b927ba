"""A real Valkey, a state in it, and a token host."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from asgi_llm_gateway.state import State
from tests.keys_credentials.token_host import TokenHost
from tests.valkey import Valkey, own_valkey, valkey

__all__ = ["own_valkey", "valkey"]

# Machines that share their cores would break the default deadline of 200 ms an example.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")


@pytest.fixture
def state(valkey: Valkey) -> Iterator[State]:
    return State(valkey.url, prefix=valkey.prefix)


@pytest.fixture
def host() -> TokenHost:
    return TokenHost()
