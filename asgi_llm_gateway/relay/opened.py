"""The beginning of a provider's answer: enough of it to know whether this attempt will do.

A plain answer is read whole; of a stream, everything up to the first real event. Until then an
attempt can fail without the caller seeing anything of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec

from ..dialects.base import Dialect
from ..dialects.soundness import UNREADABLE
from ..dialects.tap import Tap, refuse_error, unended
from ..errors import (
    BadAnswer,
    BodyTooLarge,
    Headers,
    InvalidRequest,
    ProviderRefused,
    UnsupportedMedia,
    UpstreamTimeout,
)
from ..upstream.contract import UpstreamResponse
from ..wire.inflate import Inflater, inflater
from ..wire.sse import WholeEvents
from ..wire.usage import Usage, usage_in
from .headers import first

MAX_ANSWER = 64 * 1024 * 1024
"""Bytes of a plain answer that is held whole; images come as base64."""
MAX_INFLATED = 32 * 1024 * 1024
"""Bytes of an answer that came compressed, which nobody asked for: it may be a bomb."""
MAX_PRELUDE = 1024 * 1024
"""Bytes of comments before the first event of a stream; they are held until it comes."""
MAX_ERROR = 256 * 1024
_NO_PIECES: tuple[bytes, ...] = ()
_BRACKET = ord("[")
_BOM = b"\xef\xbb\xbf"
"""May stand before a stream's first event (WHATWG); clients' readers mostly do not expect it."""


@dataclass(slots=True)
class Whole:
    """A plain answer, read to its end."""

    status: int
    headers: Headers
    body: bytes

    def usage(self) -> Usage | None:
        """What the answer says it consumed."""
        return usage_in(self.body)


@dataclass(slots=True)
class Flow:
    """An answer that is passed on as it comes: events with a tap on them, or plain bytes."""

    status: int
    headers: Headers
    pieces: AsyncIterator[bytes]
    begun: bytes
    whole: WholeEvents | None = None
    tap: Tap | None = None


async def open_answer(
    response: UpstreamResponse,
    dialect: Dialect,
    *,
    streamed: bool,
    hide_usage: bool,
    first_token: float | None,
    choices: int = 1,
) -> Whole | Flow:
    """Read as much as decides; `choices` is how many answers a stream has side by side.

    Raises ProviderRefused, BadAnswer and what the upstream raises.
    """
    headers, status = response.headers, response.status
    named = dict(headers)
    kind = named.get(b"content-type", b"").lower()
    coding = named.get(b"content-encoding", b"").strip().lower()
    if status >= 400:
        raise await refusal(response, coding)
    if status != 200 and not 200 < status < 300:
        raise BadAnswer(f"the provider answered with status {status}")
    if kind.startswith(b"text/event-stream"):
        tap = dialect.tap(hide_usage)
        tap = tap.of_many(choices) if choices > 1 else tap
        return await _open_stream(response, _plain(response, coding), tap, first_token)
    if _is_json(kind, dialect, streamed=streamed):
        whole = _inflated_whole(response, coding) if coding else response.read(MAX_ANSWER)
        body = await whole
        check(body, dialect)
        return Whole(status, headers, body)
    if kind.startswith(b"text/html"):
        raise BadAnswer("the provider answered with a web page")
    pieces = _plain(response, coding)
    async for begun in pieces:
        if begun:
            return Flow(status, headers, pieces, begun)
    raise BadAnswer("the provider's answer is empty")


def _is_json(kind: bytes, dialect: Dialect, *, streamed: bool) -> bool:
    if b"json" in kind:
        return True
    # Audio and transcripts come in many types; every other endpoint promises JSON.
    return dialect.name != "openai_audio" and not (streamed and kind.startswith(b"audio/"))


async def _open_stream(
    response: UpstreamResponse,
    pieces: AsyncIterator[bytes],
    tap: Tap,
    first_token: float | None,
) -> Flow:
    whole = WholeEvents()
    held = b""
    try:
        async with asyncio.timeout(first_token):
            async for piece in pieces:
                events = whole.feed(piece)
                held += events
                if events and tap.opening(events):
                    held = held.removeprefix(_BOM)
                    return Flow(response.status, response.headers, pieces, held, whole, tap)
                if len(held) > MAX_PRELUDE:
                    raise BadAnswer("the provider's stream goes on and on without an event")
    except TimeoutError as exc:
        raise UpstreamTimeout(
            f"no event came from the provider within {first_token} s", phase="first_token"
        ) from exc
    rest = last_event(whole)
    held += rest
    if rest and tap.opening(rest):
        held = held.removeprefix(_BOM)
        return Flow(response.status, response.headers, pieces, held, WholeEvents(), tap)
    raise BadAnswer("the provider's stream ended before its first event")


async def hold(flow: Flow) -> Flow:
    """The same stream, whole before its first byte goes out; raises what makes it a failure.

    One of more than MAX_ANSWER bytes is too much to hold: the rest of it goes out as it comes.
    """
    assert flow.whole is not None
    assert flow.tap is not None
    whole, probe = flow.whole, flow.tap.anew()
    held = [flow.begun]
    size = len(flow.begun)
    async for piece in flow.pieces:
        events = whole.feed(piece)
        size += len(events)
        held.append(events)
        if size > MAX_ANSWER:
            return Flow(flow.status, flow.headers, flow.pieces, b"".join(held), whole, flow.tap)
    held.append(last_event(whole))
    begun = b"".join(held)
    probe.feed(begun)
    if probe.end() is None:
        raise BadAnswer("the provider's stream ended before it was complete")
    if probe.failure is not None:
        raise probe.failure
    return Flow(flow.status, flow.headers, _nothing(), begun, WholeEvents(), flow.tap)


async def _nothing() -> AsyncIterator[bytes]:
    for piece in _NO_PIECES:
        yield piece


def last_event(whole: WholeEvents) -> bytes:
    """The last event of a stream that ended in order, its border put there if it was left out."""
    return whole.finish() or unended(whole.rest)


def check(body: bytes, dialect: Dialect) -> None:
    """Raises ProviderRefused for an error that came with status 200, BadAnswer for what is no
    object or lacks the list every good answer of this dialect has.
    """
    try:
        answer = _read_answer(body)
    except UNREADABLE as exc:
        raise BadAnswer("the provider's answer is not a JSON object") from exc
    if b'"error"' in body:
        try:
            refuse_error(msgspec.json.decode(body), body)
        except UNREADABLE as exc:
            raise BadAnswer("the provider's answer is not JSON") from exc
    if dialect.answer_list is not None:
        found: Any = getattr(answer, dialect.answer_list)
        if found is msgspec.UNSET or memoryview(found)[0] != _BRACKET:
            raise BadAnswer(f"the provider's answer has no {dialect.answer_list}")


class _Answer(msgspec.Struct, gc=False):
    """The lists a good answer has, left raw."""

    choices: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    output: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    results: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_read_answer = msgspec.json.Decoder(_Answer).decode


async def refusal(response: UpstreamResponse, coding: bytes = b"") -> ProviderRefused:
    """The provider's own error as ours."""
    headers, status = response.headers, response.status
    return ProviderRefused(
        f"the provider answered with status {status}",
        status=status if status < 600 else 502,  # httptools lets 999 pass, ASGI servers do not
        body=await _beginning(response, coding, MAX_ERROR),
        headers=headers,
        retry_after=_seconds(first(headers, b"retry-after")),
    )


