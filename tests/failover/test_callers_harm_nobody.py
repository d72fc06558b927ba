"""What one caller asks for, or how, takes nothing away from the others."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_llm_gateway import Relay
from asgi_llm_gateway.channels.policy import Failover
from asgi_llm_gateway.channels.retrying import Backoff
from asgi_llm_gateway.errors import UpstreamTimeout
from tests.asgi import call
from tests.upstreams import (
    DONE,
    HANG,
    FakeUpstream,
    Reply,
    ask,
    ask_stream,
    called_by,
    channel_to,
    chunk,
    nothing_left,
    sse,
)

QUICK = Backoff(first=0.001, factor=1.0, cap=0.001)
TIMES = {"first_byte": 30.0, "first_token": 30.0, "total": 60.0, "idle": 30.0}
FLAGGED = {"error": {"message": "no", "type": "t", "param": None, "code": "content_filter"}}
BROKEN = {"error": {"message": "no", "type": "server_error", "param": None, "code": None}}


def relay_of(upstream: FakeUpstream, *, failover: Any = None, **config: Any) -> Relay:
    channel = channel_to(upstream, timeouts=TIMES, **config)
    return Relay([channel], failover=Failover(backoff=QUICK, **(failover or {})))


async def test_an_impatient_caller_does_not_make_a_channel_look_ill() -> None:
    upstream = FakeUpstream(Reply.stream(HANG))
    relay = relay_of(upstream)
    for _ in range(8):
        answer = await _hurried(relay)
        assert answer.status in (503, 504)
    assert len(upstream.asked) == 8
    assert relay.health.states() == []
    assert relay.health.quiet
    assert relay.channels is not None
    stats = relay.channels.by_name["main"].stats
    assert (stats.latency, stats.in_flight) == (None, 0)
    await nothing_left(relay)


async def _hurried(relay: Relay) -> Any:
    document = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    return await ask(relay, document, headers={"x-llm-first-token-timeout": "0.01"})


@pytest.mark.parametrize("phase", ["first_byte", "first_token", "total"])
@pytest.mark.parametrize(("wish", "counts"), [("5", False), ("3600", True)])
async def test_only_a_limit_of_the_channels_own_counts_against_it(
    phase: str, wish: str, counts: bool
) -> None:
    upstream = FakeUpstream(Reply.fails(UpstreamTimeout("too late", phase=phase)))
    relay = relay_of(upstream)
    for _ in range(5):
        await ask(relay, headers={"x-llm-timeout": wish})
    assert bool(relay.health.states()) is counts


@pytest.mark.parametrize("phase", ["connect", "idle"])
async def test_what_a_caller_cannot_shorten_counts_as_ever(phase: str) -> None:
    upstream = FakeUpstream(Reply.fails(UpstreamTimeout("too late", phase=phase)))
    relay = relay_of(upstream)
    for _ in range(5):
        await ask(relay, headers={"x-llm-timeout": "5"})
    assert relay.health.states()


async def test_a_stream_cut_by_the_callers_own_limit_counts_for_nothing() -> None:
    cut = UpstreamTimeout("too late", phase="total")
    upstream = FakeUpstream(Reply.stream(sse(chunk("a")), cut))
    relay = relay_of(upstream)
    for _ in range(6):
        document = {"model": "m", "messages": [1], "stream": True}
        answer = await ask(relay, document, headers={"x-llm-timeout": "5"})
        assert answer.exchange.outcome == "truncated"
    assert relay.health.quiet


async def test_a_hurried_call_still_goes_elsewhere() -> None:
    slow, quick = (
        FakeUpstream(Reply.stream(HANG)),
        FakeUpstream(Reply.stream(sse(chunk("a", finish="stop")), DONE)),
    )
    relay = Relay(
        [
            channel_to(slow, timeouts=TIMES, priority=1),
            channel_to(quick, name="other", timeouts=TIMES),
        ]
    )
    answer = await _hurried(relay)
    assert answer.status == 200
    assert [a.outcome for a in answer.exchange.attempts] == ["failed", "ok"]


@pytest.mark.parametrize("recovery", ["error", "buffer", "splice"])
async def test_a_refusal_in_mid_stream_is_judged_by_its_words(recovery: str) -> None:
    upstream = FakeUpstream(Reply.stream(sse(chunk("a"), FLAGGED)))
    other = FakeUpstream()
    relay = Relay(
        [
            channel_to(upstream, keys=["sk-one-11111111", "sk-two-22222222"], priority=1),
            channel_to(other, name="other"),
        ],
        failover=Failover(stream_recovery=recovery, backoff=QUICK),
    )
    for n in range(1, 8):
        answer = await ask_stream(relay)
        assert len(answer.exchange.attempts) == 1
        assert len(upstream.asked) == n
        assert b"error" in answer.body
        assert not answer.body.endswith(DONE)
    assert not other.asked
    assert relay.health.quiet
    await nothing_left(relay)


async def test_a_fault_in_mid_stream_counts_as_one() -> None:
    relay = relay_of(FakeUpstream(Reply.stream(sse(chunk("a"), BROKEN))))
    for _ in range(5):
        await ask_stream(relay)
    assert [(s.channel, s.model, s.condition) for s in relay.health.states()] == [
        ("main", "m", "open")
    ]


async def test_what_is_kept_of_a_refusal_in_mid_stream_does_not_hold_the_key() -> None:
    said = {"error": {"message": "bad: sk-provider-1111", "code": "c", "type": "t"}}
    relay = relay_of(FakeUpstream(Reply.stream(sse(chunk("a"), said))))
    answer = await ask_stream(relay)
    failure: Any = answer.exchange.attempts[0].failure
    assert b"sk-provider-1111" not in failure.body
    assert b"[key]" in failure.body


@pytest.mark.parametrize("status", [401, 402, 403, 404, 500, 503])
async def test_no_path_a_caller_can_think_of_takes_keys_or_channels_out(status: int) -> None:
    strange = Reply.error(status, "not with this kind of key", code=None)

    def replies(asked: Any) -> Reply:
        return strange if "strange" in asked.request.target else Reply.chat()

    upstream = FakeUpstream(replies)
    relay = relay_of(upstream, keys=[f"sk-key-number-{n}" for n in range(5)], passthrough=True)
    app = called_by(relay)
    for _ in range(8):
        answer = await call(app, "GET", "/v1/strange/path")
        assert answer.status in (404, 500, 503)
    assert relay.health.quiet
    assert relay.channels is not None
    pool = relay.channels.by_name["main"].pool
    assert len(await pool.all()) == 5
    assert {(await ask(app)).status for _ in range(5)} == {200}
    assert len(set(upstream.keys[-5:])) > 1


async def test_a_key_that_is_wrong_by_the_providers_own_words_goes_on_any_path() -> None:
    upstream = FakeUpstream(Reply.error(401, code="invalid_api_key"), Reply.json({"id": 1}))
    relay = relay_of(upstream, keys=["sk-one-11111111", "sk-two-22222222"], passthrough=True)
    answer = await call(called_by(relay), "GET", "/v1/files")
    assert answer.status == 200
    assert relay.channels is not None
    assert len(await relay.channels.by_name["main"].pool.all()) == 1


@pytest.mark.parametrize("status", [400, 404, 413, 422])
async def test_calls_that_cannot_be_served_harm_no_channel(status: int) -> None:
    upstream = FakeUpstream(Reply.error(status))
    relay = relay_of(upstream)
    for _ in range(30):
        await ask(relay)
    assert relay.health.quiet


async def test_models_nobody_has_are_held_against_themselves_only() -> None:
    def replies(asked: Any) -> Reply:
        model = asked.json["model"]
        return Reply.chat() if model == "m" else Reply.error(404, code="model_not_found")

    relay = relay_of(FakeUpstream(replies))
    for n in range(1500):
        await ask(relay, {"model": f"nobody-has-{n % 1200}", "messages": [1]})
    for _ in range(6):
        await ask(relay, {"model": "nobody-has-1", "messages": [1]})
    assert (await ask(relay)).status == 200
    assert {s.model for s in relay.health.states()} <= {f"nobody-has-{n}" for n in range(1200)}
    assert len(relay.health._entries) <= 1024
