"""GET /models and /models/{id}: what this caller may ask for, in its own dialect."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_llm_gateway.auth import TokenAuthMiddleware
from asgi_llm_gateway.channels.channel import Channel
from asgi_llm_gateway.providers.rows import PROVIDERS
from asgi_llm_gateway.providers.simulator import Simulator
from asgi_llm_gateway.relay import Relay
from asgi_llm_gateway.upstream.in_process import InProcessUpstream
from tests.asgi import Answer, call

TOKENS: dict[str, dict[str, Any]] = {
    "sk-plain": {"name": "plain"},
    "sk-vip": {"name": "vip", "group": "vip"},
    "sk-mini": {"name": "mini", "models": ["*-mini", "house"]},
    "sk-bound": {"name": "bound", "channels": ["local"]},
    "sk-stray": {"name": "stray", "group": "nobody"},
}
CHANNELS = (
    Channel(
        name="main",
        provider="openai",
        keys=["sk-main"],
        models=["gpt-4o", "gpt-4o-m*", "text-embedding-3-*"],
        model_mapping={"old-name": "gpt-4.1"},
    ),
    Channel(name="local", provider="vllm", models=["llama", "org/model:7b"], priority=5),
    Channel(name="vips", provider="deepseek", keys=["sk-v"], models=["deepseek-*"], groups=["vip"]),
    Channel(name="both", provider="custom", base_url="host", models=["gpt-4o"], priority=-1),
)
ALIASES = {"house": "gpt-4o", "vip-house": "deepseek-v4-pro", "dangling": "served-by-nobody"}

ANTHROPIC = {"anthropic-version": "2023-06-01"}
GEMINI = {"x-goog-api-key": "sk-plain"}

PLAIN = {
    "gpt-4o": "openai",
    "gpt-4o-mini": "openai",
    "gpt-4o-mini-tts": "openai",
    "text-embedding-3-large": "openai",
    "text-embedding-3-small": "openai",
    "old-name": "openai",
    "llama": "vllm",
    "org/model:7b": "vllm",
    "house": "openai",
}


async def ask(
    path: str,
    token: str | None = "sk-plain",
    *,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    channels: tuple[Channel, ...] = CHANNELS,
) -> Answer:
    relay = Relay(list(channels), aliases=ALIASES)
    app = TokenAuthMiddleware(relay, access_tokens=TOKENS)
    given = dict(headers or {})
    if token is not None and "x-goog-api-key" not in given:
        given["authorization"] = f"Bearer {token}"
    async with relay.resources:
        return await call(app, method, path, headers=given)


def owners(answer: Answer) -> dict[str, str]:
    assert answer.status == 200
    assert answer.json["object"] == "list"
    found = answer.json["data"]
    assert all(model["object"] == "model" for model in found)
    assert all(isinstance(model["created"], int) for model in found)
    owners = {model["id"]: model["owned_by"] for model in found}
    assert len(owners) == len(found), "each once"
    return owners


async def test_names_and_mapping_keys_are_listed_and_a_glob_as_what_the_provider_is_known_for() -> (
    None
):
    assert owners(await ask("/v1/models")) == PLAIN


async def test_a_globs_models_are_those_of_the_providers_row_that_it_matches() -> None:
    everything = Channel(name="all", provider="groq", keys=["sk-g"], models=["*"])
    found = owners(await ask("/v1/models", channels=(everything,)))
    assert set(found) - set(ALIASES) == set(PROVIDERS["groq"].models)
    unknown = Channel(name="any", provider="custom", base_url="host", models=["*"])
    assert set(owners(await ask("/v1/models", channels=(unknown,)))) <= set(ALIASES)


async def test_a_channel_of_another_group_is_not_listed() -> None:
    found = owners(await ask("/v1/models", "sk-vip"))
    assert set(found) == {"deepseek-v4-flash", "deepseek-v4-pro", "vip-house"}
    assert owners(await ask("/v1/models", "sk-stray")) == {}


async def test_a_token_limited_to_models_sees_those_only() -> None:
    found = owners(await ask("/v1/models", "sk-mini"))
    assert set(found) == {"gpt-4o-mini", "house"}


async def test_a_token_bound_to_channels_sees_what_they_serve() -> None:
    assert set(owners(await ask("/v1/models", "sk-bound"))) == {"llama", "org/model:7b"}


async def test_an_alias_is_listed_where_its_model_is_served() -> None:
    found = owners(await ask("/v1/models"))
    assert "house" in found
    assert "vip-house" not in found
    assert "dangling" not in found


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/llm/v1/models"])
async def test_the_listing_is_found_below_any_mount(path: str) -> None:
    relay = Relay(list(CHANNELS), aliases=ALIASES)
    prefix = path.removesuffix("/models")
    async with relay.resources:
        answer = await call(relay, "GET", f"/api{path}", root_path=f"/api{prefix}")
    assert owners(answer) == PLAIN


@pytest.mark.parametrize("model", ["gpt-4o", "org/model:7b", "old-name", "house"])
async def test_one_model_is_shown_as_the_listing_shows_it(model: str) -> None:
    answer = await ask(f"/v1/models/{model}")
    assert answer.status == 200
    listed = (await ask("/v1/models")).json["data"]
    assert answer.json == next(one for one in listed if one["id"] == model)


@pytest.mark.parametrize(
    ("token", "model"),
    [
        ("sk-plain", "no-such-model"),
        ("sk-plain", "deepseek-v4-pro"),
        ("sk-plain", "vip-house"),
        ("sk-mini", "gpt-4o"),
        ("sk-bound", "gpt-4o"),
    ],
)
async def test_a_model_the_caller_may_not_use_is_not_found(token: str, model: str) -> None:
    answer = await ask(f"/v1/models/{model}", token)
    assert answer.status == 404
    error = answer.json["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert model in error["message"]


async def test_anthropics_clients_get_their_own_listing() -> None:
    answer = await ask("/v1/models", headers=ANTHROPIC)
    found = answer.json
    assert [model["id"] for model in found["data"]] == list(owners(await ask("/v1/models")))
    assert (found["first_id"], found["last_id"]) == (found["data"][0]["id"], "house")
    assert found["has_more"] is False
    assert all(model["type"] == "model" and model["display_name"] for model in found["data"])
    one = await ask("/v1/models/gpt-4o", headers=ANTHROPIC)
    assert one.json == next(model for model in found["data"] if model["id"] == "gpt-4o")


async def test_geminis_clients_get_their_own_listing() -> None:
    answer = await ask("/v1beta/models", headers=GEMINI)
    names = [model["name"] for model in answer.json["models"]]
    assert names == [f"models/{name}" for name in owners(await ask("/v1/models"))]
    one = await ask("/v1beta/models/gpt-4o", headers=GEMINI)
    assert one.json["name"] == "models/gpt-4o"
    assert "generateContent" in one.json["supportedGenerationMethods"]


async def test_an_empty_listing_is_one_in_every_dialect() -> None:
    stray = {"authorization": "Bearer sk-stray"}
    assert (await ask("/v1/models", "sk-stray")).json == {"object": "list", "data": []}
    anthropic = await ask("/v1/models", None, headers={**ANTHROPIC, **stray})
    assert anthropic.json == {"data": [], "has_more": False, "first_id": None, "last_id": None}
    gemini = await ask("/v1beta/models", headers={"x-goog-api-key": "sk-stray"})
    assert gemini.json == {"models": []}


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({}, lambda body: body["error"]["code"] == "model_not_found"),
        (ANTHROPIC, lambda body: body["type"] == "error"),
        (GEMINI, lambda body: body["error"]["status"] == "NOT_FOUND"),
    ],
    ids=["openai", "anthropic", "gemini"],
)
async def test_an_unknown_model_is_told_in_the_callers_dialect(
    headers: dict[str, str], told: Any
) -> None:
    answer = await ask("/v1/models/none", headers=headers)
    assert answer.status == 404
    assert told(answer.json)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/gpt-4o", "/v1/models/none"])
async def test_head_has_the_head_of_get_and_no_body(path: str) -> None:
    got, head = await ask(path), await ask(path, method="HEAD")
    assert (head.status, head.body) == (got.status, b"")
    assert head.header("content-type") == "application/json"
    assert head.header("content-length") == str(len(got.body))
    assert head.header("x-request-id")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/gpt-4o"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_a_listing_can_only_be_read(path: str, method: str) -> None:
    answer = await ask(path, method=method)
    assert answer.status == 405
    assert answer.header("allow") == "GET, HEAD"
    assert answer.json["error"]["code"] == "method_not_allowed"


async def test_what_else_is_done_to_a_model_goes_to_a_channel_that_takes_any_path() -> None:
    simulator = Simulator()
    through = Channel(
        name="through",
        provider="simulator",
        passthrough=True,
        upstream=InProcessUpstream(simulator),
    )
    answer = await ask("/v1/models/ft:mine", method="DELETE", channels=(*CHANNELS, through))
    assert answer.header("x-llm-attempts") == "1"
    [seen] = simulator.calls
    assert (seen.method, seen.path) == ("DELETE", "/v1/models/ft:mine")
    listed = owners(await ask("/v1/models", channels=(*CHANNELS, through)))
    assert listed == PLAIN, "it serves no model by name"


async def test_the_listing_is_nobodys_without_an_access_token() -> None:
    answer = await ask("/v1/models", None)
    assert answer.status == 401
    assert (await ask("/v1/models", "sk-wrong")).status == 401


async def test_a_reload_changes_the_listing() -> None:
    relay = Relay(list(CHANNELS))
    async with relay.resources:
        assert "llama" in owners(await call(relay, "GET", "/v1/models"))
        relay.reload([Channel(name="new", provider="vllm", models=["mixtral"])])
        assert owners(await call(relay, "GET", "/v1/models")) == {"mixtral": "vllm"}
