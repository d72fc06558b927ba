"""The demo's calls: each made with httpx over a socket, shown, and judged."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import httpx


@dataclass(slots=True)
class Call:
    """What one call did; `problem` says what it should have done instead."""

    HEADING: ClassVar = ("call", "status", "channel", "attempts", "ms", "tokens")

    name: str
    status: int = 0
    channel: str = "-"
    attempts: str = "-"
    seconds: float = 0.0
    tokens: int | None = None
    problem: str = ""

    def row(self) -> tuple[object, ...]:
        """Its line of the table."""
        tokens = "-" if self.tokens is None else self.tokens
        return (
            self.name,
            self.status,
            self.channel,
            self.attempts,
            round(self.seconds * 1000),
            tokens,
        )

    def answered(self, response: httpx.Response, started: float) -> None:
        """Note what the answer's head says, and how long it all took."""
        self.status = response.status_code
        self.channel = response.headers.get("x-llm-channel", "-")
        self.attempts = response.headers.get("x-llm-attempts", "-")
        self.seconds = time.perf_counter() - started


async def plain_call(client: httpx.AsyncClient, model: str) -> Call:
    """A call whose answer comes whole."""
    return await _whole(client, Call("plain"), model)


async def fail_over_call(client: httpx.AsyncClient, model: str) -> Call:
    """A call whose first channel has a dead key: the second one must serve it."""
    call = await _whole(client, Call("failed over"), model)
    if not call.problem and call.attempts != "2":
        call.problem = f"it took {call.attempts} attempts; it should have taken 2"
    return call


async def _whole(client: httpx.AsyncClient, call: Call, model: str) -> Call:
    print(f"> {call.name} call, {model}")
    started = time.perf_counter()
    response = await client.post("/chat/completions", json=_body(model, stream=False))
    call.answered(response, started)
    if response.status_code != 200:
        call.problem = f"the answer was {response.status_code}: {response.text[:300]}"
        return call
    answer = response.json()
    print(f"{answer['choices'][0]['message']['content']}\n", flush=True)
    call.tokens = (answer.get("usage") or {}).get("total_tokens")
    return call


async def streamed_call(client: httpx.AsyncClient, model: str) -> Call:
    """A call whose answer is printed while it comes."""
    call = Call("streamed")
    print(f"> {call.name} call, {model}")
    started = time.perf_counter()
    pieces = 0
    done = False
    body = _body(model, stream=True)
    async with client.stream("POST", "/chat/completions", json=body) as response:
        if response.status_code != 200:
            call.answered(response, started)
            call.problem = f"the answer was {(await response.aread()).decode()[:300]}"
            return call
        async for line in response.aiter_lines():
            data = line.removeprefix("data: ")
            done = done or data == "[DONE]"
            if data == line or done:
                continue
            event = json.loads(data)
            if text := _text(event):
                pieces += 1
                print(text, end="", flush=True)
            call.tokens = (event.get("usage") or {}).get("total_tokens", call.tokens)
        call.answered(response, started)
    print("\n")
    if not done:
        call.problem = "the stream did not end with [DONE]"
    elif not pieces:
        call.problem = "the stream carried no text"
    return call


def _body(model: str, *, stream: bool) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "Say hello in one short sentence."}],
        "stream": stream,
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    return body


def _text(event: dict[str, Any]) -> str:
    choices = event.get("choices") or [{}]
    return choices[0].get("delta", {}).get("content") or ""
