"""Our connection pool under a stock client: `httpx.AsyncClient(transport=DirectTransport())`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from ..errors import (
    BadAnswer,
    ConnectFailed,
    ConnectionLost,
    GatewayError,
    Headers,
    InvalidRequest,
    PoolTimeout,
    UpstreamTimeout,
)
from .answer import Answer
from .both_httpx import library_of, of_both
from .contract import Origin, Timeouts, Upstream, UpstreamRequest, UpstreamResponse
from .direct import DirectUpstream

if TYPE_CHECKING:
    import httpx
    import httpx2

    class _Transport(httpx.AsyncBaseTransport, httpx2.AsyncBaseTransport):  # type: ignore[misc]
        """Stands for what `of_both` makes."""
else:
    _Transport = object

__all__ = ["DirectTransport"]

_WRITTEN_BY_UPSTREAM = frozenset((b"host", b"content-length", b"transfer-encoding"))

_FOREIGN = (
    (ConnectFailed, "ConnectError"),
    (PoolTimeout, "PoolTimeout"),
    (ConnectionLost, "ReadError"),
    (BadAnswer, "RemoteProtocolError"),
    (InvalidRequest, "LocalProtocolError"),
)
"""What the libraries call our errors (httpx, `_exceptions.py`; httpx2's are the same)."""

_TIMEOUTS = {"connect": "ConnectTimeout", "first_byte": "ReadTimeout"}


class DirectTransport(_Transport):
    """`DirectUpstream` as the transport of an `httpx.AsyncClient` or `httpx2.AsyncClient`.

        client = openai.AsyncOpenAI(http_client=httpx2.AsyncClient(transport=DirectTransport()))

    The client keeps what is its own: redirects, cookies, auth, decoding, event hooks. The client's
    four timeouts are kept, to a tenth of a second; there is no HTTP/2 and no proxy (the
    environment's proxies are not looked at either, as with every transport given by hand), the
    `timeout` is the only request extension that is read, and the Host header is the URL's.
    Failures are the library's own: ConnectError, ConnectTimeout, PoolTimeout, ReadError,
    ReadTimeout, WriteTimeout, RemoteProtocolError, LocalProtocolError, UnsupportedProtocol.

    `upstream` is any Upstream: a DirectUpstream with bounds or trust of its own, or an
    InProcessUpstream around an ASGI app, which then streams. One that was given is the giver's to
    close; ours is closed with the client. asyncio only.
    """

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """An object that is an AsyncBaseTransport to both libraries."""
        return object.__new__(of_both(cls, "AsyncBaseTransport"))

    def __init__(self, upstream: Upstream | None = None) -> None:
        self._upstream = upstream or DirectUpstream()
        self._direct = isinstance(self._upstream, DirectUpstream)
        self._ours = upstream is None

    async def handle_async_request(self, request: Any) -> Any:
        """Called by the client, with a Request of its library; a Response of the same."""
        library = library_of(request)
        limits = request.extensions.get("timeout", {})
        sent = await _translated(library, request)
        sent.timeouts = Timeouts(
            connect=limits.get("connect"),
            first_byte=limits.get("read"),
            idle=limits.get("write" if self._direct else "read"),
            total=None,
            wait=limits.get("pool"),
        )
        try:
            answer = await self._upstream.send(sent)
        except GatewayError as exc:
            _raise_foreign(library, request, exc, answering=False)
        if isinstance(answer, Answer):
            # Until the head was there `idle` was the limit of a write; from here on of a read.
            answer.timeouts = replace(sent.timeouts, idle=limits.get("read"))
        return library.Response(
            answer.status,
            headers=answer.headers,
            stream=of_both(_Body, "AsyncByteStream")(library, request, answer),
            extensions={"http_version": b"HTTP/1.1"},
        )

    async def aclose(self) -> None:
        """Close the running loop's connections, unless the upstream was given."""
        if self._ours:
            await self._upstream.aclose()


class _Body:
    """An answer's body as a byte stream of the library that asked for it."""

    def __init__(self, library: ModuleType, request: Any, answer: UpstreamResponse) -> None:
        self._library = library
        self._request = request
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._answer:
                yield piece
        except GatewayError as exc:
            _raise_foreign(self._library, self._request, exc, answering=True)

    async def aclose(self) -> None:
        await self._answer.aclose()


async def _translated(library: ModuleType, request: Any) -> UpstreamRequest:
    """A library's request as ours; raises its errors for one that cannot be sent."""
    url = request.url
    if url.scheme not in ("http", "https") or not url.host:
        message = "a request needs an http:// or https:// URL"
        raise library.UnsupportedProtocol(message, request=request)
    port = url.port or (443 if url.scheme == "https" else 80)
    # Not `url.host`: that is the name as it is read, this as it is looked up.
    origin = Origin(url.scheme, url.raw_host.decode("ascii"), port)
    if request.headers.get("host", origin.netloc).lower() != origin.netloc.lower():
        message = "DirectTransport sends the URL's own host in the Host header"
        raise library.LocalProtocolError(message, request=request)
    target = url.raw_path.decode("ascii")
    sent = UpstreamRequest(request.method, origin, target, _headers(request.headers.raw))
    if isinstance(request.stream, library.ByteStream):
        sent.body = await request.aread()
        return sent
    sent.body = aiter(request.stream)
    announced = request.headers.get("content-length")
    if announced is not None:
        if not (announced.isascii() and announced.isdecimal()):
            raise library.LocalProtocolError("content-length must be a number", request=request)
        sent.content_length = int(announced)
    return sent


def _headers(raw: Headers) -> Headers:
    return [(name, value) for name, value in raw if name.lower() not in _WRITTEN_BY_UPSTREAM]


def _raise_foreign(
    library: ModuleType, request: Any, error: GatewayError, *, answering: bool
) -> NoReturn:
    """Raise the library's error for one of ours; what none of its names fits stays ours.

    `answering`: the answer's head is there, so that silence is a read's and not a write's.
    """
    name = next((name for ours, name in _FOREIGN if isinstance(error, ours)), None)
    if isinstance(error, UpstreamTimeout):
        name = _TIMEOUTS.get(error.phase, "ReadTimeout" if answering else "WriteTimeout")
    if name is None:
        raise error
    raise getattr(library, name)(error.message, request=request) from error
