"""Any httpx client as a way out: for proxies, HTTP/2, SOCKS, mocks and a host's own transports.

Neither httpx nor httpx2 (same API, other classes) is imported before a client of it is there.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar

from ..errors import BadAnswer, ConfigurationError, Headers, InvalidRequest
from ..runtime import PerLoop, kept_tasks
from . import faults
from .contract import UpstreamRequest
from .deadlines import Budget

__all__ = ["HttpxAnswer", "HttpxUpstream", "proxied"]

T = TypeVar("T")


class HttpxUpstream:
    """An Upstream over an `httpx.AsyncClient` or `httpx2.AsyncClient`, or a factory of one.

    The client's own headers, cookies, auth and event hooks apply; its timeouts and redirects do
    not. `aclose_client`: the client is ours to close. A factory is called at the first call, and
    what it makes is always ours.
    """

    def __init__(self, client: Any, *, aclose_client: bool = False) -> None:
        given = hasattr(client, "build_request")
        if given:
            _foreign_errors(client)  # refused now, not at the first call
        self._factory: Callable[[], Any] = (lambda: client) if given else client
        self._ours = aclose_client or not given
        self._here: PerLoop[_Here] = PerLoop(_Here)

    async def send(self, request: UpstreamRequest) -> HttpxAnswer:
        """See contract.Upstream; also raises InvalidRequest for what the client refuses to send."""
        here = self._here.get()
        client = here.client
        if client is None:
            client = here.client = self._factory()
            here.foreign = _foreign_errors(client)
        timeouts = request.timeouts
        budget = Budget(timeouts.total)
        try:
            foreign = client.build_request(
                request.method,
                f"{request.origin.scheme}://{request.origin.netloc}{request.target}",
                headers=_headers(request),
                content=_content(request),
                timeout=(timeouts.connect, timeouts.first_byte, timeouts.idle, timeouts.wait),
            )
            async with budget.limit("total", None):
                sending = client.send(foreign, stream=True, follow_redirects=False)
                response = await _apart(sending, undo=lambda response: response.aclose())
        except here.foreign as exc:
            raise faults.from_client(exc, in_body=False) from exc
        # httpx has one limit for every read; from here on the answer keeps its own.
        foreign.extensions.get("timeout", {})["read"] = None
        return HttpxAnswer(response, here.foreign, timeouts.idle, budget)

    async def aclose(self) -> None:
        """Close the running loop's client, if it is ours; the next call makes it anew."""
        here = self._here.get()
        client, here.client = here.client, None
        if client is not None and self._ours:
            await client.aclose()


class _Here:
    """The client of one event loop: its connections belong to that loop."""

    client: Any = None
    foreign: tuple[type[Exception], ...] = ()


class HttpxAnswer:
    """An httpx response as an UpstreamResponse."""

    def __init__(
        self,
        response: Any,
        foreign: tuple[type[Exception], ...],
        idle: float | None,
        budget: Budget,
    ) -> None:
        self.status: int = response.status_code
        self.headers: Headers = [(name.lower(), value) for name, value in response.headers.raw]
        self._response = response
        self._foreign = foreign
        self._idle = idle
        self._budget = budget

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._response.is_stream_consumed and self._response.is_closed:
            # A mock's answer comes with its body read.
            yield self._response.content
            return
        try:
            pieces = self._response.aiter_raw()
            while (piece := await self._next(pieces)) is not None:
                yield piece
        finally:
            await self.aclose()

    async def read(self, limit: int) -> bytes:
        """The whole body; raises BadAnswer when it is over `limit` bytes."""
        pieces = []
        size = 0
        try:
            async for piece in self:
                size += len(piece)
                if size > limit:
                    raise BadAnswer(f"the provider's answer is over {limit} bytes")
                pieces.append(piece)
        finally:
            await self.aclose()
        return b"".join(pieces)

    async def aclose(self) -> None:
        """Give the connection back, or close it where the body was not read to its end."""
        if not self._response.is_closed:
            await kept_tasks().settle(self._response.aclose())

    async def _next(self, pieces: AsyncIterator[bytes]) -> bytes | None:
        try:
            async with self._budget.limit("idle", self._idle):
                return await _apart(_first_of(pieces))
        except self._foreign as exc:
            raise faults.from_client(exc, in_body=True) from exc


def proxied(proxy_url: str) -> HttpxUpstream:
    """An upstream that goes through the proxy at `proxy_url` (http, https or socks5).

    The environment's proxies are ignored, cookies are not kept: one caller's would meet another's.
    """

    def client() -> Any:
        import httpx

        return httpx.AsyncClient(
            proxy=proxy_url,
            trust_env=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            limits=httpx.Limits(
                max_connections=1000, max_keepalive_connections=1000, keepalive_expiry=55.0
            ),
        )

    return HttpxUpstream(client)


async def _apart(
    work: Coroutine[Any, Any, T], undo: Callable[[T], Coroutine[Any, Any, None]] | None = None
) -> T:
    """Await the client's `work` in a task of its own, which is cancelled once at the most.

    A second cancel would end the client's cleaning up halfway, since anyio's shield does not keep
    a native one off, and its pool would count the connection as in use for ever. `undo` gives back
    what came of it although nobody waits any more.
    """
    task = asyncio.get_running_loop().create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        kept_tasks().keep(_given_up(task, undo))
        raise


async def _given_up(
    task: asyncio.Task[T], undo: Callable[[T], Coroutine[Any, Any, None]] | None
) -> None:
    task.cancel()
    await asyncio.wait({task})
    failed = task.cancelled() or task.exception() is not None
    if undo is not None and not failed:
        await undo(task.result())


async def _first_of(pieces: AsyncIterator[bytes]) -> bytes | None:
    return await anext(pieces, None)


def _headers(request: UpstreamRequest) -> Headers:
    headers = list(request.headers)
    if not any(name.lower() == b"accept-encoding" for name, _ in headers):
        # The client would ask for gzip, and what it then gets is passed on as it is.
        headers.append((b"accept-encoding", b"identity"))
    if request.content_length is not None and not isinstance(request.body, bytes):
        headers.append((b"content-length", b"%d" % request.content_length))
    return headers


def _content(request: UpstreamRequest) -> bytes | AsyncIterator[bytes]:
    if isinstance(request.body, bytes) or request.content_length is None:
        return request.body
    return _measured(request.body, request.content_length)


async def _measured(body: AsyncIterator[bytes], length: int) -> AsyncIterator[bytes]:
    """The body as it is, as long as its length is what was announced: no client checks it well."""
    left = length
    async for piece in body:
        left -= len(piece)
        if left < 0:
            raise InvalidRequest("the body is longer than its content-length")
        yield piece
    if left:
        raise InvalidRequest("the body is shorter than its content-length")


def _foreign_errors(client: Any) -> tuple[type[Exception], ...]:
    """The roots of the exceptions of the library this client's class comes from."""
    for cls in type(client).__mro__:
        library = sys.modules.get(cls.__module__.partition(".")[0])
        roots = [getattr(library, name, None) for name in faults.FOREIGN_CLIENT_ERRORS]
        if all(isinstance(root, type) for root in roots):
            return tuple(root for root in roots if root is not None)
    raise ConfigurationError("an HttpxUpstream needs an httpx.AsyncClient or httpx2.AsyncClient")
