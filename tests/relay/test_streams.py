"""What becomes of a provider's stream on its way to the caller."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import brotli
import pytest

from asgi_llm_gateway import Relay
from asgi_llm_gateway.errors import ConnectionLost, UpstreamTimeout
from asgi_llm_gateway.upstream.contract import Timeouts
from tests.asgi import Driver
from tests.upstreams import (
    ASK,
    DONE,
    HANG,
    USAGE,
    USAGE_CHUNK,
    FakeUpstream,
    Reply,
    ask,
    ask_stream,
    channel_to,
    chunk,
    nothing_left,
    openai_error,
    relay_to,
    split_everywhere,
    sse,
    until,
)

STOP = chunk(finish="stop")
WHOLE = sse(chunk("a"), chunk("b"), STOP) + DONE


def events_of(body: bytes) -> list[str]:
    """The data of each event, which must all be whole."""
    text = body.decode().replace("\r\n", "\n")
    assert text.endswith("\n\n"), text[-80:]
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    return [block.partition("data: ")[2] for block in blocks]


def open_stream(relay: Any, **how: Any) -> Driver:
    body = json.dumps({**ASK, "stream": True}).encode()
    return Driver(relay, "POST", "/v1/chat/completions", body=body, **how)


# How it begins


async def test_status_and_headers_are_held_until_the_first_real_event() -> None:
    upstream = FakeUpstream(Reply.stream(b": one\n\n", b": two\n\n", 0.1, WHOLE))
    relay = relay_to(upstream)
    async with open_stream(relay).open() as stream:
        await until(lambda: upstream.open)
        await asyncio.sleep(0.03)
        assert stream.answer.status is None
        assert await stream.started() == 200
        body = b"".join([piece async for piece in stream])
    assert body == b": one\n\n: two\n\n" + WHOLE


async def test_only_comments_then_a_failure_leaves_the_call_free_to_go_elsewhere() -> None:
    upstream = FakeUpstream(
        Reply.stream(b": OPENROUTER PROCESSING\n\n", 0.01, ConnectionLost("reset")),
        Reply.stream(WHOLE),
    )
    relay = Relay([channel_to(upstream), channel_to(upstream, name="other")])
    answer = await ask_stream(relay)
    assert answer.body == WHOLE
    assert answer.header("x-llm-attempts") == "2"


async def test_a_provider_that_sends_no_event_in_time_is_given_up() -> None:
    upstream = FakeUpstream(Reply.stream(b": a\n\n", HANG), Reply.stream(WHOLE))
    timeouts = Timeouts(first_token=0.05)
    relay = Relay(
        [channel_to(upstream, timeouts=timeouts), channel_to(upstream, name="b", timeouts=timeouts)]
    )
    answer = await ask_stream(relay)
    assert answer.body == WHOLE
    assert answer.exchange.attempts[0].failure.phase == "first_token"
    await nothing_left(relay)


async def test_a_stream_says_that_nobody_may_hold_it_back() -> None:
    answer = await ask_stream(relay_to(FakeUpstream(Reply.stream(WHOLE))))
    assert answer.header("content-type") == "text/event-stream"
    assert answer.header("cache-control") == "no-cache"
    assert answer.header("x-accel-buffering") == "no"
    assert answer.header("content-length") is None


async def test_a_plain_answer_to_a_streamed_call_is_passed_on_as_it_is() -> None:
    answer = await ask_stream(relay_to(FakeUpstream(Reply.chat("whole"))))
    assert answer.header("content-type") == "application/json"
    assert answer.header("content-length") == str(len(answer.body))
    assert answer.json["choices"][0]["message"]["content"] == "whole"


# Whole events


BORDERS = {"lf": b"\n\n", "crlf": b"\r\n\r\n", "cr": b"\r\r"}


@pytest.mark.parametrize("border", BORDERS)
async def test_every_message_holds_whole_events_for_every_split(border: str) -> None:
    end = BORDERS[border]
    data = b": hi" + end + sse({"choices": [{"finish_reason": "stop"}], "é": 1}, end=end)
    data += b"data: [DONE]" + end
    for pieces in split_everywhere(data):
        answer = await ask_stream(relay_to(FakeUpstream(Reply.stream(*pieces))))
        assert answer.body == data
        for message in answer.messages:
            assert message == b"" or message.strip(b"\r\n") == b"" or message.endswith((end, b"\r"))


async def test_events_of_several_lines_are_not_cut() -> None:
    event = b'event: x\nid: 1\ndata: {"choices":\ndata:  [{"finish_reason": "stop"}]}\n\n'
    for pieces in split_everywhere(event):
        answer = await ask_stream(relay_to(FakeUpstream(Reply.stream(*pieces))))
        assert answer.body == event + DONE
        assert [m for m in answer.messages if m] == [event, DONE]


# Usage


async def test_usage_is_asked_for_upstream_and_hidden_from_who_did_not_ask() -> None:
    upstream = FakeUpstream(Reply.stream(sse(chunk("a"), STOP), sse(USAGE_CHUNK), DONE))
    answer = await ask_stream(relay_to(upstream))
    assert upstream.asked[0].json["stream_options"] == {"include_usage": True}
    assert answer.body == sse(chunk("a"), STOP) + DONE
    usage = answer.exchange.usage
    assert (usage.input, usage.output) == (7, 2)


async def test_who_asked_for_usage_is_given_it() -> None:
    whole = sse(chunk("a"), STOP, USAGE_CHUNK) + DONE
    upstream = FakeUpstream(Reply.stream(whole))
    body = b'{"stream_options":{"include_usage":true},"stream":true,"model":"m","messages":[1]}'
    answer = await ask(relay_to(upstream), body)
    assert upstream.asked[0].body == body
    assert answer.body == whole
    assert answer.exchange.usage.output == 2


async def test_other_stream_options_are_kept_beside_the_asked_usage() -> None:
    upstream = FakeUpstream(Reply.stream(WHOLE))
    options = {"include_obfuscation": False, "include_usage": False}
    await ask_stream(relay_to(upstream), stream_options=options)
    assert upstream.asked[0].json["stream_options"] == {
        "include_obfuscation": False,
        "include_usage": True,
    }


@pytest.mark.parametrize("border", ["lf", "crlf"])
async def test_the_usage_chunk_is_hidden_however_it_is_coalesced_or_split(border: str) -> None:
    end = BORDERS[border]
    before, usage = sse(STOP, end=end), sse(USAGE_CHUNK, end=end)
    done = b"data: [DONE]" + end
    for pieces in split_everywhere(before + usage + done):
        answer = await ask_stream(relay_to(FakeUpstream(Reply.stream(*pieces))))
        assert answer.body == before + done, pieces
        assert answer.exchange.usage.input == 7


async def test_azures_first_chunk_without_choices_is_kept() -> None:
    first = {"choices": [], "prompt_filter_results": [{"prompt_index": 0}], "usage": None}
    whole = sse(first, chunk("a"), STOP) + DONE
    answer = await ask_stream(relay_to(FakeUpstream(Reply.stream(whole[:-20], whole[-20:]))))
    assert answer.body == whole


async def test_usage_that_rides_on_a_chunk_with_choices_is_left_there() -> None:
    whole = sse(chunk("a"), chunk(finish="stop", usage=USAGE)) + DONE
    answer = await ask_stream(relay_to(FakeUpstream(Reply.stream(whole))))
    assert answer.body == whole
    assert answer.exchange.usage.input == 7


async def test_usage_is_not_asked_where_nobody_understands_the_question() -> None:
    done = {"type": "response.completed", "response": {"usage": {"input_tokens": 3}}}
    upstream = FakeUpstream(Reply.stream(sse(done)))
    body = {"model": "m", "input": "hi", "stream": True}
    answer = await ask(relay_to(upstream), body, "/v1/responses")
    assert upstream.asked[0].json == body
    assert answer.exchange.usage.input == 3


async def test_plain_answers_tell_their_usage() -> None:
    answer = await ask(relay_to(FakeUpstream()))
    assert (answer.exchange.usage.input, answer.exchange.usage.output) == (7, 2)


async def test_comments_after_the_end_do_not_make_usage_forgotten() -> None:
    late = [b": still here\n\n"] * 20
    answer = await ask_stream(
        relay_to(FakeUpstream(Reply.stream(sse(chunk("a")), sse(STOP), sse(USAGE_CHUNK), *late)))
    )
    assert answer.exchange.usage.input == 7
    assert answer.body.endswith(DONE)


# How it ends


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


# Bytes that are no events


SAY = "/v1/audio/speech", {"model": "m", "input": "hi"}
MP3 = [(b"content-type", b"audio/mpeg")]


async def test_audio_is_passed_on_as_it_comes() -> None:
    path, body = SAY
    relay = relay_to(FakeUpstream(Reply(200, MP3, [b"ID3", 0.01, b"\x00\xff"])))
    answer = await ask(relay, body, path)
    assert (answer.header("content-type"), answer.body) == ("audio/mpeg", b"ID3\x00\xff")
    assert answer.exchange.outcome == "ok"
    await nothing_left(relay)


async def test_audio_cut_midway_has_no_last_message() -> None:
    path, body = SAY
    relay = relay_to(FakeUpstream(Reply(200, MP3, [b"ID3", ConnectionLost("reset")])))
    answer = await ask(relay, body, path, may_cut=True)
    assert answer.cut
    assert answer.body == b"ID3"
    assert answer.exchange.outcome == "truncated"
    await nothing_left(relay)


@pytest.mark.parametrize("steps", [[], [b""], [ConnectionLost("reset")]])
async def test_audio_that_fails_before_its_first_byte_goes_on(steps: list[Any]) -> None:
    path, body = SAY
    upstream = FakeUpstream(Reply(200, MP3, steps), Reply(200, MP3, [b"ID3"]))
    relay = Relay([channel_to(upstream), channel_to(upstream, name="other")])
    answer = await ask(relay, body, path)
    assert answer.body == b"ID3"
    assert answer.header("x-llm-attempts") == "2"


CODINGS = {b"gzip": gzip.compress, b"br": brotli.compress}


@pytest.mark.parametrize("coding", CODINGS)
async def test_answers_that_come_compressed_all_the_same_are_inflated(coding: bytes) -> None:
    encode, headers = CODINGS[coding], [(b"content-encoding", coding)]
    packed = encode(WHOLE)
    stream = Reply.stream(
        *[packed[at : at + 7] for at in range(0, len(packed), 7)], headers=headers
    )
    answer = await ask_stream(relay_to(FakeUpstream(stream)))
    assert answer.body == WHOLE
    assert answer.header("content-encoding") is None

    plain = Reply.json(encode(b'{"choices": []}'), headers=headers)
    answer = await ask(relay_to(FakeUpstream(plain)))
    assert answer.body == b'{"choices": []}'
    assert answer.header("content-encoding") is None

    refused = Reply.json(encode(b'{"error": {"message": "no"}}'), 400, headers)
    answer = await ask(relay_to(FakeUpstream(refused)))
    assert answer.json == {"error": {"message": "no"}}


async def test_a_compressed_stream_that_is_cut_is_told_so() -> None:
    packed = gzip.compress(sse(*[chunk(str(n)) for n in range(2000)]))
    reply = Reply.stream(packed[:2000], packed[2000:-30], headers=[(b"content-encoding", b"gzip")])
    answer = await ask_stream(relay_to(FakeUpstream(reply)))
    assert json.loads(events_of(answer.body)[-1])["error"]["code"] == "bad_upstream_answer"


# The caller's side


async def test_a_caller_who_takes_nothing_holds_the_provider_up() -> None:
    pieces = [sse(chunk("x" * 1000)) for _ in range(100)]
    upstream = FakeUpstream(Reply.stream(*pieces, sse(STOP)))
    relay = relay_to(upstream)
    async with open_stream(relay, paced=True).open() as stream:
        await anext(stream)
        await asyncio.sleep(0.05)
        (answer,) = upstream.open
        assert answer.taken <= 4
        rest = [piece async for piece in stream]
    assert len(rest) >= 100
    await nothing_left(relay)


UNTAKEN = {
    "a whole answer": Reply.json({"choices": [], "x": "y" * 100_000}),
    "an event": Reply.stream(sse(chunk("a")), HANG),
    "the error event at the end": Reply.stream(sse(chunk("a"))),
    "bytes": Reply(200, [(b"content-type", b"audio/mpeg")], [b"ID3", HANG]),
}


@pytest.mark.parametrize("what", UNTAKEN)
async def test_a_caller_who_takes_nothing_for_too_long_counts_as_gone(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asgi_llm_gateway.relay.watch._WRITE_TIMEOUT", 0.1)
    relay = relay_to(FakeUpstream(UNTAKEN[what]))
    body = json.dumps({**ASK, "stream": True, "input": "hi"}).encode()
    messages = [{"type": "http.request", "body": body}]

    async def receive() -> Any:
        return messages.pop() if messages else await asyncio.Event().wait()

    async def stuck(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    path = "/v1/audio/speech" if what == "bytes" else "/v1/chat/completions"
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": path, "headers": []}
    await asyncio.wait_for(relay(scope, receive, stuck), 3)
    assert scope["asgi_llm_gateway"].outcome == "client_left"
    await nothing_left(relay)


@pytest.mark.parametrize("split", [1, 7, 64])
async def test_memory_and_time_stay_linear_in_many_small_events(split: int) -> None:
    data = sse(*[chunk("x")] * 300, STOP) + DONE
    pieces = [data[at : at + split] for at in range(0, len(data), split)]
    answer = await ask_stream(relay_to(FakeUpstream(Reply.stream(*pieces))))
    assert answer.body == data


async def test_a_stream_whose_first_event_is_of_another_dialect_is_a_bad_answer() -> None:
    reply = Reply.stream(sse({"type": "message_start", "message": {}}))
    answer = await ask_stream(relay_to(FakeUpstream(reply)))
    assert answer.status == 502
    assert openai_error(answer)["code"] == "bad_upstream_answer"
