"""A provider of OpenAI's shape on a real socket, which fails as its script says and remembers
every attempt: when, with which key, for which model, and whether the other side hung up.

    async with faulty(refusal(503), good()) as provider:
        relay = Relay([channel_to(provider, name="a")])
        ...
        assert provider.keys == ["sk-a-1", "sk-a-2"]

Each request takes the next fault of the script; the last one stays. `provider.script` may be set
anew at any time, also to a function that chooses by what was asked. Nothing runs while nobody
asks: a connection that is merely open is no task.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from asgi_llm_gateway import Channel
from tests.faults import bad_key, good
from tests.faulty_peer import Fault, Peer, Tried


@dataclass
class Provider:
    """A provider that runs; see the module."""

    script: Sequence[Fault] | Callable[[Tried], Fault]
    base_url: str = ""
    dead_keys: set[str] = field(default_factory=set)
    """Keys that are answered 401 from now on, whatever the script says."""
    tried: list[Tried] = field(default_factory=list)
    open: set[Peer] = field(default_factory=set)
    busy: int = 0
    """Requests that are being answered, or kept waiting."""

    @property
    def keys(self) -> list[str]:
        """The keys of the attempts, in order."""
        return [tried.key for tried in self.tried]

    @property
    def models(self) -> list[str]:
        """The models of the attempts, in order."""
        return [tried.model for tried in self.tried]

    def fault_for(self, tried: Tried) -> Fault:
        """What becomes of this attempt."""
        if tried.key in self.dead_keys:
            return bad_key()
        if callable(self.script):
            return self.script(tried)
        fault, *rest = self.script
        if rest:
            self.script = rest
        return fault


@asynccontextmanager
async def faulty(*script: Fault) -> AsyncIterator[Provider]:
    """A provider on a free port; without a script it is a good one."""
    provider = Provider(script or (good(),))
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: Peer(provider), "127.0.0.1", 0, backlog=1024)
    port = listener.sockets[0].getsockname()[1]
    provider.base_url = f"http://127.0.0.1:{port}/v1"
    try:
        yield provider
    finally:
        listener.close()
        for peer in tuple(provider.open):
            peer.transport.abort()
        while provider.busy or provider.open:  # noqa: ASYNC110 - a few turns of the loop
            await asyncio.sleep(0)


def channel_to(provider: Provider, **config: Any) -> Channel:
    """A channel that serves everything by this provider, with two keys named after it."""
    name = config.setdefault("name", "a")
    given = {"models": ["*"], "keys": [f"sk-{name}-key-1", f"sk-{name}-key-2"]}
    return Channel(**{**given, "base_url": provider.base_url, **config})
