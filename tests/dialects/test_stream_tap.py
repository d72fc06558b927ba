"""What is read along a stream: whether it has begun, whether it is whole, what it consumed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asgi_llm_gateway.dialects.registry import DIALECTS
from asgi_llm_gateway.dialects.tap import DoneTap, Tap, unended
from asgi_llm_gateway.errors import BadAnswer, ProviderRefused
from tests.upstreams import DONE, USAGE_CHUNK, chunk, sse

STOP = chunk(finish="stop")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_chat_and_completions_end_in_done_the_others_in_a_typed_event(dialect: str) -> None:
    ends_in_done = dialect in ("openai_chat", "openai_completions")
    assert (DIALECTS[dialect].tap is DoneTap) is ends_in_done


@pytest.mark.parametrize("events", [b": a\n\n", b"\n\n", b": a\r\n\r\n: b\r\n\r\n", b"id: 1\n\n"])
def test_comments_and_fields_without_data_are_no_beginning(events: bytes) -> None:
    assert DoneTap().opening(events) is False


@pytest.mark.parametrize(
    "events",
    [sse(chunk("a")), b"\xef\xbb\xbf" + sse(chunk("a")), b": a\n\n" + sse({"choices": []})],
)
def test_a_first_event_is_a_beginning(events: bytes) -> None:
    assert DoneTap().opening(events) is True


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"message": "x"}, 502),
        ({"message": "x", "code": 429}, 429),
        ({"message": "x", "code": "429"}, 502),
        ({"message": "x", "code": 200}, 502),
        ({"message": "x", "code": 700}, 502),
        ({"message": "x", "code": True}, 502),
        ("overloaded", 502),
    ],
)
def test_an_error_first_is_a_refusal_with_the_status_it_names(error: Any, status: int) -> None:
    document = {"error": error}
    with pytest.raises(ProviderRefused) as refused:
        DoneTap().opening(sse(document))
    assert refused.value.status == status
    assert json.loads(refused.value.body) == document


@pytest.mark.parametrize("error", [None, {}, "", False])
def test_an_error_member_that_says_nothing_is_no_error(error: Any) -> None:
    assert DoneTap().opening(sse({"choices": [], "error": error})) is True


@pytest.mark.parametrize(
    "tail",
    [
        sse(STOP),
        sse(chunk("a", finish="length")),
        b'data:{"choices":[{"finish_reason" : "stop"}]}\n\n',
        sse(STOP, USAGE_CHUNK),
        sse(STOP, end=b"\r\n\r\n"),
    ],
)
def test_a_finish_reason_is_completed_by_done(tail: bytes) -> None:
    tap = DoneTap()
    assert tap.feed(tail) == tail
    assert tap.end() == DONE
    assert not tap.failed


@pytest.mark.parametrize("tail", [b"", sse(chunk("a")), sse({"choices": []}), b": x\n\n"])
def test_without_a_finish_reason_the_stream_is_cut(tail: bytes) -> None:
    tap = DoneTap()
    if tail:
        tap.feed(tail)
    assert tap.end() is None


TYPES = ["response.completed", "response.failed", "response.incomplete", "speech.audio.done"]
TYPES += ["image_generation.completed", "image_edit.completed", "transcript.text.done"]
PARTS = ["response.output_text.done", "response.output_item.done", "response.content_part.done"]
PARTS += ["response.web_search_call.completed", "response.created", "transcript.text.delta"]
PARTS += ["response.image_generation_call.completed", "response.mcp_call.failed"]


@pytest.mark.parametrize("kind", TYPES)
def test_a_terminal_event_ends_a_typed_stream(kind: str) -> None:
    tap = Tap()
    tap.feed(sse({"type": "x.delta"}))
    tap.feed(sse({"type": kind}))
    assert tap.end() == b""


@pytest.mark.parametrize("kind", PARTS)
def test_the_end_of_a_part_does_not_end_a_typed_stream(kind: str) -> None:
    tap = Tap()
    tap.feed(sse({"type": kind, "metadata": {"type": "response.completed"}}))
    assert tap.end() is None


def test_a_terminal_event_may_be_followed_by_other_things() -> None:
    tap = Tap()
    tap.feed(sse({"type": "response.completed", "response": {"usage": {"input_tokens": 2}}}) + DONE)
    assert tap.end() == b""
    usage = tap.usage()
    assert usage is not None
    assert usage.input == 2


def test_the_last_usage_that_is_not_null_counts() -> None:
    tap = DoneTap()
    tap.feed(sse(chunk("a", usage={"prompt_tokens": 1, "completion_tokens": 1})))
    tap.feed(sse(chunk("b", usage={"prompt_tokens": 1, "completion_tokens": 2})))
    tap.feed(sse(chunk(finish="stop", usage=None)) + DONE)
    usage = tap.usage()
    assert usage is not None
    assert usage.output == 2


def test_what_is_kept_of_a_long_stream_is_bounded() -> None:
    tap = DoneTap()
    for n in range(1000):
        tap.feed(sse(chunk(str(n))))
    assert sum(map(len, tap._last)) < 2000


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_only_usage_is_hidden_and_only_when_asked(end: bytes) -> None:
    events = sse(chunk("a"), STOP, end=end), sse(USAGE_CHUNK, end=end), b"data: [DONE]" + end
    assert DoneTap().feed(b"".join(events)) == b"".join(events)
    hiding = DoneTap(hide_usage=True)
    assert hiding.feed(b"".join(events)) == events[0] + events[2]
    assert hiding.usage() is not None
    assert DoneTap(hide_usage=True).feed(events[1]) == b""


@pytest.mark.parametrize(
    "event",
    [
        {"choices": [], "usage": None},
        {"choices": [], "prompt_filter_results": []},
        {"choices": [{"delta": {"content": '"choices":[]'}}], "usage": {"prompt_tokens": 1}},
    ],
)
def test_other_events_are_never_hidden(event: Any) -> None:
    assert DoneTap(hide_usage=True).feed(sse(event)) == sse(event)


@pytest.mark.parametrize(
    ("rest", "whole"),
    [
        (b"", b""),
        (b'data: {"a": 1}', b'data: {"a": 1}\n\n'),
        (b'data: {"a": 1}\n', b'data: {"a": 1}\n\n'),
        (b'data: {"a": 1}\r\n', b'data: {"a": 1}\r\n\n'),
        (b'data: {"a": 1}\r', b'data: {"a": 1}\r\n\n'),
        (b"data: [DONE]", b"data: [DONE]\n\n"),
        (b'data: {"a": ', b""),
        (b'data: {"a": \n', b""),
        (b": comment", b""),
        (b"event: x\n", b""),
        (b"data: \xff", b""),
    ],
)
def test_a_last_event_is_completed_if_it_is_all_there(rest: bytes, whole: bytes) -> None:
    assert unended(rest) == whole


def test_what_is_no_json_object_is_no_event_of_ours() -> None:
    for data in (b"null", b"5", b"[]", b"{", b'"x"', b"\xff", b'{"a":"\xff"}', b"[" * 9999):
        with pytest.raises(BadAnswer):
            DoneTap().opening(b"data: " + data + b"\n\n")
