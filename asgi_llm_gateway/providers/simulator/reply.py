"""What the simulated model says to a prompt: prose, an echo, JSON or a tool call.

A prompt that begins with `echo:` is answered with the rest of itself. One that holds "call the
tool", or a tool choice that demands it, is answered with a call of a tool the request brought.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .answer import encode
from .request import Request
from .text import example, prose, tokenise


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the request offers."""

    name: str
    parameters: Any


@dataclass(frozen=True, slots=True)
class Reply:
    """Its tokens are exactly the pieces a stream sends: text, or the arguments of `tool`."""

    tokens: list[str]
    finish: str
    tool: str | None = None

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.tokens)


def reply(
    request: Request,
    index: int,
    prompt: str,
    *,
    tools: Sequence[Tool] = (),
    tool_choice: Any = None,
    format: Any = None,
    limit: int | None = None,
) -> Reply:
    """Choice number `index` of the answer to the last user text, `prompt`.

    `format` is a response format (OpenAI's json_object or json_schema); `limit` is the most tokens
    of text there may be.
    """
    rng = request.rng(index)
    tool = _demanded(tools, tool_choice, prompt)
    if tool is not None:
        arguments = encode(example(tool.parameters, rng) or {}).decode()
        return Reply(tokenise(arguments), "tool_calls", tool.name)
    kind = format.get("type") if isinstance(format, dict) else None
    if kind in ("json_object", "json_schema"):
        schema = format.get("json_schema") or format
        schema = schema.get("schema") if isinstance(schema, dict) else None
        value = example(schema, rng) if schema else {"answer": prose(rng, 4, 8)}
        text = encode(value).decode()
    elif prompt.startswith("echo:"):
        text = prompt.removeprefix("echo:").strip()
    else:
        text = prose(rng, *request.length)
    tokens = tokenise(text)
    if limit is not None and len(tokens) > limit:
        return Reply(tokens[:limit], "length")
    return Reply(tokens, "stop")


def _demanded(tools: Sequence[Tool], choice: Any, prompt: str) -> Tool | None:
    if not tools or choice == "none":
        return None
    if isinstance(choice, dict):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else choice.get("name")
        return next((tool for tool in tools if tool.name == name), tools[0])
    if choice == "required" or "call the tool" in prompt.lower():
        return tools[0]
    return None


def offered(tools: Any) -> list[Tool]:
    """The functions among a request's tools, as chat (nested) or responses (flat) write them."""
    found = []
    for tool in tools if isinstance(tools, list) else ():
        inner = tool.get("function", tool) if isinstance(tool, dict) else None
        if isinstance(inner, dict) and isinstance(inner.get("name"), str):
            found.append(Tool(inner["name"], inner.get("parameters")))
    return found
