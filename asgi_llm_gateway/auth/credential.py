"""Finding the secret a caller shows, in one order of precedence.

1. `Authorization: Bearer <token>`, the scheme in any case, or the bare token without a scheme;
2. `x-api-key: <token>` (Anthropic's SDKs);
3. `api-key: <token>` (Azure's);
4. `x-goog-api-key: <token>` (Google's);
5. `?key=<token>` in the query, on Gemini's routes only: elsewhere a query string lands in logs;
6. the subprotocol `openai-insecure-api-key.<token>`, for a browser's WebSocket, which cannot set
   headers.

The first of these that is present decides alone: if it is no credential (another scheme, empty,
given twice, longer than `MAX_BYTES`, anything but visible ASCII), the call has none, and a good
token further down the list does not help. That way no two readers of one request can take two
different callers from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.types import Scope

MAX_BYTES = 1024
"""Longest credential that is looked at; anything longer is refused before it is hashed."""

SUBPROTOCOL = "openai-insecure-api-key."
"""What a browser puts its token behind (OpenAI's Realtime API, WebSocket connections)."""

NONE = b""
"""Something stands where the credential belongs, but it is none."""

_CARRIERS = {b"authorization": 0, b"x-api-key": 1, b"api-key": 2, b"x-goog-api-key": 3}
"""Headers a credential may stand in, the first in precedence lowest."""
_VISIBLE = bytes(range(0x21, 0x7F))


def credential_of(scope: Scope, dialect: str) -> bytes:
    """The caller's secret, or `NONE`; `dialect` is that of the request's endpoint."""
    found = from_headers(scope["headers"])
    if found is None and dialect == "gemini":
        found = from_query(scope.get("query_string", b""))
    if found is None and scope["type"] == "websocket":
        found = from_subprotocols(scope.get("subprotocols", ()))
    return found or NONE


def from_headers(headers: Iterable[Any]) -> bytes | None:
    """The credential in the headers; None when none of them is there."""
    shown = [header for header in headers if header[0] in _CARRIERS]
    if not shown:
        return None
    name, value = min(shown, key=_rank) if len(shown) > 1 else shown[0]
    if len(shown) > 1 and sum(other == name for other, _ in shown) > 1:
        return NONE
    return _bearer(value) if name == b"authorization" else checked(value.strip(b" \t"))


def _rank(header: tuple[bytes, bytes]) -> int:
    return _CARRIERS[header[0]]


def from_query(query: bytes) -> bytes | None:
    """The credential of `?key=`; None when there is no such parameter."""
    values = [item[4:] for item in query.split(b"&") if item.startswith(b"key=")]
    if not values:
        return None
    # The cap once more before decoding: three bytes of query can make one of the credential.
    if len(values) > 1 or len(values[0]) > 3 * MAX_BYTES:
        return NONE
    return checked(unquote_to_bytes(values[0]))


def from_subprotocols(subprotocols: Iterable[str]) -> bytes | None:
    """The credential a WebSocket offers as a subprotocol; None when there is none."""
    prefix = len(SUBPROTOCOL)
    values = [name[prefix:] for name in subprotocols if name.startswith(SUBPROTOCOL)]
    if not values:
        return None
    return checked(values[0].encode()) if len(values) == 1 else NONE


def checked(value: bytes) -> bytes:
    """The value if it can be a credential, else `NONE`."""
    return value if len(value) <= MAX_BYTES and not value.translate(None, _VISIBLE) else NONE


def _bearer(value: bytes) -> bytes:
    value = value.strip(b" \t")
    scheme = value[:7].lower()
    if scheme == b"bearer ":
        return checked(value[7:].lstrip(b" "))
    # What is left with a space in it has another scheme: `checked` refuses the space.
    return NONE if scheme == b"bearer" else checked(value)
