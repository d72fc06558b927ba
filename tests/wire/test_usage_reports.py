"""Usage is read from every OpenAI-shaped report, and no report can credit anybody."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llm_gateway.wire.usage import MAX_TOKENS, Usage, usage_from, usage_in, usage_of_tail

CORPUS = Path(__file__).resolve().parents[2] / "../shared/cassettes/dev.jsonl"

CHAT = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
USED = Usage(input=10, output=5)


@pytest.mark.parametrize(
    ("report", "usage"),
    [
        pytest.param(CHAT, USED, id="chat"),
        pytest.param({"prompt_tokens": 7, "total_tokens": 7}, Usage(input=7), id="embeddings"),
        pytest.param({"total_tokens": 4}, Usage(input=4), id="only a total"),
        pytest.param({"completion_tokens": 4, "total_tokens": 9}, Usage(input=5, output=4), id="x"),
        pytest.param(
            {
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "total_tokens": 150,
                "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 10},
                "completion_tokens_details": {"reasoning_tokens": 30, "audio_tokens": 5},
            },
            Usage(cache_read=60, audio_input=10, input=30, reasoning=30, audio_output=5, output=15),
            id="chat with details",
        ),
        pytest.param(
            {
                "input_tokens": 4020,
                "input_tokens_details": {"cache_write_tokens": 4012, "cached_tokens": 0},
                "output_tokens": 5,
                "output_tokens_details": {"reasoning_tokens": 2},
                "total_tokens": 4025,
            },
            Usage(cache_write=4012, input=8, reasoning=2, output=3),
            id="responses",
        ),
        pytest.param(
            {
                "type": "tokens",
                "input_tokens": 37,
                "input_token_details": {"text_tokens": 0, "audio_tokens": 37},
                "output_tokens": 145,
            },
            Usage(audio_input=37, output=145),
            id="transcription",
        ),
        pytest.param(
            {
                "input_tokens": 50,
                "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
                "output_tokens": 4160,
            },
            Usage(image_input=40, input=10, output=4160),
            id="images",
        ),
        pytest.param({"type": "duration", "seconds": 4}, None, id="by the second"),
        pytest.param(
            {
                "prompt_tokens": 372,
                "completion_tokens": 64,
                "prompt_cache_hit_tokens": 256,
                "prompt_cache_miss_tokens": 116,
            },
            Usage(cache_read=256, input=116, output=64),
            id="deepseek",
        ),
        pytest.param(
            {**CHAT, "cached_tokens": 4}, Usage(cache_read=4, input=6, output=5), id="moonshot"
        ),
        pytest.param(
            {**CHAT, "num_cached_tokens": 4}, Usage(cache_read=4, input=6, output=5), id="mistral"
        ),
        pytest.param(
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 35,
                "completion_tokens_details": {"reasoning_tokens": 20},
            },
            Usage(input=10, reasoning=20, output=5),
            id="reasoning on top, as the total says",
        ),
        pytest.param(
            {**CHAT, "completion_tokens_details": {"reasoning_tokens": 19}},
            Usage(input=10, reasoning=5),
            id="more reasoning than output",
        ),
        pytest.param({**CHAT, "total_tokens": 999}, USED, id="a total of its own"),
        pytest.param(
            {**CHAT, "prompt_tokens_details": {"cached_tokens": 161, "audio_tokens": 3}},
            Usage(cache_read=10, output=5),
            id="more cached than prompt",
        ),
        pytest.param(
            {**CHAT, "prompt_tokens_details": None, "completion_tokens_details": "x"},
            USED,
            id="no details",
        ),
        pytest.param({}, None, id="nothing"),
        pytest.param({"prompt_tokens": None, "completion_tokens": "12"}, None, id="no numbers"),
        pytest.param({"prompt_tokens": True, "completion_tokens": []}, None, id="not numbers"),
        pytest.param({"prompt_tokens": float("nan")}, None, id="not a number at all"),
        pytest.param({"prompt_tokens": -5, "completion_tokens": 5}, Usage(output=5), id="negative"),
        pytest.param({"prompt_tokens": 1.2, "completion_tokens": 5.0}, Usage(input=2, output=5)),
        pytest.param({"prompt_tokens": 2**63}, Usage(input=MAX_TOKENS), id="2^63"),
        pytest.param({"prompt_tokens": 10**400}, Usage(input=MAX_TOKENS), id="10^400"),
        pytest.param({"prompt_tokens": float("inf")}, Usage(input=MAX_TOKENS), id="infinite"),
        pytest.param(
            {**CHAT, "prompt_tokens_details": {"cached_tokens": -9}}, USED, id="negative part"
        ),
        pytest.param({"total_tokens": 3, "completion_tokens": 9}, Usage(output=9), id="less total"),
    ],
)
def test_a_report_becomes_buckets_that_exclude_each_other(report, usage):
    assert usage_from(report) == usage
    if usage is not None and "inf" not in repr(report):
        assert usage_in(json.dumps({"id": "x", "usage": report, "z": 1}).encode()) == usage


def test_the_totals_are_the_sums_of_the_buckets():
    usage = Usage(1, 2, 4, 8, 16, 32, 64, 128)
    assert usage.total_input == 1 + 2 + 4 + 8 + 16
    assert usage.total_output == 32 + 64 + 128


NAMES = st.sampled_from(
    [
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "input_tokens",
        "output_tokens",
        "cached_tokens",
        "audio_tokens",
        "reasoning_tokens",
        "cache_write_tokens",
        "prompt_cache_hit_tokens",
    ]
)
NUMBERS = (
    st.integers(-3, 60) | st.floats() | st.sampled_from([None, True, "7", [], 2**63, -(2**63)])
)
DETAILS = st.sampled_from(["prompt_tokens_details", "output_tokens_details"])
FLAT = st.dictionaries(NAMES, NUMBERS)


@given(FLAT, st.dictionaries(DETAILS, FLAT | NUMBERS))
def test_no_report_gives_a_negative_or_boundless_count(flat, details):
    usage = usage_from({**flat, **details})
    if usage is not None:
        counts = [getattr(usage, name) for name in Usage.__dataclass_fields__]
        assert all(type(count) is int and 0 <= count <= MAX_TOKENS for count in counts)
        assert usage.total_input <= MAX_TOKENS
        assert usage.total_output <= 2 * MAX_TOKENS  # reasoning may stand on top of the output


CHUNK = json.dumps({"id": "c", "choices": [], "usage": CHAT}, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (CHUNK, USED),
        (b' {"usage" : {"prompt_tokens" : 10, "completion_tokens" : 5} , "id" : "x"}\n', USED),
        (json.dumps({"type": "response.completed", "response": {"usage": CHAT}}).encode(), USED),
        (json.dumps({"choices": [], "x_groq": {"id": "r", "usage": CHAT}}).encode(), USED),
        (json.dumps({"choices": [{"index": 0}, {"usage": CHAT}]}).encode(), USED),
        (json.dumps({"choices": [{"usage": CHAT}, {"index": 1}]}).encode(), USED),
        (json.dumps({"x_groq": {"usage": CHAT}, "usage": None}).encode(), USED),
        (json.dumps({"usage": None, "choices": [{"usage": CHAT}]}).encode(), USED),
        (json.dumps({"usage": CHAT, "x_groq": {"usage": {"prompt_tokens": 99}}}).encode(), USED),
        (json.dumps({"usage": CHAT, "service": {"usage": {"prompt_tokens": 99}}}).encode(), USED),
        (json.dumps({"usage": CHAT, "note": "usage"}).encode(), USED),
        (json.dumps({"usage": CHAT, "choices": [{"text": 'say "usage": {}'}]}).encode(), USED),
        (
            b'{"choices":[{"text":"\\ud83d"}],"usage":{"prompt_tokens":10,"completion_tokens":5}}',
            USED,
        ),
        (
            b'{"a":"\\ud83d","usage":{"prompt_tokens":10,"completion_tokens":5},"b":{"usage":1}}',
            USED,
        ),
        (b'{"usage":null}', None),
        (b'{"usage":{}}', None),
        (b'{"usage":"x"}', None),
        (b'{"usage":[1]}', None),
        (b'{"usage":5,"choices":null}', None),
        (b'{"response":5,"x_groq":"x","choices":[null],"a":{"usage":1}}', None),
        (b'{"response":{"usage":7},"choices":[{"usage":null}]}', None),
        (b'{"metadata":{"usage":{"prompt_tokens":9}}}', None),
        (b'{"a":{"b":{"usage":{"prompt_tokens":9}}}}', None),
        (b'[{"usage":{"prompt_tokens":9}}]', None),
        (b'{"usage":{"prompt_tokens":1e999}}', None),
        (b'{"usage":{"prompt_tokens":9', None),
        (b'{"usage":' + b"[" * 100_000, None),
        (b'{"usage":' + b"[" * 900 + b"]" * 900 + b"}", None),
        (b'{"a":"\xff","usage":"\xff"}', None),
        (b"[DONE]", None),
        (b"<html>", None),
        (b"", None),
    ],
)
def test_usage_is_found_only_where_providers_put_it(body, usage):
    assert usage_in(body) == usage


def sse(*documents):
    return b"".join(b"data: " + document + b"\n\n" for document in documents)


NULL = b'{"choices":[{"delta":{"content":"x"}}],"usage":null}'
COMPLETED = json.dumps(
    {"type": "response.completed", "response": {"output": [], "usage": CHAT, "user": None}}
).encode()


@pytest.mark.parametrize(
    ("tail", "usage"),
    [
        (sse(NULL, CHUNK, b"[DONE]"), USED),
        (sse(NULL, CHUNK, NULL, b"[DONE]"), USED),
        (sse(CHUNK, CHUNK.replace(b"10", b"11")), Usage(input=11, output=5)),
        (sse(CHUNK).replace(b"\n", b"\r\n"), USED),
        (sse(CHUNK).replace(b"\n", b"\r"), USED),
        (sse(CHUNK)[:-2], USED),
        (b"event: response.completed\n" + sse(COMPLETED), USED),
        (sse(CHUNK, b"[DONE]")[10:], USED),
        (sse(COMPLETED, b"[DONE]")[60:], USED),
        (sse(COMPLETED, b"[DONE]")[len(COMPLETED) :], None),
        (sse(NULL, b"[DONE]"), None),
        (sse(b"[DONE]"), None),
        (CHUNK, USED),
        (CHUNK[10:], USED),
        (CHUNK + b"\n", USED),
        (b'text"}],"usage":{"prompt_tokens":10,"completion_tokens":5},"b":{"usage":1}}', USED),
        (b'":{"usage":{"prompt_tokens":10}}}', None),
        (b'"usage":{"prompt_tokens":10}}' + b' "usage"' * 100, None),
        (b"data: and then text of a plain answer", None),
        (b"", None),
    ],
)
def test_usage_is_read_from_the_end_of_an_answer(tail, usage):
    assert usage_of_tail(tail) == usage


def recorded():
    if not CORPUS.exists():
        pytest.skip("../shared/cassettes is not here")
    with CORPUS.open() as rows:
        for row in map(json.loads, rows):
            answer = row["response"]
            if row["endpoint"] in ("chat", "completions", "responses", "embeddings"):
                yield answer["kind"], answer["body"]


def report_of(document):
    """The same by decoding everything."""
    if not isinstance(document, dict):
        return None
    choices = reversed(document.get("choices") or [])
    holders = [document, document.get("response"), document.get("x_groq"), *choices]
    for holder in holders:
        if isinstance(holder, dict) and isinstance(holder.get("usage"), dict):
            usage = usage_from(holder["usage"])
            if usage is not None:
                return usage
    return None


def test_recorded_answers_give_the_usage_that_full_decoding_gives():
    found = 0
    for kind, body in recorded():
        if kind == "json":
            raw = body if isinstance(body, str) else json.dumps(body)
            try:
                want = report_of(json.loads(raw))
            except ValueError:
                want = None
            assert usage_in(raw.encode()) == usage_of_tail(raw.encode()) == want
            found += want is not None
        elif kind == "sse":
            want = None
            for line in body.splitlines():
                if line.startswith("data:") and line[5:].strip() not in ("[DONE]", ""):
                    want = report_of(json.loads(line[5:])) or want
            assert usage_of_tail(body.encode()) == want
            found += want is not None
    assert found > 300
