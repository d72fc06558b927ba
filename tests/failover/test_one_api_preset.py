"""The preset `one-api` at work in a relay: what takes a channel out by itself, what brings it back,
and who is told."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_llm_gateway import Relay
from asgi_llm_gateway.channels.health import HealthEvent
from asgi_llm_gateway.channels.policy import Failover
from asgi_llm_gateway.channels.retrying import Backoff
from tests.upstreams import FakeUpstream, Reply, ask, channel_to

QUICK = Backoff(first=0.001, factor=1.0, cap=0.001)


class World:
    def __init__(self, *replies: Any, **failover: Any) -> None:
        self.upstream = FakeUpstream(*replies)
        self.events: list[HealthEvent] = []
        channel = channel_to(self.upstream, test_model="m")
        rules = Failover(errors="one-api", max_attempts=1, backoff=QUICK, **failover)
        self.relay = Relay([channel], failover=rules, on_health=[self.events.append])

    async def calls(self, count: int) -> list[int | None]:
        return [(await ask(self.relay)).status for _ in range(count)]

    async def test_all(self) -> None:
        """What scheduled tests do every so often."""
        assert self.relay._table is not None
        checkup = self.relay._supply.checkup(self.relay._table)
        await checkup.round()

    @property
    def changes(self) -> list[tuple[str, str]]:
        return [(event.old, event.new) for event in self.events]


@pytest.mark.parametrize(
    "dead",
    [
        Reply.error(401, "no"),
        Reply.error(429, "no", type="insufficient_quota"),
        Reply.error(403, "your credit balance is too low"),
    ],
)
async def test_one_error_of_a_dead_account_takes_the_channel_out(dead: Reply) -> None:
    there = World(dead, Reply.chat())
    assert (await there.calls(3))[1:] == [503, 503]
    assert there.changes == [("closed", "out")]
    assert len(there.upstream.asked) == 1


async def test_less_than_eight_good_calls_of_ten_take_it_out() -> None:
    def replies(_: Any) -> Reply:
        return Reply.error(500) if len(there.upstream.asked) % 3 == 0 else Reply.chat()

    there = World(replies)
    statuses = await there.calls(14)
    assert statuses.index(503) == 12
    assert there.changes == [("closed", "out")]


async def test_a_test_that_goes_well_brings_it_back_and_is_told() -> None:
    there = World(Reply.error(401), Reply.chat())
    await there.calls(2)
    await there.test_all()
    assert there.changes == [("closed", "out"), ("out", "closed")]
    assert await there.calls(1) == [200]


async def test_a_test_that_fails_leaves_it_out() -> None:
    there = World(Reply.error(401))
    await there.calls(1)
    await there.test_all()
    assert await there.calls(1) == [503]


async def test_a_slow_test_takes_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    there = World(Reply.chat(), test_every=3600.0, test_all=True)
    await there.calls(1)

    async def slow(*_: Any) -> float:
        return 5.1

    monkeypatch.setattr("asgi_llm_gateway.relay.supply.test_call", slow)
    await there.test_all()
    assert there.changes == [("closed", "out")]
    assert "5.1 s" in there.events[0].reason


async def test_what_a_hand_took_out_no_test_brings_back() -> None:
    there = World(Reply.chat(), test_every=3600.0, test_all=True)
    await there.calls(1)
    there.relay.health.disable("main", "maintenance")
    await there.test_all()
    assert len(there.upstream.asked) == 1
    assert await there.calls(1) == [503]
    there.relay.health.enable("main")
    assert await there.calls(1) == [200]


async def test_no_tests_are_made_unless_switched_on() -> None:
    there = World(Reply.error(401))
    async with there.relay.resources:
        await there.calls(1)
        assert there.relay._conduct.rules.test_every is None
    assert len(there.upstream.asked) == 1
