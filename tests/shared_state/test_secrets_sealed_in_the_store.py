"""`[crypto]`: whoever reads the store reads no secret, and the sealing key can be changed."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest

from asgi_llm_gateway import ConfigurationError
from asgi_llm_gateway.keys.key import Key
from tests.faulty import faulty
from tests.keys_credentials.token_host import FIRST
from tests.shared_state.gateways import (
    asked,
    everything_in,
    gateway,
    leading_to,
    pool,
    posted,
    process,
    secrets,
)
from tests.shared_state.tokens import refreshing, token_host
from tests.upstreams import ask
from tests.valkey import Valkey

ONE, TWO, BY_HAND = "sk-a-key-1", "sk-a-key-2", "sk-added-by-hand"


def sealing(*numbers: int) -> dict[str, Any]:
    """The table with these keys, of 32 equal bytes each."""
    return {"crypto": {"keys": [base64.b64encode(bytes([n]) * 32).decode() for n in numbers]}}


def readable(store: Valkey, *words: str) -> list[str]:
    """Which of these words stand anywhere in the store, plain or in base64."""
    everything = b"\n".join(name + b"\n" + value for name, value in everything_in(store))
    assert everything, "there is something to be read at all"
    spelled = [(word, spelling) for word in words for spelling in _spellings(word)]
    return [word for word, spelling in spelled if spelling in everything]


def _spellings(word: str) -> list[bytes]:
    raw = word.encode()
    inner = [base64.b64encode(b"x" * n + raw)[4:-4] for n in range(3)]  # wherever it begins
    return [raw, raw.hex().encode(), *(piece for piece in inner if len(piece) >= 8)]


async def test_nothing_that_is_secret_can_be_read_in_the_store(valkey: Valkey) -> None:
    async with token_host(rotates=True) as host, faulty() as provider:
        channels = [
            leading_to(provider, key_limits={"rpm": 1000, "concurrency": 5}),
            refreshing(provider, host, name="tokens"),
        ]
        async with gateway(valkey, *channels, **sealing(1)) as one:
            await pool(one).add([BY_HAND])
            await asked(one, 10)
            provider.dead_keys.update({ONE, "at-1"})
            await asked(one, 20)
        assert {FIRST, "rt-1"} <= set(host.shown)
    words = [ONE, TWO, BY_HAND, FIRST, "rt-1", "rt-2", "at-1", "at-2"]
    assert readable(valkey, *words) == []
    assert readable(valkey, Key(ONE).fingerprint) != []


async def test_without_sealing_the_same_search_finds_them(valkey: Valkey) -> None:
    """So that the test above is one."""
    async with token_host(rotates=True) as host, faulty() as provider:
        channels = [leading_to(provider), refreshing(provider, host, name="tokens")]
        async with gateway(valkey, *channels) as one:
            await asked(one, 20)
    words = {ONE, TWO, FIRST, "rt-1", "at-1"}
    assert set(readable(valkey, *words)) == words


async def test_the_sealing_key_is_changed_without_losing_anything(valkey: Valkey) -> None:
    """New in front, restart; and the old one out when everything was stored again."""
    async with token_host(rotates=True) as host, faulty() as provider:
        channels = [leading_to(provider), refreshing(provider, host, name="tokens", priority=5)]
        async with gateway(valkey, *channels, **sealing(1)) as before:
            await pool(before).add([BY_HAND])
            await asked(before, 3)
        async with gateway(valkey, *channels, **sealing(2, 1)) as both:
            assert await secrets(both) == {ONE, TWO, BY_HAND}
            provider.dead_keys.add("at-1")
            assert (await ask(both)).status == 200
            assert host.shown == [FIRST, "rt-1"]
            await pool(both).add([BY_HAND])  # those of the settings were put in at the start
        async with gateway(valkey, *channels, **sealing(2)) as after:
            assert await secrets(after) == {ONE, TWO, BY_HAND}
            provider.dead_keys.add("at-2")
            assert (await ask(after)).status == 200
            assert host.shown == [FIRST, "rt-1", "rt-2"]


async def test_a_gateway_with_another_sealing_key_passes_over_what_it_cannot_open(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async with faulty() as provider:
        channel = leading_to(provider)
        async with gateway(valkey, channel, **sealing(1)) as one:
            await pool(one).add([BY_HAND])
        async with gateway(valkey, channel, **sealing(2)) as other:
            assert {answer.status for answer in await asked(other, 20)} == {200}
            assert await secrets(other) == {ONE, TWO}
        assert set(provider.keys) == {ONE, TWO}
    assert f"key {Key(BY_HAND).fingerprint} cannot be used by this process" in caplog.text
    assert BY_HAND not in caplog.text


async def test_a_rotated_token_that_cannot_be_opened_is_not_shown_to_its_host_again(
    valkey: Valkey,
) -> None:
    """The host would take it for stolen and revoke everything."""
    async with token_host(rotates=True) as host, faulty() as provider, faulty() as other:
        channels = [refreshing(provider, host, priority=5), leading_to(other, name="b")]
        async with gateway(valkey, *channels, **sealing(1)) as one:
            assert (await ask(one)).header("x-llm-channel") == "a"
        async with gateway(valkey, *channels, **sealing(2)) as wrong:
            assert (await ask(wrong)).header("x-llm-channel") == "b"
            assert await secrets(wrong) == {FIRST}
        async with gateway(valkey, *channels, **sealing(2, 1)) as right:
            assert (await ask(right)).header("x-llm-channel") == "a"
        assert host.shown == [FIRST]


@pytest.mark.parametrize("keys", [["short"], ["not base64!"], [""]])
def test_a_sealing_key_that_is_none_is_refused_in_a_line_without_it(keys: list[str]) -> None:
    from asgi_llm_gateway import Gateway

    document = {
        "auth": {"anonymous": True},
        "crypto": {"keys": keys},
        "channels": [{"name": "a", "provider": "simulator", "models": ["*"]}],
    }
    with pytest.raises(ConfigurationError) as refused:
        Gateway.from_settings(document, environ={})
    (line,) = refused.value.message.splitlines()
    assert "crypto.keys" in line
    assert "openssl rand -base64 32" in line
    assert not keys[0] or keys[0] not in line


async def test_the_sealing_key_comes_from_the_environment_of_a_process(
    valkey: Valkey, tmp_path: Any
) -> None:
    async with faulty() as provider, httpx.AsyncClient() as client:
        (key,) = sealing(9)["crypto"]["keys"]
        channel, table = leading_to(provider), {"crypto": {"keys": ["env:SEAL"]}}
        async with process(tmp_path, valkey, channel, environ={"SEAL": key}, **table) as served:
            assert (await posted(client, served)).status_code == 200
        async with gateway(valkey, channel, **sealing(9)) as one:
            assert (await ask(one)).status == 200
    assert readable(valkey, ONE, TWO) == []
