"""One relayed call: read, understood, tried, passed on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from typing import Any

from ..channels.live import LiveChannel
from ..errors import Headers
from ..exchange.body import JSONBody, MultipartBody
from ..exchange.record import Exchange
from ..keys.key import Key
from ..upstream.contract import UpstreamRequest, UpstreamResponse
from .headers import JSON_BODY, STREAMED_BODY, TO_PROVIDER, allowed
from .inbound import Wanted
from .opened import Flow, Whole, open_answer
from .upload import Upload
from .watch import Receive, Watch

_FORM_TYPE = frozenset({b"content-type"})


class Call:
    """Builds the requests of one understood call, and opens their answers (an attempts.Plan)."""

    __slots__ = ("_headers", "_upload", "_wanted", "exchange", "model")

    def __init__(self, exchange: Exchange, wanted: Wanted, scope: Any, watch: Watch) -> None:
        self.exchange = exchange
        self.model = wanted.model
        self._wanted = wanted
        self._upload: Upload | None = None
        headers: Headers = scope["headers"]
        self._headers = allowed(headers, TO_PROVIDER)
        if isinstance(wanted.body, JSONBody):
            self._headers += JSON_BODY
            watch.begin()
        else:
            self._headers += STREAMED_BODY
            self._headers += allowed(headers, _FORM_TYPE)

    def form(self, scope: Any, receive: Receive, watch: Watch) -> None:
        """For a body that is a form: its files are sent as they arrive."""
        if isinstance(self._wanted.body, MultipartBody) and self._wanted.body.more:
            _, receive = self.exchange.inward(scope, receive)
            self._upload = Upload(self.exchange.limits, receive, watch)
        else:
            watch.begin()

    def replayable(self) -> bool:
        """Whether the body can be sent once more."""
        return self._upload is None or not self._upload.begun

    def asks_usage(self, channel: LiveChannel) -> bool:
        """Whether usage is asked for on the caller's behalf, and so hidden from it."""
        wanted = self._wanted
        return (
            not wanted.usage_asked
            and wanted.endpoint.name in ("chat", "completions")
            and channel.provider.quirks.stream_options
        )

    def build(self, channel: LiveChannel, key: Key, model: str) -> UpstreamRequest:
        """The request of one attempt."""
        wanted = self._wanted
        origin, target = channel.target(wanted.endpoint.path, model)
        body = wanted.body
        content: bytes | AsyncIterator[bytes]
        length: int | None = None
        if isinstance(body, JSONBody):
            ask = wanted.stream and self.asks_usage(channel)
            content = wanted.outgoing(model, ask_usage=ask)
        else:
            assert isinstance(body, MultipartBody)
            if body.view.model != model:
                body.set("model", model)
            content = body.head
            if self._upload is not None:
                content = self._upload.stream()
                length = self._length(body)
        return UpstreamRequest(
            "POST",
            origin,
            target,
            [*channel.sign(key), *self._headers],
            content,
            length,
            channel.timeouts,
            self.exchange.loop,
        )

    def _length(self, body: MultipartBody) -> int | None:
        announced = self.exchange.announced
        return None if announced is None else announced + body.grown

    def open(
        self, response: UpstreamResponse, channel: LiveChannel
    ) -> Coroutine[Any, Any, Whole | Flow]:
        """The beginning of one attempt's answer."""
        wanted = self._wanted
        return open_answer(
            response,
            wanted.dialect,
            streamed=wanted.stream,
            hide_usage=wanted.stream and self.asks_usage(channel),
            first_token=channel.timeouts.first_token,
        )
