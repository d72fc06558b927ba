"""What the rest of the house knows of a provider's connection: a request, an answer, a way to send.

`DirectUpstream` (direct.py), `HttpxUpstream` (via_httpx.py) and `InProcessUpstream`
(in_process.py) keep this contract; errors that leave any of them are ours (errors.UpstreamError).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from ..errors import ConfigurationError, Headers

__all__ = ["Headers", "Origin", "Timeouts", "Upstream", "UpstreamRequest", "UpstreamResponse"]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of one try, in seconds; None is no limit.

    connect: name look-up, TCP and TLS. first_byte: from the request's last byte to the answer's
    head. first_token: to the first real event of a stream (the relay keeps this one). idle: between
    two reads of the body. total: from send to the last byte. wait: for a free connection.
    """

    connect: float | None = 5.0
    first_byte: float | None = 60.0
    first_token: float | None = 60.0
    idle: float | None = 60.0
    total: float | None = 600.0
    wait: float | None = 10.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port of a URL: what one pool of connections belongs to."""

    scheme: str
    host: str
    port: int

    @property
    def netloc(self) -> str:
        """The Host header: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = {"https": 443, "http": 80}.get(self.scheme)
        return host if self.port == default else f"{host}:{self.port}"

    @staticmethod
    def split(url: str) -> tuple[Origin, str]:
        """The origin and the request target (path and query) of an absolute http(s) URL.

        Raises ConfigurationError for anything else.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as exc:
            raise ConfigurationError(f"{url!r} is not a URL: {exc}") from exc
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(f"{url!r} is not an absolute http or https URL")
        default = 443 if parts.scheme == "https" else 80
        origin = Origin(parts.scheme, parts.hostname, port or default)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return origin, target


@dataclass(slots=True)
class UpstreamRequest:
    """One request to a provider.

    `headers` are complete but for `host`, `content-length` and `transfer-encoding`, which the
    upstream writes. A body that is an iterator is sent as it comes: with `content_length` if that
    is known, else chunked. Its repr shows neither, nor the target: keys and prompts stay out of
    logs.
    """

    method: str
    origin: Origin
    target: str = field(repr=False)
    headers: Headers = field(default_factory=list, repr=False)
    body: bytes | AsyncIterator[bytes] = field(default=b"", repr=False)
    content_length: int | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    loop: asyncio.AbstractEventLoop | None = None
    """The running loop, if the sender knows it: Python 3.11 makes a system call to look it up."""


class UpstreamResponse(Protocol):
    """A provider's answer, its head read and its body still to come.

    Header names are lower case. Iterate it (once) or `read` it, and `aclose` it unless `read`
    returned its body: closing an answer that was not read to its end aborts the connection.
    """

    status: int
    headers: Headers

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The body's bytes as they arrive."""
        ...

    async def read(self, limit: int) -> bytes:
        """The whole body; raises BadAnswer when it is over `limit` bytes."""
        ...

    async def aclose(self) -> None:
        """Give the connection back, or abort it."""
        ...


class Upstream(Protocol):
    """The only door out."""

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """Send and return once the answer's head is there.

        Raises ConnectFailed, ConnectionLost, UpstreamTimeout, PoolTimeout or BadAnswer. Cancelling
        aborts the connection.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...
