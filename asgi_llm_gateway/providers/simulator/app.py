"""A provider that is a plain ASGI app: for the demo, the docs, and tests of a gateway's users.

    simulator = Simulator(faults={"sk-dead": "401", "gpt-4o": "once:503"}, tokens_per_second=50)

It answers as OpenAI does under any path prefix, in this process or served.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final

import msgspec
from starlette.types import Message, Receive, Scope, Send

from ...errors import ClientLeft, Headers
from ..rows import PROVIDERS
from .answer import Answer, Refusal, json_answer
from .deliver import Pace, deliver
from .faults import Fault
from .files import FileShelf
from .forms import Form, read_form
from .request import Request
from .routes import DEFAULT_MODELS, FORMS, HANDLERS, Route, find

MODELS: Final = (
    *PROVIDERS["simulator"].models,
    "chatgpt-*",
    "dall-e-*",
    "gpt-*",
    "o[1-9]*",
    "omni-moderation-*",
    "text-embedding-*",
    "text-moderation-*",
    "tts-*",
    "whisper-*",
)
"""What a simulator serves unless told otherwise: names, which it lists, and patterns."""

_KEPT_CALLS: Final = 10_000
_MAX_JSON: Final = 64 * 1024 * 1024


@dataclass(slots=True)
class Seen:
    """What the simulator saw of one request, and how it went."""

    method: str
    path: str
    headers: Headers = field(repr=False)
    key: str = field(default="", repr=False)
    endpoint: str = ""
    model: str = ""
    stream: bool = False
    size: int = 0
    """Bytes of the body."""
    body: bytes = field(default=b"", repr=False)
    """The body, unless it is a form or over the simulator's `keep_bodies`."""
    fault: str = ""
    status: int | None = None
    """What was answered; None if no head went out."""
    events: int = 0
    """Body messages sent."""
    dropped: bool = False
    """A fault ended the connection."""
    disconnected: bool = False
    """The caller left before the end."""


