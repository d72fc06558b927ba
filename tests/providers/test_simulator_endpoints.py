"""The simulator's endpoints that are not chat."""

from __future__ import annotations

import base64
import math
import struct
import tracemalloc
import zlib
from typing import Any

import pytest

from asgi_llm_gateway.providers.simulator import Simulator
from tests.providers.simulated import Call, chat, form, get, headers_of, post, post_form, scope


async def test_embeddings_are_unit_vectors_that_depend_on_the_text_alone() -> None:
    body = {"model": "text-embedding-3-small", "input": ["one two", "three"], "dimensions": 64}
    answer = (await post(Simulator(), "/v1/embeddings", body)).json
    first, second = (entry["embedding"] for entry in answer["data"])
    assert len(first) == 64
    assert math.isclose(sum(number * number for number in first), 1.0)
    assert first != second
    assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    again = (await post(Simulator(), "/v1/embeddings", body | {"input": "one two"})).json
    assert again["data"][0]["embedding"] == first
    packed = (await post(Simulator(), "/embeddings", body | {"encoding_format": "base64"})).json
    raw = base64.b64decode(packed["data"][0]["embedding"])
    assert struct.unpack("<64f", raw) == pytest.approx(first, abs=1e-6)


async def test_embeddings_take_token_numbers_and_have_a_size_of_their_own() -> None:
    body: dict[str, Any] = {"model": "text-embedding-3-large", "input": [[1, 2], [3]]}
    answer = (await post(Simulator(), "/v1/embeddings", body)).json
    assert [len(entry["embedding"]) for entry in answer["data"]] == [3072, 3072]
    assert answer["usage"]["prompt_tokens"] == 3
    one = (await post(Simulator(), "/v1/embeddings", body | {"input": [1, 2]})).json
    assert (len(one["data"]), one["usage"]["prompt_tokens"]) == (1, 2)
    bad: Any
    for bad in (None, 7, [], [{}]):
        assert (await post(Simulator(), "/v1/embeddings", body | {"input": bad})).status == 400


async def test_moderations_flag_plain_words() -> None:
    texts = ["I will attack you", "good day"]
    answer = (await post(Simulator(), "/v1/moderations", {"input": texts})).json
    assert answer["model"] == "omni-moderation-latest"
    assert [result["flagged"] for result in answer["results"]] == [True, False]
    assert answer["results"][0]["categories"]["violence"]
    assert (await post(Simulator(), "/v1/moderations", {})).status == 400


async def test_images_are_real_pngs_or_urls() -> None:
    path = "/v1/images/generations"
    inline = (await post(Simulator(), path, {"model": "gpt-image-2", "prompt": "a cat"})).json
    png = base64.b64decode(inline["data"][0]["b64_json"])
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    length = struct.unpack(">I", png[33:37])[0]
    assert len(zlib.decompress(png[41 : 41 + length])) == 8 * (1 + 3 * 8)
    assert inline["usage"]["input_tokens"] == 2
    urls = (await post(Simulator(), path, {"prompt": "a cat", "n": 2})).json
    assert len({entry["url"] for entry in urls["data"]}) == 2
    asked = {"model": "dall-e-3", "prompt": "a cat", "response_format": "b64_json"}
    assert "b64_json" in (await post(Simulator(), path, asked)).json["data"][0]
    for bad in ({}, {"prompt": "x", "n": 11}, {"prompt": "x", "response_format": "gif"}):
        assert (await post(Simulator(), path, bad)).status == 400


@pytest.mark.parametrize("path", ["/v1/images/edits", "/v1/images/variations"])
async def test_images_are_edited_from_a_form(path: str) -> None:
    body = form({"prompt": "a cat", "n": "2"}, {"image[]": ("a.png", b"\x89PNG")})
    answer = await post_form(Simulator(), path, body)
    assert len(answer.json["data"]) == 2
    without = await post_form(Simulator(), path, form({"prompt": "a"}, {}))
    assert (without.status, without.json["error"]["param"]) == (400, "image")


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [(None, "audio/mpeg"), ("wav", "audio/wav"), ("opus", "audio/ogg"), ("pcm", "audio/pcm")],
)
async def test_speech_is_streamed_bytes_of_the_kind_asked_for(
    wanted: str | None, kind: str
) -> None:
    body = {"model": "tts-1", "voice": "alloy", "input": "one two three four five six"}
    if wanted:
        body["response_format"] = wanted
    sent = await post(Simulator(), "/v1/audio/speech", body)
    assert sent.headers == {"content-type": kind}
    assert len(sent.events) == 2
    assert len(sent.body) >= 6 * 960
    assert sent.body == (await post(Simulator(), "/v1/audio/speech", body)).body
    bad = await post(Simulator(), "/v1/audio/speech", body | {"response_format": "midi"})
    assert bad.status == 400


@pytest.mark.parametrize("chunk", [None, 1, 7])
@pytest.mark.parametrize("what", ["transcriptions", "translations"])
async def test_a_transcript_says_how_large_the_file_was(what: str, chunk: int | None) -> None:
    body = form({"model": "whisper-1"}, {"file": ("a.wav", b"\r\n--b0undar\r\n" * 20)})
    sent = await post_form(Simulator(), f"/v1/audio/{what}", body, chunk=chunk)
    assert sent.json["text"] == "The file a.wav holds 260 bytes."


