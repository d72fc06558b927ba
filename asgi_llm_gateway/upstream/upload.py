"""Sending a request body that comes piece by piece, never holding more than one of them."""

from __future__ import annotations

from collections.abc import AsyncIterator

from ..errors import InvalidRequest
from .connection import Connection

__all__ = ["upload"]


async def upload(connection: Connection, body: AsyncIterator[bytes], length: int | None) -> None:
    """Write the body as it comes, chunked where `length` is None, at the speed the peer takes it.

    Ends early, and quietly, when the connection goes: the answer knows why. Raises what the body
    raises, and InvalidRequest when it is not `length` bytes long.
    """
    try:
        sent = await _write_pieces(connection, body, length)
    finally:
        aclose = getattr(body, "aclose", None)
        if aclose is not None:
            await aclose()
    if connection.closed or connection.transport.is_closing():
        return
    if length is None:
        connection.transport.write(b"0\r\n\r\n")
    elif sent != length:
        raise InvalidRequest("the body is shorter than its content-length")
    connection.uploading = False


async def _write_pieces(
    connection: Connection, body: AsyncIterator[bytes], length: int | None
) -> int:
    sent = 0
    async for piece in body:
        if connection.closed or connection.transport.is_closing():
            break
        if not piece:
            continue  # as a chunk it would mean the end
        sent += len(piece)
        if length is None:
            connection.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        elif sent > length:
            raise InvalidRequest("the body is longer than its content-length")
        else:
            connection.transport.write(piece)
        if connection.write_paused:
            await connection.drained()
    return sent
