"""Reading channels again while calls run: what goes on, what is opened and closed, what is
forgotten."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from asgi_llm_gateway import Relay
from asgi_llm_gateway.channels.channel import Channel
from asgi_llm_gateway.channels.health import HealthEvent
from asgi_llm_gateway.channels.health.rules import health_rules
from asgi_llm_gateway.channels.policy import Failover
from asgi_llm_gateway.errors import ConfigurationError, StateUnavailable
from asgi_llm_gateway.keys.pool import MemoryKeyPool
from asgi_llm_gateway.runtime import Resources
from tests.upstreams import (
    DONE,
    FakeUpstream,
    Reply,
    ask,
    ask_stream,
    channel_to,
    chunk,
    sse,
    until,
)

ELSEWHERE = "https://elsewhere.test/v1"


class OpenedPool(MemoryKeyPool):
    """A pool that has something open while it is used."""

    def __init__(self, *keys: str, fails: bool = False) -> None:
        super().__init__(keys or ["sk-pool-key-1"])
        self.log: list[str] = []
        self.fails = fails
        self.resources: Resources[Any] | None = Resources(self._open, started_by="the test")

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        if self.fails:
            raise StateUnavailable("the store is away")
        self.log.append("opened")
        yield
        self.log.append("closed")


def to(upstream: FakeUpstream, **config: Any) -> Channel:
    return channel_to(upstream, **config)


async def test_what_came_with_a_reload_is_opened_and_what_went_is_closed() -> None:
    upstream, first, second = FakeUpstream(), OpenedPool(), OpenedPool()
    relay = Relay([to(upstream, keys=first)])
    async with relay.resources:
        assert first.log == ["opened"]
        relay.reload([to(upstream, keys=second)])
        await until(lambda: first.log == ["opened", "closed"])
        assert second.log == ["opened"]
        assert (await ask(relay)).status == 200
    assert second.log == ["opened", "closed"]
    assert first.log == ["opened", "closed"]


async def test_a_pool_that_stays_is_not_closed_in_between() -> None:
    upstream, pool = FakeUpstream(), OpenedPool()
    relay = Relay([to(upstream, keys=pool)])
    async with relay.resources:
        for _ in range(3):
            relay.reload([to(upstream, keys=pool)])
            await asyncio.sleep(0.02)
        assert pool.log == ["opened"]
    assert pool.log == ["opened", "closed"]


async def test_a_reload_before_the_start_opens_only_what_it_names() -> None:
    upstream, first, second = FakeUpstream(), OpenedPool(), OpenedPool()
    relay = Relay([to(upstream, keys=first)])
    relay.reload([to(upstream, keys=second)])
    async with relay.resources:
        await ask(relay)
    assert (first.log, second.log) == ([], ["opened", "closed"])


async def test_reloads_in_one_tick_leave_open_what_the_last_one_names() -> None:
    upstream, pools = FakeUpstream(), [OpenedPool() for _ in range(4)]
    relay = Relay([to(upstream, keys=pools[0])])
    async with relay.resources:
        for pool in pools[1:]:
            relay.reload([to(upstream, keys=pool)])
        await until(lambda: pools[-1].log == ["opened"])
        await until(lambda: all(p.log in ([], ["opened", "closed"]) for p in pools[:-1]))
    assert pools[-1].log == ["opened", "closed"]


async def test_what_cannot_be_opened_after_a_reload_is_logged_and_the_rest_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    upstream, bad, good = FakeUpstream(), OpenedPool(fails=True), OpenedPool()
    relay = Relay([to(upstream)])
    async with relay.resources:
        relay.reload([to(upstream, keys=bad), to(upstream, name="other", keys=good)])
        await until(lambda: good.log == ["opened"])
        assert (await ask(relay)).status == 200
    assert good.log == ["opened", "closed"]
    assert "channel main of a reload could not be opened" in caplog.text


async def test_every_running_loop_opens_and_closes_its_own() -> None:
    upstream, first, second = FakeUpstream(), OpenedPool(), OpenedPool()
    relay = Relay([to(upstream, keys=first)])
    started, over = threading.Event(), threading.Event()

    async def elsewhere() -> None:
        async with relay.resources:
            started.set()
            await asyncio.to_thread(over.wait, 10)

    thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
    thread.start()
    try:
        async with relay.resources:
            await asyncio.to_thread(started.wait, 10)
            relay.reload([to(upstream, keys=second)])
            await until(lambda: first.log.count("closed") == 2)
            assert (first.log.count("opened"), second.log.count("opened")) == (2, 2)
            assert second.log.count("closed") == 0
    finally:
        over.set()
        await asyncio.to_thread(thread.join)
    assert second.log.count("closed") == 2


async def test_a_call_under_way_ends_as_it_began() -> None:
    gate = asyncio.Event()

    class Gated(FakeUpstream):
        async def send(self, request: Any) -> Any:
            answer = await super().send(request)
            await gate.wait()
            return answer

    old, new = Gated(Reply.stream(sse(chunk("old", finish="stop")), DONE)), FakeUpstream()
    relay = Relay([to(old, keys=["sk-old-1111"])], aliases={"fast": "m"})
    async with relay.resources:
        under_way = asyncio.create_task(ask_stream(relay, model="fast"))
        await until(lambda: old.asked)
        table = relay.channels
        relay.reload([to(new, name="other", base_url=ELSEWHERE)], {"fast": "other-model"})
        gate.set()
        answer = await under_way
        assert b"old" in answer.body
        assert answer.header("x-llm-channel") == "main"
        assert table is not None
        assert [c.stats.in_flight for c in table.channels] == [0]
        assert sum(key.in_flight for key in table.channels[0].pool.keys) == 0  # type: ignore[attr-defined]
        await ask(relay, {"model": "fast", "messages": [1]})
        assert new.asked[0].json["model"] == "other-model"


async def ill(relay: Relay, times: int = 5) -> None:
    for _ in range(times):
        await ask(relay)


@pytest.mark.parametrize("base_url", ["https://provider.test/v1", ELSEWHERE])
async def test_health_is_kept_where_the_channel_leads_where_it_did(base_url: str) -> None:
    broken, upstream = FakeUpstream(Reply.error(500)), FakeUpstream()
    events: list[HealthEvent] = []
    rules = Failover(max_attempts=1, health=health_rules("default", {"first_open": 60.0}))
    relay = Relay([to(broken)], failover=rules, on_health=[events.append])
    await ill(relay)
    assert [s.condition for s in relay.health.states()] == ["open"]
    relay.reload([to(upstream, base_url=base_url)])
    stays = base_url != ELSEWHERE
    assert bool(relay.health.states()) is stays
    assert relay.health.quiet is not stays
    assert (await ask(relay)).status == (503 if stays else 200)
    assert [event.new for event in events] == ["open"] if stays else ["open", "closed"]


async def test_a_channel_that_is_gone_is_forgotten_but_for_what_a_hand_did() -> None:
    broken = FakeUpstream(Reply.error(500))
    relay = Relay([to(broken), to(broken, name="b", models=["n"])])
    await ill(relay)
    relay.health.disable("b", "maintenance")
    relay.reload([to(FakeUpstream(), name="c")])
    assert [(s.channel, s.condition) for s in relay.health.states()] == [("b", "disabled")]
    relay.reload([to(FakeUpstream(), name="b", base_url=ELSEWHERE)])
    assert (await ask(relay)).status == 503
    relay.health.enable("b")
    assert (await ask(relay)).status == 200


async def test_failures_of_a_channel_that_is_gone_are_not_held_against_its_name() -> None:
    gate = asyncio.Event()

    class Failing(FakeUpstream):
        async def send(self, request: Any) -> Any:
            self.asked.append(request)
            await gate.wait()
            return await super().send(request)

    old = Failing(Reply.error(500))
    relay = Relay([to(old)], failover=Failover(max_attempts=1))
    async with relay.resources:
        under_way = [asyncio.create_task(ask(relay)) for _ in range(8)]
        await until(lambda: len(old.asked) == 8)
        relay.reload([to(FakeUpstream(), base_url=ELSEWHERE)])
        gate.set()
        assert {(await one).status for one in under_way} == {500}
        assert relay.health.quiet
        assert (await ask(relay)).status == 200


async def test_what_was_measured_goes_on_only_where_it_was_measured() -> None:
    upstream = FakeUpstream()
    relay = Relay([to(upstream), to(upstream, name="b")])
    await ask(relay)
    assert relay.channels is not None
    before = dict(relay.channels.by_name)
    relay.reload([to(upstream), to(upstream, name="b", base_url=ELSEWHERE)])
    after = relay.channels.by_name
    assert after["main"].stats is before["main"].stats
    assert after["main"].budget is before["main"].budget
    assert after["b"].stats is not before["b"].stats


def exchanged(upstream: FakeUpstream, url: str = "https://token.test", **config: Any) -> Channel:
    exchange = {"token_url": url, "rotates": False}
    return to(upstream, credential="refresh_token", token_exchange=exchange, **config)


async def test_tokens_are_fetched_once_and_again_only_from_another_host() -> None:
    def replies(asked: Any) -> Reply:
        if asked.request.origin.host.startswith("token"):
            return Reply.json({"access_token": "at-1", "expires_in": 3600})
        return Reply.chat()

    upstream = FakeUpstream(replies)

    def fetched() -> int:
        return sum(a.request.origin.host.startswith("token") for a in upstream.asked)

    relay = Relay([exchanged(upstream)])
    async with relay.resources:
        await ask(relay)
        relay.reload([exchanged(upstream)])
        await asyncio.sleep(0.02)
        await ask(relay)
        assert fetched() == 1
        relay.reload([exchanged(upstream, "https://token.other.test")])
        await ask(relay)
        assert fetched() == 2
        relay.reload([exchanged(upstream, "https://token.other.test", base_url=ELSEWHERE)])
        assert (await ask(relay)).status == 200
        assert fetched() == 3


async def test_a_test_call_for_a_channel_that_is_gone_harms_nothing() -> None:
    upstream = FakeUpstream(Reply.error(500))
    relay = Relay([to(upstream)], failover=Failover(max_attempts=1, test_every=3600.0))
    async with relay.resources:
        await ill(relay)
        assert relay.channels is not None
        checkup = relay._supply.checkup(relay._table)  # type: ignore[arg-type]
        relay.health.disable("gone")
        relay.health.enable("gone")
        relay.reload([to(upstream, name="new")])
        with pytest.raises(Exception, match="no channel 'main' any more"):
            await checkup._test("main")


async def test_channels_that_cannot_work_change_nothing_that_is_open() -> None:
    upstream, pool = FakeUpstream(), OpenedPool()
    relay = Relay([to(upstream, keys=pool)])
    async with relay.resources:
        for wrong in (
            [to(upstream, provider="nobody")],
            [to(upstream, keys=["env:NOT_THERE_AT_ALL"])],
            [to(upstream, billing="nonsense")],
            [to(upstream), to(upstream)],
        ):
            with pytest.raises(ConfigurationError) as refusal:
                relay.reload(wrong)
            assert "'main'" in refusal.value.message
        with pytest.raises(ConfigurationError, match="circle"):
            relay.reload([to(upstream)], {"a": "b", "b": "a"})
        await asyncio.sleep(0.02)
        assert pool.log == ["opened"]
        assert (await ask(relay)).status == 200
