"""A gateway to embed, a provider that goes on only when told, and what is asked of every host."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from starlette.middleware import Middleware

from asgi_llm_gateway import Channel, Gateway, Relay, TokenAuthMiddleware
from asgi_llm_gateway.upstream.contract import UpstreamRequest
from tests.asgi import Answer, Driver, call
from tests.composition.provider import EVENTS, JSON, UNARY, Provider, ProviderAnswer, chunk

TOKEN = "sk-alice"
TOKENS: dict[str, dict[str, Any]] = {TOKEN: {"name": "alice"}}
HEADERS = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
PIECES = (
    *(chunk({"content": word}) for word in ("one ", "two ", "three")),
    chunk({}, "stop"),
    b"data: [DONE]\n\n",
)


class Anything(frozenset[str]):
    """What a host writes into the scope is its own matter."""

    def __contains__(self, name: object) -> bool:
        return True


@dataclass
class Stepped(Provider):
    """Answers a plain call at once; of a stream only as many pieces as were released.

    The number may be set from any thread, so the provider looks at it again and again.
    """

    released: int = 0
    keys: list[str] = field(default_factory=list)

    async def send(self, request: UpstreamRequest) -> ProviderAnswer:
        self.keys += [v.decode() for k, v in request.headers if k == b"authorization"]
        streamed = isinstance(request.body, bytes) and b'"stream":' in request.body
        self.pieces, self.headers = (PIECES, EVENTS) if streamed else ((UNARY,), JSON)
        answer = await super().send(request)
        return SteppedAnswer(self) if streamed else answer


class SteppedAnswer(ProviderAnswer):
    async def _bytes(self) -> AsyncIterator[bytes]:
        provider = self._provider
        assert isinstance(provider, Stepped)
        for number, piece in enumerate(PIECES, 1):
            while provider.released < number:  # noqa: ASYNC110 - set from another thread
                await asyncio.sleep(0.002)
            yield piece
        await self.aclose()


def channel_to(provider: Provider) -> Channel:
    """A channel that serves everything by `provider`."""
    return Channel(
        name="main",
        provider="custom",
        base_url="http://provider.test/v1",
        keys=["sk-provider"],
        models=["*"],
        upstream=provider,
    )


def gateway_to(provider: Provider) -> Gateway:
    """A gateway that knows alice."""
    auth = Middleware(TokenAuthMiddleware, access_tokens=TOKENS)
    return Gateway([channel_to(provider)], middleware=[auth])


@dataclass
class Hosted:
    """A host's app with a gateway (or parts around a relay) inside, and the provider behind it.

    The host has a route `/hello` of its own, which needs no token.
    """

    app: Any
    provider: Stepped
    inside: Gateway | Relay
    base: str = "/v1"
    """What a client's base URL ends in."""
    lifespan: bool = True
    """Whether the host starts and stops it."""

    @property
    def path(self) -> str:
        return self.base + "/chat/completions"

    @property
    def relay(self) -> Relay:
        return self.inside.relay if isinstance(self.inside, Gateway) else self.inside

    def held(self) -> int:
        """How many calls hold a key."""
        table = self.relay.channels
        channels = () if table is None else table.channels
        return sum(key.in_flight for channel in channels for key in channel.pool.keys)


def chat(**members: Any) -> bytes:
    messages = [{"role": "user", "content": "hi"}]
    return json.dumps({"model": "m", "messages": messages, **members}).encode()


async def ask(app: Any, path: str, *, token: str | None = TOKEN, **how: Any) -> Answer:
    """One plain call."""
    headers = {"content-type": "application/json"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    how = {"body": chat(), "headers": headers, "may_write": Anything(), **how}
    return await call(app, "POST", path, **how)


def streaming(hosted: Hosted, **how: Any) -> Driver:
    """A streamed call, to be opened."""
    how = {"body": chat(stream=True), "headers": HEADERS, "may_write": Anything(), **how}
    return Driver(hosted.app, "POST", hosted.path, **how)
