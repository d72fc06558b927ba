"""Going on with a stream that was cut: any text, any cut, any way of cutting it into events."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asgi_llm_gateway.dialects.splicing import Continuation, Diverged
from asgi_llm_gateway.wire.sse import WholeEvents
from tests.dialects.splices import continued, documents, heard, said, sent
from tests.upstreams import DONE, USAGE, chunk, sse

STOP = chunk(finish="stop")
FIELDS = ("content", "reasoning_content")


def cut_up(data: st.DataObject, text: str) -> list[str]:
    """The text in pieces, some of them empty."""
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


def streamed(data: st.DataObject, texts: list[dict[str, str]], ident: str) -> bytes:
    """An answer whose choices say these texts, field after field, as some provider streams it."""
    role = {"role": "assistant", "content": ""}
    queues = []
    for index, fields in enumerate(texts):
        pieces = [{name: p} for name in reversed(FIELDS) for p in cut_up(data, fields[name])]
        queue = [said(delta, index=index, id=ident) for delta in (role, *pieces)]
        queues.append([*queue, said({}, index=index, finish="stop", id=ident)])
    merged = []
    while queues:  # choices come interleaved, each in its own order
        at = data.draw(st.integers(0, len(queues) - 1))
        merged.append(queues[at].pop(0))
        queues = [queue for queue in queues if queue]
    usage = {"id": ident, "choices": [], "usage": USAGE}
    return sse(*merged, usage) + DONE


surrogate_free = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(
    st.lists(st.fixed_dictionaries(dict.fromkeys(FIELDS, surrogate_free)), min_size=1, max_size=2),
    st.data(),
)
def test_the_spliced_stream_says_what_the_uncut_one_says(
    texts: list[dict[str, str]], data: st.DataObject
) -> None:
    first, second = streamed(data, texts, "c1"), streamed(data, texts, "x9")
    cut = data.draw(st.integers(0, len(first) - len(DONE)))
    forwarded = WholeEvents().feed(first[:cut])  # a caller is sent whole events only
    so_far = sent(forwarded)
    continuation, whole = Continuation(so_far), WholeEvents()
    size = data.draw(st.integers(1, 400))
    out = b""
    for at in range(0, len(second), size):
        if events := whole.feed(second[at : at + size]):
            out += continuation.feed(events)
    continuation.end()

    assert heard(forwarded + out) == heard(first)
    assert {d["id"] for d in documents(out)} <= {"c1" if forwarded else "x9"}


@given(st.text("ab", min_size=1, max_size=8), st.text("ab", max_size=12), st.data())
@example("a", "ab", None)
def test_a_restart_is_taken_exactly_when_it_begins_with_what_was_sent(
    first: str, second: str, data: st.DataObject | None
) -> None:
    pieces = [second] if data is None else cut_up(data, second)
    restart = sse(*map(chunk, pieces), STOP)
    if second.startswith(first):
        out = continued(sse(chunk(first)), restart)
        assert first + heard(out)["choices"][0].get("content", "") == second
    else:
        with pytest.raises(Diverged):
            continued(sse(chunk(first)), restart)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | st.sampled_from(["", "a", "ab", "stop"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "index",
                    "delta",
                    "content",
                    "role",
                    "finish_reason",
                    "error",
                    "id",
                    "text",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(st.lists(json_values, max_size=3), st.lists(json_values, max_size=3))
@example([{"choices": [{"delta": {"content": "a"}}]}], [{"choices": [{"delta": {"content": "a"}}]}])
def test_whatever_a_provider_sends_continues_or_diverges(first: Any, second: Any) -> None:
    for dialect in ("openai_chat", "openai_completions"):
        so_far = sent(sse(*copy.deepcopy(first)), dialect)
        if so_far.can_continue:
            continuation = Continuation(so_far)
            try:
                out = continuation.feed(sse(*second))
                continuation.end()
            except Diverged:
                continue
            assert all(isinstance(document, dict) for document in documents(out))
