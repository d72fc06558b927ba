"""One exchange over the wire: the request out, the answer read, every failure made ours."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from ...errors import GatewayError
from ...upstream.contract import Timeouts, Upstream, UpstreamRequest
from .exchange import Exchanged, TokenExchange, TokenExchangeFailed

_MOST_BYTES = 262_144
_CONNECT = 5.0


async def exchanged(
    exchange: TokenExchange,
    secret: str,
    upstream: Upstream,
    *,
    timeout: float,
    clock: Callable[[], float] = time.time,
) -> Exchanged:
    """What the token host gives for `secret`, within `timeout` seconds. Sent once, never again.

    Raises KeyRevoked, and TokenExchangeFailed for every other failure: a token host that is away
    is not the provider being away. Messages carry neither its address nor its words.
    """
    request = exchange.exchange_request(secret)
    request.timeouts = Timeouts(
        connect=min(_CONNECT, timeout),
        first_byte=timeout,
        idle=timeout,
        total=timeout,
        wait=min(_CONNECT, timeout),
    )
    _sent_once(request)
    try:
        async with asyncio.timeout(timeout):
            response = await upstream.send(request)
            body = None
            try:
                body = await response.read(_MOST_BYTES)
            finally:
                if body is None:
                    with suppress(GatewayError):
                        await response.aclose()
    except TimeoutError as exc:
        raise TokenExchangeFailed(f"the token host was silent for {timeout:g} s") from exc
    except GatewayError as exc:
        raise TokenExchangeFailed(f"the token host could not be asked ({exc.code})") from exc
    return exchange.read_exchange(response.status, response.headers, body, clock())


def _sent_once(request: UpstreamRequest) -> None:
    """An upstream may send a body it has as bytes again when a kept connection turns out dead. The
    host may have read it all the same, and have replaced the refresh token in it."""
    body = request.body
    if isinstance(body, bytes) and body:
        request.content_length = len(body)
        request.body = _once(body)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
