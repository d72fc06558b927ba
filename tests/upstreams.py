"""An Upstream that answers from a script, and what tests of the relay ask again and again.

upstream = FakeUpstream(Reply(503), Reply.chat("hello"))
relay = relay_to(upstream, keys=["sk-one-11111111", "sk-two-22222222"])
answer = await ask(relay)
await nothing_left(relay)
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

from asgi_llm_gateway import Caller, Channel, Relay
from asgi_llm_gateway.errors import BadAnswer, Headers
from asgi_llm_gateway.exchange.record import Exchange
from asgi_llm_gateway.upstream.contract import UpstreamRequest
from tests.asgi import Answer, call

ALWAYS: Final = {"sweep of keys"}
"""Tasks that belong to the relay, not to a call."""
HANG: Final = "hang"
"""In a script: wait until cancelled or closed."""
Step = bytes | float | Exception | str
ASK: Final[dict[str, Any]] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
JSON: Final[Headers] = [(b"content-type", b"application/json")]
SSE: Final[Headers] = [(b"content-type", b"text/event-stream")]
DONE: Final = b"data: [DONE]\n\n"


def sse(*documents: Any, end: bytes = b"\n\n") -> bytes:
    """Documents as events, one after the other; `end` is the border."""
    return b"".join(b"data: " + json.dumps(d).encode() + end for d in documents)


def chunk(text: str = "", *, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """A chunk of a streamed chat answer."""
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "choices": [choice], **more}


USAGE: Final = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
USAGE_CHUNK: Final = {
    "id": "c1",
    "object": "chat.completion.chunk",
    "choices": [],
    "usage": USAGE,
}


@dataclass(frozen=True)
class Reply:
    """One answer. `steps` are its body: pieces, pauses in seconds, failures, or HANG.

    `head` comes before the status: pauses, a failure (which `send` raises) or HANG.
    """

    status: int = 200
    headers: Sequence[tuple[bytes, bytes]] = tuple(JSON)
    steps: Iterable[Step] = ()
    head: Sequence[Step] = ()

    @classmethod
    def json(cls, document: Any, status: int = 200, headers: Headers | None = None) -> Reply:
        """A plain answer; bytes are taken as they are."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return cls(status, [*JSON, *(headers or [])], [body])

    @classmethod
    def chat(cls, text: str = "hello") -> Reply:
        """An ordinary chat answer."""
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return cls.json({"id": "c1", "choices": [choice], "usage": USAGE})

    @classmethod
    def error(cls, status: int, message: str = "no", **more: Any) -> Reply:
        """An error in OpenAI's shape."""
        fault = {"message": message, "type": "t", "param": None, "code": "c", **more}
        return cls.json({"error": fault}, status)

    @classmethod
    def stream(cls, *steps: Step, headers: Headers | None = None) -> Reply:
        """A stream of events in these pieces."""
        return cls(200, [*SSE, *(headers or [])], steps)

    @classmethod
    def fails(cls, failure: Exception) -> Reply:
        """No answer at all."""
        return cls(head=[failure])


@dataclass
class Asked:
    """A request as it left, its streamed body read to the end."""

    request: UpstreamRequest
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        found = [v.decode() for k, v in self.request.headers if k == name.encode()]
        return ", ".join(found) if found else None

    @property
    def key(self) -> str | None:
        """The secret it was signed with."""
        bearer = self.header("authorization")
        return bearer and bearer.removeprefix("Bearer ")


class FakeUpstream:
    """Answers one reply after the other, the last again and again (an upstream.contract.Upstream).

    A callable among the replies is given the request and returns the reply. `open` are the answers
    nobody has closed, `sending` counts the calls of send that have not returned. With `read_bodies`
    off, streamed request bodies are not touched before the answer is given.
    """

    def __init__(self, *replies: Reply | Callable[[Asked], Reply]) -> None:
        self.replies = list(replies) or [Reply.chat()]
        self.asked: list[Asked] = []
        self.open: set[FakeAnswer] = set()
        self.sending = 0
        self.read_bodies = True

    async def send(self, request: UpstreamRequest) -> FakeAnswer:
        self.sending += 1
        try:
            body = request.body
            asked = Asked(request, body if isinstance(body, bytes) else b"")
            self.asked.append(asked)
            reply = self.replies[min(len(self.asked), len(self.replies)) - 1]
            if callable(reply):
                reply = reply(asked)
            if not isinstance(body, bytes) and self.read_bodies:
                async for piece in body:
                    asked.body += piece
            async for _ in _played(reply.head):
                raise AssertionError("a head has no body")
            answer = FakeAnswer(self, reply)
            self.open.add(answer)
            return answer
        finally:
            self.sending -= 1

    async def aclose(self) -> None:
        """Answers that are open stay so, to be seen."""

    @property
    def keys(self) -> list[str | None]:
        """The keys of the requests, in order."""
        return [asked.key for asked in self.asked]


