"""One record per call: found by all, read anew below a mount, kept free of secrets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asgi_llm_gateway.errors import AuthenticationFailed
from asgi_llm_gateway.exchange import SCOPE_KEY, Attempt, Caller, Exchange, Snapshot
from asgi_llm_gateway.exchange.caller import matches
from asgi_llm_gateway.runtime import Tasks
from asgi_llm_gateway.wire.usage import Usage


def scope(path: str = "/v1/chat/completions", root_path: str = "", **headers: str) -> Any:
    pairs = [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in headers.items()]
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "root_path": root_path,
        "headers": pairs,
    }


def test_the_scopes_exchange_is_found_again_and_survives_a_copy() -> None:
    outer = scope()
    exchange = Exchange.of(outer)
    assert Exchange.of(outer) is exchange
    assert Exchange.of(dict(outer)) is exchange
    assert outer[SCOPE_KEY] is exchange


def test_the_endpoint_is_read_anew_below_a_mount() -> None:
    outer = scope("/llm/v1/chat/completions")
    exchange = Exchange.of(outer)
    before = exchange.endpoint
    inner = {**outer, "root_path": "/llm/v1"}
    assert Exchange.of(inner) is exchange
    assert exchange.endpoint == before
    moved = {**outer, "path": "/llm/v1/embeddings"}
    assert Exchange.of(moved).endpoint.name == "embeddings"


def test_ids_are_ours_128_bits_and_stay_the_same() -> None:
    first, second = Exchange.of(scope()), Exchange.of(scope())
    assert first.id == first.id != second.id
    assert len(bytes.fromhex(first.id)) == 16


@pytest.mark.parametrize("given", ["abc-123", "x" * 200])
def test_a_harmless_request_id_is_echoed(given: str) -> None:
    asked = scope(x_request_id=given)
    exchange = Exchange.of(asked)
    assert exchange.request_id == given
    assert exchange.id != given


@pytest.mark.parametrize("given", ["", "x" * 201, "a b", "a\r\nx: y", "a\x00", "\xe9", "a\x7f"])
def test_any_other_request_id_is_replaced_by_ours(given: str) -> None:
    asked = scope(x_request_id=given)
    exchange = Exchange.of(asked)
    assert exchange.request_id == exchange.id


@pytest.mark.parametrize(
    ("path", "root_path", "concerned"),
    [
        ("/v1/chat/completions", "", True),
        ("/v1beta/models", "", True),
        ("/v1", "", True),
        ("/v1/../admin", "", True),
        ("/v10/chat/completions", "", False),
        ("/api/messages", "", False),
        ("/messages", "", False),
        ("/V1/chat/completions", "", False),
        ("/v1/chat/completions", "/v1", True),
        ("/llm/v1/chat/completions", "/llm/v1", True),
        ("/llm/v1/chat/completions", "/llm", True),
        ("/llm/v1/chat/completions", "", False),
        ("/app/api/messages", "/app", False),
    ],
)
def test_on_a_hosts_app_a_part_acts_only_below_its_prefixes(
    path: str, root_path: str, concerned: bool
) -> None:
    asked = scope(path, root_path)
    assert Exchange.of(asked).concerns(asked) == concerned


def test_prefixes_can_be_set_and_inside_a_gateway_every_path_is_ours() -> None:
    asked = scope("/llm/v1/chat/completions")
    exchange = Exchange.of(asked)
    assert exchange.concerns(asked, ("/llm/v1",))
    assert not exchange.concerns(asked, ("/other",))
    exchange.everything_ours = True
    assert exchange.concerns(asked, ("/other",))


def test_a_part_that_needs_a_caller_names_the_line_to_change() -> None:
    exchange = Exchange.of(scope())
    with pytest.raises(AuthenticationFailed, match="QuotaMiddleware with anonymous=True") as caught:
        exchange.require_caller("QuotaMiddleware")
    assert caught.value.code == "caller_required"
    exchange.caller = Caller("alice", "hash")
    assert exchange.require_caller("QuotaMiddleware").name == "alice"


def test_an_exchange_keeps_the_snapshot_it_first_held() -> None:
    words, prices = Snapshot(("a",)), Snapshot({"m": 1})
    early, late = Exchange.of(scope()), Exchange.of(scope())
    assert early.hold(words) == ("a",)
    assert words.swap(("b",)) == ("a",)
    assert early.hold(words) == ("a",)
    assert late.hold(words) == ("b",)
    assert early.hold(prices) == {"m": 1}


def test_a_snapshot_that_is_gone_does_not_lend_its_value_to_another() -> None:
    exchange = Exchange.of(scope())
    for number in range(100):
        assert exchange.hold(Snapshot(number)) == number


def test_usage_is_read_when_first_asked_for_and_only_once() -> None:
    exchange = Exchange.of(scope())
    asked: list[int] = []

    def source() -> Usage:
        asked.append(1)
        return Usage(input=3)

    exchange.usage_from(source)
    assert asked == []
    assert exchange.usage == exchange.usage == Usage(input=3)
    assert asked == [1]
    exchange.usage_from(source)
    exchange.usage = None
    assert exchange.usage is None
    assert asked == [1]


def test_the_record_has_the_last_attempt_and_no_secret() -> None:
    asked = scope(x_request_id="r-1")
    exchange = Exchange.of(asked)
    assert exchange.request_id == "r-1"
    exchange.caller = Caller("alice", "hash", group="vip", extra={"secret": "sk-1"})
    exchange.model, exchange.outcome, exchange.usage = "m", "ok", Usage(output=1)
    exchange.attempts = [
        Attempt(1, "first", "openai", "m1", "k1", 0.0),
        Attempt(2, "second", "openai", "m2", "k2", 1.0),
    ]
    record = exchange.record()
    assert (record.channel, record.attempts, record.caller) == ("second", 2, "alice")
    assert (record.group, record.request_id, record.endpoint) == ("vip", "r-1", "chat")
    assert record.usage == exchange.attempts[-1].usage == Usage(output=1)
    assert "sk-1" not in repr(record)
    empty = Exchange.of(scope()).record()
    assert (empty.outcome, empty.channel, empty.attempts, empty.caller) == (
        "unknown",
        None,
        0,
        None,
    )


async def test_settling_is_kept_by_the_gateways_tasks_under_a_double_cancel() -> None:
    exchange, settled = Exchange.of(scope()), asyncio.Event()
    exchange.tasks = tasks = Tasks()

    async def give_back() -> None:
        await asyncio.sleep(0.01)
        settled.set()

    async def call() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await exchange.settle(give_back())

    task = asyncio.ensure_future(call())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not settled.is_set()
    await tasks.join(5.0)
    assert settled.is_set()


async def test_without_a_gateway_settling_is_kept_all_the_same() -> None:
    settled = asyncio.Event()

    async def give_back() -> str:
        await asyncio.sleep(0)
        settled.set()
        return "given"

    assert await Exchange.of(scope()).settle(give_back()) == "given"
    task = asyncio.ensure_future(Exchange.of(scope()).settle(give_back()))
    settled.clear()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait_for(settled.wait(), 5)


@pytest.mark.parametrize(
    ("model", "globs", "allowed"),
    [
        ("gpt-4o", ("gpt-*",), True),
        ("org/gpt-4o", ("org/*",), True),
        ("org/a/b", ("org*",), True),
        ("GPT-4o", ("gpt-*",), False),
        ("gpt-4o", (), False),
        ("weird[name]", ("weird[name]",), True),
    ],
)
def test_models_match_by_globs_where_case_counts_and_star_spans_slashes(
    model: str, globs: tuple[str, ...], allowed: bool
) -> None:
    assert matches(model, globs) == allowed
    assert Caller("a", "h", models=globs).may_use(model) == allowed
    assert Caller("a", "h").may_use(model)
