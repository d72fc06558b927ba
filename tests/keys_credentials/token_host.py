"""A token host with a memory: refresh tokens that rotate, are revoked, and hosts that fail.

host = TokenHost(rotates=True)
credentials = ExchangedCredentials(TokenExchange(token_url=host.url), host.upstream(), store)
host.faults.append(500)
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from asgi_llm_gateway.upstream import InProcessUpstream

FIRST = "rt-first-0000000000"
"""The refresh token the host knows from the beginning."""


class Clock:
    """Wall time and a monotonic one that pass together, when told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wall(self) -> float:
        return 1_800_000_000.0 + self.seconds

    def ticks(self) -> float:
        return 5000.0 + self.seconds


@dataclass
class Asked:
    """One request as it came."""

    method: str
    query: dict[str, str]
    headers: dict[str, str]
    params: dict[str, Any]


@dataclass
class TokenHost:
    """An ASGI app (RFC 6749 section 6). `faults` are answered first: a status, bytes with a 200,
    (status, document), or "hang"; `pause` is how long every answer takes."""

    rotates: bool = False
    lives: float = 3600.0
    pause: float = 0.0
    known: set[str] = field(default_factory=lambda: {FIRST})
    faults: list[Any] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    issued: int = 0
    gate: asyncio.Event | None = None
    """Answers wait for it, once the host has done what was asked."""
    url: str = "https://auth.test/token"

    def upstream(self) -> InProcessUpstream:
        return InProcessUpstream(self)

    @property
    def shown(self) -> list[str]:
        """The refresh tokens in the order in which they were shown."""
        return [asked.params.get("refresh_token", "") for asked in self.asked]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        form = headers.get("content-type", "").startswith("application/x-www-form")
        params = dict(parse_qsl(body.decode())) if form else json.loads(body or b"{}")
        query = dict(parse_qsl(scope["query_string"].decode()))
        self.asked.append(Asked(scope["method"], query, headers, params))
        status, answer = self._answer(params)
        if self.pause:
            await asyncio.sleep(self.pause)
        if self.gate is not None:
            await self.gate.wait()
        if status == "hang":
            await asyncio.Event().wait()
        raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        head = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": raw})

    def _answer(self, params: dict[str, Any]) -> tuple[Any, Any]:
        if self.faults:
            fault = self.faults.pop(0)
            if isinstance(fault, bytes):
                return 200, fault
            return fault if isinstance(fault, tuple) else (fault, {"error": "server_error"})
        token = params.get("refresh_token")
        if token is not None and token not in self.known:
            return 400, {"error": "invalid_grant", "error_description": f"{token} is revoked"}
        self.issued += 1
        answer: dict[str, Any] = {
            "access_token": f"at-{self.issued}",
            "token_type": "Bearer",
            "expires_in": self.lives,
        }
        if self.rotates and token is not None:
            self.known.discard(token)
            answer["refresh_token"] = f"rt-{self.issued}"
            self.known.add(answer["refresh_token"])
        return 200, answer


async def until(happened: Callable[[], Any], within: float = 5.0) -> None:
    """Wait until it has happened; the test fails when it has not after that many seconds."""
    async with asyncio.timeout(within):
        while not happened():  # noqa: ASYNC110 - what is waited for knows nothing of the test
            await asyncio.sleep(0.002)
