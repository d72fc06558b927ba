"""A request's head as bytes, or a refusal before anything is sent."""

from __future__ import annotations

from ..errors import InvalidRequest
from .contract import UpstreamRequest

__all__ = ["encode_head"]

_OURS = frozenset((b"host", b"content-length", b"transfer-encoding"))
_BODILESS = frozenset(("GET", "HEAD"))
"""Methods whose empty body is not announced (RFC 9110, 8.6)."""


def encode_head(request: UpstreamRequest, host_line: bytes) -> bytes:
    """Request line and headers up to the empty line; `host_line` is `host: …` with its CRLF.

    Raises InvalidRequest for a line break or NUL anywhere, a blank in method or target, and a
    header that only the upstream may write: each could make one request into two.
    """
    method, target, headers = request.method, request.target, request.headers
    if not method or not target or " " in method or " " in target:
        raise InvalidRequest("a method or request target is empty or has a blank in it")
    try:
        out = [f"{method} {target} HTTP/1.1\r\n".encode("ascii"), host_line]
    except UnicodeEncodeError as exc:
        raise InvalidRequest("a method or request target must be ASCII") from exc
    for name, value in headers:
        if name.lower() in _OURS:
            raise InvalidRequest(f"the header {name.decode('latin-1')} is not the caller's to set")
        out += (name, b": ", value, b"\r\n")
    head = b"".join(out)
    # Each line ends in the CRLF that was put there: any more of those bytes are somebody's value.
    if len(head) - len(head.translate(None, b"\r\n\0")) != 2 * len(headers) + 4:
        raise InvalidRequest("a request target or header has a line break or NUL in it")
    return head + _framing(request)


def _framing(request: UpstreamRequest) -> bytes:
    """The header that says how long the body is, and the head's empty line."""
    body = request.body
    if isinstance(body, bytes):
        if not body and request.method in _BODILESS:
            return b"\r\n"
        return b"content-length: %d\r\n\r\n" % len(body)
    if request.content_length is not None:
        return b"content-length: %d\r\n\r\n" % request.content_length
    return b"transfer-encoding: chunked\r\n\r\n"
