"""The one place where what sockets, TLS, parsers and other clients raise becomes ours.

Messages name what failed and never an address, a URL or a header; the original is the `__cause__`
of what is raised, for logs.
"""

from __future__ import annotations

import os
import socket
import ssl

from ..errors import (
    BadAnswer,
    ConnectFailed,
    ConnectionLost,
    GatewayError,
    InvalidRequest,
    PoolTimeout,
    UpstreamTimeout,
)

__all__ = [
    "FOREIGN_CLIENT_ERRORS",
    "bad_answer",
    "connect_failed",
    "connection_lost",
    "from_client",
    "timed_out",
]

FOREIGN_CLIENT_ERRORS = ("HTTPError", "InvalidURL", "StreamError")
"""The roots of httpx's exception tree (httpx2's is the same), by name."""

_PHASES = {
    "connect": "no connection to the provider",
    "first_byte": "the provider did not begin to answer",
    "idle": "the provider was silent in the middle of the call",
    "total": "the call was not over",
}


def timed_out(phase: str, seconds: float | None) -> UpstreamTimeout:
    """The UpstreamTimeout of one of a try's limits (see Timeouts)."""
    within = "in time" if seconds is None else f"within {seconds:g} s"
    return UpstreamTimeout(f"{_PHASES[phase]} {within}", phase=phase)


def bad_answer(exc: Exception) -> BadAnswer:
    """Why the parser stopped: a bound of ours, or what is not HTTP."""
    if isinstance(exc.__context__, BadAnswer):
        return exc.__context__
    bad = BadAnswer(f"the provider's answer is not HTTP/1.1: {exc}")
    bad.__cause__ = exc
    return bad


def connect_failed(exc: OSError | UnicodeError) -> ConnectFailed:
    """What kept a connection from being made."""
    return ConnectFailed(f"could not connect to the provider: {_reason(exc)}")


def connection_lost(exc: Exception | None) -> ConnectionLost:
    """A connection that ended under a call; None is an orderly end that came too early."""
    if exc is None:
        return ConnectionLost("the provider closed the connection before its answer was whole")
    lost = ConnectionLost(f"the connection to the provider was lost: {_reason(exc)}")
    lost.__cause__ = exc
    return lost


def _reason(exc: BaseException) -> str:
    """A short reason without the peer's name or address, which str(exc) often has."""
    if isinstance(exc, ssl.SSLError):
        return "TLS: " + (exc.reason or "handshake failed").lower().replace("_", " ")
    if isinstance(exc, socket.gaierror | UnicodeError):
        return "its name could not be looked up"
    if isinstance(exc, OSError):
        # asyncio sums up several addresses' failures in one without a number.
        return os.strerror(exc.errno).lower() if exc.errno else "none of its addresses answers"
    return type(exc).__name__


def from_client(exc: BaseException, *, in_body: bool) -> GatewayError:
    """Our error for one of an httpx-like client's, told by its class's name or a base's.

    `in_body`: the answer's head is there already, so that a read timeout is an idle one.
    """
    names = {cls.__name__ for cls in type(exc).__mro__}
    if "ConnectTimeout" in names:
        return UpstreamTimeout("no connection to the provider in time", phase="connect")
    if "PoolTimeout" in names:
        return PoolTimeout("no connection to the provider became free in time")
    if names & {"ReadTimeout", "WriteTimeout", "TimeoutException"}:
        phase = "idle" if in_body or "WriteTimeout" in names else "first_byte"
        return UpstreamTimeout("the provider was silent for too long", phase=phase)
    if names & {"ConnectError", "ProxyError"}:
        return ConnectFailed("could not connect to the provider")
    if names & {"LocalProtocolError", "InvalidURL", "UnsupportedProtocol"}:
        return InvalidRequest("the request cannot be sent to the provider as it is")
    if names & {"DecodingError", "TooManyRedirects"}:
        return BadAnswer("the provider's answer could not be read")
    return ConnectionLost("the connection to the provider was lost")
