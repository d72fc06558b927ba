"""Group C of the hostile inputs: what a provider may answer."""

from __future__ import annotations

import gzip
import itertools
import json
import tracemalloc
from pathlib import Path
from typing import Any

import brotli
import pytest

from asgi_llm_gateway.errors import BadAnswer, ConnectionLost
from tests.hostile.world import ASK, heartbeat, well_formed, world
from tests.upstreams import (
    DONE,
    SSE,
    USAGE,
    Reply,
    chunk,
    split_everywhere,
    sse,
)

STREAM = ASK | {"stream": True}
STOP = chunk(finish="stop")
CASSETTES = Path(__file__).resolve().parents[2] / "../shared/cassettes/dev.jsonl"


def documents(body: bytes) -> list[Any]:
    """The JSON documents of a stream, read as the standard says, by other means than ours."""
    text = body.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    found = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line.startswith("data")]
        data = "\n".join(line.partition(":")[2].removeprefix(" ") for line in lines)
        if data and data != "[DONE]":
            found.append(json.loads(data))
    return found


END = b'data: {"choices":[{"finish_reason":"stop"}]}'
WORDS = 'data: {"choices":[{"delta":{"content":"é€😀\\u00e9"},"finish_reason":"x"}]}'.encode()
FRAMES: list[tuple[str, bytes]] = [
    ("C1", END + b"\r\n\r\ndata: [DONE]\r\n\r\n"),
    ("C1", END + b"\r\rdata: [DONE]\r\r"),
    ("C1", b'data: {"choices":[]}\r\n\n' + END + b"\n\r\ndata: [DONE]\n\n"),
    ("C2", b'data: {"choices":\ndata: [{"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'),
    ("C2", b'data:{"choices":[{"finish_reason":"stop"}]}\n\ndata:[DONE]\n\n'),
    ("C2", b": OPENROUTER PROCESSING\n\n" + END + b"\n\ndata: [DONE]\n\n"),
    ("C2", b"id: 1\nretry: 5\nfoo: x\nevent: e\n" + END + b"\n\ndata: [DONE]\n\n"),
    ("C2", b"\xef\xbb\xbf" + END + b"\n\ndata: [DONE]\n\n"),
    ("C2", b"\n\n\ndata\n: x\n\ndata:\n\n" + END + b"\n\n\n\ndata: [DONE]\n\n"),
    ("C3", WORDS + b"\n\ndata: [DONE]\n\n"),
]