def _seconds(value: bytes) -> float | None:
    """Retry-After in seconds (RFC 9110 section 10.2.3); a date is left to the header itself."""
    return float(value) if value.isdigit() and len(value) < 10 else None


async def _beginning(response: UpstreamResponse, coding: bytes, limit: int) -> bytes:
    """At most `limit` bytes of an error's body. Its status counts however long it is: providers
    repeat what the caller sent, so a caller could make it any length. Raises as `_plain` does."""
    body = bytearray()
    async for piece in _plain(response, coding):
        body += piece
        if len(body) > limit:
            break
    return bytes(body[:limit])


async def _inflated_whole(response: UpstreamResponse, coding: bytes) -> bytes:
    body = bytearray()
    async for piece in _plain(response, coding):
        body += piece
        if len(body) > MAX_ANSWER:  # "identity" inflates nothing, and so bounds nothing
            raise BadAnswer(f"the provider's answer is over {MAX_ANSWER} bytes")
    return bytes(body)


def _plain(response: UpstreamResponse, coding: bytes) -> AsyncIterator[bytes]:
    """The body uncompressed, at most MAX_INFLATED bytes of it: identity is asked for, but not every
    provider listens."""
    if not coding:
        return response.__aiter__()
    try:
        inflate = inflater(coding, MAX_INFLATED)
    except UnsupportedMedia as exc:
        raise BadAnswer("the provider's answer has a content-encoding nobody asked for") from exc
    return _inflated(response, inflate) if inflate else response.__aiter__()


async def _inflated(response: UpstreamResponse, inflate: Inflater) -> AsyncIterator[bytes]:
    try:
        async for piece in response:
            if plain := inflate.feed(piece):
                yield plain
        inflate.finish()
    except (InvalidRequest, BodyTooLarge) as exc:
        raise BadAnswer("the provider's compressed answer cannot be read") from exc
