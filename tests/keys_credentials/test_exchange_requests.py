"""What a token host is sent: the standard ways and the odd ones, all as data."""

from __future__ import annotations

from base64 import b64decode
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import pytest

from asgi_llm_gateway.errors import ConfigurationError, KeyRevoked
from asgi_llm_gateway.keys.credentials import TokenExchange
from asgi_llm_gateway.upstream.contract import UpstreamRequest

URL = "https://auth.test/oauth/token"
BAIDU = TokenExchange(
    token_url="https://aip.baidubce.com/oauth/2.0/token",
    grant="client_credentials",
    method="GET",
    body="query",
)
COPILOT = TokenExchange(
    token_url="https://api.github.com/copilot_internal/v2/token",
    grant="",
    method="GET",
    body="none",
    headers={"authorization": "token {secret}", "editor-version": "vscode/1.99"},
    access_token="token",
    expires_at="expires_at",
    revoked=(401, 404),
)


def header(request: UpstreamRequest, name: str) -> str | None:
    found = [v.decode() for k, v in request.headers if k == name.encode()]
    assert len(found) < 2
    return found[0] if found else None


def form(request: UpstreamRequest) -> dict[str, str]:
    assert header(request, "content-type") == "application/x-www-form-urlencoded"
    assert isinstance(request.body, bytes)
    return dict(parse_qsl(request.body.decode()))


def test_a_refresh_token_goes_in_a_form_as_the_rfc_has_it() -> None:
    exchange = TokenExchange(token_url=URL, client_id="app", client_secret="s3&=")
    request = exchange.exchange_request("rt 1+2")
    assert (request.method, request.origin.netloc) == ("POST", "auth.test")
    assert request.target == "/oauth/token"
    assert form(request) == {
        "grant_type": "refresh_token",
        "refresh_token": "rt 1+2",
        "client_id": "app",
        "client_secret": "s3&=",
    }
    assert header(request, "accept") == "application/json"


def test_names_of_parameters_can_be_changed_and_left_out() -> None:
    exchange = TokenExchange(
        token_url=URL,
        body="json",
        names={"refresh_token": "refreshToken", "grant_type": ""},
        params={"ttl": 3600, "long": True, "device": "gw"},
    )
    request = exchange.exchange_request("rt-1")
    assert header(request, "content-type") == "application/json"
    assert isinstance(request.body, bytes)
    assert msgspec.json.decode(request.body) == {
        "refreshToken": "rt-1",
        "ttl": 3600,
        "long": True,
        "device": "gw",
    }


def test_a_form_writes_true_as_a_word() -> None:
    exchange = TokenExchange(token_url=URL, params={"offline": True, "n": 3})
    sent = form(exchange.exchange_request("rt-1"))
    assert (sent["offline"], sent["n"]) == ("true", "3")


@pytest.mark.parametrize("secret", ["app:se:cret", "app|se:cret"])
def test_a_clients_id_and_secret_are_split_at_the_first_bar_or_colon(secret: str) -> None:
    exchange = TokenExchange(token_url=URL, grant="client_credentials", params={"scope": "chat"})
    assert form(exchange.exchange_request(secret)) == {
        "grant_type": "client_credentials",
        "client_id": "app",
        "client_secret": "se:cret",
        "scope": "chat",
    }


def test_basic_authentication_encodes_id_and_secret_before_joining_them() -> None:
    exchange = TokenExchange(token_url=URL, grant="client_credentials", client_auth="basic")
    request = exchange.exchange_request("a b|c:d")
    assert form(request) == {"grant_type": "client_credentials"}
    sent = header(request, "authorization")
    assert sent is not None
    assert b64decode(sent.removeprefix("Basic ")) == b"a+b:c%3Ad"


def test_a_client_id_in_the_settings_makes_the_key_its_secret() -> None:
    exchange = TokenExchange(token_url=URL, grant="client_credentials", client_id="app")
    sent = form(exchange.exchange_request("se:cret"))
    assert (sent["client_id"], sent["client_secret"]) == ("app", "se:cret")


def test_another_grant_says_itself_where_the_key_goes() -> None:
    grant = "urn:ietf:params:oauth:grant-type:jwt-bearer"
    exchange = TokenExchange(token_url=URL, grant=grant, params={"assertion": "{secret}"})
    assert form(exchange.exchange_request("e30.e30.x")) == {
        "grant_type": grant,
        "assertion": "e30.e30.x",
    }


