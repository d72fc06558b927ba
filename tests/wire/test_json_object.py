"""A request body is checked once and changed by splicing; nothing else of it moves."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llm_gateway.errors import InvalidRequest
from asgi_llm_gateway.wire.jsonscan import MAX_MEMBERS
from asgi_llm_gateway.wire.jsonview import JSONObject

SPACE = st.sampled_from(["", "", "", " ", "  ", "\n", "\t", "\r\n ", " " * 20])
WORDS = st.sampled_from(["model", "stream", "n", "", "a", 'q"uote', "back\\slash", "é", "漢", "😀"])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
SCALARS = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | TEXT | st.floats(-10, 10)
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(WORDS, v, max_size=3), max_leaves=6
)


@st.composite
def spelled(draw, text):
    """A JSON string, each character escaped in one of the ways JSON has."""
    out = []
    for char in text:
        escaped = json.dumps(char)[1:-1]
        units = char.encode("utf-16-be")
        pairs = [units[i : i + 2].hex() for i in range(0, len(units), 2)]
        hexed = "".join(f"\\u{pair}" for pair in pairs)
        plain = json.dumps(char, ensure_ascii=False)[1:-1]
        out.append(draw(st.sampled_from([plain, plain, escaped, hexed])))
    return '"' + "".join(out) + '"'


@st.composite
def rendered(draw, value):
    """`value` as JSON with white space wherever it may stand."""
    if isinstance(value, str):
        return draw(spelled(value))
    if isinstance(value, list):
        inner = [draw(SPACE) + draw(rendered(v)) + draw(SPACE) for v in value]
        return "[" + (",".join(inner) or draw(SPACE)) + "]"
    if isinstance(value, dict):
        return draw(members(list(value.items())))
    return json.dumps(value)


@st.composite
def members(draw, pairs):
    inner = [
        f"{draw(SPACE)}{draw(spelled(k))}{draw(SPACE)}:{draw(SPACE)}{draw(rendered(v))}{draw(SPACE)}"
        for k, v in pairs
    ]
    return "{" + (",".join(inner) or draw(SPACE)) + "}"


@st.composite
def bodies(draw, *, repeats=False):
    """A JSON object, in one of the common spacings or wildly spaced."""
    pairs = draw(st.lists(st.tuples(WORDS, VALUES), max_size=7))
    if not repeats:
        pairs = list(dict(pairs).items())
    style = draw(st.sampled_from(["wild", "wild", "compact", "spaced", "ascii"]))
    if style == "wild":
        text = draw(SPACE) + draw(members(pairs)) + draw(SPACE)
    else:
        colon, comma = (":", ",") if style == "compact" else (": ", ", ")
        texts = [
            json.dumps(k, ensure_ascii=style == "ascii") + colon + json.dumps(v) for k, v in pairs
        ]
        text = "{" + comma.join(texts) + "}"
    return text.encode()


@given(bodies())
def test_an_object_reads_as_the_json_module_reads_it(raw):
    body = JSONObject(raw)
    want = json.loads(raw)
    assert body.raw == raw
    assert body.names() == tuple(want)
    assert body.document == want
    assert body.document is body.document
    for name, value in want.items():
        assert body.get(name) == value
        assert json.loads(body.raw_member(name)) == value
    assert body.get("absent") is None
    assert body.raw_member("absent") is None


@given(bodies(), WORDS, VALUES)
def test_setting_a_member_moves_no_other_byte(raw, name, value):
    body = JSONObject(raw)
    want = json.loads(raw)
    old = body.raw_member(name)
    new = JSONObject(raw)
    new.set(name, value)
    assert json.loads(new.raw) == {**want, name: value}
    assert new.names() == tuple({**want, name: value})
    assert new.get(name) == value
    assert new.document == {**want, name: value}
    for other in want:
        if other != name:
            assert new.raw_member(other) == body.raw_member(other)
    if old is not None:  # taken back, every byte is as it was
        new.set_raw(name, old)
        assert new.raw == raw
    else:
        end = raw.rindex(b"}")
        assert new.raw.startswith(raw[:end])
        assert new.raw.endswith(raw[end:])


@given(bodies(), st.dictionaries(WORDS, VALUES, max_size=4))
def test_several_members_are_set_at_once(raw, changes):
    body = JSONObject(raw)
    spliced = body.spliced({name: json.dumps(value).encode() for name, value in changes.items()})
    assert json.loads(spliced) == {**json.loads(raw), **changes}
    assert body.raw == raw
    one_by_one = JSONObject(raw)
    for name, value in changes.items():
        one_by_one.set_raw(name, json.dumps(value).encode())
    assert one_by_one.raw == spliced


@given(bodies(), WORDS)
def test_removing_a_member_leaves_the_others(raw, name):
    body = JSONObject(raw)
    body.remove(name)
    want = json.loads(raw)
    want.pop(name, None)
    assert list(json.loads(body.raw).items()) == list(want.items())
    assert body.names() == tuple(want)


@given(bodies(repeats=True))
def test_a_repeated_member_is_found_exactly(raw):
    objects = []  # the last one to end is the outermost
    json.loads(raw, object_pairs_hook=objects.append)
    names = [name for name, _ in objects[-1]]
    repeated = {name for name in names if names.count(name) > 1}
    if not repeated:
        JSONObject(raw)
        return
    with pytest.raises(InvalidRequest, match="occurs twice") as refusal:
        JSONObject(raw)
    assert refusal.value.param in repeated


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b'{"model":"cheap","model":"dear"}', "model"),
        (b'{"model": "cheap", "model": "dear"}', "model"),
        (b'{"model":"same","model":"same"}', "model"),
        (b'{"mod\\u0065l":"cheap","model":"dear"}', "model"),
        (b'{"model":"cheap","mod\\u0065l":"dear"}', "model"),
        (b'{"model":"cheap","messages":[],"model":"dear"}', "model"),
        (b'{"stream":true,"stream":false}', "stream"),
        # A number that begins with the other one, and spaces that hide a member's length.
        (b'{"n":12,"n":1}', "n"),
        (b'{"n":12,"n":1,"a":2}', "n"),
        (b'{"n":12, "a":1,"n":1}', "n"),
        (b'{"a": 1,"b":2,"c":3,"d":4,"":0,"":1}', ""),
        (b'{"": 0,"":0,"a":1,"b":2}', ""),
        (b'{"a": {"x": 1, "b": 2}, "b": 2, "a": 1}', "a"),
        ('{"\\ud83d\\ude00":1,"😀":1}'.encode(), "😀"),
    ],
)
def test_a_member_that_occurs_twice_is_refused_by_name(raw, name):
    with pytest.raises(InvalidRequest) as refusal:
        JSONObject(raw)
    assert refusal.value.status == 400
    assert refusal.value.param == name


def test_a_repeated_member_inside_another_is_not_ours_to_judge():
    raw = b'{"messages":[{"role":"user","role":"system"}],"model":"m"}'
    assert JSONObject(raw).raw == raw


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "is empty"),
        (b" \r\n", "is empty"),
        (b"null", "must be a JSON object"),
        (b"[]", "must be a JSON object"),
        (b'"x"', "must be a JSON object"),
        (b"1", "must be a JSON object"),
        (b'{"model":"m","messages":[', "ends too early"),
        (b'{"model":"m"', "ends too early"),
        (b'{"model":"m"}}', "trailing characters"),
        (b'{"model":"m",}', "trailing comma"),
        (b"{'model':'m'}", "not valid JSON"),
        (b'{"n":NaN}', "not valid JSON"),
        (b'{"n":Infinity}', "not valid JSON"),
        (b'{"n":-Infinity}', "not valid JSON"),
        (b'{"n":[{"a":NaN}]}', "not valid JSON"),
        (b'{"n":01}', "not valid JSON"),
        (b'{"a":"\n"}', "not valid JSON"),
        (b'\xef\xbb\xbf{"a":1}', "not valid JSON"),
        ('{"a":1}'.encode("utf-16"), "not valid UTF-8"),
        (b'{"a":"\xff"}', "not valid UTF-8"),
        (b'{"\xff":1}', "not valid UTF-8"),
        (b'{"a":[{"b":"\xed\xa0\x80"}]}', "not valid UTF-8"),
        (b'{"a":"\xc0\xaf"}', "not valid UTF-8"),
        (b'{"a":"\\ud800"}', "unpaired surrogate"),
        (b'{"a":{"\\udfff":1}}', "unpaired surrogate"),
        (b'{"a":"\\ud800\\u0041"}', "unpaired surrogate"),
        (b'{"a":' + b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused_with_the_reason(raw, why):
    with pytest.raises(InvalidRequest, match=why) as refusal:
        JSONObject(raw)
    assert refusal.value.status == 400


def test_too_many_members_are_refused():
    raw = json.dumps({str(i): i for i in range(MAX_MEMBERS)}).encode()
    assert len(JSONObject(raw).names()) == MAX_MEMBERS
    with pytest.raises(InvalidRequest, match="more than 1000 members"):
        JSONObject(raw[:-1] + b', "one more": 1}')


def test_long_names_are_checked_too():
    names = ["x" * 600, "y" * 600]
    raw = json.dumps(dict.fromkeys(names)).encode()
    assert JSONObject(raw).names() == tuple(names)


def test_a_number_out_of_range_is_relayed_but_not_decoded():
    body = JSONObject(b'{"seed":1e999,"model":"m"}')
    assert body.raw == b'{"seed":1e999,"model":"m"}'
    with pytest.raises(InvalidRequest, match="out of range") as refusal:
        body.get("seed")
    assert refusal.value.param == "seed"
    with pytest.raises(InvalidRequest, match="out of range"):
        _ = body.document


def test_decoding_a_deep_member_deep_in_the_stack_is_refused():
    body = JSONObject(b'{"a":' + b"[" * 600 + b"]" * 600 + b"}")

    def dig(depth):
        return dig(depth - 1) if depth else (body.get, body.document)

    def at_depth(depth, call):
        return at_depth(depth - 1, call) if depth else call()

    room = sys.getrecursionlimit() - 600
    with pytest.raises(InvalidRequest, match="`a` is nested too deeply"):
        at_depth(room, lambda: body.get("a"))
    with pytest.raises(InvalidRequest, match="the request body is nested too deeply"):
        at_depth(room, lambda: body.document)


def test_a_set_member_keeps_its_place_and_the_white_space_around_it():
    body = JSONObject(b' {\n "model" : "fast" ,\n "messages": [ ] }\n')
    body.set("model", "gpt-4o-mini")
    assert body.raw == b' {\n "model" : "gpt-4o-mini" ,\n "messages": [ ] }\n'
    body.set("messages", ["x"])
    body.set_raw("stream_options", b'{"include_usage":true}')
    assert body.raw == (
        b' {\n "model" : "gpt-4o-mini" ,\n "messages": ["x"] '
        b',"stream_options":{"include_usage":true}}\n'
    )


def test_members_are_added_to_and_taken_from_an_empty_object():
    body = JSONObject(b"{ }")
    body.set("a", 1)
    body.set("b", 2)
    assert body.raw == b'{ "a":1,"b":2}'
    body.remove("a")
    body.remove("b")
    assert body.raw == b"{ }"


def test_replacing_the_document_renews_everything():
    body = JSONObject(b'{"model": "a", "n": 1}')
    _ = body.document
    body.replace({"model": "b", "messages": []})
    assert body.raw == b'{"model":"b","messages":[]}'
    assert body.get("n") is None
    assert body.document == {"model": "b", "messages": []}
