"""Going on with a stream that was cut: what continues, what diverges, what cannot be known."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_llm_gateway.dialects.registry import DIALECTS
from asgi_llm_gateway.dialects.splicing import Continuation, Diverged, SentSoFar, can_splice
from asgi_llm_gateway.errors import GatewayError
from tests.dialects.splices import continued, documents, heard, said, sent
from tests.upstreams import DONE, USAGE, chunk, sse

STOP = chunk(finish="stop")
TOOL_CALL = {"index": 0, "id": "t1", "type": "function", "function": {"name": "f"}}
AUDIO = {"id": "a1", "data": "UklG"}


def written(text: str, finish: str | None = None) -> dict[str, Any]:
    """A chunk of a legacy completion."""
    return {"id": "c1", "choices": [{"index": 0, "text": text, "finish_reason": finish}]}


# What continues


def test_what_was_sent_is_swallowed_and_the_rest_passed_on() -> None:
    stream = sse(chunk("one"), chunk(" two"), chunk(" three"), STOP) + DONE
    out = continued(sse(chunk("one"), chunk(" two")), stream)
    assert documents(out) == [chunk(" three"), STOP]
    assert out.endswith(DONE)


def test_an_event_is_split_where_the_caller_was_left() -> None:
    out = continued(sse(chunk("The sky is b")), sse(chunk("The sky"), chunk(" is blue"), STOP))
    assert heard(out)["choices"][0]["content"] == "lue"


def test_chunks_keep_the_id_time_and_model_of_the_first_stream() -> None:
    first = said({"content": "a"}) | {"id": "c1", "created": 1, "model": "gpt-a"}
    second = said({"content": "ab"}) | {"id": "x9", "created": 7, "model": "gpt-b", "extra": 1}
    last = {"id": "x9", "created": 7, "model": "gpt-b", "choices": [], "usage": USAGE}
    out = documents(continued(sse(first), sse(second, last)))
    assert [(d["id"], d["created"], d["model"]) for d in out] == [("c1", 1, "gpt-a")] * 2
    assert out[0]["extra"] == 1
    assert out[1]["usage"] == USAGE


def test_an_id_that_says_nothing_is_not_the_id_of_a_stream() -> None:
    azure = {"id": "", "model": "", "created": 0, "choices": [], "prompt_filter_results": []}
    out = documents(
        continued(sse(azure, said({"content": "a"})), sse(azure, said({"content": "ab"}, id="x")))
    )
    assert [d["id"] for d in out] == ["c1"]


def test_a_role_is_told_once() -> None:
    role = said({"role": "assistant", "content": ""})
    every = [said({"role": "assistant", "content": text}) for text in "abc"]
    out = continued(sse(role, every[0]), sse(role, *every))
    assert heard(out)["choices"][0] == {"content": "bc"}


def test_a_stream_cut_before_its_role_gets_it_from_the_restart() -> None:
    comment = b": waiting\n\n"
    out = continued(comment, sse(said({"role": "assistant", "content": ""}), chunk("a")))
    assert heard(out)["choices"][0] == {"role": "assistant", "content": "a"}


def test_reasoning_is_compared_like_any_other_text() -> None:
    thought = [said({"reasoning_content": "I th"}), said({"reasoning_content": "ink"})]
    out = continued(sse(thought[0]), sse(*thought, chunk("so"), STOP))
    assert heard(out)["choices"][0] == {
        "reasoning_content": "ink",
        "content": "so",
        "finish_reason": "stop",
    }


def test_a_provider_that_names_its_reasoning_twice_is_continued() -> None:
    twice = [said({"reasoning": text, "reasoning_content": text}) for text in ("ab", "c", "abcd")]
    out = continued(sse(*twice[:2]), sse(twice[2]))
    assert heard(out)["choices"][0] == {"reasoning": "d", "reasoning_content": "d"}


def test_each_choice_goes_on_from_its_own_place() -> None:
    first = sse(said({"content": "left"}), said({"content": "r"}, index=1))
    both = said({"content": "left on"})
    both["choices"].append({"index": 1, "delta": {"content": "ri"}, "finish_reason": None})
    out = continued(first, sse(both, said({"content": "ght"}, index=1)))
    assert [c["content"] for c in heard(out)["choices"].values()] == [" on", "ight"]


def test_a_choice_of_which_nothing_was_sent_passes_whole() -> None:
    new = said({"role": "assistant", "content": "b"}, index=1)
    assert documents(continued(sse(chunk("a")), sse(chunk("a"), new))) == [new]


def test_a_choice_that_had_ended_is_not_ended_twice() -> None:
    first = sse(chunk("a", finish="stop"), said({"content": "b"}, index=1))
    second = sse(chunk("a", finish="stop"), said({"content": "bc"}, index=1, finish="stop"))
    out = heard(continued(first, second))
    assert out["choices"] == {1: {"content": "c", "finish_reason": "stop"}}


def test_a_tool_call_after_the_text_that_was_sent_passes() -> None:
    call = said({"tool_calls": [TOOL_CALL]})
    assert documents(continued(sse(chunk("I look")), sse(chunk("I look"), call))) == [call]


def test_log_probabilities_of_a_split_event_are_left_out() -> None:
    whole = chunk("abc")
    whole["choices"][0]["logprobs"] = {"content": [{"token": "abc"}]}
    out = documents(continued(sse(chunk("a")), sse(whole, whole)))
    assert [d["choices"][0]["logprobs"] for d in out] == [None, {"content": [{"token": "abc"}]}]


def test_comments_pass_so_that_they_go_on_keeping_a_connection_open() -> None:
    continuation = Continuation(sent(sse(chunk("a"))))
    assert continuation.feed(b": processing\n\n") == b": processing\n\n"
    assert not continuation.caught_up


def test_legacy_completions_go_on_too() -> None:
    out = continued(
        sse(written("Once u")),
        sse(written("Once"), written(" upon"), written("", finish="length")) + DONE,
        "openai_completions",
    )
    assert heard(out)["choices"][0] == {"text": "pon", "finish_reason": "length"}


def test_a_restart_that_is_cut_too_is_gone_on_with_by_a_third() -> None:
    so_far = sent(sse(chunk("ab")))
    for restart, rest in (("abcd", "cd"), ("abcdef", "ef")):
        out = Continuation(so_far).feed(sse(chunk(restart)))
        assert heard(out)["choices"][0]["content"] == rest
        so_far.feed(out)
    assert documents(Continuation(so_far).feed(sse(chunk("abcdef"), STOP))) == [STOP]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_events_end_in_whatever_way(line_end: bytes) -> None:
    first, second = sse(chunk("a"), end=line_end * 2), sse(chunk("ab"), STOP, end=line_end * 2)
    assert heard(continued(first, second))["choices"][0]["content"] == "b"


def test_events_that_cannot_be_read_are_left_out_and_counted() -> None:
    continuation = Continuation(sent(sse(chunk("a"))))
    bad = b'data: {"choices": [{"del\n\n' + b"data: []\n\n" + sse({"choices": 3}, {"choices": [1]})
    out = continuation.feed(bad + b"data:\n\n" + sse(chunk("ab")))
    assert heard(out)["choices"][0]["content"] == "b"
    assert continuation.skipped == 4


# What diverges


DIVERGING = {
    "another text": sse(chunk("Hello you")),
    "another beginning": sse(chunk("hello")),
    "ends too early": sse(chunk("Hel"), STOP) + DONE,
    "finishes too early": sse(chunk("Hel", finish="stop")),
    "done too early": sse(chunk("Hel")) + DONE,
    "done at once": DONE,
    "breaks off": sse(chunk("Hel")),
    "says nothing": b"",
    "fails": sse(chunk("Hel"), {"error": {"message": "no"}}),
    "fails by name": b'event: error\ndata: {"message": "no"}\n\n',
    "calls a tool first": sse(chunk("Hel"), said({"tool_calls": [TOOL_CALL]})),
    "thinks first": sse(said({"reasoning": "hm"}), chunk("Hello w")),
    "another choice": sse(said({"content": "Hello world"}, index=1)),
    "in parts": sse(said({"content": [{"type": "text", "text": "Hello w"}]})),
}


@pytest.mark.parametrize("name", DIVERGING)
def test_a_restart_that_does_not_repeat_what_was_sent_diverges(name: str) -> None:
    with pytest.raises(Diverged) as diverged:
        continued(sse(chunk("Hello w")), DIVERGING[name])
    assert isinstance(diverged.value, GatewayError)
    assert diverged.value.status == 502
    assert "Hel" not in diverged.value.message


@pytest.mark.parametrize("second", [chunk("abc"), chunk("ab", finish="length")])
def test_nothing_new_comes_after_an_end_that_was_told(second: Any) -> None:
    with pytest.raises(Diverged):
        continued(sse(chunk("ab", finish="stop")), sse(second))


def test_an_error_after_the_place_of_the_cut_is_passed_on_word_for_word() -> None:
    error = sse({"error": {"message": "overloaded"}})
    assert continued(sse(chunk("a")), sse(chunk("ab")) + error).endswith(error)


# What cannot be continued


@pytest.mark.parametrize("dialect", DIALECTS)
def test_chat_and_completions_can_be_spliced_and_no_others(dialect: str) -> None:
    possible = dialect in ("openai_chat", "openai_completions")
    assert can_splice(dialect) is possible
    if not possible:
        with pytest.raises(ValueError, match=dialect):
            SentSoFar(dialect)


@pytest.mark.parametrize(
    "event",
    [
        sse(said({"tool_calls": [TOOL_CALL]})),
        sse(said({"function_call": {"name": "f"}})),
        sse(said({"audio": AUDIO})),
        sse(said({"content": [{"type": "text", "text": "a"}]})),
        sse(said({"reasoning_details": [{"data": "opaque"}]})),
        sse({"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": {"content": []}}]}),
        sse({"error": {"message": "overloaded"}}),
        sse({"choices": "none"}),
        sse({"choices": [{"index": "0", "delta": {}}]}),
        sse({"choices": [{"index": 0, "delta": "a"}]}),
        b'event: error\ndata: {"message": "no"}\n\n',
        b"data: no JSON\n\n",
        DONE,
    ],
)
def test_what_is_not_text_cannot_be_continued(event: bytes) -> None:
    so_far = sent(sse(chunk("a")) + event + sse(chunk("b")))
    assert so_far.can_continue is False
    so_far.feed(sse(chunk("c")))
    assert so_far.can_continue is False
    assert not so_far.choices
    with pytest.raises(ValueError, match="can_continue"):
        Continuation(so_far)


@pytest.mark.parametrize(
    "harmless",
    [
        said({"role": "assistant", "content": None, "tool_calls": [], "refusal": None}),
        said({"content": "a", "tool_calls": None, "audio": None}),
        {"choices": None},
        {"choices": [], "usage": USAGE},
        {"choices": [{"index": 0, "delta": None, "finish_reason": None}]},
        {"choices": [{"delta": {"content": "a"}, "content_filter_results": {"hate": {}}}]},
    ],
)
def test_members_that_say_nothing_are_no_hindrance(harmless: Any) -> None:
    so_far = sent(sse(harmless) + b": comment\n\ndata:\n\n")
    assert so_far.can_continue is True
    Continuation(so_far).feed(sse(harmless))


def test_memory_is_bounded_and_splicing_off_beyond_the_bound() -> None:
    assert sent(sse(*[chunk("x" * 100)] * 9), limit=2000).can_continue
    assert not sent(sse(*[chunk("x" * 100)] * 90), limit=2000).can_continue
    assert not sent(sse(*[said({}, index=n) for n in range(9)]), limit=2000).can_continue
    assert not sent(sse(said({}, id="x" * 3000)), limit=2000).can_continue
