"""A caller's body is bounded in bytes and in time, before and after inflating."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from typing import Any

import pytest

from asgi_llm_gateway.errors import ClientLeft, RequestTimeout
from asgi_llm_gateway.exchange import BodyLimits
from asgi_llm_gateway.exchange.body import pieces, read_json
from tests.asgi import STYLES, Style, call
from tests.exchange.reading import BOUNDARY, CHAT, FORM, UPLOAD, Foreign, Reading, chat, cut, form

SMALL = BodyLimits(max_bytes=1000, idle=5.0, total=5.0)
GZIP = {"content-encoding": "gzip"}


async def post(body: Any, headers: Any = (), limits: BodyLimits = SMALL, **how: Any) -> Any:
    inner = Foreign()
    answer = await call(
        Reading(inner, limits=limits), "POST", CHAT, body=body, headers=headers, **how
    )
    return answer, inner


async def test_a_body_of_exactly_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    fits = chat(user="x" * (1000 - len(chat(user=""))))
    assert len(fits) == 1000
    assert (await post(fits))[0].body == fits
    answer, _ = await post(chat(user="x" * (1001 - len(chat(user="")))))
    assert (answer.status, answer.json["error"]["code"]) == (413, "request_too_large")


async def test_an_announced_length_over_the_limit_is_refused_before_reading() -> None:
    answer, _ = await post(chat(), {"content-length": "1001"})
    assert answer.status == 413
    assert answer.received == []


async def test_without_a_length_the_limit_counts_while_reading() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 100

    answer, inner = await post(endless())
    assert answer.status == 413
    assert len(answer.received) == 11
    assert inner.body == b""


@pytest.mark.parametrize(
    "lengths", [["-1"], ["1e3"], ["+5"], [" "], [""], ["5", "6"], ["0x5"], ["\uff15"]]
)
async def test_a_length_that_is_not_one_plain_number_is_refused(lengths: list[str]) -> None:
    headers = [("content-length", length.encode()) for length in lengths]
    answer, _ = await post(chat(), headers)
    assert answer.status == 400
    assert "content-length" in answer.json["error"]["message"]


async def test_gzip_is_inflated_and_told_to_the_inner_app_as_plain() -> None:
    answer, inner = await post(gzip.compress(chat(user="u")), GZIP)
    assert answer.body == chat(user="u")
    assert inner.headers[b"content-length"] == b"%d" % len(answer.body)
    assert b"content-encoding" not in inner.headers


@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_a_gzip_bomb_stops_at_the_limit_however_it_arrives(size: int) -> None:
    bomb = gzip.compress(b"[" * 50_000_000, 9)
    answer, inner = await post(cut(bomb, size) if size > 1 else cut(bomb[:3000], 1), GZIP)
    assert answer.status == 413
    assert inner.body == b""


@pytest.mark.parametrize(
    ("body", "coding", "status"),
    [
        (gzip.compress(gzip.compress(chat(), mtime=0), mtime=0), "gzip", 400),
        (gzip.compress(chat(), mtime=0), "gzip, gzip", 415),
        (gzip.compress(chat(), mtime=0)[:-9], "gzip", 400),
        (gzip.compress(chat(), mtime=0) + b"more", "gzip", 400),
        (chat(), "gzip", 400),
        (chat(), "zstd", 415),
        (chat(), "identity", 200),
        (gzip.compress(chat(), mtime=0), "X-GZIP", 200),
    ],
)
async def test_codings_that_lie_or_that_nobody_reads_are_refused(
    body: bytes, coding: str, status: int
) -> None:
    answer, _ = await post(body, {"content-encoding": coding})
    assert answer.status == status


async def test_brotli_is_bounded_too() -> None:
    brotli = pytest.importorskip("brotli", reason="the brotli extra is not installed")
    answer, _ = await post(brotli.compress(chat()), {"content-encoding": "br"})
    assert answer.body == chat()
    answer, _ = await post(brotli.compress(b"[" * 10_000_000), {"content-encoding": "br"})
    assert answer.status == 413


@pytest.mark.parametrize(
    "kind", ["multipart/form-data; boundary=x", "application/x-www-form-urlencoded"]
)
async def test_a_form_where_json_is_read_is_refused(kind: str) -> None:
    answer, _ = await post(chat(), {"content-type": kind})
    assert answer.status == 415


@pytest.mark.parametrize("kind", ["text/plain", "application/json; charset=latin-1", ""])
async def test_json_by_any_other_name_is_read_as_json(kind: str) -> None:
    answer, _ = await post(chat(), {"content-type": kind})
    assert answer.body == chat()


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'"x"', b"1", b'{"model":"m"', b"NaN"])
async def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    answer, _ = await post(body)
    assert answer.status == 400
    assert answer.json["error"]["type"] == "invalid_request_error"


async def dripping(data: bytes, pause: float) -> AsyncIterator[bytes]:
    for byte in data:
        await asyncio.sleep(pause)
        yield bytes([byte])


@pytest.mark.parametrize(
    "limits", [BodyLimits(idle=0.05, total=60.0), BodyLimits(idle=60.0, total=0.05)]
)
@pytest.mark.parametrize("what", ["json", "form"])
async def test_a_body_that_drips_or_stops_is_given_up(what: str, limits: BodyLimits) -> None:
    pause = 60.0 if limits.idle < 1 else 0.01
    path, headers = (CHAT, {}) if what == "json" else (UPLOAD, FORM)
    body = dripping(chat() * 9 if what == "json" else form(), pause)
    inner = Foreign()
    app = Reading(inner, limits=limits)
    answer = await call(app, "POST", path, body=body, headers=headers)
    assert (answer.status, answer.json["error"]["code"]) == (408, "request_timeout")
    assert inner.body == b""


@pytest.mark.parametrize("what", ["json", "form"])
async def test_a_slow_body_within_the_limits_is_taken(what: str) -> None:
    limits = BodyLimits(idle=1.0, total=10.0)
    whole, path, headers = (chat(), CHAT, {}) if what == "json" else (form(), UPLOAD, FORM)
    app = Reading(Foreign(), limits=limits)
    answer = await call(app, "POST", path, body=cut(whole, 40), headers=headers, pause=0.02)
    assert answer.body == whole


async def silent() -> Any:
    await asyncio.Event().wait()


async def test_a_streamed_body_that_stops_is_given_up() -> None:
    with pytest.raises(RequestTimeout):
        await anext(pieces(silent, BodyLimits(idle=0.05)))


async def test_a_servers_cancel_wins_over_our_own() -> None:
    async def reader() -> None:
        task = asyncio.current_task()
        assert task is not None

        async def receive() -> Any:
            try:
                await asyncio.Event().wait()
            finally:
                task.cancel("the server's own")

        await read_json([], receive, BodyLimits(idle=0.01))

    task = asyncio.ensure_future(reader())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_a_timeout_leaves_the_task_uncancelled() -> None:
    with pytest.raises(RequestTimeout):
        await read_json([], silent, BodyLimits(idle=0.01))
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    async with asyncio.timeout(0.5):
        await asyncio.sleep(0)


async def test_a_task_that_was_cancelled_before_and_went_on_can_still_time_out() -> None:
    async def cleaning_up() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            try:
                await read_json([], silent, BodyLimits(idle=0.01))
            except RequestTimeout:
                return "timed out"
        return "not reached"

    task = asyncio.ensure_future(cleaning_up())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "timed out"


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("leave_after", ["before body", "during body"])
@pytest.mark.parametrize("what", ["json", "form"])
async def test_who_leaves_while_sending_is_not_answered(
    what: str, leave_after: Any, style: Style
) -> None:
    inner = Foreign()
    whole, path, headers = (chat(), CHAT, {}) if what == "json" else (form(), UPLOAD, FORM)
    body = [whole[:20], whole[20:]]
    app = Reading(inner)
    answer = await call(
        app, "POST", path, body=body, headers=headers, style=style, leave_after=leave_after
    )
    assert answer.left
    assert answer.status is None
    assert inner.headers == {}


async def test_leaving_is_raised_as_such() -> None:
    async def gone() -> Any:
        return {"type": "http.disconnect"}

    with pytest.raises(ClientLeft):
        await read_json([], gone, SMALL)


async def test_a_form_cannot_be_compressed_or_end_early() -> None:
    app = Reading(Foreign())
    answer = await call(app, "POST", UPLOAD, body=form(), headers=FORM | GZIP)
    assert answer.status == 415
    short = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhis'.encode()
    answer = await call(app, "POST", UPLOAD, body=short, headers=FORM)
    assert answer.status == 400


async def test_fields_before_a_file_are_bounded() -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n'.encode()
        while True:
            yield b"x" * 100_000

    answer = await call(Reading(Foreign()), "POST", UPLOAD, body=endless(), headers=FORM)
    assert answer.status == 413
