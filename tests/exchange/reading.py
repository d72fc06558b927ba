"""Parts and hosts to read and replay a body with."""

from __future__ import annotations

import json
from typing import Any

from asgi_llm_gateway.errors import ClientLeft, GatewayError, render
from asgi_llm_gateway.exchange import BodyLimits, Exchange

CHAT = "/v1/chat/completions"
UPLOAD = "/v1/audio/transcriptions"
BOUNDARY = "b0undary"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


class Reading:
    """A part that asks for the body, lets `change` alter it, and passes it on."""

    def __init__(self, app: Any, change: Any = None, limits: BodyLimits | None = None) -> None:
        self.app, self.change, self.limits = app, change, limits

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        exchange = Exchange.of(scope)
        if self.limits is not None:
            exchange.limits = self.limits
        try:
            body = await exchange.read(scope, receive)
        except GatewayError as error:
            status, headers, answer = render(error, exchange.endpoint.dialect)
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": answer, "more_body": False})
            return
        except ClientLeft:
            return
        if self.change is not None:
            self.change(body)
        await self.app(*exchange.inward(scope, receive), send)


class Foreign:
    """An app that is not ours: it reads what HTTP gives it and echoes what it saw."""

    def __init__(self, *, waits_for_leaving: bool = False) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.waits = waits_for_leaving
        self.left = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.headers = dict(scope["headers"])
        self.body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left = True
                return
            self.body += message.get("body", b"")
            more = message.get("more_body", False)
        if self.waits:
            message = await receive()
            assert message["type"] == "http.disconnect", message
            self.left = True
            return
        length = self.headers.get(b"content-length")
        assert length is None or int(length) == len(self.body), (length, self.body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


class Wrapping:
    """A host's middleware that copies the scope and puts a receive of its own in between."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.seen = b""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen = b""

        async def counted() -> Any:
            message = await receive()
            if message["type"] == "http.request":
                self.seen += message.get("body", b"")
            return message

        await self.app(dict(scope), counted, send)


def chat(**members: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [], **members}).encode()


def form(model: str | None = "whisper", file: bytes = b"RIFF" * 50, *, late: str = "") -> bytes:
    """A form with a model, a file, and perhaps a field after it."""

    def part(name: str, value: bytes, extra: str = "") -> bytes:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'
        return head.encode() + value + b"\r\n"

    first = b"" if model is None else part("model", model.encode())
    last = part(late, b"x") if late else b""
    whole = first + part("file", file, '; filename="a.wav"') + last
    return whole + f"--{BOUNDARY}--\r\n".encode()


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]
