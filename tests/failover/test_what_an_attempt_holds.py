"""A probe of health, a guard, a count of calls under way: each is given back, whatever fails."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from asgi_llm_gateway import Failover, Relay
from asgi_llm_gateway.channels.health.rules import HealthRules
from asgi_llm_gateway.channels.retrying import Backoff
from asgi_llm_gateway.channels.stats import ChannelStats
from asgi_llm_gateway.errors import (
    PermissionDenied,
    UpstreamError,
    UpstreamTimeout,
)
from tests.asgi import Driver
from tests.upstreams import (
    ASK,
    HANG,
    SSE,
    FakeUpstream,
    Reply,
    ask,
    channel_to,
    guarded_by,
    nothing_left,
    relay_to,
    until,
)

AT_ONCE = Backoff(first=0)
ONE_FAILURE = HealthRules(failures=1, first_open=0.02, longest_open=0.02, jitter=0.0)
PROBED = Failover(health=ONE_FAILURE, backoff=AT_ONCE, max_attempts=1)
BUG: dict[str, Any] = {"may_raise": True, "may_cut": True}


def stats_of(relay: Relay, name: str = "main") -> ChannelStats:
    assert relay.channels is not None
    return relay.channels.by_name[name].stats


async def half_open(relay: Relay, upstream: FakeUpstream) -> None:
    """The model is ill, and the next call finds out whether it is well again."""
    upstream.replies = [Reply.error(500)]
    await ask(relay)
    assert not relay.health.admits("main", "m")
    await until(lambda: relay.health.admits("main", "m"))
    upstream.replies, upstream.asked = [Reply.chat()], []


class Guard:
    def __init__(self, failure: Exception | None = None, *, thinks: float = 0.0) -> None:
        self.failure, self.thinks = failure, thinks
        self.begun = 0

    async def before(self, attempt: Any) -> None:
        self.begun += 1
        await asyncio.sleep(self.thinks)
        if self.failure is not None:
            raise self.failure

    def after(self, attempt: Any) -> None:
        """Told at the end."""


@pytest.mark.parametrize("failure", [PermissionDenied("no"), UpstreamError("no"), LookupError()])
async def test_a_probe_that_a_guard_stops_leaves_its_place_to_the_next_call(
    failure: Exception,
) -> None:
    upstream = FakeUpstream()
    relay = Relay([channel_to(upstream)], failover=PROBED)
    await half_open(relay, upstream)
    await ask(guarded_by(relay, Guard(failure)), **BUG)
    assert not upstream.asked
    assert (await ask(relay)).status == 200
    assert stats_of(relay).in_flight == 0
    await nothing_left(relay)


PROBING = {
    "in a guard": (Reply.chat(), 30.0),
    "before the head": (Reply(head=[HANG]), 0.0),
    "in the body": (Reply(steps=[HANG]), 0.0),
    "in the body of a refusal": (Reply(500, steps=[HANG]), 0.0),
}


@pytest.mark.parametrize("cancels", [0, 1, 2])
@pytest.mark.parametrize("stage", PROBING)
async def test_a_probe_whose_caller_leaves_does_so_too(stage: str, cancels: int) -> None:
    reply, thinks = PROBING[stage]
    upstream = FakeUpstream()
    relay = Relay([channel_to(upstream)], failover=PROBED)
    await half_open(relay, upstream)
    upstream.replies = [reply]
    guard = Guard(thinks=thinks)
    body = json.dumps(ASK).encode()
    driver = Driver(guarded_by(relay, guard), "POST", "/v1/chat/completions", body=body, **BUG)
    async with driver.open() as stream:
        await until(lambda: guard.begun if thinks else upstream.asked)
        await asyncio.sleep(0.01)
        assert not relay.health.admits("main", "m"), "one probe at a time"
        for _ in range(cancels):
            stream.cancel()
        if not cancels:
            stream.leave()
    await nothing_left(relay)
    upstream.replies = [Reply.chat()]
    assert (await ask(relay)).status == 200


async def test_a_call_that_was_not_let_through_gives_its_key_back() -> None:
    """Another became the probe between the choice and the attempt."""
    upstream = FakeUpstream(Reply.chat())
    relay = Relay([channel_to(upstream)], failover=PROBED)
    await half_open(relay, upstream)
    upstream.replies = [Reply(head=[0.05], steps=Reply.chat().steps)]
    answers = await asyncio.gather(*[ask(relay) for _ in range(5)])
    assert sorted(str(answer.status) for answer in answers) == ["200", "503", "503", "503", "503"]
    assert len(upstream.asked) == 1
    await nothing_left(relay)


async def test_a_failure_that_cannot_be_judged_gives_everything_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    relay = relay_to(FakeUpstream(Reply.error(500)))

    def broken(*_: Any, **__: Any) -> Any:
        raise LookupError("a bug")

    monkeypatch.setattr(relay._conduct.table, "classify", broken)
    answer = await ask(relay, **BUG)
    assert isinstance(answer.exception, LookupError)
    assert stats_of(relay).in_flight == 0
    await nothing_left(relay)


async def test_health_that_breaks_gives_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = FakeUpstream(Reply(503, SSE, [b"no"]))
    relay = relay_to(upstream)
    seen: list[Any] = []

    class Noting(Guard):
        def after(self, attempt: Any) -> None:
            seen.append(attempt)

    def broken(*_: Any, **__: Any) -> Any:
        raise LookupError("a bug")

    monkeypatch.setattr(relay.health, "ended", broken)
    answer = await ask(guarded_by(relay, Noting()), **BUG)
    assert isinstance(answer.exception, LookupError)
    assert [attempt.outcome for attempt in seen] == ["failed"]
    await nothing_left(relay)


async def test_a_timeout_of_a_phase_nobody_knows_is_a_timeout() -> None:
    upstream = FakeUpstream(Reply.fails(UpstreamTimeout("late", phase="reading")))
    relay = relay_to(upstream)
    answer = await ask(relay, headers={"x-llm-timeout": "5"})
    assert answer.status == 504
    await nothing_left(relay)


def test_a_call_that_was_outrun_counts_as_slow_or_not_at_all() -> None:
    stats = ChannelStats()
    for seconds in [0.1] * 20:
        stats.begun()
        stats.ended(seconds)
    stats.begun()
    stats.outrun(0.01)
    assert (stats.latency, stats.late_after) == (pytest.approx(0.1), 0.1)
    for _ in range(3):
        stats.begun()
        stats.outrun(5.0)
    assert stats.latency is not None
    assert stats.latency > 1.0
    assert stats.late_after == 5.0
    stats.begun()
    fresh = ChannelStats()
    fresh.begun()
    fresh.outrun(3.0)
    assert (stats.in_flight, fresh.in_flight, fresh.latency) == (1, 0, None)
