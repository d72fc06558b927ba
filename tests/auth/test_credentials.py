"""Where a caller's credential is looked for, and what counts as none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llm_gateway.auth.credential import MAX_BYTES, NONE, credential_of

AUTH, ANTHROPIC, AZURE, GOOGLE = b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"


def found(*headers: tuple[bytes, bytes], dialect: str = "openai_chat", **scope: Any) -> bytes:
    full = {"type": "http", "headers": list(headers), "query_string": b"", **scope}
    return credential_of(full, dialect)


@pytest.mark.parametrize(
    "value",
    [
        b"Bearer sk-a", b"bearer sk-a", b"BEARER sk-a", b"bEaReR   sk-a", b"  Bearer sk-a  ",
        b"sk-a", b" sk-a\t",
    ],
)  # fmt: skip
def test_a_bearer_token_is_taken_with_and_without_the_word(value: bytes):
    assert found((AUTH, value)) == b"sk-a"


@pytest.mark.parametrize(
    "value",
    [
        b"", b" ", b"Bearer", b"bearer ", b"Bearer\tsk-a", b"Bearer sk-a sk-b", b"Basic c2stYTo=",
        b"Digest username=x", b"Bearer sk-\xc3\xa4", b"Bearer sk-\x00a", b"Bearer sk-a\x7f",
        b"Bearer sk-a, Bearer sk-b", b"sk-a sk-b", b"Bearer " + b"x" * (MAX_BYTES + 1),
        b"x" * (MAX_BYTES + 1), b"Bearer \xff\xfe",
    ],
)  # fmt: skip
def test_an_authorization_header_that_is_no_credential_lets_nothing_else_count(value: bytes):
    assert found((AUTH, value)) == NONE
    assert found((AUTH, value), (ANTHROPIC, b"sk-good")) == NONE
    assert found((ANTHROPIC, b"sk-good"), (AUTH, value)) == NONE


def test_the_headers_have_one_order_of_precedence_wherever_they_stand():
    ladder = [(AUTH, b"Bearer 1st"), (ANTHROPIC, b"2nd"), (AZURE, b"3rd"), (GOOGLE, b"4th")]
    for first, wanted in enumerate((b"1st", b"2nd", b"3rd", b"4th")):
        assert found(*ladder[first:]) == wanted
        assert found(*reversed(ladder[first:])) == wanted


@pytest.mark.parametrize("name", [ANTHROPIC, AZURE, GOOGLE])
def test_the_other_headers_hold_the_bare_token(name: bytes):
    assert found((name, b" sk-a ")) == b"sk-a"
    for bad in (b"", b"Bearer sk-a", b"sk-\xff", b"x" * (MAX_BYTES + 1)):
        assert found((name, bad)) == NONE


@pytest.mark.parametrize("name", [AUTH, ANTHROPIC, AZURE, GOOGLE])
def test_a_credential_given_twice_is_none_even_if_both_say_the_same(name: bytes):
    assert found((name, b"sk-a"), (name, b"sk-a")) == NONE
    assert found((name, b"sk-a"), (b"host", b"x"), (name, b"sk-b"), (name, b"sk-a")) == NONE


def test_a_header_of_lower_precedence_given_twice_does_not_matter():
    assert found((AZURE, b"x"), (AZURE, b"y"), (ANTHROPIC, b"sk-a")) == b"sk-a"


def test_the_longest_credential_that_is_looked_at_has_the_capped_length():
    assert found((AUTH, b"Bearer " + b"x" * MAX_BYTES)) == b"x" * MAX_BYTES


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        (b"key=sk-a", b"sk-a"),
        (b"alt=sse&key=sk-a", b"sk-a"),
        (b"key=sk%2Da", b"sk-a"),
        (b"key=a+b", b"a+b"),
        (b"key=", NONE),
        (b"key=sk-a&key=sk-a", NONE),
        (b"key=sk%20a", NONE),
        (b"key=%ff", NONE),
        (b"key=" + b"%61" * (MAX_BYTES + 1), NONE),
        (b"key=" + b"x" * 100_000, NONE),
        (b"Key=sk-a", NONE),
        (b"xkey=sk-a", NONE),
        (b"", NONE),
    ],
)
def test_the_query_counts_on_gemini_routes_only(query: bytes, wanted: bytes):
    assert found(dialect="gemini", query_string=query) == wanted
    for dialect in ("openai_chat", "anthropic"):
        assert found(dialect=dialect, query_string=query) == NONE


def test_a_header_goes_before_the_query():
    assert found((GOOGLE, b"sk-h"), dialect="gemini", query_string=b"key=sk-q") == b"sk-h"
    assert found((GOOGLE, b""), dialect="gemini", query_string=b"key=sk-q") == NONE


@pytest.mark.parametrize(
    ("offered", "wanted"),
    [
        (["realtime", "openai-insecure-api-key.sk-a"], b"sk-a"),
        (["realtime"], NONE),
        (["openai-insecure-api-key."], NONE),
        (["openai-insecure-api-key.sk-a", "openai-insecure-api-key.sk-b"], NONE),
        (["openai-insecure-api-key.sk-ä"], NONE),
    ],
)
def test_a_websocket_may_offer_its_token_as_a_subprotocol(offered: list[str], wanted: bytes):
    assert found(type="websocket", subprotocols=offered) == wanted
    assert found(type="http", subprotocols=offered) == NONE


@given(st.lists(st.tuples(st.sampled_from([AUTH, ANTHROPIC, AZURE, GOOGLE]), st.binary())))
def test_whatever_the_headers_hold_what_is_found_is_short_visible_ascii(
    headers: list[tuple[bytes, bytes]],
):
    value = found(*headers)
    assert len(value) <= MAX_BYTES
    assert all(0x21 <= byte <= 0x7E for byte in value)
