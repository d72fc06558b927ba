"""Chat and completions of the simulator, plain and streamed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asgi_llm_gateway.providers.simulator import Simulator
from asgi_llm_gateway.providers.simulator.text import count, tokenise
from tests.providers.simulated import chat, post

PATH = "/v1/chat/completions"
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        },
    },
}


def contents(data: list[Any], index: int = 0) -> list[str]:
    """The content pieces of one choice of a streamed chat."""
    choices = [choice for chunk in data for choice in chunk["choices"] if choice["index"] == index]
    return [piece for choice in choices if (piece := choice["delta"].get("content"))]


async def test_a_chat_is_answered_in_openais_shape_with_exact_usage() -> None:
    simulator = Simulator(clock=lambda: 1234.5)
    sent = await post(simulator, PATH, chat("What is new?"))
    body = sent.json
    (choice,) = body["choices"]
    assert (sent.status, body["object"], body["created"]) == (200, "chat.completion", 1234)
    assert body["id"].startswith("chatcmpl-")
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == "stop"
    text = choice["message"]["content"]
    assert body["usage"]["prompt_tokens"] == count("What is new?") == 4
    assert body["usage"]["completion_tokens"] == count(text) >= 16
    assert body["usage"]["total_tokens"] == 4 + count(text)
    assert int(sent.headers["content-length"]) == len(sent.body)


async def test_the_same_request_gets_the_same_answer_streamed_or_not() -> None:
    one, other = Simulator(clock=lambda: 1.0), Simulator(clock=lambda: 1.0)
    first = await post(one, PATH, chat(seed=1))
    again = await post(other, PATH, chat(seed=1))
    different = await post(other, PATH, chat(seed=2))
    streamed = await post(other, PATH, chat(seed=1, stream=True))
    assert first.body == again.body
    text = first.json["choices"][0]["message"]["content"]
    assert different.json["choices"][0]["message"]["content"] != text
    assert "".join(contents(streamed.data)) == text
    assert streamed.data[0]["id"] == first.json["id"]


async def test_a_stream_is_one_event_a_message_and_one_event_a_token() -> None:
    sent = await post(Simulator(), PATH, chat(stream=True))
    assert sent.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert all(
        event.startswith(b"data: ") and event.endswith(b"\n\n") and event.count(b"\n\n") == 1
        for event in sent.events
    )
    assert sent.events[-1] == b"data: [DONE]\n\n"
    assert sent.ended
    data = sent.data
    assert data[0]["choices"][0]["delta"]["role"] == "assistant"
    assert data[-1]["choices"][0]["finish_reason"] == "stop"
    assert data[-1]["choices"][0]["delta"] == {}
    pieces = contents(data)
    assert pieces == tokenise("".join(pieces))
    assert not any("usage" in chunk for chunk in data)


async def test_usage_of_a_stream_comes_last_and_only_when_asked_for() -> None:
    body = chat(stream=True, stream_options={"include_usage": True})
    data = (await post(Simulator(), PATH, body)).data
    assert all(chunk["usage"] is None for chunk in data[:-1])
    assert data[-1]["choices"] == []
    assert data[-1]["usage"]["completion_tokens"] == len(contents(data))
    body = chat(stream=True, stream_options={"include_usage": False})
    assert not any("usage" in chunk for chunk in (await post(Simulator(), PATH, body)).data)


@pytest.mark.parametrize("member", ["max_tokens", "max_completion_tokens"])
async def test_an_answer_is_cut_at_the_limit(member: str) -> None:
    plain = (await post(Simulator(), PATH, chat(**{member: 5}))).json
    assert plain["choices"][0]["finish_reason"] == "length"
    assert plain["usage"]["completion_tokens"] == 5
    data = (await post(Simulator(), PATH, chat(stream=True, **{member: 5}))).data
    assert len(contents(data)) == 5
    assert data[-1]["choices"][0]["finish_reason"] == "length"


async def test_several_choices_differ_and_add_up() -> None:
    plain = (await post(Simulator(), PATH, chat(n=3))).json
    texts = [choice["message"]["content"] for choice in plain["choices"]]
    assert len(set(texts)) == 3
    assert plain["usage"]["completion_tokens"] == sum(count(text) for text in texts)
    body = chat(n=3, stream=True, stream_options={"include_usage": True})
    data = (await post(Simulator(), PATH, body)).data
    assert ["".join(contents(data, index)) for index in range(3)] == texts
    assert [chunk["choices"][0]["index"] for chunk in data[:3]] == [0, 1, 2]
    assert data[-1]["usage"] == plain["usage"]


@pytest.mark.parametrize(
    "more",
    [
        {"prompt": "please call the tool"},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
    ],
)
async def test_a_tool_is_called_when_demanded(more: dict[str, Any]) -> None:
    body = chat(tools=[WEATHER], **more)
    answer = (await post(Simulator(), PATH, body)).json
    (choice,) = answer["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "tool_calls")
    assert call["function"]["name"] == "weather"
    arguments = call["function"]["arguments"]
    assert {name: type(value) for name, value in json.loads(arguments).items()} == {
        "city": str,
        "days": int,
    }
    assert answer["usage"]["completion_tokens"] == count(arguments)
    data = (await post(Simulator(), PATH, body | {"stream": True})).data
    deltas = [chunk["choices"][0]["delta"].get("tool_calls") for chunk in data]
    calls = [delta[0] for delta in deltas if delta]
    assert (calls[0]["id"], calls[0]["function"]["name"]) == (call["id"], "weather")
    assert "".join(each["function"]["arguments"] for each in calls) == arguments
    assert data[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"tool_choice": "auto"},
        {"tools": [7, {"type": "web"}], "tool_choice": "required"},
        {"prompt": "call the tool", "tool_choice": "none"},
    ],
)
async def test_no_tool_is_called_unasked(more: dict[str, Any]) -> None:
    answer = (await post(Simulator(), PATH, chat(**{"tools": [WEATHER], **more}))).json
    assert answer["choices"][0]["message"]["content"]


async def test_a_tools_result_is_answered_with_text() -> None:
    body = chat("call the tool", tools=[WEATHER])
    body["messages"].append({"role": "tool", "tool_call_id": "call_1", "content": "sunny"})
    answer = (await post(Simulator(), PATH, body)).json
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["prompt_tokens"] == 4


async def test_a_response_format_gets_json() -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}}
    for response_format, expected in (
        ({"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}, {"ok": True}),
        ({"type": "json_object"}, None),
    ):
        answer = (await post(Simulator(), PATH, chat(response_format=response_format))).json
        value = json.loads(answer["choices"][0]["message"]["content"])
        assert value == expected if expected else set(value) == {"answer"}


async def test_an_echo_is_word_for_word() -> None:
    answer = (await post(Simulator(), PATH, chat("echo: Any words, söme 日本!"))).json
    assert answer["choices"][0]["message"]["content"] == "Any words, söme 日本!"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "gpt-4o"}, "messages"),
        ({"model": "gpt-4o", "messages": []}, "messages"),
        ({"model": "gpt-4o", "messages": ["x"]}, "messages"),
        (chat(n=0), "n"),
        (chat(n=True), "n"),
        (chat(max_tokens=-1), "max_tokens"),
        ({"messages": []}, "model"),
        ({"messages": [], "model": 7}, "model"),
    ],
)
async def test_a_bad_chat_is_a_400_that_names_the_member(body: Any, param: str) -> None:
    sent = await post(Simulator(), PATH, body)
    assert sent.status == 400
    assert sent.json["error"]["param"] == param
    assert sent.json["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'"x"', b"[" * 100_000])
async def test_what_is_no_json_object_is_a_400(body: bytes) -> None:
    sent = await post(Simulator(), PATH, body)
    assert (sent.status, "JSON" in sent.json["error"]["message"]) == (400, True)


async def test_completions_take_texts_lists_and_token_numbers() -> None:
    path = "/v1/completions"
    one = (await post(Simulator(), path, {"model": "gpt-4o", "prompt": "a b"})).json
    assert one["object"] == "text_completion"
    assert one["usage"]["prompt_tokens"] == 2
    assert one["usage"]["completion_tokens"] == 16 == count(one["choices"][0]["text"])
    several = {"model": "gpt-4o", "prompt": ["a", "b c"], "n": 2, "max_tokens": 3}
    answer = (await post(Simulator(), path, several)).json
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"] | {"prompt_tokens": 3, "completion_tokens": 12} == answer["usage"]
    for prompt, tokens in (([1, 2, 3], 3), ([[1], [2, 3]], 3)):
        answer = (await post(Simulator(), path, {"model": "gpt-4o", "prompt": prompt})).json
        assert answer["usage"]["prompt_tokens"] == tokens
    for bad in (7, [], ["a", 1]):
        assert (await post(Simulator(), path, {"model": "gpt-4o", "prompt": bad})).status == 400


async def test_completions_stream_their_tokens() -> None:
    body = {
        "model": "gpt-4o",
        "prompt": "a",
        "max_tokens": 7,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    sent = await post(Simulator(), "/completions", body)
    texts = [choice["text"] for chunk in sent.data for choice in chunk["choices"]]
    assert len([text for text in texts if text]) == 7
    assert sent.data[-2]["choices"][0]["finish_reason"] == "length"
    assert sent.data[-1]["usage"]["completion_tokens"] == 7
    assert sent.events[-1] == b"data: [DONE]\n\n"
