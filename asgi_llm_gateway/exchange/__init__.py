"""One call through the gateway, and everything known about it."""

from .attempt import Attempt, AttemptGuard, CallRecord
from .body import Body, JSONBody, MultipartBody, StreamBody
from .caller import Caller
from .limits import BodyLimits
from .record import SCOPE_KEY, Exchange
from .snapshot import Snapshot

__all__ = [
    "SCOPE_KEY",
    "Attempt",
    "AttemptGuard",
    "Body",
    "BodyLimits",
    "CallRecord",
    "Caller",
    "Exchange",
    "JSONBody",
    "MultipartBody",
    "Snapshot",
    "StreamBody",
]
