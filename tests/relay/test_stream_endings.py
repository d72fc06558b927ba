"""How a stream ends: whole, cut, or with an error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asgi_llm_gateway import Relay
from asgi_llm_gateway.errors import ConnectionLost, UpstreamTimeout
from tests.upstreams import (
    DONE,
    FakeUpstream,
    Reply,
    ask,
    ask_stream,
    channel_to,
    chunk,
    nothing_left,
    relay_to,
    split_everywhere,
    sse,
)

STOP = chunk(finish="stop")


def events_of(body: bytes) -> list[str]:
    """The data of each event, which must all be whole."""
    text = body.decode().replace("\r\n", "\n")
    assert text.endswith("\n\n"), text[-80:]
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    return [block.partition("data: ")[2] for block in blocks]


async def test_done_is_supplied_once_when_the_provider_left_it_out() -> None:
    answer = await ask_stream(relay_to(FakeUpstream(Reply.stream(sse(chunk("a"), STOP)))))
    assert answer.body == sse(chunk("a"), STOP) + DONE
    assert answer.exchange.outcome == "ok"


@pytest.mark.parametrize("done", [b"data: [DONE]\n\n", b"data:[DONE]\n\n", b"data: [DONE]\r\n\r\n"])
async def test_done_is_not_supplied_twice(done: bytes) -> None:
    answer = await ask_stream(relay_to(FakeUpstream(Reply.stream(sse(STOP), done))))
    assert answer.body == sse(STOP) + done


@pytest.mark.parametrize(
    "rest", [b"data: [DONE]", b"data: [DONE]\n", b"data: [DONE]\r\n", b"data: [DONE]\r"]
)
async def test_a_last_event_without_its_border_is_passed_on_with_one(rest: bytes) -> None:
    for pieces in split_everywhere(sse(STOP) + rest):
        answer = await ask_stream(relay_to(FakeUpstream(Reply.stream(*pieces))))
        assert events_of(answer.body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")) == [
            json.dumps(STOP),
            "[DONE]",
        ]


async def test_a_finish_reason_in_a_last_event_without_its_border_is_not_lost() -> None:
    first, last = sse(chunk("a")), b"data: " + json.dumps(STOP).encode()
    for pieces in split_everywhere(first + last):
        answer = await ask_stream(relay_to(FakeUpstream(Reply.stream(*pieces))))
        assert answer.body == first + last + b"\n\n" + DONE
        assert answer.exchange.outcome == "ok"


async def test_a_last_event_of_a_connection_that_died_is_not_taken_for_whole() -> None:
    cut = b'data: {"choices": [], "n": 1}'
    reply = Reply.stream(sse(chunk("a")), cut, ConnectionLost("reset"))
    answer = await ask_stream(relay_to(FakeUpstream(reply)))
    assert cut not in answer.body
    assert json.loads(events_of(answer.body)[-1])["error"]["code"] == "upstream_connection_lost"


async def test_a_first_and_only_event_without_its_border_gets_one_before_the_terminator() -> None:
    event = b"data: " + json.dumps(STOP).encode()
    answer = await ask_stream(relay_to(FakeUpstream(Reply.stream(event))))
    assert answer.body == event + b"\n\n" + DONE


CUTS: dict[str, tuple[Any, ...]] = {
    "closed between events": (sse(chunk("a")),),
    "closed within an event": (sse(chunk("a")), b'data: {"choices": [{"del'),
    "reset between events": (sse(chunk("a")), ConnectionLost("reset")),
    "reset within an event": (sse(chunk("a")), b'data: {"choi', ConnectionLost("reset")),
    "idle": (sse(chunk("a")), UpstreamTimeout("silent", phase="idle")),
    "an endless line": (sse(chunk("a")), *[b"x" * 2**20] * 17),
}


@pytest.mark.parametrize("name", CUTS)
async def test_a_cut_stream_ends_with_an_error_event_and_in_order(name: str) -> None:
    relay = relay_to(FakeUpstream(Reply.stream(*CUTS[name])))
    answer = await ask_stream(relay)
    assert answer.ended
    events = events_of(answer.body)
    assert events[0] == json.dumps(chunk("a"))
    assert len(events) == 2
    error = json.loads(events[1])["error"]
    assert error["type"] == "upstream_error"
    assert b"[DONE]" not in answer.body
    assert answer.exchange.outcome == "truncated"
    await nothing_left(relay)


ERRORS = {
    "bare": sse({"error": {"message": "overloaded"}}),
    "named": b'event: error\ndata: {"message": "overloaded"}\n\n',
    "beside choices": sse(chunk("", finish="error", error={"code": 502, "message": "down"})),
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("finish", [False, True])
async def test_done_is_never_supplied_after_the_providers_own_error(
    name: str, finish: bool
) -> None:
    begun = sse(chunk("a"), STOP) if finish else sse(chunk("a"))
    answer = await ask_stream(relay_to(FakeUpstream(Reply.stream(begun, ERRORS[name]))))
    assert answer.body == begun + ERRORS[name]
    assert answer.exchange.outcome == "provider_error"


async def test_text_that_speaks_of_errors_and_endings_is_only_text() -> None:
    texts = ["data: [DONE]\n\n", '"finish_reason":"stop"', '{"error": {"message": "x"}}']
    texts += ["event: error\r\n", '"type":"response.completed"', '"choices":[]', '"usage":{}']
    whole = sse(*[chunk(text) for text in texts])
    answer = await ask_stream(relay_to(FakeUpstream(Reply.stream(whole))))
    assert answer.body.startswith(whole)
    assert json.loads(events_of(answer.body)[-1])["error"]["code"] == "bad_upstream_answer"


RESPONSES = "/v1/responses", {"model": "m", "input": "hi", "stream": True}


IMAGES = "/v1/images/generations", {"model": "m", "prompt": "a cat", "stream": True}


SPEECH = "/v1/audio/speech", {"model": "m", "input": "hi", "stream_format": "sse"}


COMPLETIONS = "/v1/completions", {"model": "m", "prompt": "hi", "stream": True}


ENDINGS: dict[str, tuple[Any, list[dict[str, Any]], str]] = {
    "responses": (RESPONSES, [{"type": "response.output_text.done"}], "response.completed"),
    "responses incomplete": (RESPONSES, [], "response.incomplete"),
    "responses failed": (RESPONSES, [], "response.failed"),
    "images": (IMAGES, [{"type": "image_generation.partial_image"}], "image_generation.completed"),
    "speech": (SPEECH, [{"type": "speech.audio.delta"}], "speech.audio.done"),
}


@pytest.mark.parametrize("name", ENDINGS)
async def test_each_dialects_stream_ends_as_that_dialect_does(name: str) -> None:
    (path, body), before, terminal = ENDINGS[name]
    whole = sse({"type": "x.created"}, *before, {"type": terminal})
    answer = await ask(relay_to(FakeUpstream(Reply.stream(whole))), body, path)
    assert answer.body == whole
    assert answer.exchange.outcome == "ok"


@pytest.mark.parametrize("name", ENDINGS)
async def test_each_dialects_stream_that_is_cut_is_told_so(name: str) -> None:
    (path, body), before, _ = ENDINGS[name]
    begun = sse({"type": "x.created"}, *before)
    answer = await ask(relay_to(FakeUpstream(Reply.stream(begun))), body, path)
    assert answer.ended
    assert answer.body.startswith(begun)
    rest = answer.body[len(begun) :]
    error = json.loads(rest.partition(b"data: ")[2])
    if path == "/v1/responses":
        assert rest.startswith(b"event: error\n")
        assert (error["type"], error["code"]) == ("error", "bad_upstream_answer")
    else:
        assert error["error"]["code"] == "bad_upstream_answer"
    assert b"[DONE]" not in rest
    assert answer.exchange.outcome == "truncated"


async def test_a_responses_error_event_first_goes_on_and_later_ends_the_stream() -> None:
    error = b'event: error\ndata: {"type": "error", "message": "no", "code": "x"}\n\n'
    created = sse({"type": "response.created"})
    path, body = RESPONSES
    upstream = FakeUpstream(Reply.stream(error), Reply.stream(created, error))
    relay = Relay([channel_to(upstream), channel_to(upstream, name="other")])
    answer = await ask(relay, body, path)
    assert answer.body == created + error
    assert answer.exchange.outcome == "provider_error"


async def test_legacy_completions_end_like_chat() -> None:
    path, body = COMPLETIONS
    whole = sse({"choices": [{"text": "a", "finish_reason": None}]})
    whole += sse({"choices": [{"text": "", "finish_reason": "length"}]})
    upstream = FakeUpstream(Reply.stream(whole))
    answer = await ask(relay_to(upstream), body, path)
    assert answer.body == whole + DONE
    assert upstream.asked[0].json["stream_options"] == {"include_usage": True}


def unfinished(word: str, reason: str, choices: int) -> bytes:
    """A chunk for each choice."""
    deltas = [
        {"index": index, "delta": {"content": word}, "finish_reason": reason}
        for index in range(choices)
    ]
    return sse(*({**chunk(), "choices": [delta]} for delta in deltas))


@pytest.mark.parametrize("choices", [1, 2])
@pytest.mark.parametrize("reason", ["", "null"])
@pytest.mark.parametrize("cut", [(), (ConnectionLost("reset"),)], ids=["ended", "reset"])
async def test_an_empty_finish_reason_finishes_nothing(cut: Any, reason: str, choices: int) -> None:
    """Ollama and SGLang have sent "" where null belongs, others the word null."""
    words = [unfinished(word, reason, choices) for word in "ab"]
    answer = await ask_stream(relay_to(FakeUpstream(Reply.stream(*words, *cut))), n=choices)
    assert DONE not in answer.body
    assert b'"error"' in answer.body
    assert answer.exchange.outcome == "truncated"


async def test_a_finish_reason_after_empty_ones_finishes_the_stream() -> None:
    words = sse(chunk("a", finish=""), STOP)
    answer = await ask_stream(relay_to(FakeUpstream(Reply.stream(words))))
    assert answer.body == words + DONE
    assert answer.exchange.outcome == "ok"
