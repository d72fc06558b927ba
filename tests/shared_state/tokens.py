"""A token host on a socket, and a provider that takes only tokens of its making."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

from tests.faulty import Provider
from tests.keys_credentials.token_host import FIRST, TokenHost
from tests.served import served
from tests.shared_state.gateways import leading_to


@asynccontextmanager
async def token_host(**how: Any) -> AsyncIterator[TokenHost]:
    """A TokenHost served by a real server in a thread of its own."""
    host = TokenHost(**how)
    serving = served(host)
    base = await asyncio.to_thread(serving.__enter__)
    host.url = f"{base}/token"
    try:
        yield host
    finally:
        await asyncio.to_thread(serving.__exit__, None, None, None)


def refreshing(
    provider: Provider,
    host: TokenHost,
    exchange: Mapping[str, Any] = MappingProxyType({}),
    **config: Any,
) -> dict[str, Any]:
    """The table of a channel whose key is the host's first refresh token."""
    table = {"token_url": host.url, "rotates": host.rotates, **exchange}
    given = {"keys": [FIRST], "credential": "refresh_token", "token_exchange": table}
    return leading_to(provider, **{**given, **config})
