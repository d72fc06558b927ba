"""Where a late attempt is waited for all the same, and what hedging must not lead to."""

from __future__ import annotations

import asyncio
from typing import Any

from asgi_llm_gateway import Failover, Relay
from asgi_llm_gateway.errors import ConnectionLost
from tests.asgi import call
from tests.failover.late import (
    LATE,
    all_given_back,
    late,
    plain,
    relay_of,
    told,
    used_to_take,
)
from tests.upstreams import (
    DONE,
    HANG,
    FakeUpstream,
    Reply,
    ask,
    ask_stream,
    called_by,
    channel_to,
    chunk,
    sse,
)


async def test_a_key_that_is_slow_to_come_does_not_keep_the_first_answer_waiting() -> None:
    first, second = FakeUpstream(late(plain("a"), LATE * 4)), FakeUpstream()
    relay = await relay_of(first, second)
    assert relay.channels is not None
    pool: Any = relay.channels.by_name["b"].pool

    async def never(*_: Any, **__: Any) -> Any:
        await asyncio.sleep(30)

    pool.take = never
    answer = await asyncio.wait_for(ask(relay), 5)
    assert told(answer) == [("a", "ok")]
    await all_given_back(relay, answer)


async def test_keys_at_their_limits_elsewhere_are_not_waited_for() -> None:
    first, second = FakeUpstream(late(plain("a"), LATE * 4)), FakeUpstream(Reply(head=[HANG]))
    relay = Relay(
        [
            channel_to(first, name="a", priority=1),
            channel_to(second, name="b", key_limits={"concurrency": 1, "wait": 10}),
        ],
        failover=Failover(hedge=True),
    )
    await relay.resources.get()
    assert relay.channels is not None
    used_to_take(relay.channels.by_name["a"], LATE)
    busy = await relay.channels.by_name["b"].pool.take(None)
    assert busy is not None
    answer = await ask(relay)
    assert told(answer) == [("a", "ok")]
    assert not second.asked
    relay.channels.by_name["b"].pool.report(busy, "ok")


async def test_the_slow_count_as_slow_so_that_late_does_not_come_to_mean_usual() -> None:
    first, second = FakeUpstream(Reply(head=[HANG])), FakeUpstream(plain("b"))
    relay = await relay_of(first, second)
    assert relay.channels is not None
    stats = relay.channels.by_name["a"].stats
    for _ in range(40):
        await ask(relay)
    assert stats.late_after is not None
    assert stats.late_after > LATE
    assert len(first.asked) == 40


async def test_an_upload_is_sent_once() -> None:
    form = {"content-type": "multipart/form-data; boundary=b"}
    head = (
        b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n'
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    )
    body = [head, b"x" * 1000, b"\r\n--b--\r\n"]
    first = FakeUpstream(late(Reply.json({"text": "a"}), LATE * 4))
    first.read_bodies = False
    second = FakeUpstream(Reply.json({"text": "b"}))
    relay = await relay_of(first, second)
    answer = await call(relay, "POST", "/v1/audio/transcriptions", headers=form, body=body)
    assert answer.json == {"text": "a"}
    assert not second.asked
    await all_given_back(relay, answer)


async def test_what_is_passed_through_is_done_once() -> None:
    first, second = FakeUpstream(late(Reply.json({}), LATE * 4)), FakeUpstream()
    relay = Relay(
        [
            channel_to(first, name="a", priority=1, passthrough=True),
            channel_to(second, name="b", passthrough=True),
        ],
        failover=Failover(hedge=True),
    )
    await relay.resources.get()
    assert relay.channels is not None
    used_to_take(relay.channels.by_name["a"], LATE)
    answer = await call(called_by(relay), "POST", "/v1/batches/b1/cancel", body=b"")
    assert answer.status == 200
    assert (len(first.asked), len(second.asked)) == (1, 0)


async def test_a_stream_that_breaks_later_is_not_gone_on_with_by_the_one_that_lost() -> None:
    """It was tried in this call."""
    first = FakeUpstream(Reply(head=[HANG]))
    second = FakeUpstream(Reply.stream(sse(chunk("The ")), ConnectionLost("reset")))
    third = FakeUpstream(Reply.stream(sse(chunk("The sky")), sse(chunk(finish="stop")), DONE))
    relay = await relay_of(first, second, third, stream_recovery="splice", max_attempts=3)
    second.replies.append(third.replies[0])
    answer = await ask_stream(relay)
    assert answer.body.endswith(DONE)
    assert told(answer)[:2] == [("a", "lost"), ("b", "failed")]
    assert len(first.asked) == 1
    assert len(answer.exchange.attempts) == 3
    await all_given_back(relay, answer)
