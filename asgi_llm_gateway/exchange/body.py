"""The caller's request body: buffered JSON, a form up to its first file, or a stream.

Whoever asks first reads it; everybody after that sees the same body, as it now stands. A JSON body
is inflated and limited while it is read, so that what is checked is what is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from ..errors import (
    BodyTooLarge,
    ClientLeft,
    Headers,
    InvalidRequest,
    UnsupportedMedia,
)
from ..wire.inflate import Inflater, inflater
from ..wire.jsonview import JSONObject, View, check_model
from ..wire.multipart import MultipartPrelude
from .limits import BodyLimits, Clock, Late

Receive = Callable[[], Coroutine[Any, Any, Any]]

_FORMS = (b"multipart/", b"application/x-www-form-urlencoded")
"""What is certainly no JSON, whatever endpoint it is sent to."""


class JSONBody(JSONObject):
    """A whole JSON object; `set` changes top-level members without decoding the rest."""

    __slots__ = ("changed",)

    def __init__(self, raw: bytes, *, changed: bool = False) -> None:
        super().__init__(raw)
        self.changed = changed
        """Whether the bytes differ from what the caller sent (inflated counts)."""

    def set_raw(self, name: str, value: bytes) -> None:
        """See JSONObject."""
        super().set_raw(name, value)
        self.changed = True

    def replace(self, document: dict[str, Any]) -> None:
        """Put another document in place of the body; `view` is renewed."""
        super().replace(document)
        self.changed = True

    def remove(self, name: str) -> None:
        """See JSONObject."""
        super().remove(name)
        self.changed = True


class MultipartBody:
    """A form whose fields before the first file are read; the files stay in the stream."""

    __slots__ = ("_model", "_prelude", "changed", "more")

    def __init__(self, prelude: MultipartPrelude, *, more: bool) -> None:
        self._prelude = prelude
        self._model: str | None = None
        self.more = more
        """Whether the rest of the form is still to be received."""
        self.changed = False

    @property
    def view(self) -> View:
        """The members the gateway acts on that a form can carry."""
        model = self._model or self._prelude.model
        return View(model=model, stream=self._prelude.fields.get("stream") in ("true", "1"))

    def set(self, member: str, value: str) -> None:
        """Only `model` can be changed: the rest of the form is sent as it came."""
        if member != "model":
            raise InvalidRequest(f"the form field {member!r} cannot be changed", param=member)
        self._model, self.changed = value, True

    @property
    def head(self) -> bytes:
        """What was read so far, with the model as it now stands."""
        return self._prelude.seen if self._model is None else self._prelude.rewrite(self._model)

    @property
    def grown(self) -> int:
        """By how many bytes the form differs in length from what the caller announced."""
        return len(self.head) - len(self._prelude.seen)

    def check(self, piece: bytes, *, more: bool) -> None:
        """Look at what follows the first file, `more` of which is to come or not.

        InvalidRequest for a `model` field there, and for a form that ends before its boundary.
        """
        self._prelude.scan(piece)
        if not more:
            self._prelude.finish()


class StreamBody:
    """A body no part reads."""

    __slots__ = ()
    changed = False
    view = View()


Body = JSONBody | MultipartBody | StreamBody


def content_length(headers: Headers) -> int | None:
    """The announced length; InvalidRequest when there are two or it is no plain number."""
    found = {value for name, value in headers if name == b"content-length"}
    if not found:
        return None
    length = found.pop()
    # Twenty digits are more than a file system can mean (and int() raises from 4300 on).
    if found or not length.isdigit() or len(length) >= 20:
        raise InvalidRequest("the content-length header is not one plain number")
    return int(length)


async def _next(receive: Receive) -> Any:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientLeft
    return message


async def pieces(receive: Receive, limits: BodyLimits) -> AsyncIterator[bytes]:
    """The body as it arrives; RequestTimeout when a piece is late, ClientLeft when the caller goes.

    Only the gap between pieces is limited: how long a file may take is the provider's affair too.
    """
    more = True
    while more:
        with Late(limits):
            message = await _next(receive)
        more = message.get("more_body", False)
        if piece := message.get("body", b""):
            yield piece


async def read_json(
    headers: Headers, receive: Receive, limits: BodyLimits, clock: Clock | None = None
) -> JSONBody:
    """Read a JSON body whole; what it is called (`content-type`) matters only if it is a form.

    `clock` looks after the time; without one this does. Raises BodyTooLarge (before reading when
    the announced length is over the limit), InvalidRequest, UnsupportedMedia, RequestTimeout or
    ClientLeft.
    """
    if clock is None:
        with Late(limits) as late:
            return await read_json(headers, receive, limits, late)
    inflate, announced = _inflater_for_json(headers, limits)
    raw = b""
    parts: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        more = message.get("more_body", False)
        raw = message.get("body", b"")
        if inflate is not None and raw:
            raw = inflate.feed(raw)
        size += len(raw)
        if size > limits.max_bytes:
            raise too_large(limits)
        if more or parts:
            parts.append(raw)
            clock.progress = asyncio.get_running_loop().time()
    if inflate is not None:
        inflate.finish()
    elif size < announced:
        raise InvalidRequest("the request body is shorter than its content-length")
    return JSONBody(b"".join(parts) if parts else raw, changed=inflate is not None)


def _inflater_for_json(headers: Headers, limits: BodyLimits) -> tuple[Inflater | None, int]:
    """Refuses by the headers alone what need not be read; else how to read it, and the length it
    was announced with (0: it was not)."""
    named = dict(headers)
    if named.get(b"content-type", b"").startswith(_FORMS):
        raise UnsupportedMedia("this endpoint reads JSON: send content-type application/json")
    announced = content_length(headers) or 0
    if announced > limits.max_bytes:
        raise too_large(limits)
    coding = named.get(b"content-encoding", b"").strip().lower()
    return (inflater(coding, limits.max_bytes) if coding else None), announced


async def read_multipart(
    headers: Headers, receive: Receive, limits: BodyLimits, clock: Clock | None = None
) -> MultipartBody:
    """Read a form up to its first file's headers and leave the rest in `receive`.

    `clock` is as for `read_json`.
    """
    if clock is None:
        with Late(limits) as late:
            return await read_multipart(headers, receive, limits, late)
    content_type = b""
    for name, value in headers:
        if name == b"content-type":
            content_type = value
        elif name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise UnsupportedMedia("a form cannot be sent compressed")
    prelude = MultipartPrelude(content_type)
    more = True
    while more and not prelude.done:
        message = await _next(receive)
        clock.progress = asyncio.get_running_loop().time()
        more = message.get("more_body", False)
        prelude.feed(message.get("body", b""))
    if not more:
        prelude.finish()
    if prelude.model is not None:
        check_model(prelude.model)
    return MultipartBody(prelude, more=more)


def too_large(limits: BodyLimits) -> BodyTooLarge:
    """The refusal of a body over the limit."""
    return BodyTooLarge(f"the request body is over the limit of {limits.max_bytes} bytes")
