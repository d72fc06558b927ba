"""Group A of the hostile inputs: request bodies."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from typing import Any

import brotli
import pytest

from asgi_llm_gateway import BodyLimits
from tests.hostile.world import ASK, CHAT, PROMPT, heartbeat, well_formed, world
from tests.upstreams import Reply, chunk, sse

MSG = b'"messages":[{"role":"user","content":"hi"}]'
REFUSED: list[tuple[str, bytes]] = [
    ("A1", b'{"model":"m","messages":['),
    ("A1", b'{"model":"m","messages":[{"role":"user","content":"' + PROMPT.encode()),
    ("A1", b'{"model":"m",' + MSG),
    ("A1", b'{"model":"m",' + MSG + b"}}"),
    ("A2", b""),
    ("A2", b"  \n"),
    ("A2", b"null"),
    ("A2", b"[]"),
    ("A2", b'"x"'),
    ("A2", b"1"),
    ("A2", b"true"),
    ("A3", b"[" * 100_000),
    ("A3", b'{"a":' * 100_000),
    ("A3", b'{"model":"m","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ("A3", b'{"model":"m",' + MSG + b',"x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001),
    ("A5", b'{"model":"cheap","model":"dear",' + MSG + b"}"),
    ("A5", b'{"model":"cheap","mo\\u0064el":"dear",' + MSG + b"}"),
    ("A5", b'{"model":"cheap","Model":"dear",' + MSG + b"}"),
    ("A5", b'{"model":"m",' + MSG + b",\n" + MSG + b"}"),
    ("A6", b'{"model":"m","stream":true,"stream":false,' + MSG + b"}"),
    ("A6", b'{"model":"m","stream":"true",' + MSG + b"}"),
    ("A6", b'{"model":"m","stream":1,' + MSG + b"}"),
    ("A6", b'{"model":"m","stream":[],' + MSG + b"}"),
    ("A6", b'{"model":"m","STREAM":true,' + MSG + b"}"),
    ("A7", b'{"model":"m","temperature":NaN,' + MSG + b"}"),
    ("A7", b'{"model":"m","temperature":Infinity,' + MSG + b"}"),
    ("A7", b'{"model":"m","temperature":-Infinity,' + MSG + b"}"),
    ("A7", b'{"model":"m","max_tokens":1e999,' + MSG + b"}"),
    ("A7", b'{"model":"m","x":01,' + MSG + b"}"),
    ("A9", b'{"model":"\\ud800",' + MSG + b"}"),
    ("A9", b'{"model":"m","\\ud800":1,' + MSG + b"}"),
    ("A9", b'{"model":"m","user":"\\ud800",' + MSG + b"}"),
    ("A9", b'{"model":"m","user":"\xed\xa0\x80",' + MSG + b"}"),
    ("A9", b'{"model":"m","messages":[{"content":"\xff"}]}'),
    ("A10", b'{"model":"m\\u0000",' + MSG + b"}"),
    ("A10", b'{"model":"\\u0000",' + MSG + b"}"),
    ("A10", b'{"model":"m\x00",' + MSG + b"}"),
    ("A10", b'{"model":"a\\r\\nx: y",' + MSG + b"}"),
    ("A20", b'{"model":"m","messages":null}'),
    ("A20", b'{"model":"m","messages":"hi"}'),
    ("A20", b'{"model":"m","messages":{}}'),
    ("A20", b'{"model":"m","messages":[]}'),
    ("A22", b'{"model":"m","max_tokens":"5",' + MSG + b"}"),
    ("A22", b'{"model":"m","n":1.5,' + MSG + b"}"),
    ("A22", b'{"model":{"a":1},' + MSG + b"}"),
    ("A23", b"{" + b",".join(b'"k%d":1' % n for n in range(5000)) + b"}"),
]


@pytest.mark.parametrize(("row", "body"), REFUSED, ids=lambda v: v if isinstance(v, str) else "")
async def test_a_body_that_cannot_be_used_is_refused(
    row: str, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(caplog) as here:
        async with asyncio.timeout(5):
            answer = await here.post(body)
        assert answer.status == 400
        assert well_formed(answer)["type"] == "invalid_request_error"
        await here.after(answer, asked=0)


RELAYED: list[tuple[str, bytes]] = [
    ("A6", b'{"model":"m","stream":null,' + MSG + b"}"),
    ("A7", b'{"model":"m","temperature":-0,"x":1E400,"y":1e999,' + MSG + b"}"),
    ("A9", b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}'),
    ("A9", b'{"model":"m","tools":[{"function":{"name":"\\udfff"}}],' + MSG + b"}"),
    ("A10", b'{"model":"m","messages":[{"role":"user","content":"a\\u0000b"}]}'),
    ("A10", b'{"model":"m","user":"a\\u0000b\\u001b[2J",' + MSG + b"}"),
    *[
        ("A20", b'{"model":"m","messages":[' + item + b"]}")
        for item in (
            b"null",
            b"5",
            b'{"content":"x"}',
            b'{"role":"__proto__","content":"x"}',
            b'{"role":"user","content":{}}',
            b'{"role":"user","content":[null]}',
            b'{"role":"assistant","tool_calls":"x"}',
            b'{"role":"assistant","tool_calls":[{"function":{"arguments":"{"}}]}',
            b'{"role":"tool","tool_call_id":"none","content":"x"}',
        )
    ],
    ("A22", b'{"model":"m","temperature":"0.7",' + MSG + b"}"),
    ("A22", b'{"model":"m","stop":["' + b'","'.join([b"x"] * 1_000_000) + b'"],' + MSG + b"}"),
    (
        "A22",
        b'{"model":"m","logit_bias":{'
        + b",".join(b'"%d":1' % n for n in range(1_000_000))
        + b"},"
        + MSG
        + b"}",
    ),
    ("A22", b'{"model":"m","metadata":' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"," + MSG + b"}"),
    ("A25", json.dumps(ASK | {"stop": ["data: [DONE]\n\n", "event: error\r\n"]}).encode()),
]


@pytest.mark.parametrize(("row", "body"), RELAYED, ids=lambda v: v if isinstance(v, str) else "")
async def test_a_strange_body_is_refused_or_relayed_as_it_is(
    row: str, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(caplog) as here:
        async with heartbeat(2.0):
            answer = await here.post(body)
        assert answer.status in (200, 400)
        assert [asked.body for asked in here.upstream.asked] == [body] * (answer.status == 200)
        await here.after(answer)


RESERVED = ["__class__", "__proto__", "constructor", "extra_body", "extra_headers", "api_base"]
RESERVED += ["api_key", "base_url", "custom_llm_provider", "mock_response", "provider", "channel"]
RESERVED += ["keys", "proxy", "timeout", "upstream", "model_mapping", "x" * 100_000]


async def test_a23_no_member_is_taken_for_a_setting(caplog: pytest.LogCaptureFixture) -> None:
    async with world(caplog) as here:
        body = json.dumps(ASK | dict.fromkeys(RESERVED, "http://evil.test/sk-evil")).encode()
        answer = await here.post(body)
        assert answer.status == 200
        (asked,) = here.upstream.asked
        assert asked.body == body
        assert asked.request.origin.host == "provider.test"
        assert asked.request.target == CHAT
        assert asked.key == "sk-provider-secret-1"
        await here.after(answer)


async def test_a25_echoed_text_never_breaks_out_of_its_event(
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = 'data: [DONE]\n\nevent: error\r\n\r\n"finish_reason":"stop"\x85\u2028'
    async with world(caplog) as here:
        here.upstream.replies = [Reply.stream(sse(chunk(text), chunk(finish="stop")))]
        answer = await here.post(ASK | {"stream": True, "stop": text})
        events = [e for e in answer.body.decode().split("\n\n") if e]
        assert json.loads(events[0][6:])["choices"][0]["delta"]["content"] == text
        assert events[2:] == ["data: [DONE]"]
        await here.after(answer)


KINDS = [
    "text/plain",
    "application/json; charset=latin-1",
    "",
    "application/octet-stream",
    "x" * 99,
]


@pytest.mark.parametrize("kind", [None, *KINDS])
async def test_a12_json_is_read_as_utf8_whatever_it_is_called(
    kind: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(caplog) as here:
        headers = {} if kind is None else {"content-type": kind}
        body = json.dumps(ASK | {"user": "é"}, ensure_ascii=False).encode()
        answer = await here.post(body, headers=headers)
        assert answer.status == 200
        assert here.upstream.asked[0].header("content-type") == "application/json"
        await here.after(answer)


@pytest.mark.parametrize(
    ("path", "kind", "status"),
    [
        (CHAT, "multipart/form-data; boundary=b", 415),
        (CHAT, "application/x-www-form-urlencoded", 415),
        ("/v1/audio/transcriptions", "application/json", 415),
        ("/v1/audio/transcriptions", "multipart/form-data", 400),
        ("/v1/audio/transcriptions", 'multipart/form-data; boundary="\u00ff"', 400),
        ("/v1/audio/transcriptions", "", 415),
    ],
)
async def test_a12_another_kind_of_body_than_the_endpoint_reads(
    path: str, kind: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(caplog) as here:
        answer = await here.post(ASK, path, headers={"content-type": kind})
        assert answer.status == status
        await here.after(answer, asked=0)


MB = b"x" * 2**20


@pytest.mark.parametrize("announced", [True, False])
async def test_a13_a_huge_body_is_refused_and_never_held(
    announced: bool, caplog: pytest.LogCaptureFixture
) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield MB

    async with world(caplog, limits=BodyLimits(max_bytes=8 * 2**20)) as here:
        headers = {"content-length": str(100 * 2**20)} if announced else {}
        headers |= {} if announced else {"transfer-encoding": "chunked"}
        answer = await here.post(endless(), headers=headers)
        assert answer.status == 413
        assert taken == (0 if announced else 9)
        await here.after(answer, asked=0)


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def packed(data: bytes, coding: str) -> bytes:
    return brotli.compress(data, quality=5) if coding == "br" else _gzip(data)


BOMB = b'{"model":"m","x":"' + b" " * 256 * 2**20
BOMBS: list[tuple[str, str, int]] = [("gzip", "gzip", 413), ("br", "br", 413)]


@pytest.mark.parametrize(("made", "said", "status"), BOMBS)
async def test_a14_a_bomb_is_defused(
    made: str, said: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    bomb = packed(BOMB, made)
    async with world(caplog) as here:
        tracemalloc.start()
        answer = await here.post(bomb, headers={"content-encoding": said})
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert answer.status == status
        assert peak < 100 * 2**20
        await here.after(answer, asked=0)


JSON = json.dumps(ASK).encode()
CODED: list[tuple[str, bytes, int]] = [
    ("gzip, gzip", _gzip(_gzip(JSON)), 415),
    ("gzip,br", JSON, 415),
    ("zstd", JSON, 415),
    ("deflate", zlib.compress(JSON), 415),
    ("x\u00ff", JSON, 415),
    ("gzip", JSON, 400),
    ("br", JSON, 400),
    ("gzip", _gzip(JSON)[:-9], 400),
    ("gzip", _gzip(JSON) + b"more", 400),
    ("br", brotli.compress(JSON)[:-1], 400),
    ("gzip", b"", 400),
    ("gzip", _gzip(b"no json"), 400),
    ("identity", JSON, 200),
    ("GZIP", _gzip(JSON), 200),
    ("br", brotli.compress(JSON), 200),
]


@pytest.mark.parametrize(("coding", "body", "status"), CODED, ids=range(len(CODED)))
async def test_a14_content_encodings(
    coding: str, body: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(caplog) as here:
        answer = await here.post(body, headers={"content-encoding": coding})
        assert answer.status == status
        await here.after(answer, asked=int(status == 200))


LENGTHS: list[tuple[list[tuple[str, str]], bytes]] = [
    ([("content-length", "-5")], JSON),
    ([("content-length", "1e3")], JSON),
    ([("content-length", "+5")], JSON),
    ([("content-length", "5_0")], JSON),
    ([("content-length", "")], JSON),
    ([("content-length", "9" * 5000)], JSON),
    ([("content-length", "\u00b2")], JSON),
    ([("content-length", "5"), ("content-length", "6")], JSON),
    ([("content-length", str(len(JSON)))], JSON[:-7]),
    ([("content-length", str(len(JSON) + 100))], JSON),
]


@pytest.mark.parametrize(("headers", "body"), LENGTHS, ids=range(len(LENGTHS)))
@pytest.mark.parametrize("path", [CHAT, "/v1/files", "/v1/audio/transcriptions"])
async def test_a15_a_length_that_is_none_or_is_not_the_bodys(
    headers: list[tuple[str, str]], body: bytes, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(caplog) as here:
        kind = ("content-type", "multipart/form-data; boundary=b")
        answer = await here.post(body, path, headers=[*headers, *([kind] * (path != CHAT))])
        if path == "/v1/files":
            assert answer.status in (200, 400, 413)  # the upstream holds streamed bodies to it
        else:
            assert answer.status in (400, 413)
            assert not here.upstream.asked
        await here.after(answer)


@pytest.mark.parametrize("path", [CHAT, "/v1/audio/transcriptions"])
async def test_a16_a_body_that_comes_too_slowly_is_given_up(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def drops() -> AsyncIterator[bytes]:
        yield b"{" if path == CHAT else b"--b\r\n"
        while True:
            await asyncio.sleep(0.2)
            yield b" " if path == CHAT else b"x"

    for limits in (BodyLimits(idle=0.1), BodyLimits(idle=5, total=0.5)):
        async with world(caplog, limits=limits) as here:
            headers = {"transfer-encoding": "chunked"}
            headers["content-type"] = "multipart/form-data; boundary=b"
            if path == CHAT:
                del headers["content-type"]
            answer = await here.post(drops(), path, headers=headers)
            assert answer.status == 408
            await here.after(answer, asked=0)


@pytest.mark.parametrize("when", ["before body", "during body"])
async def test_a18_a_caller_who_leaves_while_it_sends_costs_nothing(
    when: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(caplog) as here:
        answer = await here.post([JSON[:9], JSON[9:]], leave_after=when)
        assert answer.status is None
        assert answer.exchange.outcome == "client_left"
        assert not [r for r in caplog.records if r.levelname not in ("DEBUG", "INFO")]
        await here.after(answer, asked=0)


LARGE: dict[str, dict[str, Any]] = {
    "100 000 messages": {"messages": [{"role": "user", "content": "hi"}] * 100_000},
    "one message of 5 MB": {"messages": [{"role": "user", "content": "x" * 5 * 2**20}]},
    "10 000 tools": {**ASK, "tools": [{"type": "function", "function": {"name": "f"}}] * 10_000},
}


@pytest.mark.parametrize("name", LARGE)
async def test_a19_large_bodies_are_relayed_and_do_not_hold_up_others(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = json.dumps({"model": "m", **LARGE[name]}).encode()
    async with world(caplog) as here:
        async with heartbeat(1.0):
            answer = await here.post(body)
        assert answer.status == 200
        assert here.upstream.asked[0].body == body
        await here.after(answer)


async def test_a19_an_image_over_the_limit_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    url = "data:image/png;base64," + "A" * 50 * 2**20
    content = [{"type": "image_url", "image_url": {"url": url}}]
    async with world(caplog) as here:
        answer = await here.post({"model": "m", "messages": [{"content": content}]})
        assert answer.status == 413
        await here.after(answer, asked=0)
