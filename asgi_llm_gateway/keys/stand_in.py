"""What a shared pool does while its store is away."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from random import Random

from ..errors import StateUnavailable
from .choosing import Chooser
from .key import Key
from .limits import KeyLimits
from .memory import Keyring
from .places import Clock

log = logging.getLogger("asgi_llm_gateway.keys")


class StandIn:
    """The settings' keys, without limits, but for those known to be in quarantine; or nothing."""

    def __init__(
        self,
        name: str,
        keys: Iterable[Key],
        *,
        choose: Chooser,
        rng: Random,
        clock: Clock,
        open_: bool,
    ) -> None:
        self._name = name
        self._ring = Keyring(choose, KeyLimits(), rng, clock)
        self._ring.add((key.secret for key in keys), by_hand=False)
        self._open = open_
        self._acting = False
        self.unsaved: dict[str, str] = {}
        """Ids of keys that were removed while the store was away, with the reason."""

    def take(self, tried: Collection[str], away: StateUnavailable) -> Key | None:
        """A key that was not tried; raises `away` where there is nothing to go on with."""
        ring = self._ring
        if not self._open or not ring.in_use:
            raise away
        if not self._acting:
            self._acting = True
            log.warning(
                "the store of key pool %s is away: its settings' keys go on without limits",
                self._name,
            )
        with ring.lock:
            key = ring.draw(tried, 0)
            if key is None and ring.has_untried(tried):
                raise ring.busy(tried, 0).refusal()
            return key

    def give_back(self, key: Key, cooldown: float) -> None:
        """A key taken here is free again."""
        self._ring.give_back(key, tokens=None, cooldown=cooldown)

    def shut(self, key: Key, reason: str) -> None:
        """The key is in quarantine."""
        self._ring.remove(key, reason)

    def remember(self, key: Key, reason: str, away: StateUnavailable) -> bool:
        """Remove a key although the store is away; whether that is news. Raises `away` where
        nothing may be done without it."""
        if not self._open:
            raise away
        self.shut(key, reason)
        news = key.id not in self.unsaved
        self.unsaved[key.id] = reason
        return news

    def forget(self, key: Key) -> None:
        """The key is not in quarantine any more."""
        self._ring.restore(key.fingerprint)
        self.unsaved.pop(key.id, None)

    def retire(self) -> None:
        """The store is back."""
        if self._acting:
            self._acting = False
            log.info("the store of key pool %s is back: limits hold again", self._name)
