"""One relayed call: read, understood, tried, passed on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from typing import Any

from ..channels.live import LiveChannel
from ..errors import Headers
from ..exchange.body import JSONBody, MultipartBody
from ..exchange.record import Exchange
from ..upstream.contract import Timeouts, UpstreamRequest, UpstreamResponse
from .headers import JSON_BODY, STREAMED_BODY, TO_PROVIDER, allowed
from .inbound import Wanted
from .opened import Flow, Whole, hold, open_answer
from .times import NAMES, limits_of, wished
from .upload import Upload
from .watch import Receive, Watch

_LOOKED_AT = TO_PROVIDER | NAMES
_FORM_TYPE = frozenset({b"content-type"})


class Call:
    """Builds the requests of one understood call, and opens their answers (an attempts.Plan)."""

    __slots__ = ("_buffer", "_headers", "_upload", "_wanted", "exchange", "models", "times")

    def __init__(
        self, exchange: Exchange, wanted: Wanted, scope: Any, watch: Watch, *, buffer: bool = False
    ) -> None:
        self.exchange = exchange
        self.models = wanted.models
        self._wanted = wanted
        self._buffer = buffer
        self._upload: Upload | None = None
        headers: Headers = scope["headers"]
        ours = [header for header in headers if header[0] in _LOOKED_AT]
        self.times = wished(ours, exchange.started, streamed=wanted.stream) if ours else None
        self._headers = allowed(ours, TO_PROVIDER) if ours else []
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

    @property
    def streamed(self) -> bool:
        """Whether the caller wants a stream of events."""
        return self._wanted.stream

    def build(self, channel: LiveChannel, secret: str, model: str) -> UpstreamRequest:
        """The request of one attempt."""
        wanted, limits = self._wanted, self._limits(channel, model)
        model = channel.upstream_model(model)
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
            [*channel.sign(secret), *self._headers],
            content,
            length,
            limits,
            self.exchange.loop,
        )

    def _limits(self, channel: LiveChannel, model: str) -> Timeouts:
        if self.times is None:
            return channel.timeouts_for(model)
        return limits_of(channel, model, self.times, self.exchange.loop.time())

    def _length(self, body: MultipartBody) -> int | None:
        announced = self.exchange.announced
        return None if announced is None else announced + body.grown

    def open(
        self, response: UpstreamResponse, channel: LiveChannel, model: str
    ) -> Coroutine[Any, Any, Whole | Flow]:
        """The beginning of one attempt's answer, or with `buffer` all of a stream."""
        wanted = self._wanted
        opened = open_answer(
            response,
            wanted.dialect,
            streamed=wanted.stream,
            hide_usage=wanted.stream and self.asks_usage(channel),
            first_token=self._limits(channel, model).first_token,
            choices=wanted.choices() if wanted.stream else 1,
        )
        return self._held(opened) if self._buffer else opened

    async def _held(self, opened: Coroutine[Any, Any, Whole | Flow]) -> Whole | Flow:
        answer = await opened
        if isinstance(answer, Flow) and answer.tap is not None:
            return await hold(answer)
        return answer
