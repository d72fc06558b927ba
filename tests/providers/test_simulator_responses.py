"""The simulator's Responses API, plain and streamed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asgi_llm_gateway.providers.simulator import Simulator
from asgi_llm_gateway.providers.simulator.text import count
from tests.providers.simulated import post


async def test_a_response_has_output_and_exact_usage() -> None:
    body = {"model": "gpt-4o", "input": "What now?", "instructions": "Be brief."}
    answer = (await post(Simulator(), "/v1/responses", body)).json
    (item,) = answer["output"]
    assert (answer["object"], answer["status"], item["status"]) == (
        "response",
        "completed",
        "completed",
    )
    assert answer["usage"]["input_tokens"] == 6
    assert answer["usage"]["output_tokens"] == count(item["content"][0]["text"])
    cut = (await post(Simulator(), "/v1/responses", body | {"max_output_tokens": 2})).json
    assert (cut["status"], cut["usage"]["output_tokens"]) == ("incomplete", 2)
    assert cut["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_a_response_streams_the_real_sequence_of_events() -> None:
    items = [{"role": "user", "content": [{"type": "input_text", "text": "hello you"}]}]
    body = {"model": "gpt-4o", "input": items, "stream": True}
    sent = await post(Simulator(), "/v1/responses", body)
    data = sent.data
    kinds = [event["type"] for event in data]
    deltas = [event["delta"] for event in data if event["type"] == "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * len(deltas),
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event["sequence_number"] for event in data] == list(range(len(data)))
    assert all(
        event.startswith(b"event: " + kind.encode() + b"\ndata: ")
        for event, kind in zip(sent.events, kinds, strict=True)
    )
    final = data[-1]["response"]
    assert final["usage"]["output_tokens"] == len(deltas)
    assert final["output"][0]["content"][0]["text"] == "".join(deltas)
    plain = (await post(Simulator(), "/v1/responses", body | {"stream": False})).json
    assert plain["output"] == final["output"]


async def test_a_response_can_call_a_tool() -> None:
    tool = {
        "type": "function",
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        },
    }
    body = {"model": "gpt-4o", "input": "call the tool", "tools": [tool], "stream": True}
    data = (await post(Simulator(), "/v1/responses", body)).data
    arguments = "".join(
        event["delta"]
        for event in data
        if event["type"] == "response.function_call_arguments.delta"
    )
    (item,) = data[-1]["response"]["output"]
    assert (item["type"], item["name"], item["arguments"]) == (
        "function_call",
        "weather",
        arguments,
    )
    assert set(json.loads(arguments)) == {"city", "days"}


@pytest.mark.parametrize("value", [None, 7, ["x"]])
async def test_a_response_without_input_is_a_400(value: Any) -> None:
    sent = await post(Simulator(), "/v1/responses", {"model": "gpt-4o", "input": value})
    assert (sent.status, sent.json["error"]["param"]) == (400, "input")
