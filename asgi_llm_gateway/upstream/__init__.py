"""The only door out: connections to providers, and what stands in for them in tests.

Names are looked up when first used, so that nobody pays for httpx who does not use it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .contract import Origin, Timeouts, Upstream, UpstreamRequest, UpstreamResponse
    from .direct import DirectUpstream
    from .in_process import InProcessUpstream
    from .transport import DirectTransport
    from .via_httpx import HttpxUpstream

__all__ = [
    "DirectTransport",
    "DirectUpstream",
    "HttpxUpstream",
    "InProcessUpstream",
    "Origin",
    "Timeouts",
    "Upstream",
    "UpstreamRequest",
    "UpstreamResponse",
]

_HOMES = {
    "DirectTransport": ".transport",
    "DirectUpstream": ".direct",
    "HttpxUpstream": ".via_httpx",
    "InProcessUpstream": ".in_process",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, ".contract"), __name__), name)
