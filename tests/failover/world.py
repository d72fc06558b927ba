"""Two providers on real sockets, a relay in front of them, and what a caller got from it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from asgi_llm_gateway import Relay
from asgi_llm_gateway.channels.policy import Failover
from asgi_llm_gateway.channels.retrying import Backoff
from asgi_llm_gateway.upstream.direct import DirectUpstream
from tests.asgi import Answer
from tests.faulty import Provider, channel_to, faulty
from tests.faulty_peer import Fault
from tests.upstreams import DONE, ask, left_open

SHORT = {"connect": 2.0, "first_byte": 0.6, "first_token": 0.6, "idle": 0.6, "total": 5.0}
"""Time limits of a channel that no test waits long for, in seconds."""
QUICK = Backoff(first=0.01, factor=2.0, cap=0.05)
SLACK = 2.0
"""Seconds a busy machine may add to any bound."""


@dataclass
class Got:
    """One call as its caller saw it."""

    answer: Answer
    seconds: float
    text: str = ""
    end: str = ""
    """How it ended: "whole", or the code of the error."""

    @property
    def status(self) -> int | None:
        return self.answer.status

    @property
    def where(self) -> str:
        """The channels that were tried, in order, by their first letters."""
        return "".join(attempt.channel[0] for attempt in self.answer.exchange.attempts)

    @property
    def outcomes(self) -> list[str]:
        return [attempt.outcome for attempt in self.answer.exchange.attempts]

    def header(self, name: str) -> str | None:
        return self.answer.header(name)


@dataclass
class World:
    """What runs; `a` is asked first, `b` when nothing is left of it."""

    a: Provider
    b: Provider
    relay: Relay
    upstream: DirectUpstream
    before: set[Any] = field(default_factory=set)

    async def ask(self, *, stream: bool = False, headers: Any = (), **members: Any) -> Got:
        """One call; `members` are put into its body."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        document = {"model": "m", "messages": [{"role": "user", "content": "why?"}], **members}
        if stream:
            document["stream"] = True
        answer = await ask(self.relay, document, headers=headers, timeout=30.0)
        return understood(answer, loop.time() - begun)

    async def nothing_left(self, within: float = 2.0) -> None:
        """No key held, no connection in use, no request kept waiting, no task."""
        loop = asyncio.get_running_loop()
        until = loop.time() + within
        while (found := self._left()) and loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert not found, found

    def _left(self) -> list[str]:
        stats = self.upstream.stats()
        found = left_open(self.relay)
        found += [f"{stats.busy} connections in use"] * (stats.busy > 0)
        found += [f"{stats.waiting} calls wait for one"] * (stats.waiting > 0)
        for provider in (self.a, self.b):
            found += [f"a provider answers {provider.busy} still"] * (provider.busy > 0)
        tasks = asyncio.all_tasks() - self.before - {asyncio.current_task()}
        return [*found, *map(repr, tasks)]


@asynccontextmanager
async def world(
    *script: Fault,
    b: tuple[Fault, ...] = (),
    channel: Any = None,
    other: Any = None,
    failover: Any = None,
    **config: Any,
) -> AsyncIterator[World]:
    """A relay with channel `a` and, lower in priority, `b`; a script apiece, good without one.

    `channel` and `other` are the two channels' own settings, `failover` the relay's, `config` is
    what else Relay takes. A channel that is False is left out.
    """
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(faulty(*s)) for s in (script, b)]
        settings = {"timeouts": SHORT, "priority": 10, **(channel or {})}
        channels = [channel_to(first, **settings)]
        if other is not False:
            settings = {"timeouts": SHORT, "keys": ["sk-b-key-1"], **(other or {})}
            channels.append(channel_to(second, name="b", **settings))
        upstream = DirectUpstream()
        stack.push_async_callback(upstream.aclose)
        how = Failover(**{"backoff": QUICK, **(failover or {})})
        relay = Relay(channels, upstream=upstream, failover=how, rng=Random(1), **config)
        await stack.enter_async_context(relay.resources)
        yield World(first, second, relay, upstream, asyncio.all_tasks())


def understood(answer: Answer, seconds: float) -> Got:
    """An answer as a client reads it; a stream that neither ends nor fails is caught here."""
    got = Got(answer, seconds)
    if (answer.header("content-type") or "").startswith("text/event-stream"):
        got.text, got.end = read_stream(answer.body)
        return got
    document = answer.json
    if "error" in document:
        got.end = str(document["error"].get("code"))
    else:
        got.text, got.end = document["choices"][0]["message"]["content"], "whole"
    return got


def read_stream(body: bytes) -> tuple[str, str]:
    """The text of a stream, and how it ended; nothing comes after its end."""
    assert body.endswith(b"\n\n"), body[-80:]
    events = [block for block in body.split(b"\n\n") if block and not block.startswith(b":")]
    text, finished = "", False
    for at, event in enumerate(events):
        last = at == len(events) - 1
        if event + b"\n\n" == DONE:
            assert last, "something came after the end"
            assert finished, "[DONE] after an answer that was not finished"
            return text, "whole"
        document = json.loads(event.removeprefix(b"data: "))
        if document.get("error"):
            assert last, "something came after an error event"
            return text, str(document["error"].get("code"))
        for choice in document["choices"]:
            text += choice["delta"].get("content") or ""
            finished = finished or choice["finish_reason"] is not None
    raise AssertionError(f"the stream ended without an end: {body[-200:]!r}")
