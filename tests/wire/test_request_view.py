"""The few members of a request that the gateway acts on."""

import json

import pytest

from asgi_llm_gateway.errors import InvalidRequest
from asgi_llm_gateway.wire.jsonview import JSONObject, View, view_of


def view(**members):
    return view_of(JSONObject(json.dumps(members).encode()))


def test_what_is_there_is_read():
    got = view(
        model="m",
        messages=[],
        stream=True,
        stream_options={"include_usage": True},
        user="u",
        max_tokens=1,
        max_completion_tokens=2,
        max_output_tokens=3,
        n=4,
        somebody_elses=[1],
    )
    assert got == View("m", True, {"include_usage": True}, "u", 1, 2, 3, 4)


def test_absent_and_null_are_the_same():
    nothing = View(None, False, None, None, None, None, None, None)
    assert view() == view(**dict.fromkeys(View.__struct_fields__)) == nothing


@pytest.mark.parametrize(
    ("member", "value"),
    [
        *[("model", v) for v in (1, True, [], {}, "", "x" * 257, "a\nb", "a\0", "\x7f", "\x85")],
        *[("stream", v) for v in ("true", 1, 0, [], {}, "")],
        *[("stream_options", v) for v in (True, [], "x", 1)],
        *[("user", v) for v in (1, [], {}, False)],
        *[
            (name, v)
            for name in ("max_tokens", "max_completion_tokens", "max_output_tokens", "n")
            for v in ("1", 1.5, True, [], {})
        ],
    ],
)
def test_a_wrong_value_is_refused_by_name(member, value):
    with pytest.raises(InvalidRequest, match=f"`{member}`") as refusal:
        view(**{member: value})
    assert refusal.value.param == member
    assert refusal.value.status == 400


def test_a_number_no_float_can_hold_is_refused():
    with pytest.raises(InvalidRequest) as refusal:
        view_of(JSONObject(b'{"stream_options": {"x": 1e999}}'))
    assert refusal.value.param == "stream_options"


@pytest.mark.parametrize("model", ["gpt-4o", "org/模型:7b", "a b", "x" * 256, "a\u200bb", "é"])
def test_odd_but_usable_model_names_are_taken(model):
    assert view(model=model).model == model


def test_integers_of_any_size_are_taken():
    assert view(max_tokens=2**64, n=-1).max_tokens == 2**64


@pytest.mark.parametrize("name", ["Model", "MODEL", "STREAM", "\u017ftream", "Max_To\u212aens"])
def test_a_name_that_differs_in_case_only_is_refused(name):
    # Go's encoding/json takes {"model":"cheap","Model":"dear"} for "dear".
    with pytest.raises(InvalidRequest, match="must be spelled") as refusal:
        view(**{name: "x"})
    assert refusal.value.param == name


def test_other_members_may_be_spelled_as_they_like():
    assert view(Messages=1, MODELS=2, extra_body={"model": 3}) == View()


def test_the_view_follows_a_change():
    body = JSONObject(b'{"model": "a", "stream": false}')
    body.set("model", "b")
    body.set("stream", True)
    assert view_of(body) == View(model="b", stream=True)