@pytest.mark.parametrize(
    ("wanted", "kind", "start"),
    [
        ("json", "application/json", '{"text":"The file'),
        ("text", "text/plain; charset=utf-8", "The file a.wav holds 64000 bytes.\n"),
        ("srt", "text/plain; charset=utf-8", "1\n00:00:00,000 --> 00:00:02,000\nThe"),
        ("vtt", "text/plain; charset=utf-8", "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\nThe"),
        ("verbose_json", "application/json", '{"task":"transcribe"'),
    ],
)
async def test_a_transcript_comes_in_the_format_asked_for(
    wanted: str, kind: str, start: str
) -> None:
    body = form(
        {"model": "gpt-4o-transcribe", "response_format": wanted}, {"file": ("a.wav", bytes(64000))}
    )
    sent = await post_form(Simulator(), "/v1/audio/transcriptions", body)
    assert sent.headers["content-type"] == kind
    assert sent.body.decode().startswith(start)


async def test_a_form_that_is_none_is_refused() -> None:
    path = "/v1/audio/transcriptions"
    whole = form({"model": "whisper-1"}, {"file": ("a.wav", b"x")})
    assert (await post_form(Simulator(), path, form({"model": "whisper-1"}, {}))).status == 400
    assert (await post_form(Simulator(), path, whole[:-8])).status == 400
    assert (await post_form(Simulator(), path, b"nonsense")).status == 400
    large = form({"model": "x" * 2_000_000}, {})
    assert (await post_form(Simulator(), path, large)).status == 413
    bad_format = form({"model": "whisper-1", "response_format": "x"}, {"file": ("a", b"")})
    assert (await post_form(Simulator(), path, bad_format)).status == 400
    call = Call(b"x")
    await Simulator()(scope("POST", path, *headers_of(None, "text/plain")), call.receive, call.send)
    assert call.sent.status == 415


async def test_a_large_upload_is_read_as_it_comes_and_not_kept() -> None:
    head, _, tail = form({"model": "whisper-1"}, {"file": ("a.wav", b"@@")}).partition(b"@@")
    block, blocks = bytes(65_536), 320

    async def upload() -> Any:
        yield head
        for _ in range(blocks):
            yield block
        yield tail

    simulator = Simulator()
    source = upload()

    async def receive() -> dict[str, Any]:
        chunk = await anext(source, None)
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    call = Call()
    kind = "multipart/form-data; boundary=b0undary"
    tracemalloc.start()
    await simulator(
        scope("POST", "/v1/audio/transcriptions", *headers_of(None, kind)),
        _then(receive),
        call.send,
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert call.sent.json["text"] == f"The file a.wav holds {65_536 * blocks} bytes."
    assert peak < 4_000_000
    assert simulator.calls[-1].size == len(head) + 65_536 * blocks + len(tail)
    assert simulator.calls[-1].body == b""


def _then(receive: Any) -> Any:
    """A receive that is silent once the body has ended."""
    ended = False

    async def silent() -> dict[str, Any]:
        nonlocal ended
        if ended:
            await Call().receive()
        message: dict[str, Any] = await receive()
        ended = not message["more_body"]
        return message

    return silent


async def test_what_is_too_large_to_hold_is_a_413(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asgi_llm_gateway.providers.simulator.app._MAX_JSON", 100)
    monkeypatch.setattr("asgi_llm_gateway.providers.simulator.forms._MAX_KEPT", 100)
    assert (await post(Simulator(), "/v1/chat/completions", chat("x" * 100))).status == 413
    body = form({"purpose": "batch"}, {"file": ("a", bytes(101))})
    assert (await post_form(Simulator(), "/v1/files", body)).status == 413


async def test_files_are_kept_listed_read_back_and_deleted() -> None:
    simulator = Simulator()
    body = form({"purpose": "batch"}, {"file": ("a.jsonl", b"{}\n")})
    first = (await post_form(simulator, "/v1/files", body)).json
    second = (await post_form(simulator, "/v1/files", body)).json
    assert first["id"] != second["id"]
    assert (first["bytes"], first["filename"], first["purpose"]) == (3, "a.jsonl", "batch")
    listed = (await get(simulator, "/v1/files")).json
    assert [entry["id"] for entry in listed["data"]] == [second["id"], first["id"]]
    assert (await get(simulator, f"/v1/files/{first['id']}")).json == first
    assert (await get(simulator, f"/v1/files/{first['id']}/content")).body == b"{}\n"
    gone = await get(simulator, f"/v1/files/{first['id']}", "DELETE")
    assert gone.json == {"id": first["id"], "object": "file", "deleted": True}
    assert (await get(simulator, f"/v1/files/{first['id']}")).status == 404
    assert (await post_form(simulator, "/v1/files", form({"purpose": "x"}, {}))).status == 400
    assert (await get(Simulator(), "/v1/files")).json["data"] == []
