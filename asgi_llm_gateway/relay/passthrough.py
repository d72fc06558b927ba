"""Files and every other path: streamed both ways to a channel that takes them, read by nobody."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from ..channels.index import ChannelTable, Tiers
from ..channels.live import LiveChannel
from ..errors import InvalidRequest, NotFound, PermissionDenied
from ..exchange.body import content_length
from ..exchange.record import Exchange
from ..upstream.contract import UpstreamRequest, UpstreamResponse
from .headers import TO_PROVIDER_RAW, allowed, first
from .opened import Flow, Whole, refusal
from .times import limits_of, wished
from .upload import Upload
from .watch import Receive, Watch

METHODS = frozenset({"DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"})
_BODILESS = frozenset({"DELETE", "GET", "HEAD"})
_VERSION = re.compile(r"\A/v1(?=/|\Z)")


class Passthrough:
    """One passed-through call (an attempts.Plan)."""

    models = ("",)
    streamed = False

    def __init__(self, exchange: Exchange, scope: Any, receive: Receive, watch: Watch) -> None:
        headers = scope["headers"]
        self._exchange = exchange
        self._method: str = scope["method"]
        self._query = _query(scope.get("query_string", b""))
        self._headers = allowed(headers, TO_PROVIDER_RAW)
        self._headers.append((b"accept-encoding", b"identity"))
        self._headers.append((b"user-agent", b"asgi-llm-gateway"))
        self.times = wished(headers, exchange.started)
        self._length = content_length(headers)
        # HTTP/2 and 3 frame a body themselves: no header need announce it.
        chunked = scope.get("http_version", "1.1") >= "2" and self._method not in _BODILESS
        chunked = chunked or any(name == b"transfer-encoding" for name, _ in headers)
        self._upload: Upload | None = None
        if self._length or (chunked and self._length is None):
            self._upload = Upload(exchange.limits, receive, watch)
        else:
            watch.begin()

    def replayable(self) -> bool:
        """Whether the body can be sent once more."""
        return self._upload is None or not self._upload.begun

    def build(self, channel: LiveChannel, secret: str, model: str) -> UpstreamRequest:
        """The request of one attempt."""
        endpoint = self._exchange.endpoint
        path = endpoint.rest if endpoint.kind == "proxy" else endpoint.path
        if endpoint.kind == "proxy":
            path = _VERSION.sub("", path, 1) or "/"
        quoted = quote(path, safe="/:@!$&'()*+,=~", errors="replace")
        origin, target = channel.url(quoted + self._query, model)
        body: bytes | AsyncIterator[bytes] = self._upload.stream() if self._upload else b""
        return UpstreamRequest(
            self._method,
            origin,
            target,
            [*channel.sign(secret), *self._headers],
            body,
            self._length if self._upload else None,
            limits_of(channel, model, self.times, self._exchange.loop.time()),
        )

    async def open(
        self,
        response: UpstreamResponse,
        channel: LiveChannel,  # noqa: ARG002 - whoever answers, it is passed on
        model: str,  # noqa: ARG002
    ) -> Whole | Flow:
        """Whatever the provider answers is passed on; an error is judged as on any call."""
        if response.status >= 400:
            raise await refusal(response, first(response.headers, b"content-encoding"))
        return Flow(response.status, response.headers, response.__aiter__(), b"")


def tiers(exchange: Exchange, table: ChannelTable, *, anonymous: bool) -> Tiers:
    """The channels that take this call; empty when none takes any path.

    Raises AuthenticationFailed without a caller (unless the relay is `anonymous`),
    PermissionDenied for an access token limited to some models, which nobody can check here, and
    NotFound for a proxy path whose channel does not exist for this caller.
    """
    found = table.passthrough(exchange.caller)
    endpoint = exchange.endpoint
    if endpoint.kind == "proxy":
        found = tuple((c,) for tier in found for c in tier if c.name == endpoint.channel)
        if not found:
            raise NotFound("no such channel takes this call", code="channel_not_found")
    if not found:
        return ()
    if not anonymous:
        caller = exchange.require_caller("Relay")
        if caller.models is not None and not exchange.bypassed:
            raise PermissionDenied(
                "this access token is limited to some models, so it cannot use paths whose model "
                "the gateway does not read",
                code="model_not_allowed",
            )
    return found


def _query(raw: bytes) -> str:
    """The query without `key`, which is how Gemini's callers show their secret."""
    if not raw:
        return ""
    try:
        pairs = parse_qsl(raw.decode("latin-1"), keep_blank_values=True, max_num_fields=100)
    except ValueError as exc:
        raise InvalidRequest("the query has more than 100 fields") from exc
    kept = [(name, value) for name, value in pairs if name != "key"]
    return "?" + urlencode(kept) if kept else ""
