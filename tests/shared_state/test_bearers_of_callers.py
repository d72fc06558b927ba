"""`credential = "caller"` through whole gateways: a caller's bearer is its key and no other's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.middleware import Middleware

from asgi_llm_gateway import (
    Caller,
    Channel,
    ConfigurationError,
    Gateway,
    TokenAuthMiddleware,
)
from asgi_llm_gateway.auth.store import MemoryTokenStore
from asgi_llm_gateway.auth.token import AccessToken
from asgi_llm_gateway.keys.credentials import TokenExchange
from tests.faults import refusal
from tests.faulty import Provider, faulty
from tests.keys_credentials.token_host import TokenHost
from tests.shared_state.gateways import everything_in, gateway, leading_to
from tests.shared_state.tokens import token_host
from tests.upstreams import ASK, ask
from tests.valkey import Valkey

CALLERS = [f"bearer-of-caller-{number:02}" for number in range(20)]
GATEWAY_TOKEN = "sk-gateway-access-token"


async def known_to_us(credential: str, scope: Any) -> Caller | None:
    """A host's own check, such as a JWT's: whoever shows a bearer of CALLERS is its caller."""
    return Caller(credential[-2:], credential[-2:]) if credential in CALLERS else None


@asynccontextmanager
async def theirs(
    provider: Provider, store: str, *parts: Middleware, **config: Any
) -> AsyncIterator[Gateway]:
    """A gateway whose one channel takes callers' bearers."""
    channel = Channel(
        name="theirs",
        base_url=provider.base_url,
        models=["*"],
        credential="caller",
        **config,
    )
    async with Gateway([channel], middleware=parts, state=store, environ={}) as made:
        yield made


def vouched() -> Middleware:
    return Middleware(TokenAuthMiddleware, authenticate=known_to_us)


def saying(word: str) -> dict[str, Any]:
    return {**ASK, "messages": [{"role": "user", "content": word}]}


async def call(one: Gateway, bearer: str) -> Any:
    """One call that says whose it is."""
    return await ask(one, saying(bearer[-2:]), headers={"authorization": f"Bearer {bearer}"})


