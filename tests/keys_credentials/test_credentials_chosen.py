"""Which credentials settings lead to, and which are refused before anything is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asgi_llm_gateway.errors import ConfigurationError
from asgi_llm_gateway.keys.credentials import (
    Credentials,
    ExchangedCredentials,
    FileTokens,
    MemoryTokens,
    PlainCredentials,
    SharedTokens,
    TokenExchange,
    credentials_of,
    exchange_of,
    tokens_of,
)
from asgi_llm_gateway.keys.key import Key
from asgi_llm_gateway.state import State
from tests.keys_credentials.token_host import TokenHost

URL = "https://auth.test/token"


def chosen(credential: str, store: Any = None, **table: Any) -> Credentials:
    exchange = exchange_of(table, where="channel 'main'") if table else None
    upstream = TokenHost().upstream()
    return credentials_of(credential, exchange, upstream, store, where="channel 'main'")


def test_a_key_and_a_callers_bearer_are_plain_without_an_exchange() -> None:
    assert isinstance(chosen("key"), PlainCredentials)
    assert isinstance(chosen("caller"), PlainCredentials)


@pytest.mark.parametrize("store", [None, MemoryTokens()])
@pytest.mark.parametrize("credential", ["refresh_token", "caller"])
def test_a_refresh_token_that_rotates_is_refused_where_nothing_outlives_the_process(
    credential: str, store: Any
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        chosen(credential, store, token_url=URL)
    message = str(caught.value)
    assert message.startswith("channel 'main': ")
    assert "state_file = " in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("credential", "table"),
    [
        ("refresh_token", {"rotates": False}),
        ("client_credentials", {}),
        ("client_credentials", {"grant": "client_credentials"}),
        ("exchange", {"grant": "", "params": {"key": "{secret}"}}),
        ("caller", {"rotates": False}),
    ],
)
def test_what_does_not_rotate_needs_no_store(credential: str, table: dict[str, Any]) -> None:
    assert isinstance(chosen(credential, token_url=URL, **table), ExchangedCredentials)


async def test_client_credentials_need_no_grant_beside_them() -> None:
    host = TokenHost()
    exchange = exchange_of({"token_url": host.url}, where="x")
    credentials = credentials_of("client_credentials", exchange, host.upstream())
    assert await credentials.secret(Key("app:secret")) == "at-1"
    assert host.asked[0].params == {
        "grant_type": "client_credentials",
        "client_id": "app",
        "client_secret": "secret",
    }


def test_a_state_file_or_a_shared_state_lets_it_rotate(tmp_path: Path) -> None:
    state = State("redis://127.0.0.1:1")
    for store in (tokens_of(state_file=tmp_path / "t"), tokens_of(state)):
        made = chosen("refresh_token", store, token_url=URL)
        assert isinstance(made, ExchangedCredentials)


def test_the_shared_state_comes_before_the_file_and_the_file_before_memory(tmp_path: Path) -> None:
    path = tmp_path / "t"
    shared, alone = State("redis://127.0.0.1:1"), State("memory://")
    assert isinstance(tokens_of(shared, path), SharedTokens)
    assert isinstance(tokens_of(alone, path), FileTokens)
    assert isinstance(tokens_of(alone, path, callers=True), FileTokens)
    assert isinstance(tokens_of(alone), MemoryTokens)
    assert isinstance(tokens_of(), MemoryTokens)


def test_a_state_file_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="state_file"):
        tokens_of(state_file=tmp_path / "nowhere" / "t")


@pytest.mark.parametrize(
    ("credential", "table", "says"),
    [
        ("password", {}, "credential is one of"),
        ("refresh_token", {}, "needs a token_url"),
        ("key", {"token_url": URL}, "token_url"),
        ("refresh_token", {"token_url": URL, "grant": "client_credentials"}, "contradict"),
        ("refresh_token", {"token_url": URL, "refresh": "rt"}, "'refresh'"),
        ("refresh_token", {"token_url": 5}, "token_url"),
        ("refresh_token", {"token_url": "nowhere"}, "absolute"),
        ("refresh_token", {"grant": "refresh_token"}, "token_url"),
        ("refresh_token", {"token_url": URL, "lifetime": "long"}, "lifetime"),
        ("refresh_token", {"token_url": URL, "names": {"a": 1}}, "names"),
    ],
)
def test_settings_that_cannot_work_are_told_in_one_line(
    credential: str, table: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        chosen(credential, **table)
    assert str(caught.value).startswith("channel 'main'")
    assert "\n" not in str(caught.value)


def test_a_settings_table_can_say_everything() -> None:
    table = {
        "token_url": URL,
        "body": "json",
        "client_id": "app",
        "names": {"refresh_token": "rt", "grant_type": ""},
        "params": {"ttl": 5, "long": True},
        "headers": {"x-a": "b"},
        "access_token": "data.token",
        "revoked": ["invalid_grant", 410],
        "lifetime": 300,
        "rotates": False,
    }
    made = exchange_of(table, where="here")
    assert made == TokenExchange(**{**table, "revoked": ("invalid_grant", 410)})  # type: ignore[arg-type]
