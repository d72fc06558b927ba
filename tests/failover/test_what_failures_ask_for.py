"""Where a failed call goes is what its failures ask for, and the caller is told what is its own."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_llm_gateway import Relay
from asgi_llm_gateway.channels.policy import Failover
from asgi_llm_gateway.channels.retrying import Backoff
from tests.upstreams import ASK, FakeUpstream, Reply, ask, channel_to

QUICK = Backoff(first=0.001, factor=1.0, cap=0.001)
LISTS: dict[str, Any] = {
    "fallback_models": {"m": ["any-1"]},
    "context_fallbacks": {"m": ["long-1"]},
    "content_fallbacks": {"m": ["frank-1"]},
}


def by_model(first: Reply) -> FakeUpstream:
    """Answers `first` for the model m, and well for every other."""
    return FakeUpstream(lambda asked: first if asked.json["model"] == "m" else Reply.chat())


def models(upstream: FakeUpstream) -> list[str]:
    return [asked.json["model"] for asked in upstream.asked]


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        ({}, ["m", "any-1"]),
        ({"fallback": "context"}, ["m", "long-1"]),
        ({"fallback": "content"}, ["m", "frank-1"]),
        ({"fallback": ""}, ["m"]),
    ],
)
async def test_a_row_says_which_list_is_gone_on_with(row: dict[str, Any], asked: list[str]) -> None:
    upstream = by_model(Reply.error(418))
    rules = [{"status": 418, "elsewhere": True, "fallback": "any", **row}]
    relay = Relay([channel_to(upstream)], failover=Failover(**LISTS, error_rules=rules))
    answer = await ask(relay)
    assert models(upstream) == asked
    assert answer.status == (418 if len(asked) == 1 else 200)


async def test_a_prompt_too_large_for_every_key_goes_to_a_model_with_more_room() -> None:
    upstream = by_model(Reply.error(413, "Request too large for m in organization o"))
    keys = ["sk-one-11111111", "sk-two-22222222"]
    relay = Relay([channel_to(upstream, keys=keys)], failover=Failover(**LISTS))
    assert (await ask(relay)).header("x-llm-fallback") == "long-1"
    assert models(upstream) == ["m", "m", "long-1"]


async def test_of_several_failures_one_that_any_model_may_mend_decides() -> None:
    large = FakeUpstream(Reply.error(413, "Request too large for m in organization o"))
    busy = by_model(Reply.error(429))
    channels = [channel_to(large, priority=1, models=["m"]), channel_to(busy, name="busy")]
    relay = Relay(channels, failover=Failover(**LISTS))
    assert (await ask(relay)).header("x-llm-fallback") == "any-1"


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (Reply.error(403, "Your input was flagged", code="content_filter"), 403),
        (Reply.error(403, "no"), 503),
        (Reply.error(401, "no"), 503),
        (Reply.error(402, "no"), 503),
    ],
)
async def test_a_refusal_of_the_callers_words_is_told_and_one_of_our_keys_is_not(
    refusal: Reply, told: int
) -> None:
    answer = await ask(Relay([channel_to(FakeUpstream(refusal))]))
    assert answer.status == told
    assert (b"flagged" in answer.body) is (told == 403)


async def test_a_models_own_limits_hold_under_the_name_callers_use() -> None:
    upstream = FakeUpstream()
    channel = channel_to(
        upstream,
        models=["deploy-*"],
        model_mapping={"o1": "deploy-7"},
        model_timeouts={"o1": {"first_byte": 7.0}, "deploy-*": {"first_byte": 3.0}},
    )
    relay = Relay([channel])
    for model, limit in (("o1", 7.0), ("deploy-7", 3.0)):
        await ask(relay, {**ASK, "model": model})
        assert upstream.asked[-1].json["model"] == "deploy-7"
        assert upstream.asked[-1].request.timeouts.first_byte == limit


async def test_an_alias_passes_by_a_model_that_cannot_serve_the_endpoint() -> None:
    upstream = FakeUpstream()
    channels = [
        channel_to(FakeUpstream(), name="chat", provider="deepseek", models=["talker"]),
        channel_to(upstream, models=["embedder"]),
    ]
    relay = Relay(channels, aliases={"both": ["talker", "embedder"]})
    answer = await ask(relay, {"model": "both", "input": "x"}, path="/v1/embeddings")
    assert upstream.asked[0].json["model"] == "embedder"
    assert answer.exchange.attempts[0].channel == "main"


async def test_a_fallbacks_name_makes_no_header_of_its_own() -> None:
    evil = "b\r\nset-cookie: a=b\x00é漢"
    upstream = by_model(Reply.error(503))
    failover = Failover(fallback_models={"m": [evil]}, backoff=QUICK)
    answer = await ask(Relay([channel_to(upstream)], failover=failover))
    assert answer.status == 200
    assert answer.header("set-cookie") is None
    shown = answer.header("x-llm-fallback")
    assert shown is not None
    assert not set(shown) & set("\r\n\0")


async def test_a_fallback_may_be_an_alias() -> None:
    upstream = FakeUpstream(
        lambda asked: Reply.chat() if asked.json["model"] == "last" else Reply.error(503)
    )
    failover = Failover(fallback_models={"m": ["others"]}, backoff=QUICK, max_attempts=1)
    aliases = {"others": ["one", "more"], "more": ["m", "last"], "last": ["last", "never"]}
    answer = await ask(Relay([channel_to(upstream)], aliases=aliases, failover=failover))
    assert models(upstream) == ["m", "one", "last"]
    assert answer.header("x-llm-fallback") == "last"


async def test_aliases_and_fallbacks_that_lead_back_end() -> None:
    upstream = FakeUpstream(Reply.error(503))
    lists = {"m": ["a"], "n": ["a", "m"], "a": ["m"]}
    failover = Failover(fallback_models=lists, backoff=QUICK, max_attempts=1)
    answer = await ask(Relay([channel_to(upstream)], aliases={"a": ["m", "n"]}, failover=failover))
    assert answer.status == 503
    assert models(upstream) == ["m", "n"]
