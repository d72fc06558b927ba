"""Keys that are exchanged for access tokens, through whole gateways: a token host and a provider
on sockets, tokens kept in the store or the state file."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from asgi_llm_gateway import ConfigurationError, Gateway
from tests.faults import bad_key, good
from tests.faulty import faulty
from tests.keys_credentials.token_host import FIRST
from tests.shared_state.gateways import (
    asked,
    gateway,
    leading_to,
    pool,
    posted,
    process,
    secrets,
    served_by,
    settings,
)
from tests.shared_state.tokens import refreshing, token_host
from tests.upstreams import ask, ask_stream
from tests.valkey import Valkey

MEMORY = "memory://"


@pytest.fixture(params=["redis", "state_file"])
def kept(request: pytest.FixtureRequest, valkey: Valkey, tmp_path: Path) -> dict[str, Any]:
    """Tables by which tokens outlive a gateway."""
    if request.param == "redis":
        return {"store": valkey.url}
    return {"store": MEMORY, "keys": {"state_file": str(tmp_path / "tokens.json")}}


@pytest.mark.parametrize("rotates", [False, True])
async def test_five_hundred_concurrent_calls_make_one_refresh(
    valkey: Valkey, rotates: bool
) -> None:
    """Of two gateways that know nothing of each other but their store."""
    async with token_host(pause=0.2, rotates=rotates) as host, faulty() as provider:
        channel = refreshing(provider, host)
        async with gateway(valkey, channel) as one, gateway(valkey, channel) as two:
            calls = [ask((one, two)[n % 2], timeout=30) for n in range(500)]
            answers = await asyncio.gather(*calls)
        assert {answer.status for answer in answers} == {200}
        assert set(provider.keys) == {"at-1"}
        assert host.shown == [FIRST]


async def test_a_401_refreshes_once_and_the_call_succeeds_with_the_new_token(
    valkey: Valkey,
) -> None:
    async with token_host() as host, faulty() as provider:
        channel = refreshing(provider, host)
        async with gateway(valkey, channel) as one, gateway(valkey, channel) as two:
            assert (await ask(one)).status == 200
            provider.dead_keys.add("at-1")
            answers = await asyncio.gather(*(ask((one, two)[n % 2]) for n in range(40)))
            assert {answer.status for answer in answers} == {200}
            assert host.issued == 2
            assert set(provider.keys[-20:]) == {"at-2"}
            assert await secrets(two) == {FIRST}
            assert [a.outcome for a in answers[0].exchange.attempts] == ["failed", "ok"]


async def test_a_token_that_is_refused_although_it_is_new_takes_the_key_out(
    valkey: Valkey,
) -> None:
    async with token_host() as host, faulty(bad_key()) as provider, faulty() as other:
        channels = [refreshing(provider, host, priority=5), leading_to(other, name="b")]
        async with gateway(valkey, *channels) as one:
            answer = await ask(one)
            assert (answer.status, answer.header("x-llm-channel")) == (200, "b")
            assert provider.keys == ["at-1", "at-2"]
            assert await secrets(one) == set()
            assert "401" in (await pool(one).quarantined())[0].reason


async def test_a_rotated_token_survives_a_restart(kept: dict[str, Any]) -> None:
    async with token_host(rotates=True) as host, faulty() as provider:
        channel = refreshing(provider, host)
        async with gateway(kept["store"], channel, **_but_store(kept)) as before:
            assert (await ask(before)).status == 200
        async with gateway(kept["store"], channel, **_but_store(kept)) as after:
            assert (await ask(after)).status == 200
            assert provider.keys == ["at-1", "at-1"], "the access token was kept as well"
            provider.dead_keys.add("at-1")
            assert (await ask(after)).status == 200
        async with gateway(kept["store"], channel, **_but_store(kept)) as last:
            provider.dead_keys.add("at-2")
            assert (await ask(last)).status == 200
        assert host.shown == [FIRST, "rt-1", "rt-2"]


async def test_a_rotated_token_survives_a_reload(kept: dict[str, Any]) -> None:
    async with token_host(rotates=True) as host, faulty() as provider:
        channel = refreshing(provider, host)
        more = _but_store(kept)
        async with gateway(kept["store"], channel, **more) as one:
            assert (await ask(one)).status == 200
            one.reload(settings(kept["store"], channel, **more))
            provider.dead_keys.add("at-1")
            assert (await ask(one)).status == 200
        assert host.shown == [FIRST, "rt-1"]


async def test_a_rotated_token_survives_a_process_that_is_killed(
    valkey: Valkey, tmp_path: Path
) -> None:
    async with (
        token_host(rotates=True) as host,
        faulty() as provider,
        httpx.AsyncClient() as client,
    ):
        channel = refreshing(provider, host)
        async with process(tmp_path, valkey, channel) as served:
            assert (await posted(client, served)).status_code == 200
            served.process.kill()
        provider.dead_keys.add("at-1")
        async with gateway(valkey, channel) as after:
            assert (await ask(after)).status == 200
        assert host.shown == [FIRST, "rt-1"]


def test_a_token_that_may_rotate_needs_a_place_that_outlives_the_process() -> None:
    channel = {
        "name": "a",
        "base_url": "https://provider.test/v1",
        "models": ["*"],
        "keys": [FIRST],
        "credential": "refresh_token",
        "token_exchange": {"token_url": "https://auth.test/token"},
    }
    made = Gateway.from_settings(settings(MEMORY, channel), environ={})
    with pytest.raises(ConfigurationError) as refused:
        asyncio.run(_started(made))
    (line,) = refused.value.message.splitlines()
    assert "state_file = 'tokens.json'" in line
    assert FIRST not in line


async def test_invalid_grant_takes_the_key_out_and_another_serves(valkey: Valkey) -> None:
    async with token_host() as host, faulty() as provider:
        channel = refreshing(provider, host, keys=["rt-revoked", FIRST], choose_key="round_robin")
        async with gateway(valkey, channel) as one, gateway(valkey, channel) as two:
            assert {a.status for a in await asked(one, 4) + await asked(two, 4)} == {200}
            assert host.shown.count("rt-revoked") == 1
            assert await secrets(two) == {FIRST}
            (lost,) = await pool(two).quarantined()
            assert "invalid_grant" in lost.reason


async def test_a_key_that_is_revoked_while_its_token_lives_is_taken_out_and_another_serves(
    valkey: Valkey,
) -> None:
    """The provider refuses the access token, and the host the refresh token that got it."""
    async with token_host() as host, faulty() as provider:
        host.known.add("rt-second-000000000")
        keys = [FIRST, "rt-second-000000000"]
        channel = refreshing(provider, host, keys=keys, choose_key="round_robin")
        async with gateway(valkey, channel) as one:
            await asked(one, 2)
            host.known.discard(FIRST)
            provider.dead_keys.update(["at-1", "at-2"])
            answers = await asked(one, 4)
            assert {answer.status for answer in answers} == {200}
            assert await secrets(one) == {"rt-second-000000000"}


async def test_a_token_host_that_is_down_leaves_the_call_to_another_channel(
    valkey: Valkey,
) -> None:
    async with token_host() as host, faulty() as provider, faulty() as other:
        host.faults.extend([503] * 50)
        channels = [refreshing(provider, host, priority=5), leading_to(other, name="b")]
        async with gateway(valkey, *channels) as one:
            answers = await asyncio.gather(*(ask(one) for _ in range(20)))
            assert {a.header("x-llm-channel") for a in answers} == {"b"}
            assert {a.status for a in answers} == {200}
            assert await secrets(one) == {FIRST}, "nobody knows anything against the key"
            assert provider.keys == []
            assert len(host.asked) <= 2, "it is not asked by every call"
            host.faults.clear()
            await served_by(one, "a")


async def test_a_401_while_the_token_host_is_down_goes_to_another_channel_and_keeps_the_key(
    valkey: Valkey,
) -> None:
    async with token_host() as host, faulty() as provider, faulty() as other:
        channels = [refreshing(provider, host, priority=5), leading_to(other, name="b")]
        async with gateway(valkey, *channels) as one:
            assert (await ask(one)).header("x-llm-channel") == "a"
            provider.dead_keys.add("at-1")
            host.faults.extend([503] * 50)
            answer = await ask(one)
            assert (answer.status, answer.header("x-llm-channel")) == (200, "b")
            assert await secrets(one) == {FIRST}


async def test_a_token_host_that_is_not_there_at_all_is_told_as_the_providers_failure(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with faulty() as provider:
        table = {"token_url": "http://127.0.0.1:1/token?secret=hush", "rotates": False}
        channel = leading_to(
            provider, keys=[FIRST], credential="refresh_token", token_exchange=table
        )
        async with gateway(valkey, channel) as one:
            answer = await ask(one)
    assert answer.status in (502, 503)
    told = answer.body.decode() + caplog.text
    assert FIRST not in told
    assert "hush" not in told


async def test_a_client_shows_its_id_and_secret_once_for_many_calls(valkey: Valkey) -> None:
    async with token_host() as host, faulty() as provider:
        exchange = {"client_auth": "basic", "params": {"scope": "llm"}}
        channel = refreshing(
            provider, host, exchange, keys=["id-1:secret-1"], credential="client_credentials"
        )
        async with gateway(valkey, channel) as one:
            answers = await asyncio.gather(*(ask(one) for _ in range(20)))
            assert {answer.status for answer in answers} == {200}
            provider.dead_keys.add("at-1")
            assert (await ask(one)).status == 200
        assert set(provider.keys) == {"at-1", "at-2"}
        assert [seen.params for seen in host.asked] == [
            {"grant_type": "client_credentials", "scope": "llm"}
        ] * 2
        assert host.asked[0].headers["authorization"].startswith("Basic ")


async def test_a_providers_own_exchange_goes_by_the_same_code(valkey: Valkey) -> None:
    """As one that wants the key in a header and answers by a name of its own."""
    async with token_host() as host, faulty() as provider:
        host.faults.append((200, {"data": {"jwt": "own-1", "ttl": 900}}))
        exchange = {
            "grant": "",
            "body": "none",
            "headers": {"x-api-key": "{secret}"},
            "access_token": "data.jwt",
            "expires_in": "data.ttl",
        }
        channel = refreshing(
            provider, host, exchange, keys=["sk-long-lived"], credential="exchange"
        )
        async with gateway(valkey, channel) as one:
            assert {answer.status for answer in await asked(one, 3)} == {200}
        assert set(provider.keys) == {"own-1"}
        assert [seen.headers["x-api-key"] for seen in host.asked] == ["sk-long-lived"]


async def test_streams_go_on_while_their_key_is_refreshed(valkey: Valkey) -> None:
    async with token_host(lives=1.0, pause=0.1) as host, faulty(good()) as provider:
        async with gateway(valkey, refreshing(provider, host)) as one:
            until = asyncio.get_running_loop().time() + 2.5
            while asyncio.get_running_loop().time() < until:
                assert (await ask_stream(one)).status == 200
                await asyncio.sleep(0.05)
        assert 3 <= host.issued <= 4
        assert set(provider.keys) == {f"at-{n + 1}" for n in range(host.issued)}


def _but_store(kept: dict[str, Any]) -> dict[str, Any]:
    return {name: table for name, table in kept.items() if name != "store"}


async def _started(made: Gateway) -> None:
    async with made:
        raise AssertionError("it started")
