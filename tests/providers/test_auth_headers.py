"""How a call is signed, and which keys cannot be."""

from __future__ import annotations

import pytest

from asgi_llm_gateway.errors import ConfigurationError
from asgi_llm_gateway.providers.row import Provider, auth_headers
from asgi_llm_gateway.providers.rows import PROVIDERS


def test_a_bearer_key_goes_into_authorization() -> None:
    assert auth_headers(PROVIDERS["openai"], "sk-1") == [(b"authorization", b"Bearer sk-1")]


def test_a_key_can_have_a_header_of_its_own() -> None:
    row = Provider(name="p", base_url="https://x.com", auth="header:X-Api-Key")
    assert auth_headers(row, "sk-1") == [(b"x-api-key", b"sk-1")]


def test_a_provider_without_auth_never_gets_a_key() -> None:
    row = Provider(name="p", base_url="https://x.com", auth="none")
    assert auth_headers(row, "sk-1") == []


@pytest.mark.parametrize("secret", [None, ""])
def test_a_missing_key_matters_only_where_one_is_needed(secret: str | None) -> None:
    assert auth_headers(PROVIDERS["ollama"], secret) == []
    with pytest.raises(ConfigurationError, match="env:OPENAI_API_KEY"):
        auth_headers(PROVIDERS["openai"], secret)


@pytest.mark.parametrize(
    "secret", ["sk-se\ncret", "sk-secret\r\nx: y", "sk-secret ", "sk-\x00secret", "sk-secrét"]
)
def test_a_key_no_header_can_carry_is_refused_without_being_shown(secret: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        auth_headers(PROVIDERS["openai"], secret)
    assert "secr" not in caught.value.message
    assert "sk-" not in caught.value.message


def test_an_unknown_auth_scheme_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="must be 'bearer'"):
        auth_headers(Provider(name="p", base_url=None, auth="digest"), "sk-1")
