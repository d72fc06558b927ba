"""Which headers pass, both ways: lists of what may, never of what may not."""

from __future__ import annotations

import re

from ..errors import Headers

TO_PROVIDER = frozenset({b"accept", b"openai-beta"})
"""Of a caller's headers, what a provider gets to see on a relayed call."""

TO_PROVIDER_RAW = TO_PROVIDER | {
    b"content-type",
    b"content-encoding",
    b"range",
    b"if-none-match",
    b"if-modified-since",
    b"if-range",
    b"idempotency-key",
}
"""The same on a passed-through call, whose body nobody here reads."""

TO_CALLER = frozenset(
    {
        b"content-type",
        b"content-disposition",
        b"content-language",
        b"openai-processing-ms",
        b"openai-version",
        b"retry-after",
        b"retry-after-ms",
    }
)
"""Of a provider's headers, what a caller gets to see; never cookies, limits of the provider's key,
or whose account it is."""

TO_CALLER_RAW = TO_CALLER | {
    b"accept-ranges",
    b"cache-control",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"etag",
    b"expires",
    b"last-modified",
}
"""The same on a passed-through call, whose body goes out as it came."""

JSON_BODY: Headers = [
    (b"content-type", b"application/json"),
    (b"accept-encoding", b"identity"),
    (b"user-agent", b"asgi-llm-gateway"),
]
STREAMED_BODY: Headers = JSON_BODY[1:]

EVENT_STREAM: Headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
STREAM_ANSWER: Headers = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
"""What keeps proxies on the way from holding a stream back."""


_breaks = re.compile(rb"[\r\n\0]").search


def allowed(headers: Headers, names: frozenset[bytes]) -> Headers:
    """The headers of these names whose values no line break can hide in."""
    return [h for h in headers if h[0] in names and not _breaks(h[1])]


def first(headers: Headers, name: bytes) -> bytes:
    """The value of a header, empty when it is absent."""
    for found, value in headers:
        if found == name:
            return value
    return b""