@pytest.mark.parametrize(("row", "data"), FRAMES, ids=lambda v: v if isinstance(v, str) else "")
async def test_c1_c2_c3_frames_of_every_kind_come_through_however_they_are_split(
    row: str, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(caplog) as here:
        for pieces in split_everywhere(data):
            here.upstream.replies = [Reply.stream(*pieces)]
            answer = await here.post(STREAM)
            assert answer.body == data.removeprefix(b"\xef\xbb\xbf"), pieces
            assert documents(answer.body) == documents(data)
        await here.after(answer)


@pytest.mark.slow
@pytest.mark.skipif(not CASSETTES.exists(), reason="the recorded traffic is not beside the repo")
async def test_c3_recorded_streams_come_out_the_same_byte_by_byte(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with CASSETTES.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    bodies = [
        row["response"]["body"].encode()
        for row in rows
        if row["endpoint"] == "chat" and row["response"]["kind"] == "sse"
    ]
    bodies = [b for b in bodies if b'"choices"' in b and len(b) < 20_000][:40]
    assert len(bodies) == 40
    async with world(caplog) as here:
        for body in bodies:
            here.upstream.replies = [Reply.stream(body)]
            whole = await here.post(STREAM)
            here.upstream.replies = [Reply.stream(*[body[n : n + 1] for n in range(len(body))])]
            assert (await here.post(STREAM)).body == whole.body


@pytest.mark.parametrize("streamed", [False, True])
async def test_c5_a_stream_that_just_stops_is_told_so(
    streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(caplog) as here:
        here.upstream.replies = [Reply.stream(sse(chunk("a"), chunk("b")))]
        answer = await here.post(STREAM if streamed else ASK)
        last = documents(answer.body)[-1]
        assert last["error"]["code"] == "bad_upstream_answer"
        assert b"[DONE]" not in answer.body
        assert answer.ended
        await here.after(answer)


BROKEN: dict[str, Reply] = {
    "mid-JSON": Reply(steps=[b'{"choices": [{"mess']),
    "shorter than its length": Reply(steps=[b'{"choices"', ConnectionLost("short")]),
    "without its last chunk": Reply(steps=[b'{"choices": []}', ConnectionLost("no last chunk")]),
    "reset": Reply.fails(ConnectionLost("reset")),
    "reset in a stream": Reply(200, SSE, [b"data: {", ConnectionLost("reset")]),
    "no HTTP": Reply.fails(BadAnswer("not HTTP")),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_c6_what_breaks_before_the_first_byte_is_tried_again_or_told(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(caplog) as here:
        here.upstream.replies = [BROKEN[name]]
        answer = await here.post(STREAM)
        assert answer.status == 502
        assert well_formed(answer)["type"] == "upstream_error"
        await here.after(answer)


async def test_c6_what_breaks_later_ends_in_an_error_event(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world(caplog) as here:
        here.upstream.replies = [Reply.stream(sse(chunk("a")), b"data: {", ConnectionLost("reset"))]
        answer = await here.post(STREAM)
        assert documents(answer.body)[1]["error"]["code"] == "upstream_connection_lost"
        assert answer.exchange.outcome == "truncated"
        await here.after(answer)


ERRORS: dict[str, Any] = {
    "OpenAI's": {"error": {"message": "no", "type": "t", "code": None}},
    "a text": {"error": "no"},
    "Zhipu's": {"code": 1305, "msg": "no"},
    "Baidu's": {"error_code": 18, "error_msg": "no"},
    "MiniMax's": {"base_resp": {"status_code": 1002, "status_msg": "no"}},
    "Spark's": {"header": {"code": 10013, "message": "no"}},
    "Tencent's": {"Response": {"Error": {"Code": "x", "Message": "no"}}},
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", ERRORS)
async def test_c8_an_error_with_status_200_gets_a_status_that_says_so(
    name: str, streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    error = ERRORS[name]
    async with world(caplog) as here:
        here.upstream.replies = [Reply.stream(sse(error)) if streamed else Reply.json(error)]
        answer = await here.post(STREAM if streamed else ASK)
        assert answer.status == 502
        assert answer.exchange.usage is None
        assert "error" in answer.json
        await here.nothing_left()


HTML = [(b"content-type", b"text/html")]
ODD: dict[str, Reply] = {
    "a captive portal": Reply(200, HTML, [b"<html>sign in, my very private prompt</html>"]),
    "502 as a web page": Reply(502, HTML, [b"<html>Bad Gateway</html>"]),
    "empty": Reply(),
    "204": Reply(204, []),
    "null": Reply.json(b"null"),
    "[]": Reply.json(b"[]"),
    "choices null": Reply.json({"choices": None}),
    "choices a text": Reply.json({"choices": "x"}),
    "no UTF-8": Reply.json(b'{"error": "\xff"}'),
    "nested": Reply.json(b'{"choices":' + b"[" * 100_000),
    "304": Reply(304, []),
    "101": Reply(101, []),
}


@pytest.mark.parametrize("name", ODD)
async def test_c9_what_is_no_answer_is_502_in_the_callers_dialect(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(caplog) as here:
        here.upstream.replies = [ODD[name]]
        answer = await here.post(ASK)
        assert answer.status == 502
        assert b"html" not in answer.body
        await here.after(answer)


@pytest.mark.parametrize(
    "document",
    [
        {"choices": [], "usage": "x"},
        {"choices": [None, 5], "usage": []},
        {"choices": [{"message": {"content": 5}}]},
        {"choices": [{"message": None, "finish_reason": 5}], "usage": {"prompt_tokens": "x"}},
        {"choices": [], "error": None},
    ],
)
async def test_c9_odd_types_within_an_answer_are_passed_on(
    document: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(caplog) as here:
        here.upstream.replies = [Reply.json(document)]
        answer = await here.post(ASK)
        assert answer.json == document
        assert answer.exchange.usage is None
        here.upstream.replies = [Reply.stream(sse(document), sse(STOP))]
        answer = await here.post(STREAM)
        assert answer.body == sse(document, STOP) + DONE
        await here.after(answer)


MB = b"x" * 2**20
HUGE: dict[str, tuple[Any, bool]] = {
    "10 GB": (itertools.repeat(MB, 10_000), False),
    "1 GB, encoded as they are": (itertools.repeat(MB, 1000), False),
    "1 GB in one line": (itertools.chain([b"data: "], itertools.repeat(MB, 1000)), True),
    "1 GB of comments": (itertools.repeat(b": " + b"x" * 9998 + b"\n\n", 100_000), True),
    "1 GB in one line, later": (
        itertools.chain([sse(chunk("a")), b"data: "], itertools.repeat(MB, 1000)),
        True,
    ),
}


@pytest.mark.parametrize("name", HUGE)
async def test_c12_endless_answers_are_given_up_in_bounded_memory(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    steps, streamed = HUGE[name]
    async with world(caplog) as here:
        headers = SSE if streamed else []
        if name.endswith("as they are"):
            headers = [(b"content-encoding", b"identity")]
        here.upstream.replies = [Reply(200, headers, steps)]
        async with heartbeat(2.0):
            answer = await here.post(STREAM)
        if name.endswith("later"):
            assert documents(answer.body)[-1]["error"]["code"] == "bad_upstream_answer"
        else:
            assert answer.status == 502
        await here.after(answer)


async def test_c12_many_tiny_events_are_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    tiny = b"data:{}\n\n"
    steps = [sse(chunk("a")), *itertools.repeat(tiny * 1000, 100), sse(STOP)]
    async with world(caplog) as here:
        here.upstream.replies = [Reply.stream(*steps)]
        async with heartbeat(2.0):
            answer = await here.post(STREAM)
        assert answer.body.count(tiny) == 100_000
        await here.after(answer)


BOMB = b" " * 512 * 2**20
CODINGS = {"gzip": gzip.compress, "br": lambda data: brotli.compress(data, quality=1)}


@pytest.mark.parametrize("coding", CODINGS)
async def test_c12_a_bomb_is_defused(coding: str, caplog: pytest.LogCaptureFixture) -> None:
    bomb = CODINGS[coding](BOMB)
    headers = [(b"content-encoding", coding.encode())]
    async with world(caplog) as here:
        for reply in (
            Reply.json(bomb, headers=headers),
            Reply.stream(bomb, headers=headers),
            Reply.json(bomb, 500, headers=headers),
        ):
            here.upstream.replies = [reply]
            tracemalloc.start()
            answer = await here.post(STREAM)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert answer.status == 502
            assert peak < 100 * 2**20
        await here.after(answer)


async def test_c16_only_listed_headers_of_the_provider_go_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    headers = [
        (b"set-cookie", b"a=b"),
        (b"transfer-encoding", b"chunked"),
        (b"content-encoding", b"identity"),
        (b"content-length", b"5"),
        (b"connection", b"upgrade"),
        (b"access-control-allow-origin", b"*"),
        (b"x-big", b"x" * 2**20),
        (b"openai-version", b"1\r\nset-cookie: a=b"),
        (b"x-any", b"1"),
    ]
    async with world(caplog) as here:
        for reply, body in [
            (Reply.json({"choices": []}, headers=headers), ASK),
            (Reply.stream(sse(STOP), headers=headers), STREAM),
            (Reply.json({"error": {"message": "x"}}, 400, headers), ASK),
        ]:
            here.upstream.replies = [reply]
            answer = await here.post(body)
            names = {name for name, _ in answer.headers}
            assert not names & {name for name, _ in headers} - {b"content-length"}
            if b"content-length" in names:
                assert answer.header("content-length") == str(len(answer.body))
        await here.nothing_left()


N = 2**31 - 1
COUNTS: list[tuple[Any, tuple[int, int] | None]] = [
    (None, None),
    ("x", None),
    ({}, None),
    ({"prompt_tokens": -5, "completion_tokens": 3}, (0, 3)),
    ({"prompt_tokens": 2**63, "completion_tokens": 10**30}, (N, N)),
    ({"prompt_tokens": 1.5, "completion_tokens": 2.0}, (2, 2)),
    ({"prompt_tokens": "7", "completion_tokens": None, "total_tokens": 3}, (3, 0)),
    ({"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 99}, (2, 2)),
    (
        {"prompt_tokens": 2, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 9}},
        (2, 1),
    ),
    ({"prompt_tokens": True, "completion_tokens": 1}, (0, 1)),
]


@pytest.mark.parametrize(("usage", "counted"), COUNTS)
@pytest.mark.parametrize("streamed", [False, True])
async def test_c18_usage_is_clamped_and_never_credits_anybody(
    usage: Any, counted: tuple[int, int] | None, streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(caplog) as here:
        plain = Reply.json({"choices": [], "usage": usage})
        stream = Reply.stream(sse(chunk("a"), STOP, {"choices": [], "usage": usage}), DONE)
        here.upstream.replies = [stream if streamed else plain]
        answer = await here.post(STREAM if streamed else ASK)
        found = answer.exchange.usage
        assert (found and (found.total_input, found.total_output)) == counted
        await here.after(answer)


async def test_c18_of_several_reports_the_last_that_says_something_counts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world(caplog) as here:
        less = {"prompt_tokens": 1, "completion_tokens": 1}
        chunks = [chunk("a", usage=USAGE), chunk("b", usage=less), chunk(finish="x", usage=None)]
        here.upstream.replies = [Reply.stream(sse(*chunks), DONE)]
        answer = await here.post(STREAM)
        assert answer.exchange.usage.total_input == 1
        await here.after(answer)


UNKNOWN: list[tuple[str, Any, list[Any]]] = [
    ("/v1/chat/completions", STREAM, [{"choices": []}, {"choices": [], "x": 1}, STOP]),
    ("/v1/chat/completions", STREAM, [chunk("a"), {"type": "ping"}, chunk(finish="weird_reason")]),
    (
        "/v1/chat/completions",
        STREAM,
        [chunk("<think>never closed"), chunk('{"tool_calls": ['), chunk("data: x\n\n"), STOP],
    ),
    (
        "/v1/responses",
        {"model": "m", "input": "hi", "stream": True},
        [
            {"type": "response.created"},
            {"type": "response.custom.thing", "x": [1]},
            {"type": "ping"},
            {"no": "type"},
            {"type": "response.completed"},
        ],
    ),
]


@pytest.mark.parametrize(("path", "body", "events"), UNKNOWN)
async def test_c20_c23_what_is_not_known_is_passed_on(
    path: str, body: Any, events: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with world(caplog) as here:
        for data in (sse(*events), sse(*events, end=b"\r\n\r\n")):
            here.upstream.replies = [Reply.stream(data)]
            answer = await here.post(body, path)
            assert answer.body == data + (DONE if path.endswith("completions") else b"")
            assert documents(answer.body) == events
        await here.after(answer)
