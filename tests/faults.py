"""The faults a provider can have; tests/faulty.py plays them.

What is about streams acts on a plain call in the way that is nearest.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from email.utils import formatdate
from time import time
from typing import Any

from tests.faulty_peer import Fault, Peer, Tried
from tests.upstreams import DONE, USAGE, chunk, sse

TOKENS = ("The", " sky", " is", " blue", ",", " mostly", " where", " I", " live", ".")
"""What every good answer says, a chunk each."""
TEXT = "".join(TOKENS)


def good(text: Sequence[str] = TOKENS, ident: str = "c1") -> Fault:
    """No fault: a plain answer or a stream, as asked."""

    async def play(peer: Peer, tried: Tried) -> None:
        if tried.streamed:
            peer.stream(_tokens(text, ident) + _ending(ident) + DONE)
            peer.end()
        else:
            peer.answer(200, "application/json", _plain("".join(text), ident))

    return play


def refusal(status: int, *headers: str, body: bytes | None = None, **error: Any) -> Fault:
    """An error with this status, in OpenAI's shape unless its body is given."""
    fault = {"message": f"refused with {status}", "type": "t", "param": None, "code": None}
    whole = json.dumps({"error": {**fault, **error}}).encode() if body is None else body

    async def play(peer: Peer, tried: Tried) -> None:
        peer.answer(status, "application/json", whole, headers)

    return play


def rate_limited(*headers: str) -> Fault:
    """429, with these headers."""
    return refusal(429, *headers, message="slow down", code="rate_limit_exceeded")


def date_in(seconds: float) -> str:
    """A Retry-After header with a date so many seconds from now (whole seconds, rounded up)."""
    return f"retry-after: {formatdate(int(time() + seconds) + 1, usegmt=True)}"


def bad_key() -> Fault:
    """401, as OpenAI says it."""
    return refusal(401, message="Incorrect API key", code="invalid_api_key")


def too_long() -> Fault:
    """The prompt is over the model's context, as OpenAI says it."""
    message = "This model's maximum context length is 8192 tokens."
    return refusal(
        400, message=message, type="invalid_request_error", code="context_length_exceeded"
    )


def against_policy() -> Fault:
    """The prompt is against the provider's rules, as OpenAI says it."""
    message = "Your request was rejected as a result of our safety system."
    return refusal(
        400, message=message, type="invalid_request_error", code="content_policy_violation"
    )


def reset() -> Fault:
    """A reset instead of an answer."""

    async def play(peer: Peer, tried: Tried) -> None:
        peer.reset()

    return play


def silence() -> Fault:
    """The request is taken, and never answered."""

    async def play(peer: Peer, tried: Tried) -> None:
        await peer.pause()

    return play


def late(seconds: float, *, pings: float | None = None) -> Fault:
    """A good answer whose first token is late. A stream has begun by then, and its keep-alive
    comments come every `pings` seconds."""

    async def play(peer: Peer, tried: Tried) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if tried.streamed:
            peer.stream(b": processing\n\n")
        while (left := due - loop.time()) > 0:
            await peer.pause(min(left, pings or left))
            if pings and tried.streamed:
                peer.events(b": processing\n\n")
        if tried.streamed:
            peer.events(_tokens(TOKENS, "c1") + _ending("c1") + DONE)
            peer.end()
        else:
            peer.answer(200, "application/json", _plain(TEXT, "c1"))

    return play


def cut(after: int = 3) -> Fault:
    """The connection dies after so many tokens; a plain answer half way."""

    async def play(peer: Peer, tried: Tried) -> None:
        _begin(peer, tried, after)
        await asyncio.sleep(0.01)
        peer.reset()

    return play


def stall(after: int = 3) -> Fault:
    """Silence after so many tokens; of a plain answer half way."""

    async def play(peer: Peer, tried: Tried) -> None:
        _begin(peer, tried, after)
        await peer.pause()

    return play


def drip(every: float) -> Fault:
    """A stream whose tokens come one by one and never end; a plain answer stops half way."""

    async def play(peer: Peer, tried: Tried) -> None:
        _begin(peer, tried, 1)
        while True:
            await peer.pause(every)
            if tried.streamed:
                peer.events(_tokens([" on"], "c1", first=False))

    return play


def malformed(after: int = 3) -> Fault:
    """One event after so many tokens cannot be read; a plain answer cannot at all."""

    async def play(peer: Peer, tried: Tried) -> None:
        if tried.streamed:
            peer.stream(_tokens(TOKENS[:after], "c1"))
            peer.events(b'data: {"id": "c1", "choices": [{"index": 0, "del\n\n')
            peer.events(_tokens(TOKENS[after:], "c1", first=False) + _ending("c1") + DONE)
            peer.end()
        else:
            peer.answer(200, "application/json", _plain(TEXT, "c1")[:40])

    return play


def without_done() -> Fault:
    """Everything but the end of a stream."""

    async def play(peer: Peer, tried: Tried) -> None:
        if not tried.streamed:
            return await good()(peer, tried)
        peer.stream(_tokens(TOKENS, "c1") + _ending("c1"))
        return peer.end()

    return play


def error_with_200(**error: Any) -> Fault:
    """An error that comes with status 200; the first event of a stream."""
    fault = {"message": "overloaded", "type": "server_error", "code": None, **error}
    document = {"error": fault}

    async def play(peer: Peer, tried: Tried) -> None:
        if tried.streamed:
            peer.stream(sse(document))
            peer.end()
        else:
            peer.answer(200, "application/json", json.dumps(document).encode())

    return play


def plain_error_with_200() -> Fault:
    """An error as a JSON document with status 200, also where a stream was asked for."""

    async def play(peer: Peer, tried: Tried) -> None:
        peer.answer(200, "application/json", b'{"error": {"message": "overloaded"}}')

    return play


def web_page(status: int = 200) -> Fault:
    """A web page, as some proxy in between would send."""

    async def play(peer: Peer, tried: Tried) -> None:
        peer.answer(status, "text/html", b"<html><h1>Please sign in</h1></html>")

    return play


def empty() -> Fault:
    """200, and nothing in it."""

    async def play(peer: Peer, tried: Tried) -> None:
        if tried.streamed:
            peer.stream()
            peer.end()
        else:
            peer.answer(200, "application/json", b"")

    return play


def error_after(tokens: int = 3) -> Fault:
    """An error event in mid-stream, and then the end; a plain answer is an error with 500."""

    async def play(peer: Peer, tried: Tried) -> None:
        if not tried.streamed:
            return await refusal(500)(peer, tried)
        peer.stream(_tokens(TOKENS[:tokens], "c1"))
        await peer.pause(0.01)
        peer.events(sse({"error": {"message": "overloaded", "type": "server_error"}}))
        return peer.end()

    return play


def _begin(peer: Peer, tried: Tried, tokens: int) -> None:
    """The first tokens of a stream, or the first half of a plain answer."""
    if tried.streamed:
        peer.stream(_tokens(TOKENS[:tokens], "c1"))
        return
    peer.half(_plain(TEXT, "c1"))


def _tokens(texts: Sequence[str], ident: str, *, first: bool = True) -> bytes:
    role = chunk(id=ident)
    role["choices"][0]["delta"] = {"role": "assistant", "content": ""}
    return sse(*[role] * first, *(chunk(text, id=ident) for text in texts))


def _ending(ident: str) -> bytes:
    return sse(chunk(finish="stop", id=ident), {"id": ident, "choices": [], "usage": USAGE})


def _plain(text: str, ident: str) -> bytes:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"id": ident, "choices": [choice], "usage": USAGE}).encode()
