"""What happens when a provider, a channel or a key does not serve."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from asgi_llm_gateway import Caller, Failover, Relay
from asgi_llm_gateway.channels.retrying import Backoff
from asgi_llm_gateway.errors import (
    ConnectFailed,
    ConnectionLost,
    PoolTimeout,
    UpstreamTimeout,
)
from tests.asgi import call
from tests.upstreams import (
    FakeUpstream,
    Reply,
    ask,
    ask_stream,
    called_by,
    channel_to,
    chunk,
    nothing_left,
    openai_error,
    relay_to,
    sse,
)

ERROR = {"error": {"message": "overloaded", "type": "server_error", "code": None}}


PLAIN_FAILURES = {
    "connect error": Reply.fails(ConnectFailed("refused")),
    "401": Reply.error(401),
    "403": Reply.error(403),
    "408": Reply.error(408),
    "409": Reply.error(409),
    "429": Reply.error(429),
    "500": Reply.error(500),
    "502": Reply.error(502),
    "503": Reply.error(503),
    "529": Reply.error(529),
    "999": Reply.error(999),
    "500 without a body": Reply(500),
    "502 as a web page": Reply(502, [(b"content-type", b"text/html")], [b"<h1>Bad Gateway</h1>"]),
    "reset before the head": Reply.fails(ConnectionLost("reset")),
    "reset in the body": Reply(steps=[b'{"choices": [', ConnectionLost("reset")]),
    "first-byte timeout": Reply.fails(UpstreamTimeout("late", phase="first_byte")),
    "pool timeout": Reply.fails(PoolTimeout("busy")),
    "200 with an error": Reply.json(ERROR),
    "200 with an error of its own kind": Reply.json({"code": 1305, "msg": "overloaded"}),
    "200 with MiniMax's error": Reply.json({"base_resp": {"status_code": 1002}, "choices": None}),
    "200 with Baidu's error": Reply.json({"error_code": 18, "error_msg": "qps limit"}),
    "200 as a web page": Reply(200, [(b"content-type", b"text/html")], [b"<h1>Sign in</h1>"]),
    "empty 200": Reply(),
    "204": Reply(204, []),
    "302": Reply(302, [(b"location", b"http://evil.test/")]),
    "null": Reply.json(b"null"),
    "a list": Reply.json(b"[]"),
    "a string": Reply.json(b'"no"'),
    "half an object": Reply.json(b'{"choices": [{"message": '),
    "choices null": Reply.json({"choices": None}),
    "choices absent": Reply.json({"id": "c1"}),
    "an error that is no UTF-8": Reply.json(b'{"error": "\xff\xfe"}'),
    "a content-encoding unknown": Reply(200, [(b"content-encoding", b"zstd")], [b"{}"]),
    "gzip that is none": Reply(200, [(b"content-encoding", b"gzip")], [b"{}"]),
}


STREAM_FAILURES = {
    "error event first": Reply.stream(sse(ERROR)),
    "named error event first": Reply.stream(b'event: error\ndata: {"message": "no"}\n\n'),
    "error event after a comment": Reply.stream(b": processing\n\n", sse(ERROR)),
    "an error that is no UTF-8": Reply.stream(b'data: {"error": "\xff"}\n\n'),
    "error of its own kind": Reply.stream(sse({"error_code": 18, "error_msg": "qps limit"})),
    "empty stream": Reply.stream(),
    "only comments": Reply.stream(b": a\n\n", b": b\n\n"),
    "only [DONE]": Reply.stream(b"data: [DONE]\n\n"),
    "null": Reply.stream(b"data: null\n\n"),
    "a list": Reply.stream(b"data: []\n\n"),
    "no JSON": Reply.stream(b"data: <h1>\n\n"),
    "half an event": Reply.stream(b'data: {"choices": [{"delta"'),
    "reset before the first event": Reply.stream(b": a\n\n", ConnectionLost("reset")),
    "idle before the first event": Reply.stream(UpstreamTimeout("late", phase="idle")),
    "a web page": Reply(200, [(b"content-type", b"text/html")], [b"<h1>Sign in</h1>"]),
    "one endless line": Reply.stream(*[b"x" * 2**20] * 17),
}


@pytest.mark.parametrize("name", PLAIN_FAILURES)
async def test_a_failed_attempt_goes_on_to_the_next_key_unseen_by_the_caller(name: str) -> None:
    upstream = FakeUpstream(PLAIN_FAILURES[name], Reply.chat("second"))
    relay = Relay(
        [channel_to(upstream, keys=["sk-a-11111111"]), channel_to(upstream, name="other")],
        rng=Random(1),
    )

    answer = await ask(relay)

    assert answer.status == 200
    assert answer.json["choices"][0]["message"]["content"] == "second"
    assert answer.header("x-llm-attempts") == "2"
    assert [attempt.failure is None for attempt in answer.exchange.attempts] == [False, True]
    assert len(upstream.asked) == 2
    await nothing_left(relay)


@pytest.mark.parametrize("name", [*STREAM_FAILURES, *PLAIN_FAILURES])
async def test_a_stream_that_fails_before_its_first_event_goes_on_too(name: str) -> None:
    upstream = FakeUpstream(
        (STREAM_FAILURES | PLAIN_FAILURES)[name],
        Reply.stream(sse(chunk("second"), chunk(finish="stop")), b"data: [DONE]\n\n"),
    )
    relay = Relay([channel_to(upstream), channel_to(upstream, name="other")])

    answer = await ask_stream(relay)

    assert answer.status == 200
    assert answer.header("content-type") == "text/event-stream"
    assert answer.body.startswith(sse(chunk("second"), chunk(finish="stop")))
    assert answer.header("x-llm-attempts") == "2"
    await nothing_left(relay)


AT_ONCE = Backoff(first=0)


async def test_other_failures_use_up_the_attempts() -> None:
    upstream = FakeUpstream(Reply.error(429))
    keys = [f"sk-key-{n:06}" for n in range(9)]
    answer = await ask(Relay([channel_to(upstream, keys=keys)], failover=Failover(max_attempts=3)))
    assert answer.status == 429
    assert len(upstream.asked) == 3


async def test_a_failing_provider_is_asked_once_more_and_no_third_time() -> None:
    upstream = FakeUpstream(Reply.error(500))
    keys = [f"sk-key-{n:06}" for n in range(9)]
    relay = Relay([channel_to(upstream, keys=keys)], failover=Failover(backoff=AT_ONCE))
    assert (await ask(relay)).status == 500
    assert len(upstream.asked) == 2
    assert len(set(upstream.keys)) == 2


async def test_no_pair_of_channel_and_key_is_tried_twice() -> None:
    first, second = FakeUpstream(Reply.error(403)), FakeUpstream(Reply.error(429))
    keys = ["sk-a-11111111", "sk-b-22222222", "sk-c-33333333"]
    relay = Relay(
        [channel_to(first, keys=keys), channel_to(second, name="second", keys=keys)],
        failover=Failover(max_attempts=50),
    )
    answer = await ask(relay)
    assert answer.status in (429, 503)
    assert sorted(map(str, first.keys)) == keys
    assert sorted(map(str, second.keys)) == keys


async def test_a_channel_that_cannot_be_reached_is_not_tried_with_its_other_keys() -> None:
    upstream = FakeUpstream(Reply.fails(ConnectFailed("refused")))
    relay = relay_to(upstream, keys=["sk-a-11111111", "sk-b-22222222"])
    answer = await ask(relay)
    assert answer.status == 502
    assert openai_error(answer)["code"] == "upstream_connect_failed"
    assert len(upstream.asked) == 1


async def test_priority_goes_first_then_equals_then_the_other_keys_of_one_that_failed() -> None:
    order: list[str] = []

    def failing(name: str) -> FakeUpstream:
        def note(_: Any) -> Reply:
            order.append(name)
            return Reply.error(500)

        return FakeUpstream(note)

    keys = ["sk-a-11111111", "sk-b-22222222"]
    relay = Relay(
        [
            channel_to(failing("low"), name="low", priority=-1, keys=keys),
            channel_to(failing("one"), name="one", priority=5, keys=keys),
            channel_to(failing("two"), name="two", priority=5, keys=keys),
            channel_to(failing("top"), name="top", priority=9, keys=keys[:1]),
        ],
        failover=Failover(max_attempts=50, backoff=AT_ONCE),
    )
    await ask(relay)
    assert order[:2] == ["top", "top"]
    assert sorted(order[2:4]) == ["one", "two"]
    assert sorted(order[4:6]) == ["one", "two"]
    assert order[6:] == ["low", "low"]


async def test_each_channel_maps_the_model_its_own_way() -> None:
    first, second = FakeUpstream(Reply.error(501)), FakeUpstream(Reply.chat())
    relay = Relay(
        [
            channel_to(first, name="first", priority=1, model_mapping={"m": "first-model"}),
            channel_to(second, name="second"),
        ]
    )
    answer = await ask(relay)
    assert first.asked[0].json["model"] == "first-model"
    assert second.asked[0].json["model"] == "m"
    assert [a.model for a in answer.exchange.attempts] == ["first-model", "m"]
    assert answer.header("x-llm-channel") == "second"


async def test_nothing_is_tried_again_after_the_first_event_went_out() -> None:
    upstream = FakeUpstream(Reply.stream(sse(chunk("a")), ConnectionLost("reset")), Reply.chat())
    relay = relay_to(upstream, keys=["sk-a-11111111", "sk-b-22222222"])
    answer = await ask_stream(relay)
    assert len(upstream.asked) == 1
    assert answer.body.startswith(sse(chunk("a")))
    await nothing_left(relay)


FORM_TYPE = {"content-type": "multipart/form-data; boundary=b"}


FORM_HEAD = (
    b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n'
    b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
)


async def transcribe(app: Any, **how: Any) -> Any:
    body = [FORM_HEAD, b"x" * 1000, b"y" * 1000, b"\r\n--b--\r\n"]
    path = "/v1/audio/transcriptions"
    return await call(app, "POST", path, headers=FORM_TYPE, body=body, **how)


async def test_a_streamed_form_is_tried_again_as_long_as_none_of_it_has_gone_out() -> None:
    first, second = (
        FakeUpstream(Reply.fails(ConnectFailed("refused"))),
        FakeUpstream(Reply.json({"text": "hello"})),
    )
    first.read_bodies = False
    relay = Relay([channel_to(first, priority=1), channel_to(second, name="other")])
    answer = await transcribe(relay)
    assert answer.status == 200
    assert second.asked[0].body == FORM_HEAD + b"x" * 1000 + b"y" * 1000 + b"\r\n--b--\r\n"


@pytest.mark.parametrize(
    ("reply", "status"), [(Reply.error(500), 500), (Reply.error(401), 503), (Reply.error(403), 503)]
)
async def test_a_streamed_form_is_not_tried_again_once_it_has_begun_to_go_out(
    reply: Reply, status: int
) -> None:
    upstream = FakeUpstream(reply, Reply.json({"text": "hello"}))
    relay = relay_to(upstream, keys=["sk-a-11111111", "sk-b-22222222"])
    answer = await transcribe(relay)
    assert answer.status == status
    assert len(upstream.asked) == 1
    assert relay.channels is not None
    left = relay.channels.by_name["main"].pool.keys
    assert len(left) == (1 if reply.status == 401 else 2)
    await nothing_left(relay)


async def test_a_caller_bound_to_channels_uses_no_other() -> None:
    mine, other = FakeUpstream(), FakeUpstream()
    relay = Relay([channel_to(other, priority=9), channel_to(mine, name="mine")])
    answer = await ask(called_by(relay, Caller("bob", "t2", channels=("mine",))))
    assert answer.header("x-llm-channel") == "mine"
    assert not other.asked