def test_a_secret_that_looks_like_a_placeholder_is_sent_as_it_is() -> None:
    exchange = TokenExchange(
        token_url=URL, client_id="app", grant="", params={"key": "{secret}-{client_id}-{other}"}
    )
    assert form(exchange.exchange_request("{client_id}"))["key"] == "{client_id}-app-{other}"


def test_baidus_exchange_is_data() -> None:
    request = BAIDU.exchange_request("ak|sk&")
    assert (request.method, request.body) == ("GET", b"")
    path, _, query = request.target.partition("?")
    assert path == "/oauth/2.0/token"
    assert dict(parse_qsl(query)) == {
        "grant_type": "client_credentials",
        "client_id": "ak",
        "client_secret": "sk&",
    }
    answer = b'{"access_token":"24.x","expires_in":2592000,"refresh_token":"25.y","scope":"p"}'
    got = BAIDU.read_exchange(200, [], answer, 1000.0)
    assert (got.secret, got.expires_at, got.rotated) == ("24.x", 2593000.0, None)
    refusal = b'{"error":"invalid_client","error_description":"unknown client id"}'
    with pytest.raises(KeyRevoked):
        BAIDU.read_exchange(401, [], refusal, 1000.0)


def test_github_copilots_exchange_is_data() -> None:
    request = COPILOT.exchange_request("gho_abc")
    assert (request.method, request.body) == ("GET", b"")
    assert request.target == "/copilot_internal/v2/token"
    assert header(request, "authorization") == "token gho_abc"
    assert header(request, "user-agent") == "asgi-llm-gateway"
    answer = b'{"token":"tid=1;exp=2;sku=x:5","expires_at":1700001500,"refresh_in":1500}'
    got = COPILOT.read_exchange(200, [], answer, 1_700_000_000.0)
    assert (got.secret, got.expires_at) == ("tid=1;exp=2;sku=x:5", 1_700_001_500.0)
    with pytest.raises(KeyRevoked):
        COPILOT.read_exchange(401, [], b'{"message":"Bad credentials"}', 0.0)


def test_a_query_joins_the_one_the_url_has() -> None:
    exchange = TokenExchange(token_url=URL + "?v=1", body="query")
    assert exchange.exchange_request("rt").target.startswith("/oauth/token?v=1&grant_type=")


@pytest.mark.parametrize("secret", ["", "a\r\nhost: b", "a\x00", "schlüssel"])
def test_what_no_token_host_can_be_sent_is_a_dead_key(secret: str) -> None:
    with pytest.raises(KeyRevoked) as caught:
        TokenExchange(token_url=URL).exchange_request(secret)
    assert not secret or secret not in str(caught.value)


@pytest.mark.parametrize("secret", ["only-an-id", "id:", ":secret", "|"])
def test_half_a_pair_is_a_dead_key(secret: str) -> None:
    exchange = TokenExchange(token_url=URL, grant="client_credentials")
    with pytest.raises(KeyRevoked, match="id:secret") as caught:
        exchange.exchange_request(secret)
    assert "only-an-id" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"token_url": "auth.test/token"}, "absolute"),
        ({"token_url": "ftp://auth.test/"}, "absolute"),
        ({"body": "xml"}, "form, json, query, none"),
        ({"client_auth": "jwt"}, "body, basic"),
        ({"method": "PUT"}, "GET or POST"),
        ({"method": "GET"}, "has no body"),
        ({"names": {"scope": "s"}}, "'scope'"),
        ({"access_token": ""}, "access_token"),
        ({"lifetime": 0}, "lifetime"),
        ({"lifetime": float("nan")}, "lifetime"),
        ({"headers": {"Host": "x"}}, "'Host'"),
        ({"headers": {"x": "a\r\nb"}}, "'x'"),
    ],
)
def test_what_cannot_work_is_refused_at_once(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        TokenExchange(**{"token_url": URL, **wrong})
    assert "\n" not in str(caught.value)


def test_a_url_with_a_secret_in_it_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        TokenExchange(token_url="auth.test/token?key=hidden-1")
    assert "hidden-1" not in str(caught.value)
