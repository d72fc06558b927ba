"""One try of an exchange on one channel with one key, and what parts may say about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import GatewayError
from ..wire.usage import Usage


@dataclass(eq=False)
class Attempt:
    """A try, under way or over.

    `model` is the provider's name of the model, after alias and mapping. `key` is the key's
    fingerprint, never the key. `status` is the provider's, once it answered; `failure` is why it
    did not serve. `outcome` is ok, failed, truncated, provider_error (it ended its stream with an
    error event), left (the call ended before the try did) or lost (another one answered first);
    None while under way. Times are the loop's clock, in seconds; `first_byte` is when it began to
    answer.
    """

    number: int
    channel: str
    provider: str
    model: str
    key: str
    started: float
    # Not in __init__: what is not set yet is read from the class, so that a try costs little.
    ended: float | None = field(default=None, init=False)
    status: int | None = field(default=None, init=False)
    failure: GatewayError | None = field(default=None, init=False)
    first_byte: float | None = field(default=None, init=False)
    outcome: str | None = field(default=None, init=False)
    _usage: Usage | None = field(default=None, init=False, repr=False)
    _usage_source: Callable[[], Usage | None] | None = field(default=None, init=False, repr=False)

    @property
    def usage(self) -> Usage | None:
        """What it consumed, as far as its provider said; read from the answer when first asked."""
        if self._usage_source is not None:
            self._usage, self._usage_source = self._usage_source(), None
        return self._usage

    @usage.setter
    def usage(self, usage: Usage | None) -> None:
        self._usage, self._usage_source = usage, None

    def read_usage(self) -> Usage | None:
        """`usage`, for who takes a callable."""
        return self.usage

    def usage_from(self, source: Callable[[], Usage | None]) -> None:
        """Where `usage` is to be read from if anybody asks."""
        self._usage_source = source


class AttemptGuard(Protocol):
    """What a part must know about each attempt; it puts one on `exchange.guards`.

    A guard is called for every attempt: a fallback to a dearer model, another channel's own
    bucket, an allow-list checked once more after the model was mapped.
    """

    async def before(self, attempt: Attempt) -> None:
        """Raise a GatewayError to make the relay go on to the next candidate."""
        ...

    def after(self, attempt: Attempt) -> None:
        """The attempt is over, well or badly; called for each whose `before` was called.

        It must not suspend: it also runs while the call is being cancelled.
        """
        ...


@dataclass(frozen=True, slots=True)
class CallRecord:
    """What is worth keeping of a call once it is over: no prompt, no secret."""

    id: str
    request_id: str | None
    endpoint: str
    dialect: str
    model: str | None
    caller: str | None
    group: str | None
    outcome: str
    status: int | None
    channel: str | None
    attempts: int
    usage: Usage | None
    cache_status: str | None
    losses: tuple[str, ...]
    skipped_events: int
    started: float
    first_byte: float | None
    ended: float | None
