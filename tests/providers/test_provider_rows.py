"""The rows are well formed, and looked up by name."""

from __future__ import annotations

import pytest

from asgi_llm_gateway.errors import ConfigurationError
from asgi_llm_gateway.providers.row import PATHS
from asgi_llm_gateway.providers.rows import PROVIDERS, provider
from asgi_llm_gateway.providers.simulator import MODELS, simulator_app
from asgi_llm_gateway.providers.urls import endpoint_url


def test_the_rows_are_sorted_and_named_by_their_key() -> None:
    assert list(PROVIDERS) == sorted(PROVIDERS)
    assert all(row.name == name for name, row in PROVIDERS.items())
    assert set(PROVIDERS) == {
        "custom",
        "deepseek",
        "groq",
        "ollama",
        "openai",
        "simulator",
        "vllm",
    }


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_a_row_names_known_endpoints_and_sorted_models(name: str) -> None:
    row = PROVIDERS[name]
    assert row.endpoints <= set(PATHS)
    assert set(row.paths) <= row.endpoints
    assert list(row.models) == sorted(set(row.models))
    assert "chat" in row.endpoints


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_every_endpoint_of_a_row_has_a_url(name: str) -> None:
    row = PROVIDERS[name]
    base = row.base_url or "https://x.com"
    for endpoint in row.endpoints:
        assert endpoint_url(row, base, PATHS[endpoint]).startswith(base.removesuffix("/v1"))


def test_a_provider_is_found_by_name() -> None:
    assert provider("groq") is PROVIDERS["groq"]


def test_an_unknown_provider_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"'opnai'.*custom, deepseek, groq"):
        provider("opnai")


def test_rows_can_be_compared_and_hashed() -> None:
    assert len({*PROVIDERS.values()}) == len(PROVIDERS)


def test_the_simulator_row_lists_what_the_simulator_serves() -> None:
    row = PROVIDERS["simulator"]
    assert row.quirks.in_process
    assert set(row.models) == {name for name in MODELS if not set("*?[") & set(name)}
    assert simulator_app().models == MODELS
