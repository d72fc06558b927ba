"""`n` above 1: chunks of several choices come mixed, and each ends by its own finish reason."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_llm_gateway import Failover, Relay
from asgi_llm_gateway.errors import ConnectionLost
from tests.upstreams import (
    ASK,
    DONE,
    USAGE_CHUNK,
    FakeUpstream,
    Reply,
    ask,
    ask_stream,
    channel_to,
    chunk,
    nothing_left,
    relay_to,
    sse,
)


def of(index: Any, text: str = "", *, finish: str | None = None) -> dict[str, Any]:
    """A chunk of one of several choices."""
    made = chunk(text, finish=finish)
    made["choices"][0]["index"] = index
    return made


def told(answer: Any) -> str:
    return str(answer.exchange.outcome)


ONE_ENDED = [of(0, "a"), of(1, "b"), of(0, finish="stop")]
LONG = [of(1, "more")] * 20
BOTH_ENDED = [*ONE_ENDED, *LONG, of(1, finish="length")]


async def test_one_finished_choice_of_two_is_no_whole_answer() -> None:
    relay = relay_to(FakeUpstream(Reply.stream(*[sse(c) for c in ONE_ENDED])))
    answer = await ask_stream(relay, n=2)
    assert told(answer) == "truncated"
    assert DONE not in answer.body
    assert b'"error"' in answer.body
    await nothing_left(relay)


async def test_nor_is_it_when_the_connection_is_lost() -> None:
    cut = Reply.stream(sse(*ONE_ENDED), ConnectionLost("reset"))
    answer = await ask_stream(relay_to(FakeUpstream(cut)), n=2)
    assert told(answer) == "truncated"
    assert DONE not in answer.body


@pytest.mark.parametrize("tail", [[], [USAGE_CHUNK]])
async def test_when_each_choice_has_finished_the_terminator_is_supplied(tail: list[Any]) -> None:
    """However long before the end the first of them was."""
    relay = relay_to(FakeUpstream(Reply.stream(*[sse(c) for c in BOTH_ENDED + tail])))
    answer = await ask_stream(relay, n=2, stream_options={"include_usage": True})
    assert told(answer) == "ok"
    assert answer.body == sse(*BOTH_ENDED, *tail) + DONE


async def test_done_ends_it_whatever_was_finished() -> None:
    """A provider that knows no `n` sends one choice; what it ends is ended."""
    relay = relay_to(FakeUpstream(Reply.stream(sse(chunk("a"), chunk(finish="stop")), DONE)))
    answer = await ask_stream(relay, n=4)
    assert told(answer) == "ok"
    assert answer.body.endswith(DONE)


async def test_a_choice_that_finishes_twice_is_one() -> None:
    events = [of(0, "a"), of(0, finish="stop"), of(0, finish="stop"), of(7, finish="stop")]
    assert told(await ask_stream(relay_to(FakeUpstream(Reply.stream(sse(*events)))), n=2)) == (
        "truncated"
    )


@pytest.mark.parametrize("index", ["1", None, [], {}, -1, 1.5, True])
async def test_a_strange_index_harms_nobody(index: Any) -> None:
    events = [of(0, "a"), of(index, finish="stop"), of(0, finish="stop")]
    answer = await ask_stream(relay_to(FakeUpstream(Reply.stream(sse(*events)))), n=3)
    assert told(answer) == "truncated"


@pytest.mark.parametrize("n", [None, 1, 0, -3])
async def test_one_answer_is_whole_with_its_finish_reason(n: int | None) -> None:
    relay = relay_to(FakeUpstream(Reply.stream(sse(chunk("a"), chunk(finish="stop")))))
    answer = await ask_stream(relay, **({} if n is None else {"n": n}))
    assert told(answer) == "ok"
    assert answer.body.endswith(DONE)


async def test_a_completion_of_several_prompts_has_as_many_answers() -> None:
    def text(index: int, finish: str | None = None) -> dict[str, Any]:
        return {"id": "x", "choices": [{"index": index, "text": "t", "finish_reason": finish}]}

    asked = {"model": "m", "prompt": ["one", "two"], "stream": True}
    some = [text(0), text(1), text(0, "stop")]
    for prompt, events, outcome in [
        (["one", "two"], some, "truncated"),
        (["one", "two"], [*some, text(1, "stop")], "ok"),
        ([[1, 2], [3]], some, "truncated"),
        (["one"], [text(0, "stop")], "ok"),
        ([1, 2, 3], [text(0, "stop")], "ok"),
        ("one", [text(0, "stop")], "ok"),
    ]:
        relay = relay_to(FakeUpstream(Reply.stream(sse(*events))))
        answer = await ask(relay, {**asked, "prompt": prompt}, "/v1/completions")
        assert told(answer) == outcome
    both = relay_to(FakeUpstream(Reply.stream(sse(text(0, "stop"), text(1, "stop")))))
    answer = await ask(both, {**asked, "n": 2}, "/v1/completions")
    assert told(answer) == "truncated"


@pytest.mark.parametrize("recovery", ["buffer", "splice"])
async def test_a_choice_that_was_cut_is_recovered(recovery: str) -> None:
    cut = Reply.stream(*[sse(c) for c in ONE_ENDED])
    whole = Reply.stream(*[sse(c) for c in [*ONE_ENDED, of(1, finish="stop")]])
    upstream = FakeUpstream(cut, whole)
    relay = Relay(
        [channel_to(upstream), channel_to(upstream, name="other")],
        failover=Failover(stream_recovery=recovery),
    )
    answer = await ask(relay, {**ASK, "stream": True, "n": 2})
    assert told(answer) == "ok"
    assert answer.body.endswith(DONE)
    assert answer.body.replace(b" ", b"").count(b'"finish_reason":"stop"') == 2
    assert len(upstream.asked) == 2
    await nothing_left(relay)
