"""Scheduled test calls through a running relay: what they bring back, and what they never do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asgi_llm_gateway import Channel, Failover, Relay
from asgi_llm_gateway.channels.retrying import Backoff
from asgi_llm_gateway.errors import (
    BadAnswer,
    ConnectionLost,
    GatewayError,
    KeysBusy,
    NotSupported,
    ProviderRefused,
    Unavailable,
)
from asgi_llm_gateway.relay.checking import test_call as check_call
from tests.upstreams import (
    HANG,
    JSON,
    SSE,
    FakeUpstream,
    Reply,
    ask,
    chunk,
    in_flight,
    left_open,
    nothing_left,
    sse,
    until,
)
from tests.upstreams import channel_to as channel_with_any_model

ONE_API: dict[str, Any] = {"errors": "one-api", "backoff": Backoff(first=0)}
OFTEN = 0.02


def channel_to(upstream: FakeUpstream, **config: Any) -> Channel:
    return channel_with_any_model(upstream, **{"models": ["m"], **config})


def relay_to(upstream: FakeUpstream, **config: Any) -> Relay:
    return Relay([channel_to(upstream, **config)])


def is_test(asked: Any) -> bool:
    return bool(asked.json.get("max_tokens"))


def conditions(relay: Relay) -> list[tuple[str, str | None, str]]:
    return [(s.channel, s.model, s.condition) for s in relay.health.states()]


async def live(relay: Relay, name: str = "main") -> Any:
    await relay.resources.get()
    assert relay.channels is not None
    return relay.channels.by_name[name]


def clock() -> float:
    return asyncio.get_running_loop().time()


async def test_a_channel_that_is_out_comes_back_by_a_test_call_that_goes_well() -> None:
    upstream = FakeUpstream(Reply.error(401))
    config = {"models": ["m", "n"], "test_model": "n"}
    relay = Relay([channel_to(upstream, **config)], failover=Failover(**ONE_API, test_every=OFTEN))
    async with relay.resources:
        assert (await ask(relay)).status == 503
        assert conditions(relay) == [("main", None, "out")]
        await until(lambda: sum(map(is_test, upstream.asked)) >= 2)
        assert conditions(relay) == [("main", None, "out")], "a test that fails brings nobody back"
        real = [asked for asked in upstream.asked if not is_test(asked)]
        upstream.replies = [Reply.chat()]
        await until(lambda: not conditions(relay))
        assert (await ask(relay)).status == 200
        tests = [asked.json for asked in upstream.asked if is_test(asked)]
        assert {test["model"] for test in tests} == {"n"}
        assert len(real) == 1
        assert in_flight(relay) == {"main": 0}
    assert not left_open(relay)


async def test_a_channel_that_fails_too_often_goes_out_and_is_asked_by_tests_alone() -> None:
    upstream = FakeUpstream(Reply.error(503))
    relay = Relay(
        [channel_to(upstream, keys=[f"sk-key-{n:06}" for n in range(40)])],
        failover=Failover(**ONE_API, test_every=OFTEN),
    )
    async with relay.resources:
        while not conditions(relay):
            await ask(relay)
        before = len(upstream.asked)
        assert (await ask(relay)).status == 503
        await until(lambda: len(upstream.asked) >= before + 2)
        assert all(is_test(asked) for asked in upstream.asked[before:])


async def test_what_a_hand_disabled_is_never_tested_and_never_comes_back() -> None:
    upstream, other = FakeUpstream(), FakeUpstream()
    rules = Failover(**ONE_API, test_every=OFTEN, test_all=True)
    relay = Relay([channel_to(upstream), channel_to(other, name="other")], failover=rules)
    async with relay.resources:
        relay.health.disable("main")
        await until(lambda: len(other.asked) >= 3)
        assert not upstream.asked
        assert conditions(relay) == [("main", None, "disabled")]
        relay.health.enable("main")
        await until(lambda: upstream.asked)


async def test_a_hand_that_disables_during_a_test_call_wins() -> None:
    gate = asyncio.Event()

    class Gated(FakeUpstream):
        async def send(self, request: Any) -> Any:
            answer = await super().send(request)
            await gate.wait()
            return answer

    upstream = Gated(Reply.chat())
    rules = Failover(**ONE_API, test_every=OFTEN, test_all=True)
    relay = Relay([channel_to(upstream)], failover=rules)
    async with relay.resources:
        await until(lambda: upstream.asked)
        relay.health.disable("main")
        gate.set()
        await until(lambda: in_flight(relay) == {"main": 0})
        await asyncio.sleep(5 * OFTEN)
        assert conditions(relay) == [("main", None, "disabled")]
        assert len(upstream.asked) == 1


async def test_what_is_well_is_tested_only_if_that_is_asked_for() -> None:
    for everyone in (False, True):
        upstream = FakeUpstream()
        rules = Failover(test_every=OFTEN, test_all=everyone)
        relay = Relay([channel_to(upstream)], failover=rules)
        async with relay.resources:
            await asyncio.sleep(10 * OFTEN)
        assert bool(upstream.asked) is everyone


async def test_without_the_switch_there_are_no_test_calls() -> None:
    upstream = FakeUpstream(Reply.error(401))
    relay = Relay([channel_to(upstream)], failover=Failover(**ONE_API))
    async with relay.resources:
        await ask(relay)
        await asyncio.sleep(0.2)
        assert conditions(relay) == [("main", None, "out")]
        assert len(upstream.asked) == 1


async def test_channels_switched_off_or_gone_are_not_tested() -> None:
    upstreams = [FakeUpstream() for _ in range(3)]
    rules = Failover(test_every=OFTEN, test_all=True)
    channels = [
        channel_to(upstream, name=name, enabled=name != "off")
        for name, upstream in zip(("on", "off", "gone"), upstreams, strict=True)
    ]
    relay = Relay(channels, failover=rules)
    async with relay.resources:
        relay.reload(channels[:2])
        upstreams[2].asked.clear()
        await until(lambda: len(upstreams[0].asked) >= 2)
        assert not upstreams[1].asked
        assert not upstreams[2].asked


async def test_a_relay_that_stops_ends_the_test_call_under_way() -> None:
    upstream = FakeUpstream(Reply(head=[HANG]))
    relay = Relay([channel_to(upstream)], failover=Failover(test_every=OFTEN, test_all=True))
    async with relay.resources:
        await until(lambda: upstream.sending)
    assert not left_open(relay)
    await nothing_left(relay)


async def test_a_test_call_is_short_and_signed_with_a_key_of_the_channel() -> None:
    upstream = FakeUpstream()
    channel = await live(
        relay_to(upstream, models=["m", "o*"], model_mapping={"m": "theirs"}, keys=["sk-a-1111111"])
    )
    assert await check_call(channel, clock) >= 0.0
    (asked,) = upstream.asked
    assert asked.key == "sk-a-1111111"
    assert asked.json["model"] == "theirs"
    assert asked.json["max_tokens"] <= 16
    assert len(asked.json["messages"]) == 1
    assert asked.request.target.endswith("/chat/completions")


FAILURES: dict[str, tuple[Reply, type[GatewayError]]] = {
    "refused": (Reply.error(503), ProviderRefused),
    "an error with 200": (Reply.json({"error": {"message": "no"}}), ProviderRefused),
    "lost": (Reply.fails(ConnectionLost("reset")), ConnectionLost),
    "lost midway": (Reply(200, JSON, [b"{", ConnectionLost("reset")]), ConnectionLost),
    "a web page": (Reply(200, [(b"content-type", b"text/html")], [b"<h1>"]), BadAnswer),
    "no choices": (Reply.json({"id": "c1"}), BadAnswer),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_what_makes_an_attempt_fail_makes_a_test_call_fail(name: str) -> None:
    reply, failure = FAILURES[name]
    relay = relay_to(FakeUpstream(reply))
    channel = await live(relay)
    with pytest.raises(failure):
        await check_call(channel, clock)
    await nothing_left(relay)


async def test_a_provider_that_streams_unasked_is_well_and_its_stream_is_closed() -> None:
    relay = relay_to(FakeUpstream(Reply(200, SSE, [sse(chunk("hi")), HANG])))
    await check_call(await live(relay), clock)
    await nothing_left(relay)


@pytest.mark.parametrize("reply", [Reply(head=[HANG]), Reply(steps=[HANG]), Reply(500, [], [HANG])])
async def test_a_cancelled_test_call_gives_everything_back(reply: Reply) -> None:
    upstream = FakeUpstream(reply)
    relay = relay_to(upstream)
    task = asyncio.ensure_future(check_call(await live(relay), clock))
    await until(lambda: upstream.asked)
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await nothing_left(relay)


async def test_a_channel_without_a_free_key_is_not_judged() -> None:
    """Its calls keep its keys busy: that is no fault."""
    upstream = FakeUpstream()
    limits = {"concurrency": 1, "wait": 0}
    relay = Relay(
        [channel_to(upstream, key_limits=limits)],
        failover=Failover(**ONE_API, test_every=OFTEN, test_all=True),
    )
    async with relay.resources:
        channel = await live(relay)
        held = await channel.pool.take(None)
        with pytest.raises(KeysBusy):
            await check_call(channel, clock)
        await asyncio.sleep(20 * OFTEN)
        assert not conditions(relay)
        channel.pool.report(held, "ok")
        await channel.pool.remove(held, "gone")
        with pytest.raises(Unavailable):
            await check_call(channel, clock)
        await asyncio.sleep(20 * OFTEN)
        assert not conditions(relay)


async def test_a_channel_whose_models_nobody_knows_needs_a_test_model() -> None:
    upstream = FakeUpstream()
    with pytest.raises(NotSupported, match="test_model"):
        await check_call(await live(relay_to(upstream, models=["*"])), clock)
    await check_call(await live(relay_to(upstream, models=["*"], test_model="tiny")), clock)
    assert upstream.asked[0].json["model"] == "tiny"


async def test_a_channel_that_cannot_be_tested_is_named_at_the_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    known, unknown = channel_to(FakeUpstream()), channel_to(FakeUpstream(), name="b", models=["*"])
    relay = Relay([known, unknown], failover=Failover(test_every=60.0))
    async with relay.resources:
        found = [r.getMessage() for r in caplog.records if "scheduled tests" in r.getMessage()]
    assert found == [
        "scheduled tests pass by: channel 'b' has no model to test; give it a test_model"
    ]
