"""Every text of a body is found, and can be replaced, in each dialect."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_llm_gateway.dialects.registry import DIALECTS

CASSETTES = Path(__file__).resolve().parents[2] / "../shared/cassettes/dev.jsonl"
TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "T tool",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "string", "description": "T parameter", "enum": ["x"]}},
        },
    },
}
CHAT_REQUEST = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "T system"},
        {"role": "developer", "content": [{"type": "text", "text": "T developer"}]},
        {
            "role": "user",
            "name": "bob",
            "content": [
                {"type": "text", "text": "T part one"},
                {"type": "image_url", "image_url": {"url": "https://x.test", "detail": "low"}},
                {"type": "text", "text": "T part two"},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "refusal": "T refusal",
            "reasoning_content": "T thought",
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "T args"}},
                {"id": "2", "type": "custom", "custom": {"name": "g", "input": "T input"}},
            ],
        },
        {"role": "assistant", "function_call": {"name": "f", "arguments": "T legacy args"}},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "T refused part"}]},
        {"role": "tool", "tool_call_id": "1", "content": "T result"},
        {"role": "tool", "content": [{"type": "text", "text": "T result part"}]},
    ],
    "tools": [TOOL, {"type": "custom", "custom": {"name": "g", "description": "T custom"}}],
    "functions": [{"name": "h", "description": "T legacy tool"}],
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "s", "description": "T format", "schema": {"title": "T title"}},
    },
    "prediction": {"type": "content", "content": [{"type": "text", "text": "T prediction"}]},
    "user": "u",
    "stop": ["x"],
    "metadata": {"a": "b"},
}
CHAT_ANSWER = {
    "id": "c1",
    "choices": [
        {
            "message": {
                "role": "assistant",
                "content": "T one",
                "refusal": "T no",
                "reasoning": "T because",
                "audio": {"id": "a", "data": "AAAA", "transcript": "T said"},
                "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "T args"}}],
            },
            "finish_reason": "stop",
        },
        {"message": {"content": "T two"}},
    ],
}
CHAT_CHUNK = {
    "choices": [
        {"index": 0, "delta": {"role": "assistant", "content": "T a", "reasoning_content": "T r"}},
        {"index": 1, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": "T {"}}]}},
    ]
}
RESPONSES_REQUEST = {
    "model": "m",
    "instructions": "T instructions",
    "previous_response_id": "resp_1",
    "input": [
        {"role": "user", "content": "T plain"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "T in"}]},
        {"type": "message", "content": [{"type": "output_text", "text": "T out"}]},
        {"type": "message", "content": [{"type": "input_image", "image_url": "https://x.test"}]},
        {"type": "function_call", "name": "f", "arguments": "T args", "call_id": "1"},
        {"type": "function_call_output", "call_id": "1", "output": "T result"},
        {"type": "function_call_output", "output": [{"type": "input_text", "text": "T piece"}]},
        {"type": "custom_tool_call", "name": "g", "input": "T input"},
        {
            "type": "reasoning",
            "id": "r",
            "summary": [{"type": "summary_text", "text": "T summary"}],
            "content": [{"type": "reasoning_text", "text": "T thought"}],
            "encrypted_content": "AAAA",
        },
    ],
    "tools": [{"type": "function", "name": "f", "description": "T tool", "parameters": {}}],
    "text": {"format": {"type": "json_schema", "name": "s", "description": "T format"}},
}
RESPONSES_ANSWER = {
    "id": "r1",
    "object": "response",
    "output": [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "T summary"}]},
        {
            "type": "message",
            "content": [
                {"type": "output_text", "text": "T out", "annotations": []},
                {"type": "refusal", "refusal": "T no"},
            ],
        },
        {"type": "function_call", "name": "f", "arguments": "T args"},
        {"type": "file_search_call", "queries": ["T query"], "results": [{"text": "T found"}]},
        {"type": "code_interpreter_call", "code": "T code", "outputs": [{"logs": "T logs"}]},
        {"type": "mcp_call", "name": "g", "arguments": "T mcp", "output": "T mcp result"},
    ],
}
RESPONSES_EVENTS = [
    {"type": "response.output_text.delta", "item_id": "i", "delta": "T d"},
    {"type": "response.output_text.done", "text": "T d"},
    {"type": "response.refusal.done", "refusal": "T d"},
    {"type": "response.function_call_arguments.done", "arguments": "T d"},
    {"type": "response.custom_tool_call_input.done", "input": "T d"},
    {"type": "response.code_interpreter_call_code.done", "code": "T d"},
    {"type": "response.content_part.done", "part": {"type": "output_text", "text": "T d"}},
    {"type": "response.output_item.done", "item": RESPONSES_ANSWER["output"][1]},
    {"type": "response.completed", "response": RESPONSES_ANSWER},
]
REQUESTS: list[tuple[str, Any]] = [
    ("openai_chat", CHAT_REQUEST),
    ("openai_completions", {"model": "m", "prompt": "T one", "suffix": "T two", "stop": "x"}),
    ("openai_completions", {"prompt": ["T one", "T two"]}),
    ("openai_completions", {"prompt": [[1, 2], [3]]}),
    ("openai_completions", {"input": "T edit", "instruction": "T do"}),
    ("openai_embeddings", {"input": "T one", "encoding_format": "float"}),
    ("openai_embeddings", {"input": ["T one", "T two"]}),
    ("openai_embeddings", {"input": [1, 2, 3]}),
    ("openai_images", {"prompt": "T cat", "size": "1x1"}),
    ("openai_audio", {"input": "T say", "instructions": "T how", "voice": "alloy"}),
    ("openai_moderations", {"input": "T one"}),
    ("openai_moderations", {"input": ["T one", "T two"]}),
    ("openai_moderations", {"input": [{"type": "text", "text": "T part"}, {"type": "image_url"}]}),
    ("openai_rerank", {"query": "T q", "documents": ["T a", {"text": "T b"}], "top_n": 1}),
    ("openai_rerank", {"query": {"text": "T q"}, "documents": []}),
    ("openai_responses", RESPONSES_REQUEST),
    ("openai_responses", {"input": "T plain"}),
]
ANSWERS: list[tuple[str, Any]] = [
    ("openai_chat", CHAT_ANSWER),
    ("openai_chat", CHAT_CHUNK),
    ("openai_completions", {"choices": [{"text": "T a"}, {"text": "T b"}]}),
    ("openai_embeddings", {"data": [{"embedding": "AAAA"}]}),
    ("openai_images", {"data": [{"b64_json": "AAAA", "revised_prompt": "T cat"}]}),
    ("openai_audio", {"text": "T all", "segments": [{"text": "T s"}], "words": [{"word": "T w"}]}),
    ("openai_audio", {"type": "transcript.text.delta", "delta": "T d"}),
    ("openai_moderations", {"results": [{"categories": {}}]}),
    ("openai_rerank", {"results": [{"document": {"text": "T a"}}, {"document": "T b"}]}),
    ("openai_responses", RESPONSES_ANSWER),
    *[("openai_responses", event) for event in RESPONSES_EVENTS],
]
CASES = [("request", *case) for case in REQUESTS] + [("answer", *case) for case in ANSWERS]


def texts(side: str, dialect: str, document: Any) -> list[Any]:
    found = DIALECTS[dialect]
    return list((found.request_texts if side == "request" else found.answer_texts)(document))


def marked(document: Any) -> Iterator[str]:
    if isinstance(document, str) and document.startswith("T "):
        yield document
    elif isinstance(document, dict):
        for value in document.values():
            yield from marked(value)
    elif isinstance(document, list):
        for value in document:
            yield from marked(value)


@pytest.mark.parametrize(("side", "dialect", "document"), CASES)
def test_every_text_is_found_and_nothing_else(side: str, dialect: str, document: Any) -> None:
    found = [text.value for text in texts(side, dialect, document)]
    assert sorted(found) == sorted(marked(document))


@pytest.mark.parametrize(("side", "dialect", "document"), CASES)
def test_every_text_can_be_replaced_where_it_stands(side: str, dialect: str, document: Any) -> None:
    changed = copy.deepcopy(document)
    for text in texts(side, dialect, changed):
        text.value = text.value.upper()
    assert (
        json.dumps(changed).replace('"T ', '"t ').lower()
        == json.dumps(document).replace('"T ', '"t ').lower()
    )
    assert sorted(marked(changed)) == sorted(text.upper() for text in marked(document))


ODD = [None, 1, "x", [], {}, [None], {"messages": None}, {"messages": [None, 1, "x", []]}]
ODD += [{"messages": [{"content": c}]} for c in (None, 5, {}, [None, 1, [], {"text": 5}])]
ODD += [{"messages": [{"tool_calls": t}]} for t in ("x", {}, [None, {"function": "x"}, {}])]
ODD += [{"choices": c} for c in (None, "x", {}, [None, {"delta": None}, {"message": "x"}])]
ODD += [{"input": i} for i in (None, 5, {}, [None, 5, [], {"content": 5, "summary": "x"}])]
ODD += [{"output": [None, {"content": [None]}], "response": "x", "item": 1, "part": []}]
ODD += [{"tools": t} for t in (None, "x", [None, {"function": None}, {"function": {}}])]
ODD += [{"data": "x"}, {"data": [None]}, {"results": [1, {"document": 1}]}, {"query": 5}]
ODD += [{"segments": [1], "words": "x"}, {"prompt": {}}, {"documents": {}}, {"choices": [5]}]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("side", ["request", "answer"])
def test_a_document_of_any_other_shape_has_no_text_and_breaks_nothing(
    side: str, dialect: str
) -> None:
    for document in ODD:
        for text in texts(side, dialect, document):
            assert isinstance(text.value, str)


def test_a_schema_nested_without_end_is_walked_without_recursion() -> None:
    schema: dict[str, Any] = {"description": "T deep"}
    for _ in range(50_000):
        schema = {"items": schema}
    found = texts("request", "openai_chat", {"messages": [], "tools": [schema]})
    assert [text.value for text in found] == ["T deep"]


SIDES = {
    "chat": "openai_chat",
    "completions": "openai_completions",
    "embeddings": "openai_embeddings",
    "images": "openai_images",
    "audio": "openai_audio",
    "moderations": "openai_moderations",
    "rerank": "openai_rerank",
    "responses": "openai_responses",
}


def recorded() -> list[tuple[str, str, Any]]:
    """(side, dialect, document) of every JSON body and event of OpenAI's endpoints."""
    found = []
    with CASSETTES.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            dialect = SIDES.get(row["endpoint"])
            if dialect is None:
                continue
            found.append(("request", dialect, row["request"]["body"]))
            body = row["response"]["body"]
            if row["response"]["kind"] == "json":
                found.append(("answer", dialect, body))
            elif row["response"]["kind"] == "sse":
                data = [li[5:] for li in body.splitlines() if li.startswith("data:")]
                found += [("answer", dialect, json.loads(d)) for d in data if d.strip()[:1] == "{"]
    return found


@pytest.mark.skipif(not CASSETTES.exists(), reason="the recorded traffic is not beside the repo")
def test_replacing_each_recorded_text_by_itself_leaves_every_document_equal() -> None:
    count = 0
    for side, dialect, document in recorded():
        before = json.dumps(document)
        for text in texts(side, dialect, document):
            text.value = str(text.value)
            count += 1
        assert json.dumps(document) == before
    assert count > 10_000


@pytest.mark.skipif(not CASSETTES.exists(), reason="the recorded traffic is not beside the repo")
def test_recorded_chat_deltas_keep_their_text_in_known_places() -> None:
    for side, dialect, document in recorded():
        if side == "answer" and dialect == "openai_chat" and isinstance(document, dict):
            for choice in document.get("choices") or []:
                held = choice.get("delta") or choice.get("message") or {}
                if isinstance(held.get("content"), str) and held["content"]:
                    found = [text.value for text in texts(side, dialect, document)]
                    assert held["content"] in found
