"""What has to happen for one key to have a new token: claim, exchange, save, in that order."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import NamedTuple

from ...errors import GatewayError, KeyRevoked, StateUnavailable
from ...exchange.ids import new_id
from ...runtime import PerLoop, kept_tasks
from ...upstream.contract import Upstream
from ..key import Key
from .exchange import TokenExchange, TokenExchangeFailed
from .fetching import exchanged
from .held import Held, Unsaved, grant_of
from .store import LEASE, Found, Grant, TokenStore

log = logging.getLogger("asgi_llm_gateway.keys")

_POLL = (0.05, 0.2)
"""Between two looks at what another process is fetching, in seconds."""
_SAVE_AGAIN = (0.25, 5.0)
"""The first and the longest pause between two attempts to save a rotated refresh token."""


class _Claim(NamedTuple):
    """The right to exchange a key, what was found with it, and until when to begin."""

    name: str
    owner: str
    found: Found
    until: float


class Replacing:
    """Replaces tokens, one flight at a time per key and loop: that is for the caller to see to.

    ExchangedCredentials says what each argument is.
    """

    def __init__(
        self,
        exchange: TokenExchange,
        upstream: Upstream,
        store: TokenStore,
        *,
        margin: float = 60.0,
        timeout: float = 10.0,
        second_look: float = 1.0,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
        rng: Random | None = None,
    ) -> None:
        self.exchange = exchange
        self.store = store
        self.timeout = timeout
        self._upstream = upstream
        self._margin = margin
        self._second_look = second_look
        self._clock = clock
        self._ticks = ticks
        self._rng = rng or Random()  # noqa: S311 - spreads look-ups, guards nothing
        self._terms = exchange.terms
        self._realm = exchange.realm
        # The same at every claim, for a claim whose answer was lost is then not somebody else's; of
        # a loop there is one flight per key.
        self._owners: PerLoop[str] = PerLoop(new_id)

    async def fetched(self, key: Key, held: Held) -> Grant:
        """A grant for the key: another process's if it has a new one, else the token host's."""
        if held.unsaved is not None:
            return await self.save(held, held.unsaved)
        name = hashlib.sha256(f"{self._realm}:{key.id}".encode()).hexdigest()
        owner = self._owners.get()
        try:
            found, until = await self._claimed(name, owner, held)
        except StateUnavailable:
            if self.exchange.may_rotate:
                raise
            log.warning("key %s: exchanged without the shared store", key.fingerprint)
            return (await self._exchanged(key.secret, Found(), math.inf))[0]
        if found.grant is not None and not found.mine:
            return found.grant
        try:
            return await self._replaced(key, held, _Claim(name, owner, found, until))
        except (KeyRevoked, TokenExchangeFailed):
            await self._free(name, owner)
            raise

    async def _claimed(self, name: str, owner: str, held: Held) -> tuple[Found, float]:
        """The claim to exchange, or a grant with which there is no need to; and until when (in the
        loop's time) an exchange may begin that is to end under the claim."""
        found = await self.store.load(name)
        loop = asyncio.get_running_loop()
        asked = loop.time()
        patience = asked + LEASE + self.timeout
        while not held.usable(found.grant, self._terms, self._clock()):
            asked = loop.time()
            found = await self.store.claim(name, owner)
            if found.mine:
                break
            if asked > patience:
                raise TokenExchangeFailed("another process has this key's exchange for too long")
            await asyncio.sleep(self._rng.uniform(*_POLL))
        if found.mine and held.usable(found.grant, self._terms, self._clock()):
            await self._free(name, owner)
            found = replace(found, mine=False)
        return found, asked + LEASE - self.timeout

    async def _replaced(self, key: Key, held: Held, claim: _Claim) -> Grant:
        """A new grant in the place of the one found; the claim is ours."""
        name, owner, found, until = claim
        shown = (found.grant.refresh if found.grant else None) or key.secret
        try:
            grant, rotated = await self._exchanged(shown, found, until)
        except KeyRevoked:
            newer = await self._newer(name, found)
            if newer is None:
                raise
            if newer.grant is not None and held.usable(newer.grant, self._terms, self._clock()):
                await self._free(name, owner)
                return newer.grant
            found = newer
            shown = (found.grant.refresh if found.grant else None) or key.secret
            grant, rotated = await self._exchanged(shown, found, until)
        unsaved = Unsaved(name, owner, grant, found.serial)
        if not rotated:
            try:
                return await self.save(held, unsaved)
            except GatewayError:
                log.warning("key %s: its access token is not shared", key.fingerprint)
                return grant
        if not self.store.durable:
            log.warning(
                "key %s: its refresh token was replaced although it is said not to rotate; "
                "it is lost with this process: set a state_file or a shared store",
                key.fingerprint,
            )
        held.unsaved = unsaved
        try:
            return await self.save(held, unsaved)
        except GatewayError:
            kept_tasks().keep(self._save_later(held, unsaved, key.fingerprint))
            raise

    async def _exchanged(self, shown: str, found: Found, until: float) -> tuple[Grant, bool]:
        """What the host gives for `shown`, and whether it is to be shown another one next time."""
        if asyncio.get_running_loop().time() > until:
            # This process stood still: another may have shown the same token by now, and who shows
            # it once more is taken for its thief (RFC 9700 section 4.14.2).
            raise TokenExchangeFailed("the claim to this key's exchange is running out")
        answer = await exchanged(
            self.exchange, shown, self._upstream, timeout=self.timeout, clock=self._clock
        )
        rotated = answer.rotated is not None and answer.rotated != shown
        before = found.grant.refresh if found.grant else None
        grant = grant_of(
            answer,
            now=self._clock(),
            margin=self._margin,
            refresh=answer.rotated if rotated else before,
            terms=self._terms,
        )
        return grant, rotated

    async def _newer(self, name: str, found: Found) -> Found | None:
        """What another process has saved since, if any has: it may have shown the same refresh
        token a moment before us, and be about to save the one that replaces it."""
        if not self.exchange.may_rotate:
            return None
        await asyncio.sleep(self._second_look)
        newer = await self.store.load(name)
        return newer if newer.serial > found.serial else None

    async def save(self, held: Held, unsaved: Unsaved) -> Grant:
        """The grant, once it is saved; the other one if another was saved before."""
        name, grant = unsaved.name, unsaved.grant
        if not await self.store.save(name, unsaved.owner, grant, unsaved.serial):
            newer = (await self.store.load(name)).grant
            if newer is not None and held.usable(newer, self._terms, self._clock()):
                grant = newer
        if held.unsaved is unsaved:
            held.unsaved = None
        return grant

    async def _save_later(self, held: Held, unsaved: Unsaved, fingerprint: str) -> None:
        """Until it is saved: the refresh token that is stored was used up to get this one."""
        log.error("key %s: its rotated refresh token could not be saved yet", fingerprint)
        pause, longest = _SAVE_AGAIN
        while held.unsaved is unsaved:
            await asyncio.sleep(pause * self._rng.uniform(0.5, 1.0))
            pause = min(pause * 2, longest)
            try:
                grant = await self.save(held, unsaved)
            except GatewayError:
                continue
            held.adopt(grant, self._ticks())
            log.info("key %s: its rotated refresh token is saved", fingerprint)

    async def _free(self, name: str, owner: str) -> None:
        """Let the next one exchange; when the store is away, the lease does."""
        try:
            await self.store.free(name, owner)
        except GatewayError:
            log.info("a claim could not be freed and will lapse")
