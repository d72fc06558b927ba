"""A pool of keys in a stock client, with no gateway: `httpx.Client(auth=RotatingKeyAuth(…))`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

from ..errors import ConfigurationError, KeysBusy, Unavailable
from ..upstream.both_httpx import library_of, of_both
from ..wire.retryafter import retry_after as asked_in
from .key import Key
from .memory import Busy
from .pool import KeyPool, MemoryKeyPool

if TYPE_CHECKING:
    import httpx
    import httpx2

    class _Auth(httpx.Auth, httpx2.Auth):  # type: ignore[misc]
        """Stands for what `of_both` makes."""
else:
    _Auth = object

__all__ = ["RotatingKeyAuth"]

_POLL = 0.05  # seconds between two looks for a free key, where nobody can be waited for
_LONGEST_COOLDOWN = 3600.0  # seconds; a provider that asks for more is not believed


class RotatingKeyAuth(_Auth):
    """Shows a provider one key of a pool after the other; an `httpx.Auth`, and httpx2's as well.

        auth = RotatingKeyAuth(["sk-one", "sk-two", "sk-three"])
        client = openai.OpenAI(api_key="unused", http_client=openai.DefaultHttpxClient(auth=auth))

    Each request goes out with a key of the pool, whatever the client itself had in that header. A
    key the provider answers 401 to is taken out of the pool; one it answers 429 to rests for as
    long as Retry-After (or retry-after-ms) says, or `cooldown` seconds. Either way the request is
    sent once more with another key, if one is free, or up to `retry` times (0, or False: never);
    after a key that was taken out that does not count, but no key is shown twice for one request.
    When there is no other the client gets the provider's answer. Connection failures are not
    retried here, and say nothing of the key.

    A request is only sent again when its body can be: it is in memory, or says its length, which
    is `max_body` bytes at the most, and is then read into memory before it is sent the first time.

    `keys` are secrets, or a pool; it is the attribute `pool`. A synchronous client needs a pool in
    memory: with another one its calls raise ConfigurationError. `header` and `scheme` are where the
    key goes: the default is `Authorization: Bearer …`, Anthropic's is `x-api-key` with the scheme
    "". When a redirect leads to another host httpx takes off the header Authorization only: with
    another `header`, leave redirects off.

    A key counts as in use from its request to the closing of its answer, which is when its body was
    read to the end or given up; an answer that is never closed keeps its key, as it keeps its
    connection. A call waits up to `wait` seconds for a free key. Raises KeysBusy when none became
    free, Unavailable when the pool has none at all. Tokens are not counted, since nothing here
    reads bodies: of a key's limits those on concurrency and requests are kept. `now` is wall time,
    for Retry-After dates.
    """

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """An object that is an Auth to both libraries."""
        return object.__new__(of_both(cls, "Auth"))

    def __init__(
        self,
        keys: KeyPool | Iterable[str],
        *,
        header: str = "authorization",
        scheme: str = "Bearer",
        retry: int = 1,
        cooldown: float = 20.0,
        wait: float = 10.0,
        max_body: int = 33_554_432,
        now: Callable[[], float] = time.time,
    ) -> None:
        if isinstance(keys, str):
            raise ConfigurationError("RotatingKeyAuth needs a list of keys or a pool, not one text")
        self.pool: KeyPool = (
            cast(KeyPool, keys) if hasattr(keys, "take") else MemoryKeyPool(cast(Any, keys))
        )
        self._header = header
        self._prefix = f"{scheme} " if scheme else ""
        self._retry = retry
        self._cooldown = cooldown
        self._wait = wait
        self._max_body = max_body
        self._now = now

    def __repr__(self) -> str:
        return f"RotatingKeyAuth(header={self._header!r})"

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """Called by the library's Client."""
        pool = _in_memory(self.pool)
        left = resends = self._resends(request)
        if resends:
            request.read()
        key = self._wait_for_key(pool)
        tried: list[str] = []
        while True:
            response = None
            try:
                request.headers[self._header] = self._prefix + key.secret
                response = yield request
            finally:
                if response is None:
                    pool.report(key, "left")
            refusal = self._refusal(response, key)
            if refusal is None:
                _report_when_closed(response, "close", pool, key)
                return
            try:
                if refusal.dead:
                    pool.remove_now(key, refusal.reason)
            finally:
                pool.report(key, "failed", cooldown=refusal.cooldown)
            tried.append(key.fingerprint)
            left -= not refusal.dead
            other = pool.take_now(tried) if resends and left >= 0 else None
            if other is None:
                return
            key = other

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """Called by the library's AsyncClient."""
        pool = self.pool
        left = resends = self._resends(request)
        if resends:
            await request.aread()
        key = await self._first_key()
        tried: list[str] = []
        while True:
            response = None
            try:
                request.headers[self._header] = self._prefix + key.secret
                response = yield request
            finally:
                if response is None:
                    pool.report(key, "left")
            refusal = self._refusal(response, key)
            if refusal is None:
                _report_when_closed(response, "aclose", pool, key)
                return
            try:
                if refusal.dead:
                    await pool.remove(key, refusal.reason)
            finally:
                pool.report(key, "failed", cooldown=refusal.cooldown)
            tried.append(key.fingerprint)
            left -= not refusal.dead
            other = await self._other_key(tried) if resends and left >= 0 else None
            if other is None:
                return
            key = other

    async def _first_key(self) -> Key:
        key = await self.pool.take(None, wait=self._wait)
        if key is None:
            raise _no_key()
        return key

    async def _other_key(self, tried: Collection[str]) -> Key | None:
        """Another key if one is free at once: who has an answer to give waits for nothing."""
        try:
            return await self.pool.take(None, tried)
        except KeysBusy:
            return None

    def _wait_for_key(self, pool: _InMemory) -> Key:
        until = time.monotonic() + self._wait
        while (key := pool.take_now()) is None:
            if not pool.keys:
                raise _no_key()
            busy, left = pool.busy_now(), until - time.monotonic()
            if left <= 0 or (busy.by_itself > left and not busy.held):
                raise busy.refusal()
            time.sleep(min(_POLL, left, max(busy.by_itself, 0.001)))
        return key

    def _resends(self, request: Any) -> int:
        """How often the request may be sent again: only with a body that can be kept."""
        if isinstance(request.stream, library_of(request).ByteStream):
            return self._retry
        length = request.headers.get("content-length", "")
        fits = length.isdecimal() and len(length) < 16 and int(length) <= self._max_body
        return self._retry if fits else 0

    def _refusal(self, response: Any, key: Key) -> _Refusal | None:
        """What the provider has against the key, if anything."""
        shown = response.request.headers.get(self._header)
        if shown != self._prefix + key.secret:
            return None  # answered by another host, after a redirect, which never saw the key
        if response.status_code == 401:
            return _Refusal("the provider answered 401", dead=True)
        if response.status_code == 429:
            asked = retry_after(response.headers, self._now())
            return _Refusal("", cooldown=self._cooldown if asked is None else asked)
        return None


