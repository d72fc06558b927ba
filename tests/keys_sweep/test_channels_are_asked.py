"""Which pages are asked about the keys of a channel, by its settings."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_llm_gateway import Channel, ConfigurationError
from asgi_llm_gateway.channels.accounts import accounts_of
from asgi_llm_gateway.channels.live import LiveChannel
from asgi_llm_gateway.channels.surroundings import Surroundings
from asgi_llm_gateway.keys.billing import Balance
from asgi_llm_gateway.keys.key import Key
from asgi_llm_gateway.keys.probes import Told
from tests.upstreams import Asked, FakeUpstream, Reply


def live(upstream: FakeUpstream, **config: Any) -> LiveChannel:
    given = {"name": "main", "models": ["*"], "keys": ["sk-one"], "base_url": "provider.test/v1"}
    return LiveChannel(Channel(**{**given, **config}), upstream, Surroundings(environ={}))


async def pages_asked(**config: Any) -> list[str]:
    """The URLs asked about the channel's one key, each answered 404."""
    upstream = FakeUpstream(Reply.error(404))
    channel = live(upstream, **config)
    accounts = accounts_of(channel)
    assert accounts is not None
    (key,) = await channel.pool.all()
    assert (await accounts.check(key)).fate == "unknown"
    return [
        f"{asked.request.origin.scheme}://{asked.request.origin.netloc}{asked.request.target}"
        for asked in upstream.asked
    ]


DASHBOARD = "https://provider.test/v1/dashboard/billing/subscription"
MODELS = "https://provider.test/v1/models"


@pytest.mark.parametrize(
    ("config", "pages"),
    [
        ({}, [DASHBOARD, MODELS]),
        ({"provider": "openai"}, [DASHBOARD, MODELS]),
        ({"provider": "openai", "base_url": None}, ["https://api.openai.com/v1/models"]),
        ({"provider": "vllm"}, [MODELS]),
        ({"billing": "models"}, [MODELS]),
        ({"billing": "openrouter"}, ["https://provider.test/v1/key", MODELS]),
        (
            {"base_url": "https://api.moonshot.cn/v1"},
            ["https://api.moonshot.cn/v1/users/me/balance", "https://api.moonshot.cn/v1/models"],
        ),
        (
            {"provider": "deepseek", "base_url": None},
            ["https://api.deepseek.com/user/balance", "https://api.deepseek.com/v1/models"],
        ),
        (
            {"base_url": "https://h.test/openai/v1/chat/completions?tenant=7"},
            [
                "https://h.test/openai/v1/dashboard/billing/subscription",
                "https://h.test/openai/v1/models?tenant=7",
            ],
        ),
        (
            {"billing_urls": {"subscription": "https://billing.test/s", "usage": "/u"}},
            ["https://billing.test/s", MODELS],
        ),
        ({"billing": "models", "billing_urls": {"models": "/up"}}, ["https://provider.test/up"]),
    ],
)
async def test_a_channel_is_asked_at_its_own_host(config: dict[str, Any], pages: list[str]) -> None:
    assert await pages_asked(**config) == pages


async def test_questions_are_signed_as_the_channels_calls_are() -> None:
    upstream = FakeUpstream(Reply.json({"data": []}))
    channel = live(upstream, billing="models", headers={"X-Tenant": "seven"})
    accounts = accounts_of(channel)
    assert accounts is not None
    assert (await accounts.check((await channel.pool.all())[0])).fate == "good"
    (asked,) = upstream.asked
    assert (asked.key, asked.header("x-tenant")) == ("sk-one", "seven")


async def test_an_async_callable_judges_alone() -> None:
    async def ask(secret: str) -> Told:
        return Balance(left=2.5) if secret == "sk-one" else None

    upstream = FakeUpstream()
    channel = live(upstream, billing=ask)
    accounts = accounts_of(channel)
    assert accounts is not None
    assert (await accounts.balance(Key("sk-one"))).left == 2.5
    assert (await accounts.check(Key("sk-two"))).fate == "unknown"
    assert upstream.asked == []


class OwnPool:
    """A pool of a user's own, which keeps no balances."""

    async def add(self, keys: Any) -> None: ...
    async def take(self, exchange: Any, tried: Any = (), *, wait: float = 0.0) -> None: ...
    async def all(self) -> list[Key]:
        return []

    async def remove(self, key: Key, reason: str) -> None: ...
    def report(self, key: Key, outcome: str, **more: Any) -> None: ...


@pytest.mark.parametrize("config", [{"billing": "none"}, {"keys": []}, {"keys": OwnPool()}])
def test_where_there_is_nothing_to_ask_nobody_is_asked(config: dict[str, Any]) -> None:
    assert accounts_of(live(FakeUpstream(), **config)) is None


def test_billing_there_is_not_names_the_channel() -> None:
    channel = live(FakeUpstream(), billing="stripe")
    with pytest.raises(ConfigurationError, match="channel 'main': billing is one of dashboard"):
        accounts_of(channel)


async def test_a_key_that_the_provider_refuses_is_gone() -> None:
    def refuse(asked: Asked) -> Reply:
        return Reply.error(401 if asked.request.target == "/v1/models" else 404)

    accounts = accounts_of(live(FakeUpstream(refuse)))
    assert accounts is not None
    assert (await accounts.check(Key("sk-one"))).fate == "gone"
