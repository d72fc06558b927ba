"""What a caller is told when no provider served: refusals, dead keys, nothing left."""

from __future__ import annotations

import hashlib
import logging

import pytest

from asgi_llm_gateway import Caller, Failover, Relay
from asgi_llm_gateway.errors import ConnectionLost, PoolTimeout
from tests.upstreams import (
    ASK,
    FakeUpstream,
    Reply,
    ask,
    called_by,
    channel_to,
    chunk,
    nothing_left,
    openai_error,
    relay_to,
    sse,
)

CALLERS_FAULT = (400, 404, 405, 413, 415, 422)


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
    assert [key.secret for key in pool.keys] == ["sk-good-2222"]


async def test_a_failure_is_logged_under_the_id_the_caller_was_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    relay = relay_to(FakeUpstream(Reply.error(400)), keys=["sk-a-11111111"])
    answer = await ask(relay)
    fingerprint = hashlib.sha256(b"sk-a-11111111").hexdigest()[:12]
    call = f"call {answer.header('x-request-id')}"
    told = f"{call}: attempt 1 on main ('m', key {fingerprint}) failed: "
    assert any(line.startswith(told) for line in caplog.messages), caplog.text


async def test_dead_keys_do_not_use_up_the_attempts() -> None:
    dead = [f"sk-dead-{n:04}" for n in range(9)]
    upstream = FakeUpstream(
        lambda asked: Reply.chat() if asked.key == "sk-good-2222" else Reply.error(401)
    )
    relay = Relay(
        [channel_to(upstream, keys=[*dead, "sk-good-2222"], choose_key="round_robin")],
        failover=Failover(max_attempts=1),
    )
    answer = await ask(relay)
    assert answer.status == 200
    assert answer.header("x-llm-attempts") == "10"


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


async def test_the_error_event_of_a_cut_response_goes_on_counting() -> None:
    created = {"type": "response.created", "sequence_number": 0, "response": {}}
    delta = {"type": "response.output_text.delta", "sequence_number": 7, "delta": "x"}
    events = sse(created, delta)
    upstream = FakeUpstream(Reply.stream(events, ConnectionLost("cut")))
    answer = await ask(
        relay_to(upstream), {"model": "m", "input": "x", "stream": True}, path="/v1/responses"
    )
    assert b'"type": "error"' in answer.body
    assert b'"sequence_number": 8' in answer.body


async def test_a_providers_refusal_names_the_channel_and_the_attempts() -> None:
    answer = await ask(relay_to(FakeUpstream(Reply.error(400))))
    assert (answer.header("x-llm-channel"), answer.header("x-llm-attempts")) == ("main", "1")


async def test_an_error_event_in_mid_stream_does_not_repeat_the_gateways_key() -> None:
    told = {"error": {"message": "quota of sk-provider-1111 is used up", "type": "t"}}
    upstream = FakeUpstream(Reply.stream(sse(chunk("Hi")), sse(told)))
    answer = await ask(relay_to(upstream), {**ASK, "stream": True})
    assert b"quota of [key] is used up" in answer.body
    assert b"sk-provider-1111" not in answer.body
    assert b"[DONE]" not in answer.body
