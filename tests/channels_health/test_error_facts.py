"""Reading error bodies of every shape, and of none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llm_gateway.channels.error_facts import MAX_BODY, said_in
from asgi_llm_gateway.channels.error_table import ErrorTable
from tests.channels_health.refusals import refused


@pytest.mark.parametrize(
    ("document", "codes", "types", "messages"),
    [
        ({"error": {"message": "M", "type": "T", "code": "C"}}, ["c"], ["t"], ["m"]),
        ({"error": {"message": "M", "type": "T", "code": 7}}, ["7"], ["t"], ["m"]),
        ({"type": "error", "error": {"type": "T", "message": "M"}}, [], ["t"], ["m"]),
        ([{"error": {"code": 400, "status": "S", "message": "M"}}], ["400"], ["s"], ["m"]),
        ({"error": {"details": [{"reason": "R"}], "message": "M"}}, ["r"], [], ["m"]),
        ({"error": {"code": "C", "innererror": {"code": "I"}}}, ["c", "i"], [], []),
        ({"code": "C", "error": "M"}, ["c"], [], ["m"]),
        ({"error": "M"}, [], [], ["m"]),
        ({"message": "M", "code": 3}, ["3"], [], ["m"]),
        ({"code": 1305, "msg": "M"}, ["1305"], [], ["m"]),
        ({"detail": "M"}, [], [], ["m"]),
        ({"detail": [{"loc": ["body"], "msg": "M", "type": "missing"}]}, [], ["missing"], ["m"]),
        ({"errors": [{"code": 1, "message": "M"}, "N"]}, ["1"], [], ["m", "n"]),
        ({"errors": "M"}, [], [], ["m"]),
        ({"error_code": 17, "error_msg": "M"}, ["17"], [], ["m"]),
        ({"base_resp": {"status_code": 1008, "status_msg": "M"}}, ["1008"], [], ["m"]),
        ({"header": {"code": 10013, "message": "M"}}, ["10013"], [], ["m"]),
        ({"Response": {"Error": {"Code": "C", "Message": "M"}}}, ["c"], [], ["m"]),
        ({"__type": "C", "Message": "M"}, ["c"], [], ["m"]),
        ({"error": {"message": '{"error": {"code": "C", "message": "M"}}'}}, ["c"], [], ["m"]),
        ({"error": {"metadata": {"raw": '{"message": "M"}'}}}, [], [], ["m"]),
        ({"error": {"metadata": {"raw": "M"}}}, [], [], ["m"]),
        ({"error": None}, [], [], []),
        ({"error": True, "code": False, "message": 1.5}, [], [], []),
        ("M", [], [], ['"m"']),
        (None, [], [], ["null"]),
    ],
)
def test_each_shape_gives_its_code_type_and_message(
    document: Any, codes: list[str], types: list[str], messages: list[str]
) -> None:
    said = said_in(json.dumps(document).encode())
    assert (list(said.codes), list(said.types), list(said.messages)) == (codes, types, messages)


@pytest.mark.parametrize(
    ("body", "messages"),
    [
        (b"", []),
        (b"  \n", []),
        (b"Bad Gateway\n", ["bad gateway"]),
        (b"<html>No</html>", ["<html>no</html>"]),
        (b'{"error": {"message": "cut', ['{"error": {"message": "cut']),
        (b"\xff\xfe", ["�" * 2]),
    ],
)
def test_what_is_no_json_is_one_message(body: bytes, messages: list[str]) -> None:
    said = said_in(body)
    assert list(said.messages) == messages
    assert [*said.codes, *said.types] == []


def test_messages_lists_and_bodies_are_read_to_a_bound() -> None:
    long = said_in(json.dumps({"message": "x" * 100_000}).encode())
    assert [len(text) for text in long.messages] == [2048]
    many = said_in(json.dumps({"errors": [{"message": str(n)} for n in range(1000)]}).encode())
    assert len(many.messages) == 16
    wide = said_in(json.dumps({f"k{n}": n for n in range(1000)} | {"message": "M"}).encode())
    assert list(wide.messages) == []
    big = said_in(b'{"message": "M", "code": "C", "x": "' + b"x" * MAX_BODY + b'"}')
    assert not big.codes
    assert len(next(iter(big.messages))) == 2048


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 60_000,
        b'{"error":' * 10_000,
        b'{"error":' * 400 + b"1" + b"}" * 400,
        b"[" * 400 + b'"x"' + b"]" * 400,
        json.dumps({"error": {"message": "[" * 5000}}).encode(),
        json.dumps({"error": {"error": [[{"error": [{"message": "x"}] * 500}] * 500][0]}}).encode()[
            :60_000
        ],
        b'{"error": {"code": 1e999}}',
        b'{"error": {"code": "\\ud800", "message": "\\u0000"}}',
    ],
)
def test_hostile_bodies_are_judged_like_any_other(body: bytes) -> None:
    said_in(body)
    assert ErrorTable().classify(refused(500, body)).name == "server_error"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["error", "code", "type", "message", "errors", "detail", "x"]), inner
        )
    ),
    max_leaves=20,
)


@given(json_values | st.binary(max_size=200))
def test_nothing_a_provider_says_breaks_the_judgement(document: Any) -> None:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    verdict = ErrorTable().classify(refused(418, body))
    assert isinstance(verdict.name, str)
    said = said_in(body)
    assert all(text == text.strip() and text for text in (*said.codes, *said.types, *said.messages))