@dataclass(frozen=True, slots=True)
class _Refusal:
    """An answer that is about the key and not about the request."""

    reason: str
    dead: bool = False
    cooldown: float = 0.0


class _InMemory(Protocol):
    """What a synchronous client needs of a pool; MemoryKeyPool has it."""

    @property
    def keys(self) -> Collection[Key]: ...

    def take_now(self, tried: Collection[str] = ()) -> Key | None: ...

    def busy_now(self) -> Busy: ...

    def remove_now(self, key: Key, reason: str) -> None: ...

    def report(self, key: Key, outcome: str, *, cooldown: float = 0.0) -> None: ...


def _in_memory(pool: Any) -> _InMemory:
    if not hasattr(pool, "take_now"):
        raise ConfigurationError(
            f"a synchronous client cannot wait for a {type(pool).__name__}: give RotatingKeyAuth a "
            "MemoryKeyPool or the keys themselves, or use an asynchronous client"
        )
    return cast(_InMemory, pool)


def _no_key() -> Unavailable:
    return Unavailable("the pool has no key left; add one")


def _report_when_closed(response: Any, close: str, pool: Any, key: Key) -> None:
    """Give the key back when the answer is closed.

    The stream's own method is covered on this one object: a stream around the stream would have to
    be of the library's class and hand on what the library looks for on its own.
    """
    outcome = "ok" if response.status_code < 400 else "failed"
    if response.is_closed:
        pool.report(key, outcome)  # it came whole, as a mock's does: nobody closes it any more
        return
    stream = response.stream
    original = getattr(stream, close)
    held = True

    def give_back() -> None:
        nonlocal held
        if held:
            held = False
            pool.report(key, outcome)

    def closed() -> None:
        try:
            original()
        finally:
            give_back()

    async def aclosed() -> None:
        try:
            await original()
        finally:
            give_back()

    setattr(stream, close, closed if close == "close" else aclosed)


def retry_after(headers: Any, now: float) -> float | None:
    """Seconds a provider asks to be left alone, an hour at the most; None if it does not say.
    `now` is wall time."""
    told = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    asked = asked_in(told, now)
    return None if asked is None else min(asked, _LONGEST_COOLDOWN)
