"""From a file, the environment and flags to Settings."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from asgi_llm_gateway import AccessToken, Channel
from asgi_llm_gateway.settings import ServerSettings, Settings, read_settings
from asgi_llm_gateway.settings.tables import LISTS, TABLES

CHANNEL = {"name": "main", "models": ["*"]}


def read(document: dict[str, Any], environ: dict[str, str] | None = None, **flags: Any) -> Settings:
    return read_settings(document, environ=environ or {}, flags={"server": flags})


def test_nothing_given_is_all_defaults() -> None:
    assert read({}) == Settings()


def test_every_setting_of_the_design_can_be_written(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(
        """
        [server]
        host = "0.0.0.0"
        port = 9000
        workers = 2
        cors_origins = ["https://a.example"]
        trusted_proxies = ["10.0.0.0/8"]
        log_dir = "logs"
        log_level = "debug"
        max_body_mb = 1.5
        shutdown_timeout = 5
        root_path = "/llm"

        [auth]
        check_mapped_models = false
        bypass = ["files"]

        [failover]
        max_attempts = 2

        [aliases]
        best = "gpt-4o"

        [default_models]
        images_generations = "gpt-image-2"

        [[channels]]
        name = "main"
        provider = "openai"
        base_url = "https://api.openai.com/v1"
        keys = ["env:KEY", "sk-literal"]
        models = ["gpt-*"]
        model_mapping = { "gpt-3.5-turbo-0301" = "gpt-3.5-turbo" }
        priority = 10
        weight = 3
        groups = ["default", "vip"]
        timeouts = { connect = 5, total = false }
        choose_key = "least_used"
        passthrough = true
        paths = { chat = "/chat" }
        headers = { x-team = "env:TEAM" }
        proxy = "http://proxy:3128"

        [[access_tokens]]
        name = "alice"
        token = "env:ALICE"
        user = "u1"
        group = "vip"
        models = ["gpt-*"]
        channels = ["main"]
        ips = ["10.0.0.0/8"]
        expires = 2027-01-31T00:00:00Z
        enabled = false

        [[access_tokens]]
        name = "bob"
        sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
        """
    )
    settings = read_settings(file, environ={"ALICE": "sk-alice", "TEAM": "blue"})
    assert settings.server == ServerSettings(
        host="0.0.0.0",
        port=9000,
        workers=2,
        cors_origins=("https://a.example",),
        trusted_proxies=("10.0.0.0/8",),
        log_dir="logs",
        log_level="debug",
        max_body_mb=1.5,
        shutdown_timeout=5,
        root_path="/llm",
    )
    assert (settings.auth.check_mapped_models, settings.auth.bypass) == (False, ("files",))
    assert settings.failover.max_attempts == 2
    assert settings.aliases == {"best": "gpt-4o"}
    assert settings.default_models == {"images_generations": "gpt-image-2"}
    assert settings.channels == (
        Channel(
            name="main",
            provider="openai",
            base_url="https://api.openai.com/v1",
            keys=["env:KEY", "sk-literal"],
            models=("gpt-*",),
            model_mapping={"gpt-3.5-turbo-0301": "gpt-3.5-turbo"},
            priority=10,
            weight=3,
            groups=("default", "vip"),
            timeouts={"connect": 5, "total": None},
            choose_key="least_used",
            passthrough=True,
            paths={"chat": "/chat"},
            headers={"x-team": "blue"},
            proxy="http://proxy:3128",
        ),
    ) or list(settings.channels[0].keys) == ["env:KEY", "sk-literal"]
    alice, bob = settings.access_tokens
    expires = datetime(2027, 1, 31, tzinfo=UTC)
    assert alice == AccessToken.of(
        "sk-alice",
        name="alice",
        user="u1",
        group="vip",
        models=["gpt-*"],
        channels=["main"],
        ips=("10.0.0.0/8",),
        expires=expires,
        enabled=False,
    )
    assert bob.name == "bob"
    assert settings.source == str(file)


def test_the_rows_of_each_table_are_the_fields_of_what_it_becomes() -> None:
    for made, rows in TABLES.values():
        assert set(rows) == {one.name for one in fields(made)}
    assert set(LISTS["channels"]) == {one.name for one in fields(Channel)} - {"upstream"}
    written = {one.name for one in fields(AccessToken) if one.init} | {"token"}
    assert set(LISTS["access_tokens"]) == written


def test_a_flag_goes_over_the_environment_and_that_over_the_file() -> None:
    document = {"server": {"port": 1, "host": "a", "workers": 3}}
    environ = {"LLM_GATEWAY_SERVER_PORT": "2", "LLM_GATEWAY_SERVER_HOST": "b"}
    server = read(document, environ, port=3, host=None).server
    assert (server.port, server.host, server.workers) == (3, "b", 3)


@pytest.mark.parametrize(
    ("variable", "text", "table", "key", "value"),
    [
        (
            "SERVER_CORS_ORIGINS",
            "https://a, https://b",
            "server",
            "cors_origins",
            ("https://a", "https://b"),
        ),
        ("SERVER_CORS_ORIGINS", '["https://a"]', "server", "cors_origins", ("https://a",)),
        ("SERVER_MAX_BODY_MB", "0.5", "server", "max_body_mb", 0.5),
        ("SERVER_LOG_LEVEL", "error", "server", "log_level", "error"),
        ("AUTH_ANONYMOUS", "true", "auth", "anonymous", True),
        ("FAILOVER_MAX_ATTEMPTS", "7", "failover", "max_attempts", 7),
    ],
)
def test_any_setting_can_come_from_the_environment(
    variable: str, text: str, table: str, key: str, value: object
) -> None:
    settings = read({}, {f"LLM_GATEWAY_{variable}": text})
    assert getattr(getattr(settings, table), key) == value


def test_lists_and_maps_come_from_the_environment_too() -> None:
    settings = read(
        {"channels": [CHANNEL], "aliases": {"a": "b"}},
        {
            "LLM_GATEWAY_CHANNELS_0_PRIORITY": "7",
            "LLM_GATEWAY_CHANNELS_1_NAME": "second",
            "LLM_GATEWAY_CHANNELS_1_MODELS": "o*",
            "LLM_GATEWAY_CHANNELS_1_TIMEOUTS": "{ idle = 3 }",
            "LLM_GATEWAY_ACCESS_TOKENS_0_NAME": "alice",
            "LLM_GATEWAY_ACCESS_TOKENS_0_TOKEN": "sk-alice",
            "LLM_GATEWAY_ALIASES": '{ "c.1" = "d" }',
        },
    )
    assert [(c.name, c.priority) for c in settings.channels] == [("main", 7), ("second", 0)]
    assert settings.channels[1].timeouts.idle == 3  # type: ignore[union-attr]
    assert [t.name for t in settings.access_tokens] == ["alice"]
    assert settings.aliases == {"a": "b", "c.1": "d"}


def test_more_than_ten_channels_of_the_environment_keep_their_order() -> None:
    environ = {}
    for at in range(12):
        environ[f"LLM_GATEWAY_CHANNELS_{at}_NAME"] = f"c{at}"
        environ[f"LLM_GATEWAY_CHANNELS_{at}_MODELS"] = "*"
    assert [c.name for c in read({}, environ).channels] == [f"c{at}" for at in range(12)]


def test_variables_that_others_set_are_left_alone() -> None:
    others = {
        "LLM_GATEWAY_SERVICE_HOST": "10.0.0.1",
        "LLM_GATEWAY_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "LLM_GATEWAY_PORT": "tcp://10.0.0.1:8000",
        "LLM_GATEWAY_SERVER_LOG_DIR": "",
    }
    assert read({}, others) == Settings()


def test_env_stands_for_any_text_and_also_for_numbers() -> None:
    settings = read(
        {
            "server": {"port": "env:PORT", "host": "env:HOST", "cors_origins": ["env:ORIGIN"]},
            "aliases": {"best": "env:BEST"},
        },
        {"PORT": "7000", "HOST": "::1", "ORIGIN": "https://a", "BEST": "gpt-4o"},
    )
    assert (settings.server.port, settings.server.host) == (7000, "::1")
    assert settings.server.cors_origins == ("https://a",)
    assert settings.aliases == {"best": "gpt-4o"}


def test_keys_are_not_read_before_the_start() -> None:
    channel = {**CHANNEL, "keys": ["env:NOT_THERE", "file:/not/there"]}
    assert list(read({"channels": [channel]}).channels[0].keys) == [  # type: ignore[arg-type]
        "env:NOT_THERE",
        "file:/not/there",
    ]


def test_relative_key_files_lie_beside_the_settings_file(tmp_path: Path) -> None:
    (tmp_path / "token.txt").write_text("sk-from-file\n")
    file = tmp_path / "gateway.toml"
    file.write_text(
        '[[channels]]\nname = "a"\nmodels = ["*"]\nkeys = ["file:keys.txt", "file:/abs"]\n'
        '[[access_tokens]]\nname = "t"\ntoken = "file:token.txt"\n'
    )
    settings = read_settings(file, environ={})
    assert list(settings.channels[0].keys) == [  # type: ignore[arg-type]
        f"file:{tmp_path / 'keys.txt'}",
        "file:/abs",
    ]
    assert settings.access_tokens[0].sha256 == AccessToken.of("sk-from-file", name="t").sha256


@pytest.mark.parametrize("variable", ["LLM_GATEWAY_ACCESS_TOKEN", "INITIAL_ROOT_TOKEN"])
def test_a_root_token_comes_from_the_environment(variable: str) -> None:
    (token,) = read({}, {variable: "sk-root"}).access_tokens
    assert (token.name, token.sha256) == ("root", AccessToken.of("sk-root", name="root").sha256)


def test_no_repr_shows_a_secret() -> None:
    settings = read(
        {
            "channels": [
                {
                    **CHANNEL,
                    "keys": ["sk-provider-secret"],
                    "headers": {"x-key": "sk-header-secret"},
                    "proxy": "http://user:sk-proxy-secret@proxy",
                }
            ],
            "access_tokens": [{"name": "alice", "token": "sk-caller-secret"}],
        }
    )
    shown = repr(settings) + repr(settings.channels) + repr(settings.access_tokens)
    assert "secret" not in shown
    assert settings.access_tokens[0].sha256 not in shown
