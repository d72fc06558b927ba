"""The settings, shell commands and tables of settings in README and docs are the program's own."""

from __future__ import annotations

import base64
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from asgi_llm_gateway import AccessToken, Channel, Timeouts
from asgi_llm_gateway.channels.policy import Failover
from asgi_llm_gateway.cli.command import parser
from asgi_llm_gateway.keys.credentials import CREDENTIALS, TokenExchange
from asgi_llm_gateway.keys.limits import KeyLimits
from asgi_llm_gateway.keys.upkeep import Upkeep
from asgi_llm_gateway.settings import live_channels, read_settings
from asgi_llm_gateway.settings.running import failover_of, state_of, upkeep_of
from asgi_llm_gateway.settings.tables import LISTS, MAPS, TABLES
from asgi_llm_gateway.state import StoreURL
from tests.docs.pages import (
    PAGES,
    ROOT,
    blocks,
    default_of,
    defaults,
    table,
    told_defaults,
    word,
    words,
)

SETTINGS = [(page.name, block) for page in PAGES for block in blocks(page, "toml")]
COMMANDS = [
    (page.name, line)
    for page in PAGES
    for block in blocks(page, "sh")
    for line in block.splitlines()
    if line.startswith("llm-gateway")
]
SECRET = base64.b64encode(b"fits a key of any kind: 32 bytes").decode()


@pytest.mark.parametrize(("page", "text"), SETTINGS, ids=[page for page, _ in SETTINGS])
def test_settings_on_a_page_can_be_read(page: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(text, encoding="utf-8")
    for name in re.findall(r"file:([\w.-]+)", text):
        (tmp_path / name).write_text("secret-one\nsecret-two\n")
    environ = dict.fromkeys(re.findall(r"env:(\w+)", text), SECRET)
    settings = read_settings(file, environ=environ)
    failover_of(settings)
    state_of(settings)
    upkeep_of(settings)
    if settings.channels:
        assert len(live_channels(settings, environ)) == len(settings.channels)


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[line for _, line in COMMANDS])
def test_commands_on_a_page_can_be_typed(page: str, line: str) -> None:
    typed = shlex.split(line.partition(" < ")[0].partition(" | ")[0], comments=True)
    assert parser().parse_args(typed[1:]).module


def test_every_table_of_settings_is_listed() -> None:
    listed = {word(row[0]) for row in table("table")}
    assert listed == {f"[{name}]" for name in (*TABLES, *MAPS)} | {f"[[{name}]]" for name in LISTS}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_tells_every_setting_and_its_default(name: str) -> None:
    holder, kinds = TABLES[name]
    told = told_defaults(table(f"`[{name}]`"))
    for setting, kind in kinds.items():
        if kind.becomes is not None and told.get(setting) is not None:
            told[setting] = kind.becomes(told[setting])
    assert told == defaults(holder)


def test_the_table_of_channels_tells_every_setting_and_its_default() -> None:
    told = told_defaults(table("`[[channels]]`"))
    assert told.keys() == LISTS["channels"].keys()
    real = defaults(Channel)
    for name, plain in {"keys": [], "models": [], "groups": ["default"]}.items():
        assert list(real[name]) == plain == told[name]
    for name, plain in {"timeouts": Timeouts(), "key_limits": KeyLimits()}.items():
        assert (real[name], told[name]) == (plain, {})  # a table that changes nothing
    left = told.keys() - {"keys", "models", "groups", "timeouts", "key_limits"}
    assert {name: told[name] for name in left} == {name: real[name] for name in left}


@pytest.mark.parametrize("name", ["access_tokens", "error_rules"])
def test_a_table_names_every_setting_of_a_list(name: str) -> None:
    told = [one for row in table(f"`[[{name}]]`") for one in words(row[0])]
    assert sorted(told) == sorted(LISTS[name])


@pytest.mark.parametrize(
    ("heading", "kind", "but"),
    [
        ("`key_limits`", KeyLimits, {"time_zone": "UTC"}),
        ("`token_exchange`", TokenExchange, {}),
        ("`timeouts`", Timeouts, {}),
    ],
)
def test_a_table_tells_every_argument_and_its_default(
    heading: str, kind: Any, but: dict[str, Any]
) -> None:
    assert told_defaults(table(heading)) == {**defaults(kind), **but}


def test_every_credential_is_told_and_can_be_given_to_a_channel() -> None:
    told = [word(row[0]) for row in table("`credential`")]
    assert sorted(told) == sorted(CREDENTIALS)
    for name in told:
        assert Channel(name="c", models=["*"], credential=name).credential == name


def test_urls_of_stores_can_be_read() -> None:
    urls = [one for row in table("`store`") for cell in row for one in words(cell)]
    for url in urls:
        example = url if url.partition("://")[2] or url == "memory://" else f"{url}host"
        if "+sentinel" in url and example.endswith("://host"):
            example += "/service"
        StoreURL.parse(example)
    assert len(urls) == 8


def test_defaults_in_settings_are_those_in_python() -> None:
    python = {
        field: default_of(Failover.__dataclass_fields__[field]) for field in defaults(Failover)
    }
    settings = defaults(TABLES["failover"][0])
    both = python.keys() & settings.keys()
    assert {name: settings[name] for name in both} == {
        name: list(value) if isinstance(value := python[name], tuple) else value for name in both
    }
    backoff = python["backoff"]
    waits = (settings["first_wait"], settings["wait_factor"], settings["longest_wait"])
    assert (backoff.first, backoff.factor, backoff.cap) == waits
    assert {name: defaults(Upkeep)[name] for name in defaults(TABLES["keys"][0])} == defaults(
        TABLES["keys"][0]
    )


def test_the_example_has_settings_that_are_the_defaults_where_it_says_so() -> None:
    text = (ROOT / "examples/gateway.toml").read_text(encoding="utf-8")
    shown = read_settings(ROOT / "examples/gateway.toml", environ={"ALICE_TOKEN": SECRET})
    assert "max_attempts = 4" in text
    assert shown.failover.max_attempts == Failover().max_attempts
    assert shown.keys == TABLES["keys"][0]()
    assert shown.server == TABLES["server"][0]()
    assert shown.access_tokens[0].name == AccessToken.of(SECRET, name="alice").name
