"""The body once more, as it now stands, for an app further in."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from ..errors import Headers
from .body import JSONBody, MultipartBody

Receive = Callable[[], Coroutine[Any, Any, Any]]


def resized(headers: Headers, length: int) -> Headers:
    """The headers of a body that is now `length` plain bytes."""
    dropped = (b"content-length", b"content-encoding", b"transfer-encoding")
    kept = [(name, value) for name, value in headers if name not in dropped]
    kept.append((b"content-length", b"%d" % length))
    return kept


async def _skip_to_leaving(receive: Receive) -> Any:
    """The next message that is not body: the caller's leaving."""
    while (message := await receive())["type"] == "http.request":
        pass
    return message


def replayed(body: JSONBody, receive: Receive) -> Receive:
    told = False

    async def replay() -> Any:
        nonlocal told
        if told:
            return await _skip_to_leaving(receive)
        told = True
        return {"type": "http.request", "body": body.raw, "more_body": False}

    return replay


def replayed_form(body: MultipartBody, receive: Receive, *, again: bool) -> Receive:
    """The form's head, then the rest of it from `receive`.

    `again`: somebody further out read the form, so `receive` is itself a replay (through whatever
    the host put between) and begins with the head, which must not be told twice.
    """
    told = False
    skip = 0

    async def replay() -> Any:
        nonlocal told, skip
        if not told:
            told = True
            head = body.head
            skip = len(head) if again else 0
            return {"type": "http.request", "body": head, "more_body": body.more}
        if not body.more:
            return await _skip_to_leaving(receive)
        message = await receive()
        while skip and message["type"] == "http.request":
            piece = message.get("body", b"")
            skip, piece = max(0, skip - len(piece)), piece[skip:]
            if piece or not message.get("more_body", False):
                return {**message, "body": piece}
            message = await receive()
        if not again and message["type"] == "http.request":
            body.check(message.get("body", b""), more=message.get("more_body", False))
        return message

    return replay
