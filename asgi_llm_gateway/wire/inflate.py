"""Compressed request bodies, inflated piece by piece and never past a limit."""

from __future__ import annotations

import zlib
from typing import Any, Protocol

from ..errors import BodyTooLarge, InvalidRequest, UnsupportedMedia


class Inflater(Protocol):
    """Turns compressed pieces into plain ones."""

    def feed(self, data: bytes) -> bytes:
        """The plain bytes of `data`; BodyTooLarge past the limit, InvalidRequest if corrupt."""
        ...

    def finish(self) -> None:
        """InvalidRequest when the compressed body ended too early."""
        ...


def inflater(coding: bytes, limit: int) -> Inflater | None:
    """The inflater of a content-encoding, None for identity.

    gzip is always there, br with the `brotli` extra. Raises UnsupportedMedia for anything else,
    nested codings included.
    """
    if coding in (b"", b"identity"):
        return None
    if coding in (b"gzip", b"x-gzip"):
        return _Gzip(limit)
    if coding == b"br":
        return _Brotli(limit)
    raise UnsupportedMedia("the request's content-encoding is not gzip, br or identity")


class _Gzip:
    """RFC 1952, one member."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._z = zlib.decompressobj(wbits=31)

    def feed(self, data: bytes) -> bytes:
        try:
            plain = self._z.decompress(data, self._left + 1)
        except zlib.error as exc:
            raise InvalidRequest("the body is not what its content-encoding gzip says") from exc
        self._left -= len(plain)
        if self._left < 0:
            raise BodyTooLarge("the inflated request body is over the limit")
        if self._z.unused_data:
            raise InvalidRequest("bytes follow the end of the gzip body")
        return plain

    def finish(self) -> None:
        if not self._z.eof:
            raise InvalidRequest("the gzip body ends too early")


class _Brotli:
    """RFC 7932; brotli 1.2 is the first release that can bound its output."""

    def __init__(self, limit: int) -> None:
        try:
            import brotli
        except ImportError as exc:
            raise UnsupportedMedia(
                "content-encoding br needs the extra: pip install 'asgi-llm-gateway[brotli]'"
            ) from exc
        self._left = limit
        self._error: type[Exception] = brotli.error
        self._z: Any = brotli.Decompressor()

    def feed(self, data: bytes) -> bytes:
        parts = []
        try:
            parts.append(self._z.process(data, output_buffer_limit=self._left + 1))
            while self._left >= sum(map(len, parts)) and not self._z.can_accept_more_data():
                parts.append(self._z.process(b"", output_buffer_limit=self._left + 1))
        except self._error as exc:
            raise InvalidRequest("the body is not what its content-encoding br says") from exc
        plain = b"".join(parts)
        self._left -= len(plain)
        if self._left < 0:
            raise BodyTooLarge("the inflated request body is over the limit")
        return plain

    def finish(self) -> None:
        if not self._z.is_finished():
            raise InvalidRequest("the br body ends too early")
