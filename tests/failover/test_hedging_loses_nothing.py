"""Two attempts at once: whoever leaves, cancels or fails, both are given back."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest

from asgi_llm_gateway.errors import ConnectionLost, PermissionDenied
from asgi_llm_gateway.relay.hedging import hedged
from tests.asgi import Driver
from tests.failover.late import (
    LATE,
    Stubborn,
    all_given_back,
    late,
    plain,
    relay_of,
    streamed,
    told,
)
from tests.upstreams import (
    ASK,
    HANG,
    SSE,
    FakeUpstream,
    Reply,
    ask,
    chunk,
    guarded_by,
    sse,
    until,
)


@pytest.mark.parametrize("cancels", [0, 1, 2, 3])
async def test_leaving_and_cancelling_end_both(cancels: int) -> None:
    """However often: the second and third cancel come while the first is being acted on."""
    first, second = Stubborn(Reply(head=[HANG])), FakeUpstream(Reply(200, SSE, [HANG]))
    relay = await relay_of(first, second)
    body = json.dumps({**ASK, "stream": True}).encode()
    how: dict[str, Any] = {"may_raise": True, "may_cut": True}
    driver = Driver(relay, "POST", "/v1/chat/completions", body=body, **how)
    async with driver.open() as stream:
        await until(lambda: first.sending and second.open)
        if not cancels:
            stream.leave()
        for _ in range(cancels):
            stream.cancel()
            await asyncio.sleep(0)
        assert driver.task is not None
        await asyncio.wait({driver.task}, timeout=2.0)
        assert driver.task.done()
    await all_given_back(relay, driver.answer)
    assert [outcome for _, outcome in told(driver.answer)] == ["left", "left"]
    assert driver.answer.exchange.outcome == ("cancelled" if cancels else "client_left")


async def test_a_cancel_while_the_slower_one_is_ended_loses_nothing_of_either() -> None:
    first, second = Stubborn(Reply(head=[HANG])), FakeUpstream(Reply.stream(sse(chunk("b")), HANG))
    relay = await relay_of(first, second)
    body = json.dumps({**ASK, "stream": True}).encode()
    how: dict[str, Any] = {"may_raise": True, "may_cut": True}
    driver = Driver(relay, "POST", "/v1/chat/completions", body=body, **how)
    async with driver.open() as stream:
        await until(lambda: first.ending)
        assert len(second.open) == 1
        stream.cancel()
    await all_given_back(relay, driver.answer)
    assert not second.open


async def test_leaving_while_the_second_waits_for_its_key() -> None:
    first, second = FakeUpstream(Reply(head=[HANG])), FakeUpstream()
    relay = await relay_of(first, second)
    assert relay.channels is not None
    pool: Any = relay.channels.by_name["b"].pool
    taking = asyncio.Event()

    async def slow(*_: Any, **__: Any) -> Any:
        taking.set()
        await asyncio.sleep(30)

    pool.take = slow
    body = json.dumps(ASK).encode()
    driver = Driver(relay, "POST", "/v1/chat/completions", body=body, may_cut=True)
    async with driver.open() as stream:
        await asyncio.wait_for(taking.wait(), 5)
        stream.leave()
    await all_given_back(relay, driver.answer)


async def test_guards_are_asked_and_told_of_both() -> None:
    class Guard:
        def __init__(self) -> None:
            self.seen: list[str] = []

        async def before(self, attempt: Any) -> None:
            self.seen.append(f"before {attempt.channel}")

        def after(self, attempt: Any) -> None:
            assert attempt.ended is not None
            self.seen.append(f"after {attempt.channel} {attempt.outcome}")

    guard = Guard()
    first, second = FakeUpstream(Reply(head=[HANG])), FakeUpstream(plain("b"))
    relay = await relay_of(first, second)
    answer = await ask(guarded_by(relay, guard))
    assert guard.seen == ["before a", "before b", "after a lost", "after b ok"]
    await all_given_back(relay, answer)


async def test_a_guard_that_refuses_the_second_leaves_the_first() -> None:
    class Guard:
        async def before(self, attempt: Any) -> None:
            if attempt.channel == "b":
                raise PermissionDenied("not there")

        def after(self, attempt: Any) -> None:
            """Told of both."""

    first, second = FakeUpstream(late(plain("a"), LATE * 4)), FakeUpstream()
    relay = await relay_of(first, second)
    answer = await ask(guarded_by(relay, Guard()))
    assert told(answer) == [("a", "ok")]
    assert not second.asked
    await all_given_back(relay, answer)


async def test_a_guard_of_the_slower_one_that_fails_loses_no_key_and_no_connection() -> None:
    class Guard:
        async def before(self, attempt: Any) -> None:
            """Lets everything by."""

        def after(self, attempt: Any) -> None:
            if attempt.channel == "a":
                raise ZeroDivisionError

    first, second = FakeUpstream(Reply(200, SSE, [HANG])), FakeUpstream(streamed("b", 0.05))
    relay = await relay_of(first, second)
    body = {**ASK, "stream": True}
    answer = await ask(guarded_by(relay, Guard()), body, may_raise=True, may_cut=True)
    await all_given_back(relay, answer)


async def test_a_bug_of_the_slower_one_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Buggy(FakeUpstream):
        async def send(self, request: Any) -> Any:
            try:
                return await super().send(request)
            except asyncio.CancelledError:
                raise LookupError("a bug") from None

    first, second = Buggy(Reply(head=[HANG])), FakeUpstream(plain("b"))
    relay = await relay_of(first, second)
    caplog.clear()
    answer = await ask(relay)
    assert answer.status == 200
    assert "LookupError" in caplog.text
    await all_given_back(relay, answer)


async def test_a_restart_that_is_left_was_not_lost_to_anybody() -> None:
    first = FakeUpstream(Reply(head=[HANG]))
    second = FakeUpstream(Reply.stream(sse(chunk("The ")), ConnectionLost("reset")))
    second.replies.append(Reply(head=[HANG]))
    relay = await relay_of(first, second, stream_recovery="splice")
    body = json.dumps({**ASK, "stream": True}).encode()
    driver = Driver(relay, "POST", "/v1/chat/completions", body=body, may_cut=True)
    async with driver.open() as stream:
        await until(lambda: len(second.asked) == 2)
        stream.leave()
    assert told(driver.answer) == [("a", "lost"), ("b", "failed"), ("b", "left")]
    await all_given_back(relay, driver.answer)


@pytest.mark.parametrize("cancels", [1, 2, 3])
async def test_whatever_answers_in_spite_of_its_cancel_is_given_back(cancels: int) -> None:
    """A host's guard may swallow a cancel; nobody is left then to take what was opened."""
    lost: list[str] = []

    async def deaf(name: str) -> str | None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(30)
        await asyncio.sleep(0.02)
        return name

    async def give_back(name: str) -> None:
        await asyncio.sleep(0.01)
        lost.append(name)

    work = hedged(deaf("one"), 0.01, lambda: deaf("two"), lost.append, give_back)
    task = asyncio.ensure_future(work)
    await asyncio.sleep(0.05)
    for _ in range(cancels):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: len(lost) == 2)
    assert sorted(lost) == ["one", "two"]


async def test_a_result_at_the_moment_of_a_cancel_is_given_back() -> None:
    lost: list[str] = []

    async def quick() -> str | None:
        await asyncio.sleep(0)
        task.cancel()
        return "one"

    async def give_back(name: str) -> None:
        lost.append(name)

    async def none() -> str | None:
        return None

    task = asyncio.ensure_future(hedged(quick(), 5.0, none, lost.append, give_back))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert lost == ["one"]
