"""Recorded provider traffic through the relay: where nothing has to change, no byte does.

The rows are sorted by what is in them (cassettes.py), and each class has its rule:

- a whole answer (200, JSON): as recorded;
- a stream that ends itself, also one that says the model was cut off by a token limit (the corpus
  tags those `truncated`; on the wire they are complete): as recorded;
- a stream with a finish reason and no `[DONE]`: as recorded, and `[DONE]`;
- a stream with an error event of the provider's own: as recorded, and no `[DONE]`;
- a stream that stops before either, and every other stream stopped there by us: every whole event
  as recorded, then the dialect's error event;
- 400, 404, 413, 422: the caller's own fault, so one try, and the provider's words;
- 429, 5xx and the like: the other key is tried, then the provider's last words;
- 401, 403: the fault of the gateway's keys, of which a caller is told nothing but 503.

What the provider is asked is what the caller sent, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from asgi_llm_gateway.channels.channel import Channel
from asgi_llm_gateway.relay import Relay
from asgi_llm_gateway.wire.usage import usage_from
from tests.asgi import Answer, call
from tests.relay.cassettes import OWN, ROWS, Row, cases, document_of
from tests.relay.scripted import Script, ScriptedUpstream, split

KEYS = ("sk-first-of-the-gateway", "sk-second-of-the-gateway")
DONE = b"data: [DONE]\n\n"
BORDERS = (b"\n\n", b"\r\n\r\n")
TO_CALLERS = {
    "cache-control",
    "content-disposition",
    "content-language",
    "content-length",
    "content-type",
    "openai-processing-ms",
    "openai-version",
    "retry-after",
    "retry-after-ms",
    "x-accel-buffering",
    "x-llm-attempts",
    "x-llm-channel",
    "x-request-id",
}

GOOD = [row for row in ROWS if row.status == 200]
STREAMS = [row for row in GOOD if row.is_stream]
ASKABLE = [row for row in STREAMS if row.endpoint in ("chat", "completions")]
REFUSED = [row for row in ROWS if row.status != 200]
BAD_KEY = b"Incorrect API key provided"
"""How xAI says so, with status 400."""
KEYS_FAULT = [row for row in REFUSED if row.status in (401, 403) or BAD_KEY in row.raw]
CALLERS_FAULT = [
    row for row in REFUSED if row.status in (400, 404, 413, 422) and row not in KEYS_FAULT
]
PROVIDERS_FAULT = [row for row in REFUSED if row not in CALLERS_FAULT and row not in KEYS_FAULT]


def streams(ending: str) -> list[Any]:
    return cases([row for row in STREAMS if row.ending == ending])


@dataclass
class Replayed:
    """One row through the relay: what the caller sent and got, what the provider was asked."""

    sent: bytes
    answer: Answer
    upstream: ScriptedUpstream
    relay: Relay

    @property
    def asked(self) -> list[bytes]:
        return self.upstream.bodies


async def replay(
    row: Row,
    sizes: Iterable[int] = (),
    *,
    body: bytes | None = None,
    cut: bool = False,
    ask_usage: bool = True,
) -> Replayed:
    sent = row.request(ask_usage=ask_usage)
    pieces = split(row.raw if body is None else body, sizes)
    upstream = ScriptedUpstream(Script(row.status, row.headers, pieces, cut=cut))
    channel = Channel(
        name="main", base_url="http://provider.test", keys=KEYS, models=["*"], upstream=upstream
    )
    relay = Relay([channel])
    async with relay.resources:
        headers = {
            "content-type": "application/json",
            "authorization": "Bearer sk-caller",
            "x-request-id": "replayed",  # errors of ours name it: the same in every replay
        }
        answer = await call(relay, "POST", row.path, headers=headers, body=sent)
        assert upstream.open == 0
        assert {name.decode() for name, _ in answer.headers} <= TO_CALLERS
        return Replayed(sent, answer, upstream, relay)


def odd(row: Row) -> list[int]:
    """Pieces of one odd size, another one for (nearly) every row."""
    return in_pieces(1 + 2 * (len(row.raw) % 97), row.raw)


def in_pieces(size: int, data: bytes) -> list[int]:
    return [size] * (len(data) // size + 1)


def ended_well(row: Row, body: bytes) -> bytes:
    """The body with what completes it: the terminator after a mere finish reason, and the border
    of a last event that has none, without which no client sees the event."""
    if row.ending == "finished":
        return body + DONE
    return body if body.endswith(BORDERS) else body.rstrip(b"\n") + b"\n\n"


def check_usage(row: Row, answer: Answer) -> None:
    expected = usage_from(row.usage) if row.usage else None
    found = answer.exchange.usage
    assert found == expected
    if found is not None and row.usage is not None:
        total_input = row.usage.get("prompt_tokens", row.usage.get("input_tokens"))
        assert total_input is None or found.total_input == total_input


def check_messages(answer: Answer) -> None:
    """Every body message holds whole events."""
    broken = [m for m in answer.messages if m and not m.endswith(BORDERS)]
    assert broken == []


@pytest.mark.parametrize("row", cases([row for row in GOOD if not row.is_stream]))
async def test_a_whole_answer_comes_out_as_recorded(row: Row) -> None:
    for sizes in (row.chunk_sizes, odd(row)):
        got = await replay(row, sizes)
        assert got.answer.status == 200
        assert got.answer.body == row.raw
        assert got.answer.exchange.outcome == "ok"
        assert got.asked == [got.sent]
        check_usage(row, got.answer)


@pytest.mark.parametrize("row", streams("terminated"))
async def test_a_stream_that_ends_itself_comes_out_as_recorded(row: Row) -> None:
    for sizes in (row.chunk_sizes, odd(row)):
        got = await replay(row, sizes)
        assert got.answer.body == ended_well(row, row.raw)
        assert got.answer.exchange.outcome == "ok"
        assert got.asked == [got.sent]
        check_messages(got.answer)
        check_usage(row, got.answer)


@pytest.mark.parametrize("row", streams("finished"))
async def test_a_stream_with_a_finish_reason_only_gets_its_terminator(row: Row) -> None:
    for sizes in (row.chunk_sizes, odd(row)):
        got = await replay(row, sizes)
        assert got.answer.body == ended_well(row, row.raw)
        assert got.answer.exchange.outcome == "ok"
        assert got.asked == [got.sent]
        check_messages(got.answer)
        check_usage(row, got.answer)


@pytest.mark.parametrize("row", streams("error"))
async def test_an_error_event_of_the_providers_own_is_not_made_to_look_well(row: Row) -> None:
    for sizes in (row.chunk_sizes, odd(row)):
        got = await replay(row, sizes)
        assert got.answer.body == row.raw
        assert got.answer.exchange.outcome == "provider_error"
        check_messages(got.answer)


def check_cut(row: Row, answer: Answer, kept: bytes) -> None:
    assert answer.status == 200
    assert answer.ended
    assert answer.body.startswith(kept)
    said = answer.body[len(kept) :]
    assert said.count(b"\n\n") == 1, "one event more"
    error = document_of(said)
    if row.endpoint == "responses":
        assert (said[:13], error["type"]) == (b"event: error\n", "error")
    else:
        assert set(error) == {"error"}
        error = error["error"]
    assert error["message"]
    assert answer.exchange.outcome == "truncated"


@pytest.mark.parametrize("row", streams("cut"))
async def test_a_stream_recorded_without_its_end_ends_in_the_dialects_error(row: Row) -> None:
    kept = b"".join(event for event in row.events if event.endswith(BORDERS))
    for sizes in (row.chunk_sizes, odd(row)):
        got = await replay(row, sizes)
        check_cut(row, got.answer, kept)


@pytest.mark.parametrize("dies", [True, False], ids=["dies", "ends"])
@pytest.mark.parametrize("row", cases([row for row in STREAMS if row.middle > 1]))
async def test_a_stream_cut_midway_ends_in_the_dialects_error(row: Row, dies: bool) -> None:
    kept = b"".join(row.events[: row.middle - 1])
    half = row.events[row.middle - 1]
    half = half[: len(half) // 2]
    if not any(document_of(event) for event in row.events[: row.middle - 1]):
        pytest.skip("nothing but comments came before the cut")
    got = await replay(row, odd(row), body=kept + half, cut=dies)
    check_cut(row, got.answer, kept)


@pytest.mark.parametrize("row", cases(ASKABLE))
async def test_usage_nobody_asked_for_is_asked_upstream_and_hidden(row: Row) -> None:
    got = await replay(row, odd(row), ask_usage=False)
    [asked] = map(json.loads, got.asked)
    wanted = json.loads(got.sent)
    assert asked.pop("stream_options") == {
        **wanted.pop("stream_options", {}),
        "include_usage": True,
    }
    assert asked == wanted

    pairs = zip(row.events, row.documents, strict=True)
    shown = b"".join(event for event, document in pairs if not tells_usage_only(document))
    if row.ending in ("terminated", "finished"):
        assert got.answer.body == ended_well(row, shown)
        check_usage(row, got.answer)
    check_messages(got.answer)


def tells_usage_only(document: Any) -> bool:
    alone = isinstance(document, dict) and document.get("choices") == []
    return alone and isinstance(document.get("usage"), dict)


@pytest.mark.parametrize("row", cases(CALLERS_FAULT))
async def test_a_refusal_of_the_callers_request_comes_back_word_for_word(row: Row) -> None:
    got = await replay(row, row.chunk_sizes)
    assert (got.answer.status, got.answer.body) == (row.status, row.raw)
    assert got.answer.header("content-type") == dict(row.headers)[b"content-type"].decode()
    assert got.answer.exchange.outcome == "provider_error"
    assert got.asked == [got.sent]


@pytest.mark.parametrize("row", cases(PROVIDERS_FAULT))
async def test_a_failure_is_tried_with_another_key_before_it_is_told(row: Row) -> None:
    got = await replay(row, row.chunk_sizes)
    assert (got.answer.status, got.answer.body) == (row.status, row.raw)
    again = row.status != 501  # what a provider cannot do it cannot do with another key
    assert got.asked == [got.sent] * (1 + again)
    retry_after = dict(row.headers).get(b"retry-after", b"").decode()
    assert (got.answer.header("retry-after") or "") == retry_after


@pytest.mark.parametrize("row", cases(KEYS_FAULT))
async def test_a_refusal_of_the_gateways_keys_is_no_business_of_the_caller(row: Row) -> None:
    got = await replay(row, row.chunk_sizes)
    assert got.answer.status == 503
    assert got.answer.json["error"]["code"] == "no_healthy_channel"
    assert got.asked == [got.sent, got.sent]
    table = got.relay.channels
    assert table is not None
    left = table.by_name["main"].pool.keys
    assert len(left) == (2 if row.status == 403 else 0)


@pytest.mark.slow
@pytest.mark.parametrize("row", cases(STREAMS))
async def test_a_stream_is_the_same_however_it_is_split(row: Row) -> None:
    whole = await replay(row)
    for size in range(1, min(len(row.raw), 128), 2):
        got = await replay(row, in_pieces(size, row.raw))
        assert got.answer.body == whole.answer.body, f"in pieces of {size}"
        assert got.answer.exchange.usage == whole.answer.exchange.usage


def test_our_own_fixtures_have_a_row_of_every_class() -> None:
    own = [row for row in ROWS if row.entry["provider"] == "own"]
    assert len(own) == len(list(OWN.glob("*.json")))
    endings = {"terminated", "finished", "error", "cut"}
    assert {row.ending for row in own if row.is_stream} == endings
    assert {row.endpoint for row in own} == {"chat", "completions", "embeddings", "responses"}
    assert {row.status for row in own} >= {200, 400, 401, 403, 404, 413, 422, 429, 503}
