"""Files and every other path, passed through; and what nothing takes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from asgi_llm_gateway import Caller, Relay
from asgi_llm_gateway.errors import ConnectFailed, ConnectionLost
from tests.asgi import call
from tests.upstreams import (
    FakeUpstream,
    Reply,
    called_by,
    channel_to,
    nothing_left,
    openai_error,
    relay_to,
)


def target(upstream: FakeUpstream, at: int = -1) -> str:
    return upstream.asked[at].request.target


def passing(upstream: FakeUpstream, caller: Caller | None = None, **config: Any) -> Any:
    return called_by(relay_to(upstream, passthrough=True, **config), caller)


ROUTES = [
    ("GET", "/v1/files", "/v1/files"),
    ("GET", "/v1/files/file-1/content", "/v1/files/file-1/content"),
    ("DELETE", "/v1/files/file-1", "/v1/files/file-1"),
    ("HEAD", "/v1/files/file-1", "/v1/files/file-1"),
    ("POST", "/v1/batches/b1/cancel", "/v1/batches/b1/cancel"),
    ("GET", "/v1/chat/completions", "/v1/chat/completions"),
    ("GET", "/v1/responses/resp_1", "/v1/responses/resp_1"),
    ("DELETE", "/v1/models/ft:m", "/v1/models/ft:m"),
    ("POST", "/v1/something/new", "/v1/something/new"),
    ("GET", "/v1/files/a b", None),
    ("GET", "/v1/files/é", "/v1/files/%C3%A9"),
    ("GET", "/v1/files/a?b", "/v1/files/a%3Fb"),
    ("GET", "/v1/files/a#b", "/v1/files/a%23b"),
    ("GET", "/v1/files/{model}", "/v1/files/%7Bmodel%7D"),
]


@pytest.mark.parametrize(("method", "path", "wanted"), ROUTES)
async def test_any_path_reaches_the_provider_as_the_path_it_is(
    method: str, path: str, wanted: str | None
) -> None:
    upstream = FakeUpstream(Reply.json({"id": "x"}))
    answer = await call(passing(upstream), method, path)
    if wanted is None:
        assert answer.status == 404
        assert not upstream.asked
        return
    assert answer.status == 200
    assert upstream.asked[0].request.method == method
    assert target(upstream) == wanted
    assert upstream.asked[0].request.origin.host == "provider.test"


async def test_bytes_go_both_ways_as_they_come_and_are_never_held() -> None:
    async def upload() -> AsyncIterator[bytes]:
        for n in range(5):
            yield b"%d" % n

    upstream = FakeUpstream(
        Reply(201, [(b"content-type", b"application/x-a"), (b"etag", b"e")], [b"a", b"", b"b"])
    )
    headers = {"transfer-encoding": "chunked", "content-type": "application/octet-stream"}
    answer = await call(passing(upstream), "POST", "/v1/files", headers=headers, body=upload())
    assert (answer.status, answer.body) == (201, b"ab")
    assert answer.header("etag") == "e"
    assert upstream.asked[0].body == b"01234"
    request = upstream.asked[0].request
    assert request.content_length is None
    assert answer.exchange.outcome == "ok"


async def test_a_known_length_is_announced_to_the_provider() -> None:
    upstream = FakeUpstream(Reply.json({}))
    await call(passing(upstream), "PUT", "/v1/files", body=[b"abc", b"de"])
    assert upstream.asked[0].request.content_length == 5
    assert upstream.asked[0].body == b"abcde"


async def test_a_body_that_http2_announces_in_no_header_is_sent() -> None:
    upstream = FakeUpstream(Reply.json({}))

    async def over_http2(scope: Any, receive: Any, send: Any) -> None:
        headers = [pair for pair in scope["headers"] if pair[0] != b"content-length"]
        scope = {**scope, "http_version": "2", "headers": headers}
        await passing(upstream)(scope, receive, send)

    await call(over_http2, "POST", "/v1/files", body=b"abc")
    assert upstream.asked[0].body == b"abc"
    await call(over_http2, "GET", "/v1/files")
    assert upstream.asked[1].request.body == b""


async def test_an_answer_cut_midway_has_no_last_message() -> None:
    upstream = FakeUpstream(Reply(200, [], [b"half", ConnectionLost("reset")]))
    answer = await call(passing(upstream), "GET", "/v1/files/f/content", may_cut=True)
    assert answer.cut
    assert answer.body == b"half"


@pytest.mark.parametrize(
    "reply", [Reply.error(500), Reply.error(403), Reply.fails(ConnectFailed(""))]
)
async def test_a_failed_call_without_a_body_goes_on_to_the_next_channel(reply: Reply) -> None:
    upstream = FakeUpstream(reply, Reply.json({"data": []}))
    relay = Relay(
        [
            channel_to(upstream, passthrough=True),
            channel_to(upstream, name="other", passthrough=True),
        ]
    )
    answer = await call(called_by(relay), "GET", "/v1/files")
    assert answer.json == {"data": []}
    await nothing_left(relay)


async def test_an_error_of_the_provider_comes_back_word_for_word() -> None:
    body = b'{"error": {"message": "No such File object: x", "type": "t"}}'
    upstream = FakeUpstream(Reply.json(body, 404))
    answer = await call(passing(upstream), "GET", "/v1/files/x")
    assert (answer.status, answer.body) == (404, body)


# Who may


async def test_without_a_caller_nothing_is_passed_through() -> None:
    upstream = FakeUpstream(Reply.json({}))
    answer = await call(relay_to(upstream, passthrough=True), "GET", "/v1/files")
    assert answer.status == 401
    assert openai_error(answer)["code"] == "caller_required"
    assert not upstream.asked


async def test_anonymous_says_otherwise() -> None:
    upstream = FakeUpstream(Reply.json({}))
    relay = Relay([channel_to(upstream, passthrough=True)], anonymous=True)
    assert (await call(relay, "GET", "/v1/files")).status == 200


async def test_a_caller_limited_to_models_is_refused_even_where_all_would_match() -> None:
    upstream = FakeUpstream(Reply.json({}))
    app = passing(upstream, Caller("bob", "t", models=("*",)))
    answer = await call(app, "GET", "/v1/files")
    assert answer.status == 403
    assert openai_error(answer)["code"] == "model_not_allowed"
    assert not upstream.asked


async def test_only_channels_of_the_callers_group_take_it() -> None:
    upstream = FakeUpstream(Reply.json({}))
    app = passing(upstream, Caller("bob", "t", group="free"), groups=["vip"])
    answer = await call(app, "GET", "/v1/files")
    assert answer.status == 501
    assert not upstream.asked


# A channel by name


async def test_the_proxy_route_names_its_channel() -> None:
    first, second = FakeUpstream(Reply.json({})), FakeUpstream(Reply.json({}))
    relay = Relay(
        [
            channel_to(first, passthrough=True, priority=9),
            channel_to(second, name="second", passthrough=True),
        ]
    )
    app = called_by(relay)
    for path, wanted in [
        ("/v1/oneapi/proxy/second/v1/files/f", "/v1/files/f"),
        ("/v1/oneapi/proxy/second/files/f", "/v1/files/f"),
        ("/v1/oneapi/proxy/second/v1beta/x", "/v1/v1beta/x"),
        ("/v1/oneapi/proxy/second/v1", "/v1/"),
    ]:
        answer = await call(app, "GET", path)
        assert answer.status == 200, path
        assert answer.header("x-llm-channel") == "second"
        assert target(second) == wanted
    assert not first.asked


@pytest.mark.parametrize("name", ["nobody", "closed", "elsewhere"])
async def test_a_channel_the_caller_cannot_use_is_not_found(name: str) -> None:
    upstream = FakeUpstream(Reply.json({}))
    relay = Relay(
        [
            channel_to(upstream, passthrough=True),
            channel_to(upstream, name="closed"),
            channel_to(upstream, name="elsewhere", passthrough=True, groups=["vip"]),
        ]
    )
    answer = await call(called_by(relay), "GET", f"/v1/oneapi/proxy/{name}/files")
    assert answer.status == 404
    assert openai_error(answer)["code"] == "channel_not_found"
    assert not upstream.asked


# The query


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        (b"", ""),
        (b"limit=2&after=file-1", "?limit=2&after=file-1"),
        (b"key=sk-callers-own", ""),
        (b"limit=2&key=sk-callers-own&order=", "?limit=2&order="),
        (b"%6Bey=sk-callers-own", ""),
        (b"a=%0d%0ax&b=%23&c=%7Bmodel%7D", "?a=%0D%0Ax&b=%23&c=%7Bmodel%7D"),
        (b"a=\r\nx: y", "?a=%0D%0Ax%3A+y"),
    ],
)
async def test_the_query_is_passed_without_the_callers_key(query: bytes, wanted: str) -> None:
    upstream = FakeUpstream(Reply.json({}))
    answer = await call(passing(upstream), "GET", "/v1/files", query=query)
    assert answer.status == 200
    assert target(upstream) == f"/v1/files{wanted}"


async def test_a_query_of_too_many_fields_is_refused() -> None:
    answer = await call(passing(FakeUpstream()), "GET", "/v1/files", query=b"a&" * 200)
    assert answer.status == 400
    assert openai_error(answer)["type"] == "invalid_request_error"


# What nothing takes


@pytest.mark.parametrize("path", ["/", "/models", "/chat/completions", "/foo"])
async def test_a_wrong_base_url_is_told_the_right_one(path: str) -> None:
    relay = relay_to(FakeUpstream(), passthrough=True)
    for root, base in [("", "/v1"), ("/llm", "/llm/v1")]:
        answer = await call(called_by(relay), "GET", root + path, root_path=root)
        if root and path != "/":
            continue  # below a mount the version may be left out
        assert answer.status == 404
        error = openai_error(answer)
        assert error["code"] == "wrong_base_url"
        assert base in error["message"]


@pytest.mark.parametrize("path", ["/v1", "/v1/"])
@pytest.mark.parametrize("root", ["", "/llm"])
async def test_the_base_url_itself_tells_what_is_below_it(root: str, path: str) -> None:
    answer = await call(called_by(relay_to(FakeUpstream())), "GET", root + path, root_path=root)
    assert answer.status == 404
    assert f"such as {root}/v1/models" in openai_error(answer)["message"]


@pytest.mark.parametrize("end", ["/chat/completions", "/responses"])
async def test_a_base_url_that_has_the_endpoint_too_is_told_so(end: str) -> None:
    answer = await call(called_by(relay_to(FakeUpstream())), "POST", f"/v1{end}{end}")
    assert answer.status == 404
    error = openai_error(answer)
    assert error["code"] == "wrong_base_url"
    assert "ends at /v1;" in error["message"]


@pytest.mark.parametrize("path", ["/v1/files", "/v1/threads/t/runs", "/v1/fine_tuning/jobs"])
async def test_a_known_route_that_no_channel_takes_is_501(path: str) -> None:
    answer = await call(called_by(relay_to(FakeUpstream())), "GET", path)
    assert answer.status == 501
    assert openai_error(answer)["code"] == "api_not_implemented"


async def test_an_unknown_route_is_404_in_openais_shape() -> None:
    answer = await call(called_by(relay_to(FakeUpstream())), "GET", "/v1/nothing/here")
    assert answer.status == 404
    error = openai_error(answer)
    assert error["code"] == "unknown_url"
    assert "/v1/nothing/here" in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("PUT", "/v1/embeddings", "POST"),
        ("TRACE", "/v1/chat/completions", "POST"),
        ("FOO", "/v1/chat/completions", "POST"),
        ("OPTIONS", "/v1/chat/completions", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("DELETE", "/v1/models/m", "GET, HEAD"),
    ],
)
async def test_a_method_that_is_not_there_is_405_and_says_which_are(
    method: str, path: str, allow: str
) -> None:
    upstream = FakeUpstream()
    headers = {"x-http-method-override": "POST"}
    answer = await call(relay_to(upstream), method, path, headers=headers)
    assert answer.status == 405
    assert answer.header("allow") == allow
    assert openai_error(answer)["code"] == "method_not_allowed"
    assert not upstream.asked


@pytest.mark.parametrize("path", ["/v1/messages", "/v1beta/models/gemini:generateContent"])
async def test_a_dialect_no_channel_speaks_is_501_in_that_dialect(path: str) -> None:
    body = b'{"model": "m", "messages": [], "contents": []}'
    answer = await call(relay_to(FakeUpstream()), "POST", path, body=body)
    assert answer.status == 501
    if path == "/v1/messages":
        assert answer.json["type"] == "error"
    else:
        assert answer.json["error"]["status"] == "UNIMPLEMENTED"
