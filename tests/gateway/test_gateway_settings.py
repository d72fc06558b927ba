"""A gateway made from settings, and what a reload changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asgi_llm_gateway import AccessToken, ConfigurationError, Gateway
from asgi_llm_gateway.providers.simulator import Simulator
from asgi_llm_gateway.settings import Settings
from tests.asgi import call
from tests.gateway.toys import channel, chat, streaming

SIMULATED = {"provider": "simulator", "models": ["gpt-*"]}


def document(**more: Any) -> dict[str, Any]:
    return {
        "channels": [{"name": "one", **SIMULATED}],
        "access_tokens": [{"name": "alice", "token": "sk-alice"}],
        **more,
    }


def made(**more: Any) -> Gateway:
    return Gateway.from_settings(document(**more), environ={})


async def test_a_mapping_makes_a_gateway_that_knows_its_callers() -> None:
    async with made() as gateway:
        assert (await chat(gateway)).status == 401
        answer = await chat(gateway, token="sk-alice")
    assert (answer.status, answer.header("x-llm-channel")) == (200, "one")


async def test_a_file_makes_one_too_and_its_keys_lie_beside_it(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text("sk-one\nsk-two\n")
    (tmp_path / "gateway.toml").write_text(
        """
        [server]
        max_body_mb = 0.0001
        [auth]
        anonymous = true
        [aliases]
        best = "gpt-4o"
        [[channels]]
        name = "one"
        provider = "simulator"
        keys = ["file:keys.txt"]
        models = ["gpt-*"]
        """
    )
    async with Gateway.from_settings(tmp_path / "gateway.toml", environ={}) as gateway:
        table = gateway.relay.channels
        assert table is not None
        assert len(table.by_name["one"].pool.keys) == 2
        assert (await chat(gateway, members={"model": "best"})).status == 200
        assert (await chat(gateway, members={"user": "x" * 200})).status == 413


async def test_the_environment_alone_makes_one_with_a_root_token() -> None:
    environ = {
        "LLM_GATEWAY_CHANNELS_0_NAME": "env",
        "LLM_GATEWAY_CHANNELS_0_PROVIDER": "simulator",
        "LLM_GATEWAY_CHANNELS_0_MODELS": "gpt-*, o*",
        "INITIAL_ROOT_TOKEN": "sk-root",
    }
    async with Gateway.from_settings(None, environ=environ) as gateway:
        answer = await chat(gateway, token="sk-root")
        assert answer.status == 200
        assert answer.exchange.caller.name == "root"


def test_nobody_may_call_is_refused_with_the_line_to_add() -> None:
    with pytest.raises(ConfigurationError, match=r"nobody may call: add an \[\[access_tokens\]\]"):
        made(access_tokens=[])


def test_everybody_and_somebody_may_call_exclude_each_other() -> None:
    with pytest.raises(ConfigurationError, match=r"auth.anonymous = true lets everybody call"):
        made(auth={"anonymous": True})


async def test_a_reload_changes_channels_aliases_and_tokens_for_new_calls() -> None:
    gateway = made()
    async with gateway:
        new = document(
            channels=[{"name": "two", **SIMULATED}],
            access_tokens=[{"name": "bob", "token": "sk-bob"}],
            aliases={"best": "gpt-4o"},
        )
        gateway.reload(new)
        assert (await chat(gateway, token="sk-alice")).status == 401
        answer = await chat(gateway, token="sk-bob", members={"model": "best"})
        assert (answer.status, answer.header("x-llm-channel")) == (200, "two")


async def test_a_reload_reads_the_file_again(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    text = '[auth]\nanonymous = true\n[[channels]]\nname = "NAME"\nprovider = "simulator"\n'
    file.write_text(f'{text.replace("NAME", "one")}models = ["*"]')
    async with Gateway.from_settings(file, environ={}) as gateway:
        file.write_text(f'{text.replace("NAME", "two")}models = ["*"]')
        gateway.reload()
        assert (await chat(gateway)).header("x-llm-channel") == "two"


async def test_a_call_under_way_keeps_what_it_began_with() -> None:
    simulator = Simulator(tokens_per_second=200, length=(30, 30))
    tokens = (AccessToken.of("sk-alice", name="alice"),)
    settings = Settings(channels=(channel(simulator),), access_tokens=tokens)
    async with Gateway.from_settings(settings) as gateway:
        signed = {"authorization": "Bearer sk-alice"}
        async with streaming(gateway, headers=signed).open() as stream:
            assert await stream.started() == 200
            gateway.reload(document(access_tokens=[{"name": "bob", "token": "sk-bob"}]))
            assert b"[DONE]" in b"".join([piece async for piece in stream])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"access_tokens": []}, "nobody may call"),
        ({"channels": [{"name": "x", "provider": "nobody", "models": ["*"]}]}, "nobody"),
        ({"channels": [{"name": "x", **SIMULATED, "keys": ["env:GONE"]}]}, "GONE is not set"),
        ({"sevrer": {}}, "did you mean server"),
    ],
)
async def test_a_reload_that_cannot_work_changes_nothing(
    change: dict[str, Any], message: str
) -> None:
    async with made() as gateway:
        with pytest.raises(ConfigurationError, match=f"settings: .*{message}"):
            gateway.reload(document(**change))
        assert (await chat(gateway, token="sk-alice")).status == 200


async def test_what_needs_a_restart_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with made() as gateway:
        gateway.reload(document(server={"port": 1, "max_body_mb": 1}, failover={"max_attempts": 9}))
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        f"{name} has changed; it takes effect after a restart"
        for name in ("server.port", "server.max_body_mb", "failover.max_attempts")
    ]


async def test_a_key_that_was_dead_stays_dead_over_a_reload() -> None:
    simulator = Simulator(faults={"sk-dead": "401"})
    settings = Settings(
        channels=(channel(simulator, keys=["sk-dead", "sk-good"], choose_key="round_robin"),),
        access_tokens=(AccessToken.of("sk-alice", name="alice"),),
    )
    async with Gateway.from_settings(settings) as gateway:
        await chat(gateway, token="sk-alice")
        gateway.reload(settings)
        for _ in range(4):
            await chat(gateway, token="sk-alice")
    assert [seen.key for seen in simulator.calls].count("sk-dead") == 1


def test_a_gateway_made_by_hand_has_nothing_to_read_again() -> None:
    with pytest.raises(ConfigurationError, match="not made by from_settings"):
        Gateway([channel()]).reload()


async def test_tokens_are_limited_as_their_table_says() -> None:
    tables = [
        {"name": "alice", "token": "sk-alice", "models": ["gpt-4o-mini"], "ips": ["10.0.0.0/8"]}
    ]
    gateway = made(access_tokens=tables, server={"trusted_proxies": ["127.0.0.1"]})
    from_office = {"x-forwarded-for": "10.1.2.3"}
    small = {"model": "gpt-4o-mini"}
    async with gateway:
        assert (await chat(gateway, token="sk-alice", members=small)).status == 403
        answer = await chat(gateway, token="sk-alice", members=small, headers=from_office)
        assert answer.status == 200
        assert (await chat(gateway, token="sk-alice", headers=from_office)).status == 403
        listing = await call(
            gateway,
            "GET",
            "/v1/models",
            headers={"authorization": "Bearer sk-alice", **from_office},
        )
        assert [model["id"] for model in listing.json["data"]] == ["gpt-4o-mini"]
