"""What a pool says of its keys' accounts, once somebody was told to ask the provider."""

from __future__ import annotations

from datetime import date
from typing import Protocol

from ..errors import ConfigurationError
from .billing import Balance
from .key import Key


class Accounts(Protocol):
    """Who asks the provider: keys/accounts.py has the one there is."""

    async def balance(self, key: Key) -> Balance:
        """What is left on a key."""
        ...

    async def usage(self, key: Key, start: date, end: date) -> float:
        """What a key used from `start` up to `end`."""
        ...


class Accounted:
    """A pool that can be asked about the accounts behind its keys.

    `accounts` is set by `KeyAccounts(pool, …)`; a gateway does that for every channel.
    """

    accounts: Accounts | None = None

    async def balance(self, key: Key) -> Balance:
        """What the provider says is left on a key, asked now and kept.

        Raises UpstreamError (CannotTell above all), and ConfigurationError where nobody was told
        how to ask.
        """
        return await self._asked().balance(key)

    async def usage(self, key: Key, start: date, end: date) -> float:
        """What a key used from `start` up to `end` (exclusive), in dollars; raises as `balance`."""
        return await self._asked().usage(key, start, end)

    def _asked(self) -> Accounts:
        if self.accounts is None:
            raise ConfigurationError(
                "nobody was told how to ask about these keys: make a KeyAccounts of the pool, or "
                "give the channel billing"
            )
        return self.accounts
