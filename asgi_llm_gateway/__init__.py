"""An LLM gateway that lives inside your own ASGI app."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .auth.middleware import TokenAuthMiddleware
    from .auth.token import AccessToken
    from .channels.channel import Channel
    from .channels.policy import Failover
    from .errors import ConfigurationError, GatewayError
    from .exchange.caller import Caller
    from .exchange.limits import BodyLimits
    from .exchange.record import Exchange
    from .gateway import Gateway
    from .keys.httpx_auth import RotatingKeyAuth
    from .keys.upkeep import Upkeep
    from .relay import Relay
    from .runtime import combine_lifespans
    from .upstream.contract import Timeouts
    from .upstream.transport import DirectTransport

__version__ = "0.1.0.dev0"

__all__ = [
    "AccessToken",
    "BodyLimits",
    "Caller",
    "Channel",
    "ConfigurationError",
    "DirectTransport",
    "Exchange",
    "Failover",
    "Gateway",
    "GatewayError",
    "Relay",
    "RotatingKeyAuth",
    "Timeouts",
    "TokenAuthMiddleware",
    "Upkeep",
    "combine_lifespans",
]

_HOMES = {
    "AccessToken": ".auth.token",
    "BodyLimits": ".exchange.limits",
    "Caller": ".exchange.caller",
    "Channel": ".channels.channel",
    "ConfigurationError": ".errors",
    "DirectTransport": ".upstream.transport",
    "Exchange": ".exchange.record",
    "Failover": ".channels.policy",
    "Gateway": ".gateway",
    "GatewayError": ".errors",
    "Relay": ".relay",
    "RotatingKeyAuth": ".keys.httpx_auth",
    "Timeouts": ".upstream.contract",
    "TokenAuthMiddleware": ".auth.middleware",
    "Upkeep": ".keys.upkeep",
    "combine_lifespans": ".runtime",
}
"""Where each name is defined: looked up when it is first used (PEP 562), so that importing the
package costs nothing that is not used."""


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home, __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
