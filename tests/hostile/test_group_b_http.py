"""Group B of the hostile inputs: paths, headers, methods, scopes."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.asgi import call
from tests.hostile.world import ASK, CHAT, KEY, LIMITED, TOKEN, well_formed, world
from tests.upstreams import Reply

HOP_BY_HOP = ["connection", "keep-alive", "proxy-authorization", "te", "trailer", "upgrade"]
HOP_BY_HOP += ["transfer-encoding", "proxy-connection", "x-named", "expect"]


@pytest.mark.parametrize("path", [CHAT, "/v1/files"])
async def test_b1_hop_by_hop_headers_are_never_copied(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(caplog) as here:
        headers = [(name, "chunked") for name in HOP_BY_HOP]
        headers += [("connection", "close, X-Named, authorization"), ("te", "trailers")]
        answer = await here.post(ASK, path, headers=headers)
        assert answer.status == 200
        (asked,) = here.upstream.asked
        assert not {name for name, _ in asked.request.headers} & {h.encode() for h in HOP_BY_HOP}
        assert asked.key == KEY
        await here.after(answer)


INJECTED = [b"a\r\nx-evil: 1", b"a\nx-evil: 1", b"a\0b", b"\r\n\r\n{}"]


@pytest.mark.parametrize("value", INJECTED)
async def test_b2_line_breaks_in_headers_go_nowhere(
    value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(caplog) as here:
        names = ["accept", "openai-beta", "range", "x-request-id", "user-agent", "content-type"]
        names += ["idempotency-key", "x-model", "host"]
        for path in (CHAT, "/v1/files"):
            answer = await here.post(ASK, path, headers=[(name, value) for name in names])
            assert answer.status in (200, 400, 415)
            assert not any(b"\r" in v or b"\n" in v or b"\0" in v for _, v in answer.headers)
        for asked in here.upstream.asked:
            assert not any(set(v) & set(b"\r\n\0") for _, v in asked.request.headers)
        await here.after(answer)


@pytest.mark.parametrize("value", INJECTED)
async def test_b2_line_breaks_in_a_model_an_id_or_a_query_go_nowhere(
    value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(caplog) as here:
        text = value.decode()
        answer = await here.post(ASK | {"model": text})
        assert answer.status == 400
        answer = await here.call("GET", f"/v1/files/{text}")
        assert answer.status == 404
        answer = await here.call("GET", f"/v1/models/{text}")
        assert answer.status == 404
        assert not here.upstream.asked
        answer = await here.call("GET", "/v1/files", query=b"a=" + value)
        assert not set(here.upstream.asked[0].request.target) & set("\r\n\0 ")
        await here.after(answer)


async def test_b4_a_key_in_the_query_counts_on_gemini_routes_only_and_goes_nowhere(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world(caplog) as here:
        query = b"alt=sse&key=" + TOKEN.encode()
        answer = await here.post(ASK, token=None, query=query)
        assert answer.status == 401
        answer = await here.call("GET", "/v1/files", token=None, query=query)
        assert answer.status == 401
        assert not here.upstream.asked
        gemini = "/v1beta/models/m:generateContent"
        answer = await here.post({"contents": []}, gemini, token=None, query=query)
        assert answer.status == 501  # known, but no channel here speaks it
        answer = await here.call("GET", "/v1/files", query=query)
        assert here.upstream.asked[0].request.target == "/v1/files?alt=sse"
        await here.after(answer)


TRICKS = [
    "/v1/../admin/users",
    "/v1/%2e%2e/admin",
    "/v1/%252e%252e/",
    "//admin",
    "//v1/chat/completions",
    "/v1//chat/completions",
    "/v1/./chat/completions",
    "/v1;x/admin",
    "/v1/chat/completions;x",
    "/v1/chat/completions\\..\\x",
    "\\admin",
    "/V1/CHAT/COMPLETIONS",
    "/v1/chat/completions/..",
    "/v1/files/../chat/completions",
    "/health/live/../../v1/chat/completions",
    "/v1/health/live",
    "/health/ready/x",
    "/v1/chat/completions\x00",
    "/v1/chat/completions ",
    "/v1/chat/completions\n",
    "/v1/chat/completions?",
    "/v1/chat/completions#",
    "",
    "*",
    "http://evil.test/v1/chat/completions",
    "/\ud800",
    "/v1/" + "a/" * 5000,
    "/v1/" + "x" * 100_000,
]


@pytest.mark.parametrize("path", TRICKS, ids=lambda p: ascii(p[:40]))
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_b5_no_path_gets_by_the_access_token_or_out_of_the_api(
    path: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(caplog) as here:
        refused = await here.call(method, path, token=None, body=b"{}")
        assert refused.status == 401
        assert not here.upstream.asked
        answer = await here.call(method, path, body=b"{}")
        for asked in here.upstream.asked:
            assert asked.request.target.startswith("/v1/")
            assert "/../" not in asked.request.target
            assert "//" not in asked.request.target
            assert asked.request.origin.host == "provider.test"
        assert answer.status in (200, 400, 404, 405)
        await here.after(refused)
        await here.after(answer)


async def test_b5_what_counts_is_the_path_not_the_raw_path(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world(caplog) as here:

        async def doctored(scope: Any, receive: Any, send: Any) -> None:
            await here.gateway({**scope, "raw_path": b"/health/live"}, receive, send)

        answer = await call(doctored, "GET", "/v1/files")
        assert answer.status == 401
        assert not here.upstream.asked


@pytest.mark.parametrize("root", ["/v1", "/llm/v1", "/llm"])
async def test_b5_a_mount_is_not_escaped(root: str, caplog: pytest.LogCaptureFixture) -> None:
    async with world(caplog) as here:
        for path in ("/../admin", "/%2e%2e/admin", "/;/x", "//x", "/v1/../../x"):
            answer = await here.call("GET", root + path, root_path=root)
            assert answer.status == 404
        assert not here.upstream.asked
        await here.after(answer)


IDS = [
    "../../",
    "..",
    "a/../../b",
    "\x00",
    "%00",
    "%2e%2e%2f",
    "a%2fb",
    "a b",
    "a\\b",
    "a;b",
    "a//b",
]


@pytest.mark.parametrize("name", IDS, ids=ascii)
@pytest.mark.parametrize("route", ["files", "batches", "responses", "assistants"])
async def test_b7_an_id_made_of_path_tricks_is_not_found(
    name: str, route: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(caplog) as here:
        for method in ("GET", "DELETE"):
            answer = await here.call(method, f"/v1/{route}/{name}")
            assert answer.status == 404
        await here.after(answer, asked=0)


@pytest.mark.parametrize("name", ["x" * 10_000, "é" * 100, "{model}", "a@b:c", "..a", "a?b#c"])
async def test_b7_a_strange_id_stays_one_id(name: str, caplog: pytest.LogCaptureFixture) -> None:
    async with world(caplog) as here:
        answer = await here.call("GET", f"/v1/files/{name}")
        assert answer.status == 200
        target = here.upstream.asked[0].request.target
        assert target.startswith("/v1/files/")
        assert target.count("/") == 3
        assert "?" not in target
        assert "#" not in target
        assert target.isascii()
        await here.after(answer)


METHODS = ["GET", "PUT", "DELETE", "PATCH", "TRACE", "FOO", "HEAD", "CONNECT", "OPTIONS", "post"]


@pytest.mark.parametrize("method", METHODS)
async def test_b8_another_method_never_becomes_a_call(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(caplog) as here:
        headers = {"x-http-method-override": "POST", "x-http-method": "POST"}
        answer = await here.call(method, CHAT, body=b"{}", token=None, headers=headers)
        assert answer.status == 401
        assert not here.upstream.asked
        answer = await here.call(method, CHAT, headers=headers)
        assert [asked.request.method for asked in here.upstream.asked] in ([], [method])
        assert answer.status in (200, 405)
        if method != "HEAD":
            await here.after(answer)


async def test_b8_preflights_from_elsewhere_are_granted_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world(caplog, cors_origins=["https://good.test"]) as here:
        for origin, granted in [("https://good.test", True), ("https://evil.test", False)]:
            ask = {"origin": origin, "access-control-request-method": "POST"}
            answer = await here.call("OPTIONS", CHAT, token=None, headers=ask)
            assert (answer.header("access-control-allow-origin") == origin) is granted
            assert answer.header("access-control-allow-origin") != "*"
            assert answer.status == (200 if granted else 400)
        for origin in ("https://evil.test", "null", "https://good.test.evil.test"):
            answer = await here.post(ASK, headers={"origin": origin})
            assert answer.header("access-control-allow-origin") is None
        await here.after(answer)


ADDRESSES: list[tuple[str | None, dict[str, str], int]] = [
    ("10.1.2.3", {}, 200),
    ("::ffff:10.1.2.3", {}, 200),
    ("11.1.2.3", {}, 403),
    ("::ffff:b01:203", {}, 403),
    (None, {}, 403),
    ("", {}, 403),
    ("not an address", {}, 403),
    ("11.1.2.3", {"x-forwarded-for": "10.0.0.1"}, 403),
    ("11.1.2.3", {"x-real-ip": "10.0.0.1", "forwarded": "for=10.0.0.1"}, 403),
    ("127.0.0.1", {"x-forwarded-for": "10.0.0.1"}, 200),
    ("127.0.0.1", {"x-forwarded-for": "10.0.0.1, 11.0.0.1"}, 403),
    ("127.0.0.1", {"x-forwarded-for": "11.0.0.1, 10.0.0.1, 127.0.0.1"}, 200),
    ("127.0.0.1", {"x-forwarded-for": "::ffff:10.0.0.1"}, 200),
    ("127.0.0.1", {"x-forwarded-for": "[::1]:80"}, 403),
    ("127.0.0.1", {"x-forwarded-for": "fe80::1%eth0"}, 403),
    ("127.0.0.1", {"x-forwarded-for": "10.0.0.1, garbage"}, 403),
    ("127.0.0.1", {"x-forwarded-for": "\u00ff, " * 1000}, 403),
    ("127.0.0.1", {"x-real-ip": "10.0.0.1"}, 403),
    ("127.0.0.1", {}, 403),
]


@pytest.mark.parametrize(("client", "headers", "status"), ADDRESSES)
async def test_b10_an_address_is_believed_only_from_a_known_proxy(
    client: str | None, headers: dict[str, str], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(caplog) as here:
        where = None if client is None else (client, 1)
        body = ASK | {"model": "cheap"}
        answer = await here.post(body, token=LIMITED, headers=headers, client=where)
        assert answer.status == status
        await here.after(answer, asked=int(status == 200))


async def test_b11_a_spoofed_host_is_in_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    async with world(caplog) as here:
        here.upstream.replies = [Reply.json({}, 404, [(b"location", b"http://evil.test")])]
        headers = {
            "host": "evil.test/?#@x",
            "x-forwarded-host": "evil.test",
            "x-forwarded-proto": "x",
        }
        for method, path in [
            ("GET", "/"),
            ("GET", "/models"),
            ("GET", "/v1/nothing"),
            ("PUT", CHAT),
        ]:
            answer = await here.call(method, path, headers=headers)
            assert answer.status is not None
            assert b"evil.test" not in answer.body
            assert b"evil.test" not in b"".join(v for _, v in answer.headers)
        assert not any(
            b"evil" in v for asked in here.upstream.asked for _, v in asked.request.headers
        )


async def test_b12_a_websocket_is_closed_and_nothing_is_asked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world(caplog) as here:
        for token in (None, TOKEN):
            sent: list[dict[str, Any]] = []
            messages = [{"type": "websocket.connect"}]
            headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
            scope = {"type": "websocket", "path": "/v1/realtime", "headers": headers}
            scope |= {"query_string": b"", "subprotocols": [], "client": None, "root_path": ""}

            async def receive(left: list[Any] = messages) -> Any:
                return left.pop(0)

            async def send(message: Any, out: list[Any] = sent) -> None:
                out.append(message)

            await here.gateway(scope, receive, send)
            assert [m["type"] for m in sent] == ["websocket.close"]
            assert sent[0]["code"] in (1008, 1003, *range(4000, 5000))
        await here.after(await here.post(ASK))


@pytest.mark.parametrize("kind", ["ftp", "http2", ""])
async def test_b12_an_unknown_scope_raises_as_asgi_asks(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def nothing(*_: Any) -> Any:
        raise AssertionError

    async with world(caplog) as here:
        with pytest.raises(ValueError, match="unknown scope type"):
            await here.gateway({"type": kind, "path": CHAT, "headers": []}, nothing, nothing)
        await here.after(await here.post(ASK))


async def test_b12_a_websocket_upgrade_over_http_is_only_an_http_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world(caplog) as here:
        headers = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-key": "x"}
        answer = await here.call("GET", CHAT, headers=headers)
        assert answer.status == 200  # passed through as the listing of stored answers it names
        sent = {name for name, _ in here.upstream.asked[0].request.headers}
        assert not sent & {b"upgrade", b"connection", b"sec-websocket-key"}
        await here.after(answer)


async def test_refusals_are_told_in_each_callers_dialect(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with world(caplog) as here:
        for path, body in [
            (CHAT, b"{"),
            ("/v1/messages", b"{"),
            ("/v1beta/models/m:generateContent", b"{"),
            ("/v1/responses", b"{"),
        ]:
            for token in (None, TOKEN):
                answer = await here.post(body, path, token=token)
                assert answer.status == (400 if token else 401)
                well_formed(answer)
        await here.after(answer, asked=0)
