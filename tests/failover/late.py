"""What the tests of hedging share: channels that used to be quick, and answers that are late."""

from __future__ import annotations

import asyncio
from typing import Any

from asgi_llm_gateway import Failover, Relay
from asgi_llm_gateway.channels.retrying import Backoff
from tests.upstreams import (
    DONE,
    HANG,
    FakeUpstream,
    Reply,
    channel_to,
    chunk,
    nothing_left,
    sse,
    with_steps,
)

LATE = 0.03
"""Seconds within which the channels here usually begin to answer."""
AT_ONCE = Backoff(first=0)


def streamed(text: str, *before: Any) -> Reply:
    """A whole stream, after some steps."""
    return Reply.stream(*before, sse(chunk(text)), sse(chunk(finish="stop")), DONE)


def plain(text: str, *before: Any) -> Reply:
    """A whole plain answer, its body after some steps."""
    reply = Reply.chat(text)
    return with_steps(reply, *before, *reply.steps)


def late(reply: Reply, seconds: float | str = HANG) -> Reply:
    """The same reply, its head late or never there."""
    return Reply(reply.status, reply.headers, reply.steps, [seconds, *reply.head])


async def relay_of(*upstreams: FakeUpstream, keys: int = 1, **rules: Any) -> Relay:
    """Channels a, b, … in this order of priority; all of them used to be quick."""
    channels = [
        channel_to(upstream, name="abc"[at], priority=-at, keys=keys_of("abc"[at], keys))
        for at, upstream in enumerate(upstreams)
    ]
    how = {"hedge": True, "backoff": AT_ONCE, **rules}
    relay = Relay(channels, failover=Failover(**how))
    await relay.resources.get()
    assert relay.channels is not None
    for channel in relay.channels.channels:
        used_to_take(channel, LATE)
    return relay


def keys_of(name: str, count: int) -> list[str]:
    return [f"sk-{name}-{n}1111111" for n in range(count)]


def used_to_take(channel: Any, seconds: float) -> None:
    for _ in range(20):
        channel.stats.begun()
        channel.stats.ended(seconds)


class Stubborn(FakeUpstream):
    """Takes its time to notice that it was cancelled."""

    ending = False

    async def send(self, request: Any) -> Any:
        try:
            return await super().send(request)
        finally:
            self.ending = True
            await asyncio.sleep(0.1)


def told(answer: Any) -> list[tuple[str, str]]:
    """The attempts: where, and what became of each."""
    return [(attempt.channel, attempt.outcome) for attempt in answer.exchange.attempts]


def under_way(relay: Relay) -> dict[str, int]:
    assert relay.channels is not None
    return {c.name: c.stats.in_flight for c in relay.channels.channels}


async def all_given_back(relay: Relay, answer: Any) -> None:
    await nothing_left(relay)
    assert set(under_way(relay).values()) == {0}
    attempts = answer.exchange.attempts
    assert [attempt.number for attempt in attempts] == list(range(1, len(attempts) + 1))
    assert all(attempt.ended is not None for attempt in attempts)
