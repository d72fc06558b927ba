"""Pools, stores and token hosts that fail: the call goes on, and no good key is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asgi_llm_gateway import Failover, Relay
from asgi_llm_gateway.channels.retrying import Backoff
from asgi_llm_gateway.channels.stats import ChannelStats
from asgi_llm_gateway.errors import (
    GatewayError,
    KeyRevoked,
    StateUnavailable,
    UpstreamError,
)
from asgi_llm_gateway.keys.pool import MemoryKeyPool
from tests.upstreams import (
    FakeUpstream,
    Reply,
    ask,
    channel_to,
    nothing_left,
)

AT_ONCE = Backoff(first=0)
BUG: dict[str, Any] = {"may_raise": True, "may_cut": True}


def stats_of(relay: Relay, name: str = "main") -> ChannelStats:
    assert relay.channels is not None
    return relay.channels.by_name[name].stats


class Pool(MemoryKeyPool):
    """Its store goes away for what it is told."""

    away: frozenset[str] = frozenset()
    waited = 0

    async def take(self, exchange: Any, tried: Any = (), *, wait: float = 0.0) -> Any:
        self.waited += wait > 0
        if "take" in self.away or (wait and "wait" in self.away):
            raise StateUnavailable("the store is away")
        return await super().take(exchange, tried, wait=wait)

    async def remove(self, key: Any, reason: str) -> None:
        if "remove" in self.away:
            raise StateUnavailable("the store is away")
        await super().remove(key, reason)


def with_pool(upstream: FakeUpstream, *away: str, keys: int = 1, **config: Any) -> tuple[Any, Pool]:
    pool = Pool([f"sk-key-{n:06}" for n in range(keys)])
    pool.away = frozenset(away)
    return channel_to(upstream, keys=pool, **config), pool


async def test_a_dead_key_that_cannot_be_taken_out_ends_no_call() -> None:
    upstream = FakeUpstream(Reply.error(401), Reply.chat())
    channel, _ = with_pool(upstream, "remove", keys=2)
    relay = Relay([channel])
    answer = await ask(relay)
    assert answer.status == 200
    assert len(set(upstream.keys)) == 2
    await nothing_left(relay)


async def test_a_store_that_is_away_for_one_channel_leaves_the_others() -> None:
    other = FakeUpstream()
    channel, _ = with_pool(FakeUpstream(), "take", name="away", priority=1)
    relay = Relay([channel, channel_to(other, name="other")])
    assert (await ask(relay)).header("x-llm-channel") == "other"
    alone, _ = with_pool(FakeUpstream(), "take")
    answer = await ask(Relay([alone]))
    assert (answer.status, answer.json["error"]["code"]) == (503, "state_unavailable")


async def test_a_store_that_goes_away_while_a_call_waits_leaves_the_fallbacks() -> None:
    upstream, other = FakeUpstream(), FakeUpstream()
    channel, pool = with_pool(
        upstream, "wait", name="busy", models=["m"], key_limits={"concurrency": 1, "wait": 5}
    )
    relay = Relay(
        [channel, channel_to(other, name="other", models=["n"])],
        failover=Failover(fallback_models={"m": ["n"]}),
    )
    await relay.resources.get()
    held = await pool.take(None)
    pool.report(held, "left", cooldown=60.0)
    answer = await asyncio.wait_for(ask(relay), 5)
    assert answer.header("x-llm-fallback") == "n"
    assert pool.waited


async def test_the_same_key_is_asked_once_more_when_the_other_one_rests() -> None:
    upstream = FakeUpstream(Reply.error(429), Reply.error(500), Reply.chat())
    keys = ["sk-a-11111111", "sk-b-22222222"]
    relay = Relay([channel_to(upstream, keys=keys)], failover=Failover(backoff=AT_ONCE))
    answer = await ask(relay)
    assert answer.status == 200
    first, second, third = upstream.keys
    assert first != second == third
    upstream.replies, upstream.asked = [Reply.error(500), Reply.chat()], []
    assert (await ask(relay)).status == 200
    assert upstream.keys == [second, second], "the resting one is left alone"
    await nothing_left(relay)


class Credentials:
    """A token host that answers as it is told."""

    def __init__(self, renewed: bool | Exception, secret: Exception | None = None) -> None:
        self.renewed, self.failure = renewed, secret

    async def secret(self, key: Any) -> str:
        if self.failure is not None:
            raise self.failure
        return f"token-of-{key.secret}"

    async def renew(self, key: Any, refused: str) -> bool:
        if isinstance(self.renewed, Exception):
            raise self.renewed
        return self.renewed

    async def aclose(self) -> None:
        """Nothing is open."""


async def with_credentials(upstream: FakeUpstream, credentials: Credentials) -> tuple[Any, Any]:
    other = FakeUpstream(Reply.chat("other"))
    relay = Relay([channel_to(upstream, priority=1), channel_to(other, name="other")])
    await relay.resources.get()
    assert relay.channels is not None
    live: Any = relay.channels.by_name["main"]
    live.credentials = credentials
    return relay, live.pool


RENEWALS: dict[str, tuple[bool | Exception, int]] = {
    "the key itself is refused": (False, 0),
    "it was revoked": (KeyRevoked("revoked"), 0),
    "the token host is down": (UpstreamError("down"), 1),
    "the store is away": (StateUnavailable("away"), 1),
}


@pytest.mark.parametrize("name", RENEWALS)
async def test_a_refused_credential_that_cannot_be_renewed_sends_the_call_elsewhere(
    name: str,
) -> None:
    """The key goes only where it is known to be dead."""
    renewed, left = RENEWALS[name]
    relay, pool = await with_credentials(FakeUpstream(Reply.error(401)), Credentials(renewed))
    answer = await ask(relay)
    assert answer.header("x-llm-channel") == "other"
    assert len(await pool.all()) == left
    await nothing_left(relay)


@pytest.mark.parametrize(
    ("failure", "left"), [(KeyRevoked("revoked"), 0), (UpstreamError("down"), 1)]
)
async def test_a_key_without_a_credential_sends_the_call_elsewhere(
    failure: GatewayError, left: int
) -> None:
    upstream = FakeUpstream()
    relay, pool = await with_credentials(upstream, Credentials(True, failure))
    answer = await ask(relay)
    assert (answer.header("x-llm-channel"), answer.header("x-llm-attempts")) == ("other", "1")
    assert not upstream.asked
    assert len(await pool.all()) == left
    await nothing_left(relay)


async def test_a_secret_that_no_header_can_carry_loses_nothing() -> None:
    class Strange(Credentials):
        async def secret(self, key: Any) -> str:
            return "line\r\nbreak \u2603"

    relay, _ = await with_credentials(FakeUpstream(), Strange(True))
    await ask(relay, **BUG)
    assert stats_of(relay).in_flight == 0
    await nothing_left(relay)
