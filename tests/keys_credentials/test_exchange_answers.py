"""What token hosts answer, the good and the odd."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llm_gateway.errors import KeyRevoked
from asgi_llm_gateway.keys.credentials import Exchanged, TokenExchange, TokenExchangeFailed
from asgi_llm_gateway.keys.credentials.answers import at_path, jwt_expiry, moment, number

NOW = 1_800_000_000.0
PLAIN = TokenExchange(token_url="https://auth.test/token", lifetime=600.0)


def read(
    document: Any, status: int = 200, exchange: TokenExchange = PLAIN, **headers: str
) -> Exchanged:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    named = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    return exchange.read_exchange(status, named, body, NOW)


def jwt(**claims: Any) -> str:
    parts = [json.dumps(part).encode() for part in ({"alg": "none"}, claims, "signature")]
    return ".".join(urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


@pytest.mark.parametrize(
    ("says", "lives"),
    [
        ({"expires_in": 3600}, 3600.0),
        ({"expires_in": "3600"}, 3600.0),
        ({"expires_in": 12.5}, 12.5),
        ({"expires_in": 1e300}, 366 * 86_400.0),
        ({"expires_in": 10**400}, 600.0),
        ({"expires_in": 0}, 600.0),
        ({"expires_in": -5}, 600.0),
        ({"expires_in": 5e-324}, 600.0),
        ({"expires_at": NOW + 1e-6}, 600.0),
        ({"expires_in": True}, 600.0),
        ({"expires_in": None}, 600.0),
        ({"expires_in": "soon"}, 600.0),
        ({"expires_in": "nan"}, 600.0),
        ({"expires_in": "inf"}, 600.0),
        ({"expires_in": [3600]}, 600.0),
        ({}, 600.0),
        ({"expires_at": NOW + 100}, 100.0),
        ({"expires_at": (NOW + 100) * 1000}, 100.0),
        ({"expires_at": str(int(NOW + 100))}, 100.0),
        ({"expires_at": "2027-01-15T08:01:40Z"}, 100.0),
        ({"expires_at": "2027-01-15T08:01:40"}, 100.0),
        ({"expires_at": "2027-01-15T09:01:40+01:00"}, 100.0),
        ({"expires_at": NOW - 100}, 600.0),
        ({"expires_at": "tomorrow"}, 600.0),
        ({"expires_at": {}}, 600.0),
        ({"expires_in": 50, "expires_at": NOW + 100}, 50.0),
    ],
)
def test_a_tokens_life_is_read_from_whatever_says_it(says: dict[str, Any], lives: float) -> None:
    assert read({"access_token": "at", **says}).expires_at - NOW == pytest.approx(lives)


@pytest.mark.parametrize(
    ("token", "lives"),
    [
        (jwt(exp=NOW + 900), 900.0),
        (jwt(exp=NOW + 900.5), 900.5),
        (jwt(exp=str(NOW + 900)), 900.0),
        (jwt(exp=NOW - 900), 600.0),
        (jwt(sub="me"), 600.0),
        (jwt(exp=None), 600.0),
        ("a.b.c", 600.0),
        ("e30.e30.e30.e30", 600.0),
        ("x.!!!!.y", 600.0),
        (".W10.", 600.0),
    ],
)
def test_a_jwt_says_itself_when_it_expires(token: str, lives: float) -> None:
    assert read({"access_token": token}).expires_at - NOW == pytest.approx(lives)


def test_what_the_answer_says_stands_above_the_jwt() -> None:
    got = read({"access_token": jwt(exp=NOW + 900), "expires_in": 60})
    assert got.expires_at == NOW + 60


def test_fields_are_found_where_the_settings_say() -> None:
    exchange = TokenExchange(
        token_url="https://auth.test/token",
        access_token="data.tokens.1.value",
        expires_in="data.ttl",
        refresh_token="data.next",
        error="data.problem.code",
        revoked=("gone",),
    )
    answer = {"data": {"tokens": [{}, {"value": "at"}], "ttl": 9, "next": "rt-2"}}
    got = read(answer, exchange=exchange)
    assert (got.secret, got.expires_at, got.rotated) == ("at", NOW + 9, "rt-2")
    with pytest.raises(KeyRevoked):
        read({"data": {"problem": {"code": "gone"}}}, exchange=exchange)


def test_a_name_with_a_dot_in_it_is_found() -> None:
    assert at_path({"a.b": 1, "a": {"b": 2}}, "a.b") == 1


@pytest.mark.parametrize("path", ["", ".", "a.", "a.9", "a.-1", "a.x", "a.0.b.c", "a.99999999"])
def test_a_path_that_leads_nowhere_is_nothing(path: str) -> None:
    assert at_path({"a": [{"b": 1}]}, path) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"at"',
        b"<html>wait</html>",
        b"\xff\xfe",
        b'{"access_token": NaN}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"{}",
        b'{"access_token": null}',
        b'{"access_token": ""}',
        b'{"access_token": 5}',
        b'{"access_token": ["at"]}',
        b'{"access_token": "a b"}',
        b'{"access_token": "a\\r\\nx: y"}',
        b'{"access_token": "\\u00fc"}',
        b'{"access_token": "' + b"x" * 20_000 + b'"}',
        b'{"access_token": "at", "refresh_token": 5}',
        b'{"access_token": "at", "refresh_token": "a\\nb"}',
        b'{"access_token": "at", "error": "what"}',
        b'{"access_token": "at", "error": {"code": 1}}',
    ],
)
def test_an_odd_answer_is_a_failure_and_no_dead_key(body: bytes) -> None:
    with pytest.raises(TokenExchangeFailed):
        read(body)


@pytest.mark.parametrize("empty", [None, "", False, 0])
def test_an_empty_refresh_token_or_error_is_none(empty: Any) -> None:
    got = read({"access_token": "at", "refresh_token": empty, "error": empty})
    assert (got.secret, got.rotated) == ("at", None)


@pytest.mark.parametrize(
    ("status", "document", "revoked"),
    [
        (400, {"error": "invalid_grant"}, True),
        (401, {"error": "invalid_grant"}, True),
        (200, {"error": "invalid_grant", "access_token": "at"}, True),
        (400, {"error": "invalid_client"}, False),
        (401, {"error": "invalid_client"}, False),
        (400, {"error": "invalid_scope"}, False),
        (400, {"error": ["invalid_grant"]}, False),
        (400, {"error": "INVALID_GRANT"}, False),
        (403, {}, False),
        (404, {}, False),
        (302, {}, False),
        (429, {"error": "invalid_grant"}, False),
        (500, {"error": "invalid_grant"}, False),
        (503, {"error": "invalid_grant"}, False),
    ],
)
def test_only_what_says_so_means_that_the_key_is_dead(
    status: int, document: Any, revoked: bool
) -> None:
    with pytest.raises(KeyRevoked if revoked else TokenExchangeFailed):
        read(document, status)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("99999", 60.0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("-1", None),
    ],
)
def test_a_token_host_may_ask_to_be_left_alone(given: str, seconds: float | None) -> None:
    with pytest.raises(TokenExchangeFailed) as caught:
        read({}, 429, Retry_After=given)
    assert caught.value.retry_after == seconds


def test_a_hosts_own_words_are_not_repeated() -> None:
    for error in ("rt-secret-1", "x" * 1000):
        with pytest.raises(TokenExchangeFailed) as caught:
            read({"error": error, "error_description": "rt-secret-1"}, 400)
        assert "rt-secret-1" not in str(caught.value)
        assert len(str(caught.value)) < 100


@given(body=st.binary(max_size=200), status=st.integers(100, 599))
def test_any_bytes_are_read_or_refused(body: bytes, status: int) -> None:
    try:
        got = PLAIN.read_exchange(status, [], body, NOW)
    except (KeyRevoked, TokenExchangeFailed):
        return
    assert got.expires_at >= NOW + 1


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(
    document=st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ("access_token", "expires_in", "expires_at", "refresh_token", "error"), VALUES
        ),
    )
)
def test_any_document_is_read_or_refused(document: dict[str, Any]) -> None:
    try:
        got = read(json.dumps(document).encode())
    except (KeyRevoked, TokenExchangeFailed):
        return
    assert got.secret == document["access_token"]
    assert got.secret.isascii()
    assert got.secret.isprintable()
    assert NOW + 1 <= got.expires_at <= NOW + 366 * 86_400
    assert got.rotated is None or got.rotated == document["refresh_token"]


@given(token=st.text(max_size=60) | st.binary(max_size=60).map(lambda b: b.decode("latin-1")))
def test_any_text_is_looked_at_for_an_expiry(token: str) -> None:
    for text in (token, f"a.{token}.b", f"a.{urlsafe_b64encode(token.encode()).decode()}.b"):
        found = jwt_expiry(text)
        assert found is None or isinstance(found, float)


@given(value=VALUES)
def test_any_value_is_a_number_a_moment_or_none(value: Any) -> None:
    for found in (number(value), moment(value)):
        assert found is None or float("-inf") < found < float("inf")


@given(document=VALUES, path=st.text(alphabet="ab.01", max_size=8))
def test_any_path_through_any_document_ends(document: Any, path: str) -> None:
    at_path(document, path)
