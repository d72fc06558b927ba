"""What every command passes first: is the store believed to be there, and is there room."""

from __future__ import annotations

import logging

from ..errors import StateUnavailable
from .breaker import Breaker
from .faults import AWAY

__all__ = ["Gate"]

log = logging.getLogger("asgi_llm_gateway.state")


class Gate:
    """The breaker of one server, with the log line when it opens and closes.

    `name` is how the log calls the server: never with a password in it.
    """

    def __init__(self, name: str, breaker: Breaker) -> None:
        self._name = name
        self._breaker = breaker

    @property
    def open(self) -> bool:
        """Whether calls are being refused, but for probes."""
        return not self._breaker.closed

    def admit(self, now: float) -> None:
        """Raise StateUnavailable at once when there is no use in asking."""
        if not self._breaker.admits(now):
            raise self.refusal(now)

    def refusal(self, now: float) -> StateUnavailable:
        """What a caller is told who cannot be served."""
        return StateUnavailable(AWAY, retry_after=self._breaker.retry_after(now) or None)

    def succeeded(self) -> None:
        """The server has answered in time."""
        if self._breaker.succeeded():
            log.info("the store %s answers again", self._name)

    def failed(self, now: float, reason: str, count: int = 1) -> bool:
        """The server has not; True when from now on nothing is let through."""
        opened = self._breaker.failed(now, count)
        if opened:
            pause = self._breaker.retry_after(now)
            log.warning("the store %s is left alone for %.1f s: %s", self._name, pause, reason)
        else:
            log.debug("the store %s: %s", self._name, reason)
        return opened
