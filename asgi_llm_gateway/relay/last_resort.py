"""What nothing else answers: wrong base URLs, wrong methods, routes no channel can serve."""

from __future__ import annotations

from ..endpoints import below_mount
from ..errors import GatewayError, MethodNotAllowed, NotFound, NotSupported
from ..exchange.record import Exchange

_CALLS = ("/chat/completions", "/responses")
"""What is taken for a part of the base URL when a client is set up by copy and paste."""


def refusal(exchange: Exchange, method: str) -> GatewayError:
    """The error for a request that no channel, listing or pass-through takes."""
    endpoint, root = exchange.endpoint, exchange.root_path
    if (root + below_mount(exchange.path, root)).rstrip("/") == base(root):
        return NotFound(
            f"this is the base URL; what can be called is below it, such as {base(root)}/models",
            code="unknown_url",
        )
    if not endpoint.versioned or (endpoint.kind == "unknown" and endpoint.path in ("", "/")):
        return NotFound(
            f"the API is below {base(root)}: set the client's base URL to this server's address "
            f"followed by {base(root)}",
            code="wrong_base_url",
        )
    if any(endpoint.path.endswith(2 * call) for call in _CALLS):
        return NotFound(
            f"the base URL ends at {base(root)}; the client adds the rest by itself",
            code="wrong_base_url",
        )
    if endpoint.methods and method not in endpoint.methods:
        return MethodNotAllowed(
            f"{method} is not allowed on {endpoint.path}; use {' or '.join(endpoint.methods)}",
            allow=endpoint.methods,
        )
    if endpoint.kind == "known":
        return NotSupported(
            f"no channel here takes {endpoint.path}; one with passthrough = true would",
            code="api_not_implemented",
        )
    return NotFound(f"unknown URL ({_shown(method)} {_shown(exchange.path)})", code="unknown_url")


def base(root_path: str) -> str:
    """The path a client's base URL ends in, below this mount."""
    versioned = root_path.endswith(("/v1", "/v1beta"))
    return root_path if versioned else f"{root_path}/v1"


def _shown(text: str) -> str:
    """A stranger's text, short and without line breaks."""
    return "".join(c if c.isprintable() else "?" for c in text[:200])
