"""What the driver in asgi.py is told of a request, and what it tells of the answer."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Style = Literal["uvicorn", "hypercorn", "strict"]
STYLES: tuple[Style, ...] = ("uvicorn", "hypercorn", "strict")
Phase = Literal["before body", "during body", "before first byte", "after the end"]
PHASES: tuple[Phase | int, ...] = (
    "before body",
    "during body",
    "before first byte",
    1,
    "after the end",
)
Body = bytes | list[bytes] | AsyncIterator[bytes]
Pairs = Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]


@dataclass
class Answer:
    """What the caller saw of one request, and what the server saw of the app."""

    scope: dict[str, Any]
    status: int | None = None
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    """The body, message by message; empty ones count."""
    ended: bool = False
    """The last message, with more_body false, was sent."""
    left: bool = False
    cut: bool = False
    """The app returned, or raised, between its first message and its last."""
    exception: BaseException | None = None
    broken: list[str] = field(default_factory=list)
    received: list[str] = field(default_factory=list)
    """The types of the messages the app received."""

    @property
    def body(self) -> bytes:
        return b"".join(self.messages)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def exchange(self) -> Any:
        return self.scope.get("asgi_llm_gateway")

    def header(self, name: str) -> str | None:
        """The value of a header; several are joined as RFC 9110 says."""
        found = [v.decode("latin-1") for k, v in self.headers if k == name.lower().encode()]
        return ", ".join(found) if found else None


def headers_of(given: Pairs, body: Body) -> list[tuple[bytes, bytes]]:
    pairs = given.items() if isinstance(given, Mapping) else given
    out = [(_encoded(name).lower(), _encoded(value)) for name, value in pairs]
    names = {name for name, _ in out}
    if "host" not in names and b"host" not in names:
        out.insert(0, (b"host", b"gateway.test"))
    framed = {b"content-length", b"transfer-encoding"} & names
    if not framed and isinstance(body, bytes | list):
        size = len(body) if isinstance(body, bytes) else sum(map(len, body))
        if size:
            out.append((b"content-length", b"%d" % size))
    return out


def _encoded(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


async def pieces_of(body: Body, *, ends_empty: bool) -> AsyncGenerator[tuple[bytes, bool], None]:
    """The body's pieces, and of each whether more follow."""
    if isinstance(body, bytes | list):
        pieces = [body] if isinstance(body, bytes) else body
        last = len(pieces) - 1
        for at, piece in enumerate(pieces):
            yield piece, ends_empty or at < last
        if ends_empty or not pieces:
            yield b"", False
        return
    async for piece in body:
        yield piece, True
    yield b"", False
