"""A pool's keys as accounts at their provider: what is left on each, whether it is still good."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Protocol, TypeVar

from ..errors import Headers, KeyRevoked, UpstreamError
from ..upstream.contract import Upstream
from .accounted import Accounted
from .billing import Balance, CannotTell, Verdict
from .key import Key
from .probes import DashboardBilling, Inquiry, Probe

if TYPE_CHECKING:
    from .credentials.contract import Credentials

T = TypeVar("T")


class AccountPool(Protocol):
    """What is asked of a pool here and in the sweep; both of ours are one."""

    async def all(self) -> list[Key]:
        """Every key that may be taken."""
        ...

    async def remove(self, key: Key, reason: str) -> None:
        """Put a key into quarantine."""
        ...

    async def save_balance(self, key: Key, balance: Balance) -> None:
        """Keep what was found out."""
        ...

    async def balances(self) -> dict[str, Balance]:
        """What was kept, by fingerprint."""
        ...


def bearer(secret: str) -> Headers:
    """How most providers want a call signed (RFC 6750 section 2.1)."""
    return [(b"authorization", b"Bearer " + secret.encode("ascii"))]


class KeyAccounts:
    """Asks the provider about keys of one pool, and keeps in the pool what it says.

        accounts = KeyAccounts(pool, probe_named("dashboard", "https://host.example/v1"), upstream)
        balance = await accounts.balance(key)

    `probe` is asked first and `validity` (GET /models) when it cannot tell. `sign` makes the
    headers of a secret, `credentials` the secret of a key that is a refresh token. One key takes
    at most `patience` seconds. From then on `pool.balance` and `pool.usage` ask here.
    """

    def __init__(
        self,
        pool: AccountPool,
        probe: Probe | None,
        upstream: Upstream,
        *,
        validity: Probe | None = None,
        sign: Callable[[str], Headers] = bearer,
        credentials: Credentials | None = None,
        name: str = "",
        patience: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.pool = pool
        self.name = name
        """The channel's, for logs."""
        self._probe = probe
        self._validity = validity
        self._upstream = upstream
        self._sign = sign
        if credentials is None:
            from .credentials.contract import PlainCredentials

            credentials = PlainCredentials()
        self._credentials = credentials
        self._patience = patience
        self._clock = clock
        if isinstance(pool, Accounted):
            pool.accounts = self

    async def check(self, key: Key) -> Verdict:
        """Whether a key is still good. Saves its balance; takes nothing out.

        Raises StateUnavailable, and what a callable of the user's own raises.
        """
        try:
            verdict = await self._within(self._judged(key))
        except KeyRevoked as revoked:
            return Verdict("gone", revoked.message)
        except UpstreamError as failure:
            return Verdict("unknown", failure.message)
        if verdict.balance is not None:
            await self.pool.save_balance(key, verdict.balance)
        return verdict

    async def balance(self, key: Key) -> Balance:
        """What is left on a key, asked now and saved; raises UpstreamError (mostly CannotTell)."""
        if self._probe is None:
            raise CannotTell("keys of this channel have no billing page")
        verdict = await self._within(self._asked(self._probe, key))
        if verdict.balance is None:
            raise CannotTell(verdict.reason or "the provider tells no balance")
        await self.pool.save_balance(key, verdict.balance)
        return verdict.balance

    async def usage(self, key: Key, start: date, end: date) -> float:
        """What a key used from `start` up to `end` (exclusive), in dollars; raises UpstreamError.

        Only dashboards tell usage by days; any other probe is CannotTell.
        """
        if not isinstance(self._probe, DashboardBilling):
            raise CannotTell("the provider does not tell usage by days")
        return await self._within(self._used(self._probe, key, start, end))

    async def _used(self, pages: DashboardBilling, key: Key, start: date, end: date) -> float:
        return await pages.usage(self._inquiry(await self._credentials.secret(key)), start, end)

    async def _judged(self, key: Key) -> Verdict:
        """By the billing page; where it cannot tell, by whether the key may list models."""
        if self._probe is not None:
            try:
                return await self._asked(self._probe, key)
            except KeyRevoked:
                raise
            except UpstreamError:
                if self._validity is None:
                    raise
        if self._validity is None:
            raise CannotTell("nothing is asked about keys of this channel")
        return await self._asked(self._validity, key)

    async def _asked(self, probe: Probe, key: Key) -> Verdict:
        secret = await self._credentials.secret(key)
        inquiry = self._inquiry(secret)
        verdict = await probe.check(inquiry)
        if (
            # What was refused is an access token: the key itself is gone only if there is no other.
            verdict.fate == "gone"
            and probe is self._validity
            and await self._credentials.renew(key, secret)
        ):
            verdict = await probe.check(self._inquiry(await self._credentials.secret(key)))
        if verdict.balance is None or verdict.balance.checked:
            return verdict
        return replace(verdict, balance=replace(verdict.balance, checked=inquiry.now))

    def _inquiry(self, secret: str) -> Inquiry:
        return Inquiry(secret, self._sign(secret), self._upstream, self._clock())

    async def _within(self, asked: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._patience):
                return await asked
        except TimeoutError as exc:
            raise CannotTell(f"no answer within {self._patience:g} s") from exc
