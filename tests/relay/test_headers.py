"""What passes in headers, both ways, and what must be seen nowhere."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from asgi_llm_gateway.errors import ConnectFailed, ConnectionLost
from tests.asgi import call
from tests.upstreams import (
    ASK,
    SSE,
    FakeUpstream,
    Reply,
    ask,
    called_by,
    chunk,
    relay_to,
    sse,
)

SECRET = "sk-provider-secret-1"
CALLERS_SECRETS = {
    "authorization": "Bearer sk-callers-own",
    "x-api-key": "sk-callers-own",
    "api-key": "sk-callers-own",
    "x-goog-api-key": "sk-callers-own",
    "cookie": "session=sk-callers-own",
    "proxy-authorization": "Basic sk-callers-own",
}
NEVER_SENT = {
    **CALLERS_SECRETS,
    "connection": "keep-alive, x-hop",
    "x-hop": "1",
    "keep-alive": "timeout=5",
    "te": "trailers",
    "trailer": "x-sum",
    "upgrade": "h2c",
    "x-forwarded-for": "10.0.0.1",
    "x-forwarded-host": "evil.test",
    "x-real-ip": "10.0.0.1",
    "forwarded": "for=10.0.0.1",
    "openai-organization": "org-callers",
    "openai-project": "proj-callers",
    "origin": "https://evil.test",
    "referer": "https://evil.test/?key=sk-callers-own",
    "x-base-url": "http://evil.test",
    "x-http-method-override": "DELETE",
    "x-request-id": "callers-id",
    "x-stainless-lang": "python",
    "user-agent": "OpenAI/Python",
    "accept-encoding": "gzip, br",
}
NEVER_ANSWERED = [
    (b"set-cookie", b"a=b"),
    (b"x-goog-api-key", SECRET.encode()),
    (b"authorization", b"Bearer " + SECRET.encode()),
    (b"openai-organization", b"org-of-the-operator"),
    (b"openai-project", b"proj-of-the-operator"),
    (b"x-ratelimit-remaining-requests", b"5"),
    (b"x-request-id", b"providers-id"),
    (b"cf-ray", b"1"),
    (b"server", b"cloudflare"),
    (b"via", b"1.1 x"),
    (b"connection", b"close, x-hop"),
    (b"x-hop", b"1"),
    (b"keep-alive", b"timeout=5"),
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-credentials", b"true"),
    (b"strict-transport-security", b"max-age=1"),
    (b"alt-svc", b"h3"),
    (b"location", b"http://evil.test/"),
    (b"www-authenticate", b"Bearer"),
    (b"x-llm-channel", b"forged"),
    (b"x-long", b"x" * 2**20),
]
PASSED_BACK = [
    (b"openai-processing-ms", b"12"),
    (b"openai-version", b"2020-10-01"),
    (b"content-language", b"en"),
]


def names(headers: Any) -> set[str]:
    return {name.decode() for name, _ in headers}


async def test_of_a_callers_headers_only_a_few_reach_the_provider() -> None:
    upstream = FakeUpstream()
    headers = {**NEVER_SENT, "accept": "application/json", "openai-beta": "x=v1"}
    await ask(relay_to(upstream, keys=[SECRET]), headers=headers)
    sent = dict(upstream.asked[0].request.headers)
    assert sent == {
        b"authorization": b"Bearer " + SECRET.encode(),
        b"accept": b"application/json",
        b"openai-beta": b"x=v1",
        b"content-type": b"application/json",
        b"accept-encoding": b"identity",
        b"user-agent": b"asgi-llm-gateway",
    }


async def test_on_a_passed_through_call_a_few_more() -> None:
    upstream = FakeUpstream(Reply.json({}))
    more = {"range": "bytes=0-9", "idempotency-key": "i1", "content-type": "application/x-a"}
    app = called_by(relay_to(upstream, keys=[SECRET], passthrough=True))
    await call(app, "POST", "/v1/files", headers={**NEVER_SENT, **more}, body=b"x")
    sent = dict(upstream.asked[0].request.headers)
    assert sent.pop(b"authorization") == b"Bearer " + SECRET.encode()
    assert sent.pop(b"accept-encoding") == b"identity"
    assert sent.pop(b"user-agent") == b"asgi-llm-gateway"
    assert sent == {name.encode(): value.encode() for name, value in more.items()}


async def test_a_channels_own_headers_are_sent() -> None:
    upstream = FakeUpstream()
    await ask(relay_to(upstream, headers={"OpenAI-Project": "p1"}))
    assert upstream.asked[0].header("openai-project") == "p1"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/files"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_of_a_providers_headers_only_a_few_reach_the_caller(
    path: str, streamed: bool
) -> None:
    headers = [*NEVER_ANSWERED, *PASSED_BACK]
    if path != "/v1/files":  # there the provider's length is told: the body goes out as it came
        headers.append((b"content-length", b"99999"))
    upstream = FakeUpstream(
        Reply.stream(sse(chunk("a", finish="stop")), headers=headers)
        if streamed
        else Reply.json({"choices": []}, headers=headers)
    )
    app = called_by(relay_to(upstream, keys=[SECRET], passthrough=True))
    answer = await ask(app, {**ASK, "stream": streamed}, path)
    assert answer.status == 200
    ours = {"content-type", "x-request-id", "x-llm-channel", "x-llm-attempts"}
    ours |= {name.decode() for name, _ in PASSED_BACK}
    extra = {"content-length"} if path.endswith("completions") and not streamed else set()
    extra |= {"cache-control", "x-accel-buffering"} if path.endswith("ns") and streamed else set()
    assert names(answer.headers) == ours | extra
    assert answer.header("x-llm-channel") == "main"
    assert answer.header("x-request-id") != "providers-id"


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: x", b"a\nb", b"a\0b", b"\r"])
async def test_a_line_break_in_a_header_never_gets_through(value: bytes) -> None:
    upstream = FakeUpstream(Reply.json({"choices": []}, headers=[(b"openai-version", value)]))
    pairs = [(b"accept", value), (b"openai-beta", value), (b"x-request-id", value)]
    answer = await ask(relay_to(upstream), headers=pairs)
    assert answer.status == 200
    sent = names(upstream.asked[0].request.headers)
    assert not {"accept", "openai-beta"} & sent
    assert "openai-version" not in names(answer.headers)
    assert value.decode() not in (answer.header("x-request-id") or "")


@pytest.mark.parametrize("value", [b"\r", b"\0", b"\\\r"])
async def test_a_line_break_in_a_forms_content_type_never_gets_through(value: bytes) -> None:
    upstream = FakeUpstream(Reply.json({"text": ""}))
    kind = b'multipart/form-data; boundary=b; x="' + value + b'"'
    body = b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n'
    answer = await call(
        relay_to(upstream),
        "POST",
        "/v1/audio/transcriptions",
        headers=[(b"content-type", kind)],
        body=body,
    )
    assert answer.status in (200, 400)
    for asked in upstream.asked:
        assert not any(b"\r" in v or b"\0" in v for _, v in asked.request.headers)


@pytest.mark.parametrize("given", ["trace-1", "a" * 200])
async def test_a_harmless_request_id_is_echoed_and_logged_but_is_no_key(given: str) -> None:
    upstream = FakeUpstream()
    answer = await ask(relay_to(upstream), headers={"x-request-id": given})
    assert answer.header("x-request-id") == given
    assert answer.exchange.id != given
    assert answer.exchange.record().request_id == given


@pytest.mark.parametrize("given", [b"", b"a b", b"a\r\nb", b"\xff", b"a" * 201, b"\x1b[2J"])
async def test_any_other_request_id_is_replaced_by_ours(given: bytes) -> None:
    for document in (ASK, {"model": ""}):
        answer = await ask(relay_to(FakeUpstream()), document, headers=[(b"x-request-id", given)])
        assert answer.header("x-request-id") == answer.exchange.id
        assert len(answer.exchange.id) == 32


LEAKS = {
    "401": Reply.error(401, f"Incorrect API key provided: {SECRET}"),
    "403": Reply.error(403, f"{SECRET} may not"),
    "400": Reply.error(400, f"{SECRET} has no such model"),
    "429": Reply.error(429, f"{SECRET} is too fast"),
    "500 as text": Reply(500, [], [f"Traceback: key={SECRET}".encode()]),
    "200 with an error": Reply.json({"error": {"message": f"bad {SECRET}"}}),
    "error event": Reply.stream(sse({"error": {"message": f"bad {SECRET}"}})),
    "web page": Reply(200, [(b"content-type", b"text/html")], [SECRET.encode()]),
    "connect": Reply.fails(ConnectFailed("refused")),
    "lost": Reply(200, SSE, [sse(chunk("a")), ConnectionLost("reset")]),
    "headers": Reply.json({"choices": []}, headers=NEVER_ANSWERED),
}


READ_BY_NOBODY = ("200 with an error", "error event", "web page")
"""What a passed-through answer may hold is the provider's affair."""
CASES = [("/v1/chat/completions", name) for name in LEAKS]
CASES += [("/v1/batches", name) for name in LEAKS if name not in READ_BY_NOBODY]


@pytest.mark.parametrize(("path", "name"), CASES)
async def test_a_providers_key_is_in_no_answer_and_no_log(
    path: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    upstream = FakeUpstream(LEAKS[name])
    app = called_by(relay_to(upstream, keys=[SECRET], passthrough=True))
    body = {**ASK, "stream": True, "messages": [{"content": "my private prompt"}]}
    answer = await ask(app, body, path, headers=CALLERS_SECRETS, may_cut=True)
    said = answer.body + b"".join(n + v for n, v in answer.headers) + caplog.text.encode()
    assert SECRET.encode() not in said
    assert b"sk-callers-own" not in said
    assert b"private prompt" not in said
    asked = b"".join(n + v for a in upstream.asked for n, v in a.request.headers)
    assert b"sk-callers-own" not in asked
