"""The record of one call: found or made by every part before it calls the app inside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ..endpoints import Endpoint, below_mount, endpoint_of, find, root_path_of
from ..errors import AuthenticationFailed, Headers
from ..runtime import Tasks, kept_tasks
from ..wire.usage import Usage
from .attempt import Attempt, AttemptGuard, CallRecord
from .body import (
    Body,
    JSONBody,
    MultipartBody,
    StreamBody,
    content_length,
    read_json,
    read_multipart,
)
from .caller import Caller
from .ids import new_id
from .limits import BodyLimits, Clock
from .replay import replayed, replayed_form, resized
from .snapshot import Snapshot

SCOPE_KEY = "asgi_llm_gateway"
"""The one scope key of this package; the endpoint's record lives under it."""

Receive = Callable[[], Coroutine[Any, Any, Any]]
T = TypeVar("T")

PREFIXES = ("/v1", "/v1beta")
"""Where a part on a host's app acts unless it is told otherwise."""


class Exchange:
    """One call through the gateway, and everything known about it.

    Members have class-level defaults so that making one costs little; what is a list or a mapping
    is made when first needed.
    """

    caller: Caller | None = None
    model: str | None = None
    """The model the caller asked for, before alias and mapping."""
    body: Body | None = None
    outcome: str | None = None
    """ok, refused, provider_error, failed, truncated, client_left or cancelled; None while under
    way."""
    status: int | None = None
    cache_status: str | None = None
    limits: BodyLimits = BodyLimits()
    tasks: Tasks | None = None
    skipped_events: int = 0
    """Malformed events of the provider's stream that were left out."""
    first_byte: float | None = None
    ended: float | None = None
    passed_by: str | None = None
    """The part that let the call by without naming a caller, since the path is not below its
    prefixes; the relay then refuses, as it is no host's own route after all."""
    bypassed: bool = False
    """The caller may use this endpoint although its model cannot be seen."""
    bearer: str | None = None
    """What the caller showed, for channels whose key is the caller's own. Set only where there is
    such a channel, and never to one of the gateway's own access tokens: it goes to a provider."""
    everything_ours: bool = False
    """Inside a Gateway every path is the gateway's own; on a host's app only some prefixes are."""
    announced: int | None = None
    """The length of a form as the caller announced it; None when it came in chunks."""
    _losses: list[str] | None = None
    _held: dict[Snapshot[Any], Any] | None = None
    _usage: Usage | None = None
    _usage_source: Callable[[], Usage | None] | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _id: str | None = None
    _request_id: str | None = None
    _read_from: int = 0
    """Which receive the form was read from, by its id: the object itself leads to the scope and so
    back here, and a cycle a call is what makes the garbage collector cost more than the call."""

    def __init__(self, scope: Any, started: float = 0.0) -> None:
        self.root_path: str = root_path_of(scope)
        self.path: str = scope["path"]
        self._headers: Headers = scope["headers"]
        self.endpoint: Endpoint = find(self.path, self.root_path, self._headers)
        self.started = started
        self.attempts: list[Attempt] = []
        self.guards: list[AttemptGuard] = []

    @classmethod
    def of(cls, scope: Any) -> Exchange:
        """The scope's exchange, made on first sight; the endpoint is read anew below a mount."""
        exchange: Exchange | None = scope.get(SCOPE_KEY)
        if exchange is None:
            exchange = scope[SCOPE_KEY] = cls(scope)
        elif (
            exchange.path is not scope["path"]  # else nobody on the way has touched it
            or exchange.root_path != scope.get("root_path", "")
        ) and (exchange.root_path != root_path_of(scope) or exchange.path != scope["path"]):
            exchange.root_path = root_path_of(scope)
            exchange.path = scope["path"]
            exchange.endpoint = endpoint_of(scope)
        return exchange

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop the call runs in, looked up once (it costs a system call on some)."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    @property
    def id(self) -> str:
        """128 random bits of ours; what money and slots are keyed by."""
        if self._id is None:
            self._id = new_id()
        return self._id

    @property
    def losses(self) -> list[str]:
        """What the target's dialect could not carry."""
        if self._losses is None:
            self._losses = []
        return self._losses

    @property
    def usage(self) -> Usage | None:
        """What the call consumed, once its answer is over; read from it when first asked for."""
        if self._usage_source is not None:
            self._usage, self._usage_source = self._usage_source(), None
        return self._usage

    @usage.setter
    def usage(self, usage: Usage | None) -> None:
        self._usage, self._usage_source = usage, None

    def usage_from(self, source: Callable[[], Usage | None]) -> None:
        """Where `usage` is to be read from if anybody asks."""
        self._usage_source = source

    @property
    def request_id(self) -> str:
        """What goes out as x-request-id: the caller's own if it is harmless, else our id."""
        if self._request_id is None:
            for name, value in self._headers:
                if name == b"x-request-id" and 0 < len(value) <= 200 and _printable(value):
                    self._request_id = value.decode("ascii")
                    break
            else:
                self._request_id = self.id
        return self._request_id

    def concerns(self, scope: Any, prefixes: tuple[str, ...] = PREFIXES) -> bool:
        """Whether a part should act on this request at all."""
        if self.everything_ours:
            return True
        root = root_path_of(scope)
        path = below_mount(scope["path"], root)
        for prefix in prefixes:
            if path.startswith(prefix) and path[len(prefix) :][:1] in ("", "/"):
                return True
            if root and prefix + "/" in root + "/":
                return True
        return False

    def require_caller(self, part: str) -> Caller:
        """The caller, or the refusal of a part that cannot do its work without one."""
        if self.caller is None:
            raise AuthenticationFailed(
                f"{part} needs to know the caller and no part outside it named one: add "
                f"TokenAuthMiddleware outside {part} (with add_middleware the last added is "
                f"outermost), or build {part} with anonymous=True",
                code="caller_required",
            )
        return self.caller

    def hold(self, snapshot: Snapshot[T]) -> T:
        """The snapshot's value as it was when this exchange first asked."""
        held = self._held
        if held is None:
            held = self._held = {}
        if snapshot not in held:
            held[snapshot] = snapshot.current
        value: T = held[snapshot]
        return value

    async def read(self, scope: Any, receive: Receive, clock: Clock | None = None) -> Body:
        """The body, read from `receive` by whoever asks first; `clock` looks after the time.

        With a method the endpoint does not have there is nothing to read. Raises InvalidRequest and
        its kind, or ClientLeft when the caller goes while sending.
        """
        body = self.body
        if body is None:
            endpoint = self.endpoint
            kind = endpoint.body if scope["method"] in endpoint.methods else "stream"
            headers: Headers = scope["headers"]
            if kind == "json":
                body = await read_json(headers, receive, self.limits, clock)
            elif kind == "multipart":
                body = await read_multipart(headers, receive, self.limits, clock)
                self.announced = content_length(headers)
                self._read_from = id(receive)
            else:
                body = StreamBody()
            self.body = body
        return body

    def inward(self, scope: Any, receive: Receive) -> tuple[Any, Receive]:
        """The scope and receive for the app inside a part that asked for the body.

        The body is replayed as it now stands, `content-length` corrected; whatever `receive` still
        holds of the old one is skipped, and then it is passed on: only the innermost app awaits
        the caller's leaving.
        """
        body = self.body
        if isinstance(body, JSONBody):
            if body.changed:
                scope = {**scope, "headers": resized(scope["headers"], len(body.raw))}
            return scope, replayed(body, receive)
        if isinstance(body, MultipartBody):
            length = content_length(scope["headers"])
            if body.changed and length is not None:
                scope = {**scope, "headers": resized(scope["headers"], length + body.grown)}
            return scope, replayed_form(body, receive, again=id(receive) != self._read_from)
        return scope, receive

    async def settle(self, work: Coroutine[Any, Any, T]) -> T:
        """Finish `work` (giving money or a slot back) however often this call is cancelled."""
        tasks = kept_tasks() if self.tasks is None else self.tasks
        return await tasks.settle(work)

    def record(self) -> CallRecord:
        """What is worth keeping of the call."""
        last = self.attempts[-1] if self.attempts else None
        if last is not None and last.failure is None and last.usage is None:
            last.usage = self.usage  # as a part inside counted it
        return CallRecord(
            id=self.id,
            request_id=self._request_id,
            endpoint=self.endpoint.name,
            dialect=self.endpoint.dialect,
            model=self.model,
            caller=self.caller.name if self.caller else None,
            group=self.caller.group if self.caller else None,
            outcome=self.outcome or "unknown",
            status=self.status,
            channel=last.channel if last else None,
            attempts=len(self.attempts),
            usage=self.usage,
            cache_status=self.cache_status,
            losses=tuple(self._losses or ()),
            skipped_events=self.skipped_events,
            started=self.started,
            first_byte=self.first_byte,
            ended=self.ended,
        )


def _printable(value: bytes) -> bool:
    return all(0x21 <= byte <= 0x7E for byte in value)
