"""chat/completions and completions, plain and streamed (OpenAI's API reference)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from .answer import DONE, Answer, Piece, Refusal, data_event, event_stream, json_answer
from .reply import Reply, offered, reply
from .request import Request, missing
from .text import count, text_of

_COMPLETION_DEFAULT = 16
"""Tokens of a legacy completion that names no limit."""


def chat(request: Request) -> Answer:
    """POST /chat/completions.

    Prompt tokens are those of every message's text; roles, names, tools and parts that are not
    text count nothing.
    """
    messages = request.body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise missing("messages")
    if not all(isinstance(message, dict) for message in messages):
        raise Refusal(400, "Invalid type for 'messages[0]'.", param="messages", code="invalid_type")
    last = messages[-1]
    prompt = text_of(last.get("content")) if last.get("role") == "user" else ""
    replies = [
        reply(
            request,
            index,
            prompt,
            tools=offered(request.body.get("tools")),
            tool_choice=request.body.get("tool_choice"),
            format=request.body.get("response_format"),
            limit=_limit(request),
        )
        for index in range(request.integer("n", 1, high=128))
    ]
    usage = _usage(sum(count(text_of(each.get("content"))) for each in messages), replies)
    if request.streamed:
        return _streamed(request, "chat.completion.chunk", _chat_chunks(request, replies), usage)
    choices = [
        {
            "index": index,
            "message": _message(request, index, each),
            "logprobs": None,
            "finish_reason": each.finish,
        }
        for index, each in enumerate(replies)
    ]
    body = _envelope(request, "chat.completion") | {"choices": choices, "usage": usage}
    return json_answer(body, tokens=usage["completion_tokens"])


def completions(request: Request) -> Answer:
    """POST /completions; a prompt is a text, a list of texts, or token numbers."""
    prompts = _prompts(request.body.get("prompt", "<|endoftext|>"))
    limit = request.integer("max_tokens", _COMPLETION_DEFAULT)
    number = request.integer("n", 1, high=128)
    replies = [
        reply(request, at * number + index, prompt, limit=limit)
        for at, (prompt, _) in enumerate(prompts)
        for index in range(number)
    ]
    usage = _usage(sum(size for _, size in prompts), replies)
    if request.streamed:
        return _streamed(request, "text_completion", _text_chunks(replies), usage)
    choices = [
        {"text": each.text, "index": index, "logprobs": None, "finish_reason": each.finish}
        for index, each in enumerate(replies)
    ]
    body = _envelope(request, "text_completion") | {"choices": choices, "usage": usage}
    return json_answer(body, tokens=usage["completion_tokens"])


def _limit(request: Request) -> int | None:
    name = "max_completion_tokens" if "max_completion_tokens" in request.body else "max_tokens"
    return request.integer(name, 0) or None


def _prompts(prompt: Any) -> list[tuple[str, int]]:
    """Each prompt as its text and its number of tokens."""
    if isinstance(prompt, str):
        return [(prompt, count(prompt))]
    if isinstance(prompt, list) and prompt:
        if all(isinstance(part, str) for part in prompt):
            return [(part, count(part)) for part in prompt]
        if all(isinstance(part, int) for part in prompt):
            return [("", len(prompt))]
        if all(isinstance(part, list) for part in prompt):
            return [("", len(part)) for part in prompt]
    raise Refusal(400, "Invalid type for 'prompt'.", param="prompt", code="invalid_type")


def _envelope(request: Request, kind: str) -> dict[str, Any]:
    prefix = "cmpl-" if kind == "text_completion" else "chatcmpl-"
    return {
        "id": request.id(prefix),
        "object": kind,
        "created": request.created,
        "model": request.model,
        "system_fingerprint": "fp_simulator",
    }


def _usage(prompt_tokens: int, replies: list[Reply]) -> dict[str, Any]:
    completion = sum(len(each.tokens) for each in replies)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": prompt_tokens + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _call(request: Request, index: int, name: str | None, arguments: str) -> dict[str, Any]:
    return {
        "id": request.id("call_", index),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _message(request: Request, index: int, each: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": each.text, "refusal": None}
    if each.tool is not None:
        message["content"] = None
        message["tool_calls"] = [_call(request, index, each.tool, each.text)]
    return message


Choice = tuple[dict[str, Any], int]
"""One choice of a chunk, and the tokens in it."""


def _chat_chunks(request: Request, replies: list[Reply]) -> Iterator[Choice]:
    """Every choice's chunks, taken in turn as OpenAI interleaves them."""
    chunks = [_chat_choice(request, index, each) for index, each in enumerate(replies)]
    for group in zip_longest(*chunks):
        yield from (chunk for chunk in group if chunk is not None)


def _chat_choice(request: Request, index: int, each: Reply) -> Iterator[Choice]:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}

    first: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
    if each.tool is not None:
        first["content"] = None
        first["tool_calls"] = [{"index": 0} | _call(request, index, each.tool, "")]
    yield chunk(first), 0
    for token in each.tokens:
        if each.tool is None:
            yield chunk({"content": token}), 1
        else:
            yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": token}}]}), 1
    yield chunk({}, each.finish), 0


def _text_chunks(replies: list[Reply]) -> Iterator[Choice]:
    chunks = [_text_choice(index, each) for index, each in enumerate(replies)]
    for group in zip_longest(*chunks):
        yield from (chunk for chunk in group if chunk is not None)


def _text_choice(index: int, each: Reply) -> Iterator[Choice]:
    for token in each.tokens:
        yield {"text": token, "index": index, "logprobs": None, "finish_reason": None}, 1
    yield {"text": "", "index": index, "logprobs": None, "finish_reason": each.finish}, 0


def _streamed(
    request: Request, kind: str, choices: Iterator[Choice], usage: dict[str, Any]
) -> Answer:
    """The chunks, and usage as `stream_options.include_usage` has it: null but in a last chunk."""
    options = request.body.get("stream_options")
    asked = isinstance(options, dict) and options.get("include_usage") is True
    envelope = _envelope(request, kind)
    extra: dict[str, Any] = {"usage": None} if asked else {}

    def pieces() -> Iterator[Piece]:
        for choice, tokens in choices:
            yield data_event(envelope | {"choices": [choice]} | extra, tokens)
        if asked:
            yield data_event(envelope | {"choices": [], "usage": usage})
        yield DONE

    return event_stream(pieces())
