"""Whatever fails, whoever leaves and however often a server cancels: slots, connections, guards,
probes and counts of calls under way are all given back."""

from __future__ import annotations

import asyncio
import gc
import json
from contextlib import suppress
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from asgi_llm_gateway import Failover, Relay
from asgi_llm_gateway.channels.health.rules import HealthRules
from asgi_llm_gateway.channels.retrying import Backoff
from asgi_llm_gateway.errors import (
    ConnectFailed,
    ConnectionLost,
    PermissionDenied,
    StateUnavailable,
    UpstreamError,
    UpstreamTimeout,
)
from asgi_llm_gateway.keys.pool import MemoryKeyPool
from asgi_llm_gateway.runtime import kept_tasks
from tests.upstreams import (
    ASK,
    DONE,
    HANG,
    JSON,
    SSE,
    FakeUpstream,
    Reply,
    channel_to,
    chunk,
    guarded_by,
    left_open,
    sse,
    until,
)

QUICK_TO_JUDGE = HealthRules(failures=1, first_open=0.002, longest_open=0.002, jitter=0.0)
WHOLE = Reply.stream(sse(chunk("The ")), 0.001, sse(chunk("sky", finish="stop")), DONE)
REPLIES = (
    *(WHOLE, WHOLE, Reply.chat(), Reply(head=[0.003, *WHOLE.head], steps=Reply.chat().steps)),
    *(Reply.error(401), Reply.error(429), Reply.error(500), Reply.error(503), Reply.error(400)),
    *(Reply.fails(ConnectFailed("no")), Reply.fails(ConnectionLost("no"))),
    *(Reply.fails(UpstreamTimeout("no", phase="first_byte")), Reply.fails(ZeroDivisionError())),
    Reply(200, SSE, [sse(chunk("The ")), 0.001, ConnectionLost("no")]),
    Reply(200, SSE, [sse(chunk("The ")), ZeroDivisionError()]),
    Reply(200, SSE, [b": hi\n\n", 0.002]),
    *(Reply(200, SSE, [sse(chunk("The ")), 0.004, HANG]), Reply(head=[0.002, HANG])),
    *(Reply(200, JSON, [b"{", HANG]), Reply(500, JSON, [0.001, HANG])),
)
OWN_FAILURES = (PermissionDenied("not there"), UpstreamError("no token"), ZeroDivisionError())


class Guard:
    """Sometimes slow, sometimes of another mind, sometimes broken; counts what it was told."""

    def __init__(self, rng: Random, trouble: float) -> None:
        self.rng, self.trouble = rng, trouble
        self.before_calls = self.after_calls = 0

    async def before(self, attempt: Any) -> None:
        self.before_calls += 1
        if self.rng.random() < 0.3:
            await asyncio.sleep(0.001)
        if self.rng.random() < self.trouble:
            raise self.rng.choice(OWN_FAILURES)

    def after(self, attempt: Any) -> None:
        assert attempt.ended is not None
        self.after_calls += 1
        if self.rng.random() < self.trouble / 3:
            raise LookupError("a guard's bug")


class Pool(MemoryKeyPool):
    """Sometimes slow, sometimes broken."""

    rng = Random(0)
    trouble = 0.0

    async def take(self, *args: Any, **how: Any) -> Any:
        if self.rng.random() < 0.2:
            await asyncio.sleep(0.001)
        if self.rng.random() < self.trouble:
            raise self.rng.choice((StateUnavailable("away"), LookupError("a pool's bug")))
        return await super().take(*args, **how)

    async def remove(self, *args: Any) -> None:
        await asyncio.sleep(0)
        if self.rng.random() < self.trouble:
            raise StateUnavailable("away")
        await super().remove(*args)

    def report(self, *args: Any, **how: Any) -> None:
        super().report(*args, **how)
        if self.rng.random() < self.trouble / 3:
            raise LookupError("a pool's bug")


RULES = st.builds(
    Failover,
    max_attempts=st.integers(1, 5),
    backoff=st.sampled_from([Backoff(first=0), Backoff(first=0.002)]),
    hedge=st.booleans(),
    keep_alive=st.sampled_from([None, 0.001]),
    stream_recovery=st.sampled_from(["error", "splice", "buffer"]),
    time_budget=st.sampled_from([None, 300.0]),
    fallback_models=st.sampled_from([{}, {"m": ["n"]}]),
    health=st.sampled_from([HealthRules(), QUICK_TO_JUDGE]),
)


@given(RULES, st.integers(0, 2**32), st.integers(1, 3), st.sampled_from([0.0, 0.0, 0.2]))
@settings(max_examples=100, deadline=None)
def test_everything_is_given_back(rules: Failover, seed: int, count: int, trouble: float) -> None:
    asyncio.run(_calls(rules, Random(seed), count, trouble))


async def _calls(rules: Failover, rng: Random, count: int, trouble: float) -> None:
    unseen: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    upstreams = [FakeUpstream(lambda _: rng.choice(REPLIES)) for _ in range(count)]
    channels = [
        channel_to(
            upstream,
            name="abc"[at],
            priority=-(at // 2),
            keys=_pool([f"sk-{'abc'[at]}-{n}111111" for n in range(3)], rng, trouble),
        )
        for at, upstream in enumerate(upstreams)
    ]
    relay = Relay(channels, failover=rules, rng=rng)
    async with relay.resources:
        assert relay.channels is not None
        for channel in relay.channels.channels:
            for _ in range(20):
                channel.stats.begun()
                channel.stats.ended(0.001)
        guard = Guard(rng, trouble)
        await asyncio.gather(*[_one(relay, guard, rng) for _ in range(4)])
        await until(lambda: not left_open(relay) and not len(kept_tasks()))
        assert guard.before_calls == guard.after_calls
        assert [c.stats.in_flight for c in relay.channels.channels] == [0] * count
        for _, breaker in list(relay.health._entries.items()):
            assert breaker._probe == 0, "a probe that nobody will hear of"
    if rng.random() < 0.1:  # it takes longer than the calls
        gc.collect()
    assert not unseen, "a failure that nobody was told of"


def _pool(keys: list[str], rng: Random, trouble: float) -> Pool:
    pool = Pool(keys)
    pool.rng, pool.trouble = rng, trouble
    return pool


async def _one(relay: Relay, guard: Guard, rng: Random) -> None:
    """A call that may end by itself, or whose caller leaves, or that the server cancels."""
    body = json.dumps({**ASK, "stream": rng.random() < 0.6}).encode()
    sent = [{"type": "http.request", "body": body, "more_body": False}]
    gone = asyncio.Event()

    async def receive() -> Any:
        if sent:
            return sent.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if rng.random() < 0.3:
            await asyncio.sleep(0)
        if rng.random() < 0.03:
            raise OSError("the caller is gone")

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}
    task = asyncio.ensure_future(guarded_by(relay, guard)(scope, receive, send))
    await asyncio.wait({task}, timeout=rng.choice((0.0, 0.001, 0.003, 0.01, 0.05)))
    for _ in range(rng.randint(1, 3)):
        task.cancel()
        for _ in range(rng.randint(0, 2)):
            await asyncio.sleep(0)
    with suppress(asyncio.CancelledError, ZeroDivisionError, LookupError, OSError):
        await asyncio.wait_for(task, 5)
    exchange = scope["asgi_llm_gateway"]
    assert exchange.outcome is not None
    assert exchange.ended is not None
