"""A hand driver for the simulator: its messages kept apart, and a caller that can leave."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Message

from asgi_llm_gateway.providers.simulator import Simulator


@dataclass
class Sent:
    """What came out of one call."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)
    ended: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.bodies)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[bytes]:
        """The body messages that hold something; each is one event of a stream."""
        return [body for body in self.bodies if body]

    @property
    def data(self) -> list[Any]:
        """The JSON of every event but [DONE]."""
        lines = [event.partition(b"data: ")[2].strip() for event in self.events]
        return [json.loads(line) for line in lines if line != b"[DONE]"]


class Call:
    """One call under way; `leave` is the caller hanging up."""

    def __init__(self, *chunks: bytes) -> None:
        self.sent = Sent()
        self._left = asyncio.Event()
        self._chunks = list(chunks)
        self.progress = asyncio.Condition()

    def leave(self) -> None:
        self._left.set()

    async def receive(self) -> dict[str, Any]:
        if self._chunks:
            body = self._chunks.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(self._chunks)}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        sent = self.sent
        assert not sent.ended, "nothing may follow the last message"
        if message["type"] == "http.response.start":
            assert sent.status is None
            sent.status = message["status"]
            sent.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        else:
            assert sent.status is not None
            sent.bodies.append(message["body"])
            sent.ended = not message["more_body"]
        async with self.progress:
            self.progress.notify_all()

    async def until_bodies(self, count: int) -> None:
        async with self.progress:
            await self.progress.wait_for(lambda: len(self.sent.bodies) >= count)


def scope(method: str, path: str, *headers: tuple[str, str]) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(name.encode(), value.encode()) for name, value in headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }


def headers_of(key: str | None, kind: str = "application/json") -> list[tuple[str, str]]:
    given = [("content-type", kind)]
    return given if key is None else [*given, ("authorization", f"Bearer {key}")]


async def post(simulator: Simulator, path: str, body: Any, *, key: str | None = "sk-test") -> Sent:
    """A JSON call, seen through to its end."""
    call = Call(body if isinstance(body, bytes) else json.dumps(body).encode())
    async with asyncio.timeout(10):
        await simulator(scope("POST", path, *headers_of(key)), call.receive, call.send)
    return call.sent


async def get(simulator: Simulator, path: str, method: str = "GET") -> Sent:
    call = Call(b"")
    async with asyncio.timeout(10):
        await simulator(scope(method, path, *headers_of("sk-test")), call.receive, call.send)
    return call.sent


def form(
    fields: dict[str, str], files: dict[str, tuple[str, bytes]], boundary: str = "b0undary"
) -> bytes:
    """A multipart body: fields first, as the official clients write it."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    for name, (filename, content) in files.items():
        parts.append(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}";'
            f' filename="{filename}"\r\nContent-Type: audio/wav\r\n\r\n'.encode()
            + content
            + b"\r\n"
        )
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


async def post_form(
    simulator: Simulator, path: str, body: bytes, *, chunk: int | None = None
) -> Sent:
    size = chunk or max(1, len(body))
    call = Call(*(body[at : at + size] for at in range(0, len(body), size)))
    kind = "multipart/form-data; boundary=b0undary"
    async with asyncio.timeout(10):
        await simulator(scope("POST", path, *headers_of("sk-test", kind)), call.receive, call.send)
    return call.sent


def chat(prompt: Any = "hello there", **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": prompt}], **more}
