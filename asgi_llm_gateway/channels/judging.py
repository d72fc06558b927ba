"""What a failed attempt means: try elsewhere or not, and what becomes of the key. Pure.

The full table of error classes belongs to failover; this is its seam, one function over data.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConnectFailed, GatewayError, PoolTimeout, ProviderRefused, UpstreamError


@dataclass(frozen=True, slots=True)
class Verdict:
    """retry: go on to the next candidate. drop_key: the key is dead. spend_channel: it is the
    whole channel that failed, not one key of it."""

    retry: bool
    drop_key: bool = False
    spend_channel: bool = False


_CALLERS_FAULT = Verdict(retry=False)
_ELSEWHERE = Verdict(retry=True)
_DEAD_KEY = Verdict(retry=True, drop_key=True)
_DEAD_CHANNEL = Verdict(retry=True, spend_channel=True)
_RETRIED = frozenset({403, 408, 409, 429})


def judge(failure: GatewayError) -> Verdict:
    """The verdict on an attempt that failed before its first event."""
    if isinstance(failure, ProviderRefused):
        if failure.status == 401:
            return _DEAD_KEY
        if failure.status in _RETRIED or failure.status >= 500:
            return _ELSEWHERE
        return _CALLERS_FAULT
    if isinstance(failure, (ConnectFailed, PoolTimeout)):
        return _DEAD_CHANNEL
    if isinstance(failure, UpstreamError):
        return _ELSEWHERE
    return _CALLERS_FAULT
