"""Guards, key pools and upstreams can be a host's own: what they raise loses nothing of ours."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable
from typing import Any

import pytest

from asgi_llm_gateway.errors import Headers
from asgi_llm_gateway.keys.key import Key
from asgi_llm_gateway.keys.pool import MemoryKeyPool
from asgi_llm_gateway.upstream.contract import Origin, UpstreamRequest
from tests.asgi import Driver
from tests.upstreams import (
    ASK,
    HANG,
    FakeUpstream,
    Reply,
    ask,
    chunk,
    guarded_by,
    left_open,
    nothing_left,
    relay_to,
    sse,
    until,
)


class Guard:
    """Raises what it is given, and notes whether `after` was called."""

    def __init__(self, *, before: Exception | None = None, after: Exception | None = None) -> None:
        self.failures = before, after
        self.told = False

    async def before(self, attempt: Any) -> None:
        if self.failures[0]:
            raise self.failures[0]

    def after(self, attempt: Any) -> None:
        self.told = True
        if self.failures[1]:
            raise self.failures[1]


class Pool(MemoryKeyPool):
    """Raises what it is given instead of handing a key out, or after taking one back."""

    def __init__(
        self, keys: Iterable[str], *, take: Exception | None = None, report: Exception | None = None
    ) -> None:
        super().__init__(keys)
        self.failures = take, report

    async def take(self, exchange: Any, tried: Any = (), **how: Any) -> Key | None:
        if self.failures[0]:
            raise self.failures[0]
        return await super().take(exchange, tried, **how)

    def report(self, key: Key, outcome: str, **how: Any) -> None:
        super().report(key, outcome, **how)
        if self.failures[1]:
            raise self.failures[1]


STREAM = Reply.stream(sse(chunk("a")), HANG)


async def leave_midway(app: Any, upstream: FakeUpstream) -> Any:
    body = json.dumps({**ASK, "stream": True}).encode()
    how: dict[str, Any] = {"body": body, "may_raise": True, "may_cut": True}
    async with Driver(app, "POST", "/v1/chat/completions", **how).open() as stream:
        await until(lambda: upstream.open)
    return stream.answer


@pytest.mark.parametrize("reply", [STREAM, Reply(500, [], [HANG])])
async def test_a_guard_that_fails_at_the_end_keeps_nobody_from_their_own(reply: Reply) -> None:
    upstream = FakeUpstream(reply)
    relay = relay_to(upstream)
    one, two = Guard(after=ZeroDivisionError()), Guard()
    answer = await leave_midway(guarded_by(relay, one, two), upstream)
    assert isinstance(answer.exception, ZeroDivisionError)
    assert one.told
    assert two.told
    await nothing_left(relay)


@pytest.mark.parametrize("reply", [STREAM, Reply(500, [], [HANG])])
async def test_a_pool_that_fails_to_take_a_key_back_leaves_no_answer_open(reply: Reply) -> None:
    upstream = FakeUpstream(reply)
    relay = relay_to(upstream, keys=Pool(["sk-one-11111111"], report=LookupError()))
    answer = await leave_midway(relay, upstream)
    assert isinstance(answer.exception, LookupError)
    assert not left_open(relay)


async def test_an_os_error_of_theirs_is_a_bug_and_not_a_caller_who_left() -> None:
    upstream = FakeUpstream()
    relay = relay_to(upstream)
    pooled = relay_to(upstream, keys=Pool(["sk-one-11111111"], take=ConnectionError("store")))
    for app in (guarded_by(relay, Guard(before=FileNotFoundError("words.txt"))), pooled):
        answer = await ask(app, may_raise=True, may_cut=True)
        assert isinstance(answer.exception, OSError)
        assert answer.status is None
        assert answer.exchange.outcome != "client_left"
    assert not left_open(relay)


@pytest.mark.parametrize("status", [400, 500])
async def test_a_failed_call_leaves_no_cycle_for_the_garbage_collector(status: int) -> None:
    relay = relay_to(FakeUpstream(Reply.error(status)), keys=["sk-a-11111111", "sk-b-22222222"])
    await bare(relay)
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            await bare(relay)
        assert gc.collect() < 20
    finally:
        gc.enable()


async def bare(app: Any) -> None:
    """A call by a server that keeps nothing of it."""
    messages = [{"type": "http.request", "body": json.dumps(ASK).encode(), "more_body": False}]

    async def receive() -> Any:
        return messages.pop()

    async def send(message: Any) -> None:
        """Nobody reads it."""

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}
    await app(scope, receive, send)


def test_a_request_shows_neither_its_key_nor_its_body() -> None:
    headers: Headers = [(b"authorization", b"Bearer sk-secret")]
    request = UpstreamRequest("POST", Origin("https", "p.test", 443), "/", headers, b"prompt")
    assert "sk-secret" not in repr(request)
    assert "prompt" not in repr(request)
