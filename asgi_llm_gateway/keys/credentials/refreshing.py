"""Keys that are exchanged for access tokens: fetched ahead, once for everybody, never lost."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from random import Random

from ...errors import GatewayError
from ...runtime import PerLoop, kept_tasks
from ...upstream.contract import Upstream
from ..key import Key
from .exchange import TokenExchange
from .held import Held, again
from .replacing import Replacing
from .store import Grant, MemoryTokens, TokenStore

log = logging.getLogger("asgi_llm_gateway.keys")

Flight = asyncio.Task[Grant | GatewayError]


class ExchangedCredentials:
    """Credentials that show an access token, fetched by `exchange` from its host over `upstream`.

    A token is used until `margin` seconds before it expires (a fifth of its life, if that is
    less); then one call's loop fetches the next while the old one goes on, and only in the last
    seconds do calls wait. Whoever waits is served by one request: of all calls of a loop, and by
    the claim in `store` of all loops and processes. A waiter that is cancelled stops nothing. When
    the host fails, the old token is used for as long as it lives, and the host is asked again
    after growing pauses.

    A rotated refresh token is saved before its access token is used. When that fails the call
    fails with the store's error, and it is saved later. With a store that is away, a token whose
    exchange rotates nothing is fetched by each process for itself; else calls fail until it is
    back. A host that answers `invalid_grant` is believed after another look at the store: another
    process may have been quicker.

    Raises as Credentials says. `timeout` is for one exchange, in seconds, and must be below the
    store's lease. `most` keys are remembered. `clock` is wall time, `ticks` is monotonic.
    """

    def __init__(
        self,
        exchange: TokenExchange,
        upstream: Upstream,
        store: TokenStore | None = None,
        *,
        margin: float = 60.0,
        timeout: float = 10.0,
        second_look: float = 1.0,
        most: int = 10_000,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
        rng: Random | None = None,
    ) -> None:
        self.exchange = exchange
        self.store = store if store is not None else MemoryTokens(most=most)
        self._replacing = Replacing(
            exchange,
            upstream,
            self.store,
            margin=margin,
            timeout=timeout,
            second_look=second_look,
            clock=clock,
            ticks=ticks,
            rng=rng,
        )
        self._most = most
        self._clock = clock
        self._ticks = ticks
        self._all: dict[str, Held] = {}
        self._flights: PerLoop[dict[str, Flight]] = PerLoop(dict)

    def __repr__(self) -> str:
        return f"ExchangedCredentials({self.exchange.grant!r}, {len(self._all)} keys)"

    async def secret(self, key: Key) -> str:
        """The access token of this key; in the ordinary case nothing is awaited."""
        held = self._all.get(key.id) or self._held(key)
        grant = held.grant
        if grant is not None:
            now = self._clock()
            if now < grant.renew_at:
                return grant.secret
            if held.good(now):
                if held.paused(self._ticks()) is None:
                    self._flight(key, held)
                return grant.secret
        return (await self._fresh(key, held)).secret

    async def renew(self, key: Key, refused: str) -> bool:
        """Have another token than the refused one; a new one that is refused as well is not
        replaced: then it is the key that the provider refuses."""
        held = self._held(key)
        if held.in_vain(refused, self._ticks()):
            return False
        held.refuse(refused)
        grant = held.grant or await self._fresh(key, held)
        return grant.secret != refused

    async def aclose(self) -> None:
        """Wait for what this loop is fetching, and save what could not be saved before."""
        if flights := set(self._flights.get().values()):
            await asyncio.wait(flights, timeout=self._replacing.timeout)
        for held in list(self._all.values()):
            unsaved = held.unsaved
            if unsaved is None:
                continue
            try:
                await self._replacing.save(held, unsaved)
            except GatewayError:
                log.error("a rotated refresh token is lost: its store cannot be reached")  # noqa: TRY400 - the trace has nothing more to say

    # One flight per key and loop

    def _held(self, key: Key) -> Held:
        held = self._all.get(key.id)
        if held is None:
            if len(self._all) >= self._most:
                self._forget_some()
            held = self._all.setdefault(key.id, Held())
        return held

    def _forget_some(self) -> None:
        """The tenth that was seen first, but nothing that is not saved yet."""
        for key_id in list(self._all)[: max(1, self._most // 10)]:
            if self._all[key_id].unsaved is None:
                del self._all[key_id]

    async def _fresh(self, key: Key, held: Held) -> Grant:
        """A token that is not held yet; the old one when that fails and it still lives."""
        failure = held.paused(self._ticks())
        if failure is None:
            outcome = await asyncio.shield(self._flight(key, held))
            if isinstance(outcome, Grant):
                return outcome
            failure = again(outcome)
        grant = held.grant
        if grant is not None and held.good(self._clock(), almost_over=True):
            return grant
        raise failure

    def _flight(self, key: Key, held: Held) -> Flight:
        """The fetching that is under way in this loop, or now is; it ends whoever goes."""
        flights = self._flights.get()
        flight = flights.get(key.id)
        if flight is None or flight.done():
            flight = flights[key.id] = kept_tasks().keep(self._fly(key, held, flights))
        return flight

    async def _fly(self, key: Key, held: Held, flights: dict[str, Flight]) -> Grant | GatewayError:
        try:
            grant = await self._replacing.fetched(key, held)
        except GatewayError as failure:
            failure.__traceback__ = None  # its frames hold the key
            held.failed(failure, self._ticks())
            log.warning("key %s: no access token: %s", key.fingerprint, failure)
            return failure
        finally:
            flights.pop(key.id, None)
        held.adopt(grant, self._ticks())
        return grant
