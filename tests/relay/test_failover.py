"""What happens when a provider, a channel or a key does not serve."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from random import Random
from typing import Any

import pytest

from asgi_llm_gateway import Caller, Relay
from asgi_llm_gateway.errors import (
    BadAnswer,
    ConnectFailed,
    ConnectionLost,
    PermissionDenied,
    PoolTimeout,
    RateLimited,
    UpstreamTimeout,
)
from tests.asgi import Driver, call
from tests.upstreams import (
    ASK,
    HANG,
    SSE,
    FakeUpstream,
    Reply,
    ask,
    ask_stream,
    called_by,
    channel_to,
    chunk,
    guarded_by,
    nothing_left,
    openai_error,
    relay_to,
    sse,
    until,
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
CALLERS_FAULT = (400, 404, 405, 413, 415, 422)


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


@pytest.mark.parametrize("status", CALLERS_FAULT)
@pytest.mark.parametrize("streamed", [False, True])
async def test_what_is_the_callers_fault_comes_back_word_for_word(
    status: int, streamed: bool
) -> None:
    body = b'{ "error": {"message":"bad \\u00e9",  "type":"invalid_request_error"} }\n'
    upstream = FakeUpstream(Reply.json(body, status, [(b"x-ratelimit-limit", b"5")]))
    relay = relay_to(upstream, keys=["sk-a-11111111", "sk-b-22222222"])

    answer = await ask(relay, {**ASK, "stream": streamed})

    assert (answer.status, answer.body) == (status, body)
    assert answer.header("content-type") == "application/json"
    assert answer.header("x-ratelimit-limit") is None
    assert len(upstream.asked) == 1
    assert answer.exchange.outcome == "provider_error"
    await nothing_left(relay)


async def test_a_refusal_of_another_shape_comes_back_word_for_word_too() -> None:
    body = b'{"detail": [{"loc": ["body"]}]}'
    answer = await ask(relay_to(FakeUpstream(Reply.json(body, 422))))
    assert (answer.status, answer.body) == (422, body)


@pytest.mark.parametrize("body", [b"", b"Bad Request", b"<h1>Bad Request</h1>", b"[]", b'{"a": '])
async def test_a_refusal_that_is_no_json_object_is_told_as_an_openai_error(body: bytes) -> None:
    reply = Reply(400, [(b"content-type", b"text/html")], [body])
    answer = await ask(relay_to(FakeUpstream(reply)))
    assert answer.status == 400
    assert "400" in openai_error(answer)["message"]


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_the_last_providers_own_error_comes_back_when_nothing_is_left(status: int) -> None:
    last = Reply.json(
        {"error": {"message": "slow down", "type": "t"}}, status, [(b"retry-after", b"7")]
    )
    upstream = FakeUpstream(Reply.error(500, "first"), last)
    relay = relay_to(upstream, keys=["sk-a-11111111", "sk-b-22222222"])

    answer = await ask(relay)

    assert answer.status == status
    assert answer.json["error"]["message"] == "slow down"
    assert answer.header("retry-after") == "7"
    assert answer.header("x-llm-attempts") == "2"
    await nothing_left(relay)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_refusal_of_our_key_is_never_told_as_the_callers(
    status: int, streamed: bool
) -> None:
    upstream = FakeUpstream(Reply.error(status, "Incorrect API key provided: sk-a-11111111"))
    relay = relay_to(upstream, keys=["sk-a-11111111"])

    answer = await ask(relay, {**ASK, "stream": streamed})

    assert answer.status == 503
    assert openai_error(answer)["code"] == "no_healthy_channel"
    assert int(answer.header("retry-after") or 0) >= 1
    assert b"sk-a" not in answer.body
    assert b"key" not in answer.body.lower()


async def test_a_key_in_the_providers_own_words_is_blotted_out() -> None:
    upstream = FakeUpstream(Reply.error(400, "project of sk-a-11111111 has no such model"))
    answer = await ask(relay_to(upstream, keys=["sk-a-11111111"]))
    assert answer.json["error"]["message"] == "project of [key] has no such model"


async def test_a_placeholder_key_is_no_secret_and_words_like_it_stay() -> None:
    upstream = FakeUpstream(Reply.error(400, "ollama has no such model"))
    answer = await ask(relay_to(upstream, keys=["ollama"]))
    assert answer.json["error"]["message"] == "ollama has no such model"


async def test_a_key_that_answers_401_is_taken_out_and_logged_by_its_fingerprint_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    upstream = FakeUpstream(
        lambda asked: Reply.error(401) if asked.key == "sk-dead-1111" else Reply.chat()
    )
    relay = relay_to(upstream, keys=["sk-dead-1111", "sk-good-2222"], choose_key="round_robin")

    answers = [await ask(relay) for _ in range(6)]

    assert {answer.status for answer in answers} == {200}
    assert upstream.keys.count("sk-dead-1111") == 1
    fingerprint = hashlib.sha256(b"sk-dead-1111").hexdigest()[:12]
    assert f"key {fingerprint} taken out" in caplog.text
    assert "sk-dead-1111" not in caplog.text
    assert relay.channels is not None
    pool = relay.channels.by_name["main"].pool
    assert [key.secret for key in pool.all()] == ["sk-good-2222"]


async def test_dead_keys_do_not_use_up_the_attempts() -> None:
    dead = [f"sk-dead-{n:04}" for n in range(9)]
    upstream = FakeUpstream(
        lambda asked: Reply.chat() if asked.key == "sk-good-2222" else Reply.error(401)
    )
    relay = Relay(
        [channel_to(upstream, keys=[*dead, "sk-good-2222"], choose_key="round_robin")],
        max_attempts=1,
    )
    answer = await ask(relay)
    assert answer.status == 200
    assert answer.header("x-llm-attempts") == "10"


async def test_other_failures_use_up_the_attempts() -> None:
    upstream = FakeUpstream(Reply.error(500))
    keys = [f"sk-key-{n:06}" for n in range(9)]
    answer = await ask(Relay([channel_to(upstream, keys=keys)], max_attempts=3))
    assert answer.status == 500
    assert len(upstream.asked) == 3


async def test_no_pair_of_channel_and_key_is_tried_twice() -> None:
    first, second = FakeUpstream(Reply.error(500)), FakeUpstream(Reply.error(429))
    keys = ["sk-a-11111111", "sk-b-22222222", "sk-c-33333333"]
    relay = Relay(
        [channel_to(first, keys=keys), channel_to(second, name="second", keys=keys)],
        max_attempts=50,
    )
    answer = await ask(relay)
    assert answer.status in (429, 500)
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
        max_attempts=50,
    )
    await ask(relay)
    assert order[0] == "top"
    assert sorted(order[1:3]) == ["one", "two"]
    assert sorted(order[3:5]) == ["one", "two"]
    assert order[5:] == ["low", "low"]


async def test_each_channel_maps_the_model_its_own_way() -> None:
    first, second = FakeUpstream(Reply.error(500)), FakeUpstream(Reply.chat())
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


OUTCOMES = {
    "plain": Reply.chat(),
    "refused": Reply.error(400),
    "failed": Reply.error(500),
    "lost": Reply.fails(ConnectionLost("reset")),
    "bad": Reply.fails(BadAnswer("no HTTP")),
    "stream": Reply.stream(sse(chunk("a"), chunk(finish="stop"))),
    "cut": Reply.stream(sse(chunk("a"))),
    "cut hard": Reply.stream(sse(chunk("a")), ConnectionLost("reset")),
    "a bug": Reply.fails(ZeroDivisionError()),
    "a bug midway": Reply.stream(sse(chunk("a")), ZeroDivisionError()),
}


@pytest.mark.parametrize("name", OUTCOMES)
async def test_the_key_is_given_back_whatever_happens(name: str) -> None:
    relay = relay_to(FakeUpstream(OUTCOMES[name]))
    await (_bug(relay) if "bug" in name else ask_stream(relay))
    await nothing_left(relay)


async def _bug(relay: Relay) -> None:
    body = b'{"model": "m", "stream": true, "messages": [{}]}'
    how: dict[str, Any] = {"may_raise": True, "may_cut": True}
    answer = await ask(relay, body, **how)
    assert isinstance(answer.exception, ZeroDivisionError)


@pytest.mark.parametrize("cancels", [1, 2])
@pytest.mark.parametrize(
    "reply",
    [
        Reply(head=[HANG]),
        Reply(steps=[HANG]),
        Reply(200, SSE, [HANG]),
        Reply(200, SSE, [sse(chunk("a")), HANG]),
    ],
)
async def test_the_key_is_given_back_when_the_server_cancels(reply: Reply, cancels: int) -> None:
    seen: list[str] = []
    upstream = FakeUpstream(reply)
    relay = relay_to(upstream)
    body = b'{"model": "m", "stream": true, "messages": [{}]}'
    app = guarded_by(relay, Guard(seen))
    driver = Driver(app, "POST", "/v1/chat/completions", body=body, may_raise=True, may_cut=True)
    async with driver.open() as stream:
        await until(lambda: upstream.sending or upstream.open)
        await asyncio.sleep(0.01)
        for _ in range(cancels):
            stream.cancel()
    assert isinstance(stream.answer.exception, asyncio.CancelledError)
    assert seen == ["before 1", "after 1"]
    await nothing_left(relay)


class Guard:
    """Notes what it is told; raises `refusals` in turn."""

    def __init__(self, seen: list[str], *refusals: Exception | None, name: str = "") -> None:
        self.seen, self.refusals, self.name = seen, list(refusals), name

    async def before(self, attempt: Any) -> None:
        self.seen.append(f"before {self.name}{attempt.number}")
        if self.refusals and (refusal := self.refusals.pop(0)):
            raise refusal

    def after(self, attempt: Any) -> None:
        assert attempt.ended is not None
        self.seen.append(f"after {self.name}{attempt.number}")


async def test_a_guard_that_raises_sends_the_call_to_the_next_candidate() -> None:
    upstream = FakeUpstream()
    relay = Relay([channel_to(upstream), channel_to(upstream, name="other")])
    seen: list[str] = []
    answer = await ask(guarded_by(relay, Guard(seen, PermissionDenied("not this one"))))
    assert answer.status == 200
    assert len(upstream.asked) == 1
    assert answer.header("x-llm-attempts") == "1"
    assert seen == ["before 1", "after 1", "before 1", "after 1"]
    await nothing_left(relay)


async def test_a_guard_that_always_raises_is_what_the_caller_is_told() -> None:
    upstream = FakeUpstream()
    relay = Relay([channel_to(upstream), channel_to(upstream, name="other")])
    refusals = [
        RateLimited("the bucket is empty", retry_after=3),
        RateLimited("empty", retry_after=9),
    ]
    answer = await ask(guarded_by(relay, Guard([], *refusals)))
    assert answer.status == 429
    assert answer.header("retry-after") == "9"
    assert not upstream.asked
    await nothing_left(relay)


async def test_after_is_called_for_each_before_and_for_no_other() -> None:
    seen: list[str] = []
    upstream = FakeUpstream(Reply.error(500), Reply.error(400))
    relay = relay_to(upstream, keys=["sk-a-11111111", "sk-b-22222222"])
    guards = [Guard(seen, name="a"), Guard(seen, None, RateLimited("no"), name="b")]
    await ask(guarded_by(relay, *guards, Guard(seen, name="c")))
    assert seen == [
        *("before a1", "before b1", "before c1", "after a1", "after b1", "after c1"),
        *("before a2", "before b2", "after a2", "after b2"),
    ]
    assert len(upstream.asked) == 1


async def test_the_guards_see_the_usage_of_the_attempt_that_served() -> None:
    seen: list[Any] = []

    class Asking(Guard):
        def after(self, attempt: Any) -> None:
            seen.append(attempt.usage)

    relay = relay_to(
        FakeUpstream(
            Reply.stream(
                sse(
                    chunk("a"),
                    chunk(finish="stop", usage={"prompt_tokens": 3, "completion_tokens": 4}),
                )
            )
        )
    )
    await ask_stream(guarded_by(relay, Asking([])))
    assert (seen[0].input, seen[0].output) == (3, 4)


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
    left = relay.channels.by_name["main"].pool.all()
    assert len(left) == (1 if reply.status == 401 else 2)
    await nothing_left(relay)


async def test_a_model_nobody_serves_to_this_caller_is_404_naming_model_and_group() -> None:
    relay = relay_to(FakeUpstream(), models=["gpt-*"], groups=["vip"])
    answer = await ask(
        called_by(relay, Caller("bob", "t2", group="free")), {**ASK, "model": "gpt-4"}
    )
    error = openai_error(answer)
    assert answer.status == 404
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "'gpt-4'" in error["message"]
    assert "'free'" in error["message"]


async def test_a_served_model_without_a_usable_key_is_503_with_retry_after() -> None:
    relay = relay_to(FakeUpstream(Reply.error(401)))
    await ask(relay)
    answer = await ask(relay)
    assert answer.status == 503
    assert openai_error(answer)["code"] == "no_healthy_channel"
    assert int(answer.header("retry-after") or 0) >= 1


async def test_a_busy_provider_is_503_with_retry_after() -> None:
    answer = await ask(relay_to(FakeUpstream(Reply.fails(PoolTimeout("busy")))))
    assert answer.status == 503
    assert int(answer.header("retry-after") or 0) >= 1


async def test_an_endpoint_the_channels_provider_lacks_is_501() -> None:
    relay = relay_to(FakeUpstream(), provider="deepseek")
    answer = await ask(relay, {"model": "m", "input": "x"}, "/v1/embeddings")
    assert answer.status == 501
    assert openai_error(answer)["code"] == "not_implemented"


async def test_a_caller_bound_to_channels_uses_no_other() -> None:
    mine, other = FakeUpstream(), FakeUpstream()
    relay = Relay([channel_to(other, priority=9), channel_to(mine, name="mine")])
    answer = await ask(called_by(relay, Caller("bob", "t2", channels=("mine",))))
    assert answer.header("x-llm-channel") == "mine"
    assert not other.asked