async def test_each_call_goes_with_its_own_callers_bearer_and_no_other(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with faulty() as provider, theirs(provider, valkey.url, vouched()) as one:
        calls = [call(one, CALLERS[n % len(CALLERS)]) for n in range(200)]
        answers = await asyncio.gather(*calls)
    assert {answer.status for answer in answers} == {200}
    assert len(provider.tried) == 200
    for tried in provider.tried:
        assert tried.key[-2:] == tried.document["messages"][0]["content"]
        assert tried.key in CALLERS
    seen = caplog.text + repr([answer.exchange for answer in answers])
    kept = b"".join(name + value for name, value in everything_in(valkey)).decode("latin-1")
    for bearer in CALLERS:
        assert bearer not in seen
        assert bearer not in kept


async def test_a_refused_bearer_is_its_callers_to_see_and_harms_nobody_else(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bad, good = CALLERS[:2]
    async with faulty() as provider, theirs(provider, valkey.url, vouched()) as one:
        provider.dead_keys.add(bad)
        for _ in range(3):
            answer = await call(one, bad)
            assert answer.status == 401
            assert answer.json["error"]["code"] == "invalid_api_key"
            assert (await call(one, good)).status == 200
        provider.dead_keys.clear()
        assert (await call(one, bad)).status == 200, "a refused bearer is not remembered"
        assert one.relay.health.states() == []
    assert bad not in caplog.text


async def test_a_provider_that_repeats_the_bearer_is_not_repeated(valkey: Valkey) -> None:
    bearer = CALLERS[0]
    fault = refusal(400, message=f"bad key {bearer}")
    async with faulty(fault) as provider, theirs(provider, valkey.url, vouched()) as one:
        answer = await call(one, bearer)
    assert answer.status == 400
    assert bearer.encode() not in answer.body


async def test_without_auth_the_bearer_is_the_callers_too_and_none_is_no_key(
    valkey: Valkey,
) -> None:
    async with faulty() as provider:
        channel = leading_to(provider, keys=[], credential="caller")
        async with gateway(valkey, channel) as one:
            assert (await call(one, "whatever-they-bring")).status == 200
            assert (await ask(one)).status == 503
    assert provider.keys == ["whatever-they-bring"]


@pytest.mark.parametrize("known_by", ["list", "store", "own store"])
async def test_a_gateways_own_access_token_is_never_sent_to_a_provider(
    valkey: Valkey, known_by: str
) -> None:
    async with faulty() as provider:
        async with theirs(provider, valkey.url, _knowing(known_by)) as one:
            answer = await call(one, GATEWAY_TOKEN)
            assert answer.status == 503
            assert provider.tried == []
        assert provider.tried == []


async def test_settings_with_access_tokens_refuse_a_channel_whose_key_is_the_callers_own(
    valkey: Valkey,
) -> None:
    async with faulty() as provider:
        channel = leading_to(provider, keys=[], credential="caller")
        settings = {
            "auth": {"anonymous": False},
            "access_tokens": [{"name": "alice", "token": GATEWAY_TOKEN}],
        }
        with pytest.raises(ConfigurationError, match="goes to no provider"):
            async with gateway(valkey, channel, **settings):
                pass


async def test_a_bearer_reaches_only_channels_that_are_for_it(valkey: Valkey) -> None:
    async with faulty(refusal(503)) as first, faulty() as second:
        channels = [
            leading_to(first, priority=5, keys=[], credential="caller"),
            leading_to(second, name="b", keys=["sk-ours"]),
        ]
        async with gateway(valkey, *channels, failover={"first_wait": 0.01}) as one:
            answer = await call(one, CALLERS[0])
            assert answer.header("x-llm-channel") == "b"
    assert set(first.keys) == {CALLERS[0]}
    assert second.keys == ["sk-ours"]


async def test_a_callers_refresh_token_is_exchanged_for_that_caller_alone(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with token_host(pause=0.05) as host, faulty() as provider:
        exchange = _exchange_at(host)
        for _ in range(2):  # a restart keeps what was had
            async with theirs(provider, valkey.url, vouched(), token_exchange=exchange) as one:
                calls = [call(one, CALLERS[n % 5]) for n in range(50)]
                assert {answer.status for answer in await asyncio.gather(*calls)} == {200}
        assert sorted(host.shown) == CALLERS[:5], "one exchange for each caller"
        whose: dict[str, set[str]] = {}
        for tried in provider.tried:
            whose.setdefault(tried.key, set()).add(tried.document["messages"][0]["content"])
        assert sorted(map(len, whose.values())) == [1] * 5, "each token goes with one caller"
    kept = b"".join(name + value for name, value in everything_in(valkey)).decode("latin-1")
    for bearer in CALLERS:
        assert bearer not in kept
        assert bearer not in caplog.text


async def test_a_caller_whose_refresh_token_is_revoked_is_told_so(valkey: Valkey) -> None:
    async with token_host() as host, faulty() as provider:
        exchange = _exchange_at(host)
        host.known.discard(CALLERS[0])
        async with theirs(provider, valkey.url, vouched(), token_exchange=exchange) as one:
            answer = await call(one, CALLERS[0])
            assert (answer.status, answer.json["error"]["code"]) == (503, "key_revoked")
            assert CALLERS[0].encode() not in answer.body
            assert (await call(one, CALLERS[1])).status == 200


async def test_calls_of_one_bearer_are_limited_as_the_channel_says(valkey: Valkey) -> None:
    async with faulty() as provider:
        limits = {"concurrency": 1, "wait": 0}
        async with theirs(provider, valkey.url, vouched(), key_limits=limits) as one:
            answers = await asyncio.gather(*(call(one, CALLERS[n // 4]) for n in range(8)))
    assert sorted(answer.status for answer in answers) == [200] * 2 + [429] * 6


def _exchange_at(host: TokenHost) -> TokenExchange:
    host.known.update(CALLERS)
    return TokenExchange(token_url=host.url, rotates=False)


def _knowing(known_by: str) -> Middleware:
    if known_by == "list":
        table = {GATEWAY_TOKEN: {"name": "alice"}}
        return Middleware(TokenAuthMiddleware, access_tokens=table)
    store = MemoryTokenStore((AccessToken.of(GATEWAY_TOKEN, name="alice"),))
    if known_by == "store":
        return Middleware(TokenAuthMiddleware, store=store)

    class OwnStore:
        """One that is no MemoryTokenStore, so that it is awaited."""

        async def get(self, digest: str) -> AccessToken | None:
            return store.find(digest)

    return Middleware(TokenAuthMiddleware, store=OwnStore())


def test_limits_that_cannot_hold_for_callers_keys_are_refused_at_the_start() -> None:
    config: dict[str, Any] = {"base_url": "https://provider.test/v1", "models": ["*"]}
    channel = Channel(name="theirs", credential="caller", key_limits={"rpm": 5}, **config)
    with pytest.raises(ConfigurationError, match="'theirs': of key_limits only concurrency can"):
        asyncio.run(Gateway([channel], environ={}).__aenter__())
