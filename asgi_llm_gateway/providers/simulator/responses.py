"""POST /responses, plain and streamed: OpenAI's Responses API, without stored state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .answer import Answer, Piece, Refusal, event_stream, json_answer, named_event
from .reply import Reply, offered, reply
from .request import Request, missing
from .text import count, text_of

Event = tuple[dict[str, Any], int]
"""An event before it is numbered, and the tokens in it."""


def responses(request: Request) -> Answer:
    """Input tokens are those of the instructions' and every item's text."""
    texts, prompt = _input(request.body.get("input"))
    instructions = request.body.get("instructions")
    if isinstance(instructions, str):
        texts.append(instructions)
    settings = request.body.get("text")
    each = reply(
        request,
        0,
        prompt,
        tools=offered(request.body.get("tools")),
        tool_choice=request.body.get("tool_choice"),
        format=settings.get("format") if isinstance(settings, dict) else None,
        limit=request.integer("max_output_tokens", 0) or None,
    )
    usage = _usage(sum(count(text) for text in texts), len(each.tokens))
    if request.streamed:
        return event_stream(_numbered(_events(request, each, usage)))
    item = _item(request, each, each.text, "completed")
    return json_answer(_response(request, each, [item], usage), tokens=len(each.tokens))


def _input(value: Any) -> tuple[list[str], str]:
    """Every text of the input, and the last one if a user said it."""
    if isinstance(value, str):
        return [value], value
    if not isinstance(value, list):
        raise missing("input")
    if not all(isinstance(item, dict) for item in value):
        raise Refusal(400, "Invalid type for 'input[0]'.", param="input", code="invalid_type")
    texts = [text_of(item.get("content") or item.get("output")) for item in value]
    by_user = bool(value) and value[-1].get("role") == "user"
    return texts, texts[-1] if by_user else ""


def _usage(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input_tokens + output_tokens,
    }


def _response(
    request: Request, each: Reply, output: list[Any], usage: dict[str, Any] | None
) -> dict[str, Any]:
    """The response object: finished if it has its usage."""
    cut = each.finish == "length"
    status = "in_progress" if usage is None else "incomplete" if cut else "completed"
    body = request.body
    return {
        "id": request.id("resp_"),
        "object": "response",
        "created_at": request.created,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "model": request.model,
        "output": output,
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p", 1.0),
        "truncation": body.get("truncation") or "disabled",
        "usage": usage,
        "user": body.get("user"),
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _item(request: Request, each: Reply, text: str, status: str) -> dict[str, Any]:
    if each.tool is not None:
        return {
            "id": request.id("fc_"),
            "type": "function_call",
            "status": status,
            "arguments": text,
            "call_id": request.id("call_"),
            "name": each.tool,
        }
    content = [_part(text)] if status != "in_progress" else []
    return {
        "id": request.id("msg_"),
        "type": "message",
        "status": status,
        "content": content,
        "role": "assistant",
    }


def _numbered(events: Iterator[Event]) -> Iterator[Piece]:
    for number, (event, tokens) in enumerate(events):
        yield named_event(event | {"sequence_number": number}, tokens)


def _events(request: Request, each: Reply, usage: dict[str, Any]) -> Iterator[Event]:
    running = _response(request, each, [], None)
    yield {"type": "response.created", "response": running}, 0
    yield {"type": "response.in_progress", "response": running}, 0
    item = _item(request, each, "", "in_progress")
    yield {"type": "response.output_item.added", "output_index": 0, "item": item}, 0
    yield from _deltas(each, {"item_id": item["id"], "output_index": 0})
    item = _item(request, each, each.text, "completed")
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}, 0
    finished = _response(request, each, [item], usage)
    yield {"type": f"response.{finished['status']}", "response": finished}, 0


def _deltas(each: Reply, place: dict[str, Any]) -> Iterator[Event]:
    if each.tool is not None:
        kind = "response.function_call_arguments"
        for token in each.tokens:
            yield {"type": f"{kind}.delta", **place, "delta": token}, 1
        yield {"type": f"{kind}.done", **place, "name": each.tool, "arguments": each.text}, 0
        return
    place = {**place, "content_index": 0}
    yield {"type": "response.content_part.added", **place, "part": _part("")}, 0
    for token in each.tokens:
        yield {"type": "response.output_text.delta", **place, "delta": token, "logprobs": []}, 1
    yield {"type": "response.output_text.done", **place, "text": each.text, "logprobs": []}, 0
    yield {"type": "response.content_part.done", **place, "part": _part(each.text)}, 0
