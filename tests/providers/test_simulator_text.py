"""The simulator's tokens and examples."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llm_gateway.providers.simulator.text import count, example, prose, text_of, tokenise


@given(st.text())
def test_the_tokens_of_a_text_joined_are_the_text(text: str) -> None:
    assert "".join(tokenise(text)) == text


def test_a_word_and_a_mark_are_a_token_each() -> None:
    assert tokenise("Hello, big world! ") == ["Hello", ",", " big", " world", "!", " "]


def test_prose_keeps_to_the_length_asked_for() -> None:
    for seed in range(50):
        assert 30 <= count(prose(Random(seed), 30, 40)) <= 60


def test_parts_that_are_not_text_have_none() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}, 7, "b"]
    assert text_of(parts) == "a b"
    assert text_of(None) == ""


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "string"}, str),
        ({"type": "integer"}, int),
        ({"type": "number"}, float),
        ({"type": "boolean"}, bool),
        ({"type": ["string", "null"]}, str),
        ({"type": "array", "items": {"type": "string"}}, list),
        ({"properties": {"a": {"const": 1}}}, dict),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, str),
        ({"type": "null"}, type(None)),
        ({"type": []}, type(None)),
        ("nonsense", type(None)),
    ],
)
def test_an_example_has_the_type_its_schema_asks_for(schema: object, kind: type) -> None:
    assert type(example(schema, Random(1))) is kind


def test_an_example_takes_one_of_an_enumeration() -> None:
    assert example({"enum": ["x", "y"]}, Random(1)) in ("x", "y")


def test_a_schema_nested_without_end_comes_to_an_end() -> None:
    schema: dict[str, object] = {"type": "array"}
    schema["items"] = schema
    assert str(example(schema, Random(1))).count("[") == 7