class Simulator:
    """An OpenAI-shaped provider; the same request always gets the same text.

    `models` are names and patterns (fnmatch); others are 404. `keys`: None takes any key or none;
    otherwise others are 401. `faults` maps a key, a model or `*` to a fault (see `faults`), looked
    up in this order. `latency` and `first_token` are seconds before the head and before a stream's
    first event; `tokens_per_second` paces both streams and plain answers; `length` bounds the
    tokens of generated text. `calls` holds the last 10 000 requests. `clock` is wall time in
    seconds and stamps `created`.
    """

    def __init__(
        self,
        *,
        name: str = "simulator",
        models: Iterable[str] = MODELS,
        keys: Iterable[str] | None = None,
        faults: Mapping[str, str | Fault] | None = None,
        latency: float = 0.0,
        first_token: float = 0.0,
        tokens_per_second: float | None = None,
        length: tuple[int, int] = (16, 64),
        keep_bodies: int = 65_536,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self.models = tuple(models)
        self.keys = None if keys is None else frozenset(keys)
        self.calls: deque[Seen] = deque(maxlen=_KEPT_CALLS)
        self._faults: dict[str, Fault] = {}
        for target, fault in (faults or {}).items():
            self.set_fault(target, fault)
        self._pace = Pace(latency, first_token, tokens_per_second, sleep)
        self._length = length
        self._keep_bodies = keep_bodies
        self._clock = clock
        self._files = FileShelf()

    def set_fault(self, target: str, fault: str | Fault | None) -> None:
        """From now on let calls with this key or model (or `*`) go wrong; None heals them.

        Raises ConfigurationError for a fault there is not.
        """
        if fault is None:
            self._faults.pop(target, None)
        else:
            self._faults[target] = Fault.parse(fault) if isinstance(fault, str) else fault

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request; a connection that a fault resets raises ConnectionResetError
        where the server gives no way to abort it."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise NotImplementedError(f"the simulator speaks http, not {scope['type']}")
        headers: Headers = list(scope["headers"])
        seen = Seen(scope["method"], scope["path"], headers, key=_key(headers))
        self.calls.append(seen)
        try:
            answer = await self._answer(seen, receive)
            await deliver(answer, self._pace, seen, receive, send)
        except ClientLeft:
            seen.disconnected = not seen.dropped
        except asyncio.CancelledError:
            seen.disconnected = True
            raise

    async def _answer(self, seen: Seen, receive: Receive) -> Answer:
        """Read the request and decide; whatever is wrong with it becomes an answer too."""
        try:
            route = find(seen.method, seen.path)
            seen.endpoint = route.endpoint
            form = Form({}, {})
            body: dict[str, Any] = {}
            if seen.method == "POST":
                body, form = await self._read(route, seen, receive)
            target, fault = self._strike(seen)
            if fault is not None and fault.refusal is not None:
                raise fault.refusal
            if not target or target != seen.key:
                self._check_key(seen.key)
            answer = self._handle(route, seen, body, form)
        except Refusal as refusal:
            return refusal.answer()
        return answer if fault is None else fault.bend(answer)

    async def _read(
        self, route: Route, seen: Seen, receive: Receive
    ) -> tuple[dict[str, Any], Form]:
        kind = next((value for name, value in seen.headers if name == b"content-type"), b"")
        chunks = _chunks(receive, seen)
        form = Form({}, {})
        body: dict[str, Any]
        # Image edits are read as JSON too, as newer clients may send them.
        if route.endpoint in FORMS and not kind.startswith(b"application/json"):
            form = await read_form(chunks, kind, keep=route.endpoint == "files")
            body = dict(form.fields)
        else:
            body = await self._read_json(chunks, seen)
        model = body.get("model") or DEFAULT_MODELS.get(route.endpoint, "")
        seen.model = model if isinstance(model, str) else ""
        seen.stream = body.get("stream") in (True, "true")
        return body, form

    async def _read_json(self, chunks: AsyncIterator[bytes], seen: Seen) -> dict[str, Any]:
        raw = bytearray()
        async for chunk in chunks:
            raw += chunk
            if len(raw) > _MAX_JSON:
                raise Refusal(413, "The request body is too large.")
        if len(raw) <= self._keep_bodies:
            seen.body = bytes(raw)
        try:
            body = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise Refusal(400, "We could not parse the JSON body of your request.") from exc
        if not isinstance(body, dict):
            raise Refusal(400, "The body of your request must be a JSON object.")
        return body

    def _strike(self, seen: Seen) -> tuple[str, Fault | None]:
        """The fault this call has coming and what it is aimed at; used up if it strikes once."""
        for target in (seen.key, seen.model, "*"):
            fault = self._faults.get(target)
            if fault is not None:
                if fault.once:
                    del self._faults[target]
                seen.fault = fault.kind
                return target, fault
        return "", None

    def _check_key(self, key: str) -> None:
        if self.keys is None or key in self.keys:
            return
        if not key:
            raise Refusal(401, "You didn't provide an API key. Send it as Authorization: Bearer.")
        # Masked as OpenAI masks it: a gateway must not hand even this much to its caller.
        shown = f"{key[:7]}{'*' * 8}{key[-4:]}" if len(key) > 11 else "*" * len(key)
        raise Refusal(401, f"Incorrect API key provided: {shown}.", code="invalid_api_key")

    def _handle(self, route: Route, seen: Seen, body: dict[str, Any], form: Form) -> Answer:
        if route.endpoint == "models":
            return self._list_models(route.id)
        if route.endpoint == "files" and seen.method != "POST":
            return self._files.answer(seen.method, route.id, route.tail)
        created = int(self._clock())
        request = Request(route.endpoint, seen.model, body, created, self._length, form.files)
        if route.endpoint == "files":
            return self._files.upload(request)
        if not seen.model:
            raise Refusal(400, "you must provide a model parameter", param="model")
        self._check_model(seen.model)
        return HANDLERS[route.endpoint](request)

    def _check_model(self, model: str) -> None:
        if not any(model == known or fnmatchcase(model, known) for known in self.models):
            raise Refusal(
                404,
                f"The model `{model}` does not exist or you do not have access to it.",
                code="model_not_found",
            )

    def _list_models(self, model: str) -> Answer:
        if model:
            self._check_model(model)
            return json_answer(self._model(model))
        names = [name for name in self.models if not set("*?[") & set(name)]
        return json_answer({"object": "list", "data": [self._model(name) for name in names]})

    def _model(self, model: str) -> dict[str, Any]:
        return {"id": model, "object": "model", "created": 1_700_000_000, "owned_by": self.name}


def simulator_app() -> Simulator:
    """What the `simulator` provider is when its channel names no base URL."""
    return Simulator()


def _key(headers: Headers) -> str:
    value = next((value for name, value in headers if name == b"authorization"), b"")
    scheme, _, key = value.partition(b" ")
    return key.strip().decode("latin-1") if scheme.lower() == b"bearer" else ""


async def _chunks(receive: Receive, seen: Seen) -> AsyncIterator[bytes]:
    """The body as it comes; raises ClientLeft when it stops coming."""
    more = True
    while more:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        chunk: bytes = message.get("body", b"")
        seen.size += len(chunk)
        more = message.get("more_body", False)
        yield chunk


async def _lifespan(receive: Receive, send: Send) -> None:
    """Nothing to start and nothing to stop."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
