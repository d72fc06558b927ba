"""Whatever stands in a setting: it works, or one line names the file, the setting and the fix."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from asgi_llm_gateway.errors import ConfigurationError
from asgi_llm_gateway.gateway import Gateway
from asgi_llm_gateway.settings import live_channels, read_settings
from asgi_llm_gateway.settings.tables import LISTS, MAPS, TABLES

SECRET = "sk-never-shown-1111"
VALUES: tuple[Any, ...] = (
    True,
    False,
    -1,
    0,
    1.5,
    10**400,
    math.nan,
    math.inf,
    "",
    "x",
    "60s",
    [],
    [1],
    [["x"]],
    ["x", "x"],
    {},
    {"x": 1},
    {"x": "y"},
    {"x": []},
    {"x": {"y": "z"}},
    {"x": {"idle": "60s"}},
    {"idle": "60s"},
    {"wait": -1, "zone": 7},
    datetime(2027, 1, 1, tzinfo=UTC),
)
MORE: Mapping[str, tuple[Any, ...]] = {
    "key_limits": tuple(
        {name: value}
        for name in (
            "concurrency",
            "rpm",
            "tpm",
            "rpd",
            "tpd",
            "wait",
            "lease",
            "reset_hour",
            "time_zone",
        )
        for value in (*VALUES, "Europe/Nowhere", 25)
    ),
    "token_exchange": tuple({"token_url": "https://t.test", "form": value} for value in VALUES),
    "model_timeouts": tuple({"o*": {"idle": value}} for value in VALUES),
    "credential": ("refresh_token", "client_credentials", "exchange", "caller"),
    "base_url": ("https://u:p@host", "ftp://host", "https://host:99999", "https://[", "host/{x}"),
    "billing": ("none", "openai", "deepseek", "nonsense"),
}
CHANNEL = {"name": "main", "provider": "openai", "keys": [SECRET], "models": ["*"]}


def documents() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The table and key, and a document that is good but for this value."""
    whole = {"auth": {"anonymous": True}, "channels": [CHANNEL]}
    for table, (_, keys) in TABLES.items():
        for key in keys:
            for value in VALUES:
                yield table, key, {**whole, table: {**whole.get(table, {}), key: value}}  # type: ignore[dict-item]
    for key in LISTS["channels"]:
        for value in (*VALUES, *MORE.get(key, ())):
            yield "channels[0]", key, {**whole, "channels": [{**CHANNEL, key: value}]}
    for key in LISTS["error_rules"]:
        for value in VALUES:
            row = {"status": [418], "elsewhere": True, key: value}
            yield "error_rules[0]", key, {**whole, "error_rules": [row]}
    for key in LISTS["access_tokens"]:
        for value in VALUES:
            row = {"name": "bob", "token": SECRET, key: value}
            yield "access_tokens[0]", key, {**whole, "auth": {}, "access_tokens": [row]}
    for name in MAPS:
        for value in VALUES:
            yield name, "", {**whole, name: value}


ALL = list(documents())
PLACES = sorted({(table, key) for table, key, _ in ALL})


def refusal(document: Mapping[str, Any], environ: Mapping[str, str]) -> str | None:
    """What a start says of it; None when it works."""
    try:
        settings = read_settings(document, environ=environ)
        live_channels(settings, environ)
        Gateway.from_settings(document, environ=environ)
    except ConfigurationError as problem:
        return problem.message
    return None


@pytest.mark.parametrize(("table", "key"), PLACES)
def test_a_value_works_or_is_refused_in_one_line_that_names_it(
    table: str, key: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for where, name, document in ALL:
        if (where, name) != (table, key):
            continue
        said = refusal(document, {})
        if said is None:
            continue
        lines = said.splitlines()
        assert SECRET not in said
        assert all(line.startswith("settings: ") for line in lines), said
        named = [line for line in lines if (key or table) in line or "main" in line]
        assert named, (said, document)
