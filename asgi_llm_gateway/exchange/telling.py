"""How a part answers by itself: a refusal in the caller's dialect, or a farewell nobody hears."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from ..errors import GatewayError, Headers, render
from .record import Exchange

Send = Callable[[Any], Awaitable[None]]


async def refuse(exchange: Exchange, scope: Any, send: Send, error: GatewayError) -> None:
    """Tell the caller about `error` in its dialect, and note it on the exchange."""
    request_id = exchange.request_id
    status, headers, body = render(error, exchange.endpoint.dialect, request_id)
    exchange.outcome, exchange.status = exchange.outcome or "refused", status
    await answer(exchange, scope, send, status, headers, body)


async def answer(
    exchange: Exchange, scope: Any, send: Send, status: int, headers: Headers, body: bytes
) -> None:
    """A whole answer of a part's own, with the request id every answer carries."""
    headers.append((b"x-request-id", exchange.request_id.encode("ascii")))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    shown = b"" if scope["method"] == "HEAD" else body
    await send({"type": "http.response.body", "body": shown, "more_body": False})


async def farewell(send: Send) -> None:
    """The answer to a caller who left before there was one; 499 is nginx's word for it.

    Nobody hears it, but a host may stand between: starlette's BaseHTTPMiddleware (`@app.middleware`
    in FastAPI) raises RuntimeError through the host's app when what it wraps answers nothing.
    """
    with suppress(OSError):  # how a server may say that nobody hears it (ASGI 2.4)
        headers = [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 499, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