class FakeAnswer:
    """An upstream.contract.UpstreamResponse; `taken` counts the pieces that were read."""

    def __init__(self, upstream: FakeUpstream, reply: Reply) -> None:
        self.status, self.headers = reply.status, list(reply.headers)
        self.taken = 0
        self._upstream = upstream
        self._pieces = self._counted(reply.steps)

    async def _counted(self, steps: Iterable[Step]) -> AsyncIterator[bytes]:
        async for piece in _played(steps):
            self.taken += 1
            yield piece
        self._upstream.open.discard(self)  # read to its end: nothing is left to close

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces

    async def read(self, limit: int) -> bytes:
        body = bytearray()
        async for piece in self._pieces:
            body += piece
            if len(body) > limit:
                raise BadAnswer(f"the provider's answer is over {limit} bytes")
        return bytes(body)

    async def aclose(self) -> None:
        self._upstream.open.discard(self)


async def _played(steps: Iterable[Step]) -> AsyncIterator[bytes]:
    for step in steps:
        if isinstance(step, bytes):
            yield step
        elif isinstance(step, Exception):
            raise step
        elif isinstance(step, str):
            await asyncio.Event().wait()
        else:
            await asyncio.sleep(step)


def channel_to(upstream: FakeUpstream, **config: Any) -> Channel:
    """A channel that serves everything by `upstream`."""
    given = {"name": "main", "models": ["*"], "keys": ["sk-provider-1111"]}
    given |= {"base_url": "https://provider.test/v1", "upstream": upstream}
    return Channel(**{**given, **config})


def relay_to(upstream: FakeUpstream, **config: Any) -> Relay:
    """A relay with one channel; `config` is the channel's."""
    return Relay([channel_to(upstream, **config)], rng=Random(1))


def called_by(app: Any, caller: Caller | None = None) -> Any:
    """`app` behind a part that names its caller."""
    known = caller or Caller("alice", "t1")

    async def named(scope: Any, receive: Any, send: Any) -> None:
        Exchange.of(scope).caller = known
        await app(scope, receive, send)

    return named


def guarded_by(app: Any, *guards: Any) -> Any:
    """`app` behind parts that guard each attempt."""

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        Exchange.of(scope).guards.extend(guards)
        await app(scope, receive, send)

    return guarded


async def ask(
    app: Any, document: Any = None, path: str = "/v1/chat/completions", **how: Any
) -> Answer:
    """One POST with a JSON body (members of ASK unless the whole is given)."""
    body = document if isinstance(document, bytes) else json.dumps(document or ASK).encode()
    return await call(app, "POST", path, body=body, **how)


async def ask_stream(app: Any, *, style: Any = "uvicorn", **members: Any) -> Answer:
    """A streamed chat call."""
    return await ask(app, {**ASK, "stream": True, **members}, style=style)


def in_flight(relay: Relay) -> dict[str, int]:
    """How many calls hold each key, by channel."""
    assert relay.channels is not None
    return {
        channel.name: sum(key.in_flight for key in channel.pool.keys)
        for channel in relay.channels.channels
    }


def left_open(relay: Relay) -> list[str]:
    """What a call that is over must not have left: keys held, answers open, sends under way."""
    assert relay.channels is not None
    found = [f"a key of {name} is held" for name, held in in_flight(relay).items() if held]
    for channel in relay.channels.channels:
        upstream = channel.upstream
        if isinstance(upstream, FakeUpstream):
            found += ["an answer is open"] * len(upstream.open)
            found += ["a request is under way"] * upstream.sending
    return found


async def nothing_left(relay: Relay, within: float = 1.0) -> None:
    """Everything is given back within that many seconds, and no task goes on."""
    until = asyncio.get_running_loop().time() + within
    me = asyncio.current_task()
    while True:
        found = left_open(relay)
        others = [t for t in asyncio.all_tasks() if t is not me and t.get_name() not in ALWAYS]
        found += [f"{task!r} goes on" for task in others]
        if not found or asyncio.get_running_loop().time() > until:
            break
        await asyncio.sleep(0.01)
    assert not found, found


def openai_error(answer: Answer) -> dict[str, Any]:
    """The one well-formed error in OpenAI's shape that an answer holds."""
    assert answer.header("content-type") == "application/json"
    assert answer.header("x-request-id")
    document = answer.json
    assert set(document) == {"error"}
    error: dict[str, Any] = document["error"]
    assert isinstance(error["message"], str)
    assert error["message"]
    assert {"type", "param", "code"} <= set(error)
    assert "Traceback" not in error["message"]
    return error


def split_everywhere(data: bytes) -> list[tuple[bytes, ...]]:
    """The data whole, in two at every place, and byte by byte."""
    halves = [(data[:at], data[at:]) for at in range(1, len(data))]
    return [(data,), *halves, tuple(data[at : at + 1] for at in range(len(data)))]


def with_steps(reply: Reply, *steps: Step) -> Reply:
    """The same answer with another body."""
    return replace(reply, steps=steps)


async def until(happened: Callable[[], Any], within: float = 5.0) -> None:
    """Wait until it has happened; the test fails when it has not after that many seconds."""
    async with asyncio.timeout(within):
        while not happened():  # noqa: ASYNC110 - what is waited for knows nothing of the test
            await asyncio.sleep(0.002)
