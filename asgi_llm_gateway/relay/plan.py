"""What the attempt loop needs to know of a call."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

from ..channels.live import LiveChannel
from ..upstream.contract import UpstreamRequest, UpstreamResponse
from .opened import Flow, Whole
from .times import Times


class Plan(Protocol):
    """How one call is tried: which models, and how a request is made and its answer opened."""

    @property
    def models(self) -> tuple[str, ...]:
        """What is asked for, and what an alias names as well, in order."""
        ...

    @property
    def streamed(self) -> bool:
        """Whether the caller wants a stream of events."""
        ...

    @property
    def times(self) -> Times | None:
        """How long the caller lets it take, if it says so."""
        ...

    # `model` is as callers or fallbacks name it, before the channel's mapping.

    def build(self, channel: LiveChannel, secret: str, model: str) -> UpstreamRequest:
        """The request of one attempt."""
        ...

    def open(
        self, response: UpstreamResponse, channel: LiveChannel, model: str
    ) -> Coroutine[Any, Any, Whole | Flow]:
        """The beginning of one attempt's answer; raises what makes the attempt a failure."""
        ...

    def replayable(self) -> bool:
        """Whether the body can be sent once more: a streamed one until its first byte is out."""
        ...
