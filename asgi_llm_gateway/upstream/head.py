"""A request's head as bytes, or a refusal before anything is sent."""

from __future__ import annotations

from ..errors import InvalidRequest
from .contract import UpstreamRequest

__all__ = ["Heads"]

_OURS = frozenset((b"host", b"content-length", b"transfer-encoding"))
_REMEMBERED = 256
_WORTH_KEEPING = 4096
_BODILESS = frozenset(("GET", "HEAD"))
"""Methods whose empty body is not announced (RFC 9110, 8.6)."""


class Heads:
    """Writes the heads of one origin's requests, and remembers those that come again.

    A gateway sends the same few heads over and over; looking one up costs a third of checking and
    joining it.
    """

    def __init__(self, netloc: str) -> None:
        self._host_line = b"host: %b\r\n" % _ascii(netloc)
        self._known: dict[tuple[object, ...], bytes] = {}

    def encode(self, request: UpstreamRequest) -> bytes:
        """Request line and headers up to the empty line; InvalidRequest as `_checked` says."""
        key = (request.method, request.target, *request.headers)
        head = self._known.get(key)
        if head is None:
            head = _checked(request, self._host_line)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            if len(head) <= _WORTH_KEEPING:
                self._known[key] = head
        return head + _framing(request)


def _checked(request: UpstreamRequest, host_line: bytes) -> bytes:
    """Raises InvalidRequest for a line break or NUL anywhere, a blank in method or target, and a
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
    return head


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


def _ascii(netloc: str) -> bytes:
    """A Host header's value: international names in their ASCII form."""
    try:
        return netloc.encode("ascii")
    except UnicodeEncodeError:
        return netloc.encode("idna")
