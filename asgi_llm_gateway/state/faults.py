"""What the store's errors become: the seam where redis' errors end and ours begin."""

from __future__ import annotations

from ..errors import GatewayError, StateUnavailable

__all__ = ["AWAY", "StateFault", "StoreAway", "fault_of", "fault_of_redis", "why"]

_UNABLE = frozenset(
    {
        "BUSY",
        "CLUSTERDOWN",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "NOAUTH",
        "NOREPLICAS",
        "OOM",
        "READONLY",
        "TRYAGAIN",
    }
)
"""First words of error replies with which a server says that it cannot serve at the moment."""

_MOVED_ON = frozenset({"MASTERDOWN", "READONLY"})
"""Of those, what a former master says: another connection will find the new one."""

_KINDS = {
    "BusyLoadingError": "LOADING",
    "ClusterCrossSlotError": "CROSSSLOT",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "NoPermissionError": "NOPERM",
    "NoScriptError": "NOSCRIPT",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "TryAgainError": "TRYAGAIN",
}
"""redis-py cuts the first word off a reply and turns it into a class."""

AWAY = "the shared store does not answer"
"""What callers are told; the log says which store, and why."""


class StateFault(GatewayError):
    """The store refused a command with an error of its own: WRONGTYPE, NOPERM, a script's error.

    A mistake in the gateway or in the store's permissions, never a matter of trying again. `kind`
    is the reply's first word, `reply` the whole of it without quoted arguments, which may be
    secrets; callers are told neither but the kind.
    """

    code = "state_fault"

    def __init__(self, reply: str) -> None:
        self.kind = _kind(reply)
        self.reply = reply.partition(", with args beginning with:")[0][:300]
        super().__init__(f"the shared store refused a command ({self.kind})")

    def __str__(self) -> str:
        return f"the shared store refused a command: {self.reply}"


class StoreAway(StateUnavailable):
    """A server that answers, but says that it cannot serve; `reply` is how it said so."""

    def __init__(self, reply: str) -> None:
        super().__init__(AWAY)
        self.reply = reply[:300]
        self.moved_on = _kind(reply) in _MOVED_ON
        """Whether another connection may lead to a server that can."""


def fault_of(reply: str) -> StateFault | StoreAway:
    """What an error reply becomes; hiredis calls this with the text after the minus sign."""
    return StoreAway(reply) if _kind(reply) in _UNABLE else StateFault(reply)


def fault_of_redis(failure: Exception) -> StateFault | StoreAway:
    """The same for an error reply that redis-py has read."""
    kind = _KINDS.get(type(failure).__name__)
    return fault_of(f"{kind} {failure}" if kind else str(failure))


def why(failure: BaseException) -> str:
    """A failure in words for the log: its class too, which is sometimes all there is."""
    return f"{type(failure).__name__}: {failure}".removesuffix(": ")[:300]


def _kind(reply: str) -> str:
    word = reply.partition(" ")[0]
    return word if word.isupper() else "ERR"
