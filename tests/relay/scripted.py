"""A provider that answers from a script, and keeps what it was asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

from asgi_llm_gateway.errors import BadAnswer, ConnectionLost, Headers
from asgi_llm_gateway.upstream.contract import UpstreamRequest


@dataclass
class Script:
    """One answer; with `cut` the connection dies after the last piece."""

    status: int
    headers: Headers
    pieces: tuple[bytes, ...]
    cut: bool = False


@dataclass
class ScriptedUpstream:
    """Gives the same answer to every request (an upstream.contract.Upstream)."""

    script: Script
    asked: list[UpstreamRequest] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    """The body of each request, whole also where it was streamed."""
    answers: list[ScriptedAnswer] = field(default_factory=list)

    async def send(self, request: UpstreamRequest) -> ScriptedAnswer:
        self.asked.append(request)
        body = request.body
        if not isinstance(body, bytes):
            body = b"".join([piece async for piece in body])
        self.bodies.append(body)
        self.answers.append(ScriptedAnswer(self.script))
        return self.answers[-1]

    @property
    def open(self) -> int:
        """How many answers were neither read to their end nor closed."""
        return sum(answer.open for answer in self.answers)

    async def aclose(self) -> None:
        """Nothing to close: every answer is for its reader to close."""


class ScriptedAnswer:
    """An upstream.contract.UpstreamResponse."""

    def __init__(self, script: Script) -> None:
        self.status = script.status
        self.headers: Headers = list(script.headers)
        self.open = True
        self._script = script
        self._iterator = self._pieces()

    async def _pieces(self) -> AsyncIterator[bytes]:
        for piece in self._script.pieces:
            yield piece
        if self._script.cut:
            raise ConnectionLost("the provider's connection died")
        self.open = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._iterator

    async def read(self, limit: int) -> bytes:
        body = b"".join([piece async for piece in self._iterator])
        if len(body) > limit:
            raise BadAnswer(f"the provider's answer is over {limit} bytes")
        return body

    async def aclose(self) -> None:
        self.open = False


def split(data: bytes, sizes: Iterable[int]) -> tuple[bytes, ...]:
    """The data in pieces of these sizes, what is left in one more."""
    pieces: list[bytes] = []
    at = 0
    for size in sizes:
        if at < len(data):
            pieces.append(data[at : at + size])
            at += size
    if at < len(data):
        pieces.append(data[at:])
    return tuple(pieces)
