"""[failover], [health], [[error_rules]], [state], [keys], [crypto]: from a file and from the
environment alike, and what is said of what cannot work."""

from __future__ import annotations

import tomllib
from base64 import b64encode
from typing import Any

import pytest

from asgi_llm_gateway.errors import ConfigurationError
from asgi_llm_gateway.gateway import Gateway
from asgi_llm_gateway.settings import Settings, live_channels, read_settings
from asgi_llm_gateway.settings.running import failover_of, upkeep_of
from asgi_llm_gateway.settings.tables import LISTS, TABLES

SEAL = b64encode(b"s" * 32).decode()
BASE = """
[auth]
anonymous = true
[[channels]]
name = "main"
provider = "openai"
keys = ["sk-1"]
models = ["*"]
"""
WRITTEN: dict[str, dict[str, str]] = {
    "failover": {
        "max_attempts": "7",
        "time_budget": '"2m"',
        "first_wait": '"250ms"',
        "wait_factor": "3",
        "longest_wait": "4",
        "retry_after_max": '"1h"',
        "retry_budget": "0.5",
        "fallback_models": '{ a = ["b", "c"] }',
        "context_fallbacks": '{ a = ["d"] }',
        "content_fallbacks": '{ a = ["e"] }',
        "errors": '"one-api"',
        "strategy": '"latency"',
        "affinity": '["user"]',
        "stream_recovery": '"splice"',
        "keep_alive": '"5s"',
        "hedge": "true",
        "tell": "false",
        "test_every": '"10m"',
        "test_all": "true",
    },
    "health": {
        "failures": "3",
        "window_calls": "30",
        "window_seconds": '"2m"',
        "least_calls": "4",
        "success_below": "0.7",
        "slow_call": '"5s"',
        "slow_above": "0.9",
        "first_open": "1",
        "factor": "3",
        "longest_open": '"1m"',
        "jitter": "0.1",
        "probe_lease": "5",
        "calm": '"5m"',
        "longest_asked": '"2m"',
        "recovery": '"test"',
        "slow_test": "4",
    },
    "state": {
        "store": '"redis://localhost:6379/3"',
        "timeout": "0.5",
        "on_failure": '"closed"',
    },
    "keys": {"sweep": "false", "concurrency": "2", "state_file": '"tokens.json"'},
    "crypto": {"keys": f'["{SEAL}"]'},
}
CHANNEL: dict[str, str] = {
    "key_limits": '{ concurrency = 1, rpm = 60, time_zone = "Europe/Berlin" }',
    "credential": '"refresh_token"',
    "token_exchange": '{ token_url = "https://t.test", rotates = false }',
    "cost": "0.5",
    "model_timeouts": '{ "o*" = { first_token = 120, idle = false } }',
    "billing": '"deepseek"',
    "billing_urls": '{ balance = "https://b.test" }',
    "test_model": '"gpt-4o-mini"',
    "enabled": "false",
}
RULE: dict[str, str] = {
    "name": '"mine"',
    "status": '[418, "5xx"]',
    "kind": '"refused"',
    "code": '["teapot", "kettle"]',
    "type": '"t"',
    "message": '"re:^try later"',
    "here": "true",
    "elsewhere": "true",
    "health": '"cooldown"',
    "scope": '"channel"',
    "billable": "true",
    "fallback": '"context"',
    "cooldown": '"30s"',
}


def read(text: str, environ: dict[str, str] | None = None) -> Settings:
    return read_settings(tomllib.loads(text), environ=environ or {})


def in_file(rows: dict[str, str]) -> str:
    return "".join(f"{name} = {value}\n" for name, value in rows.items())


def plain(value: str) -> str:
    """A value as one would put it into a variable: a text without its quotes."""
    return value.strip('"')


@pytest.mark.parametrize("table", sorted(WRITTEN))
def test_a_table_is_the_same_from_a_file_and_from_the_environment(table: str) -> None:
    rows = WRITTEN[table]
    assert set(rows) == set(TABLES[table][1])
    environ = {f"LLM_GATEWAY_{table.upper()}_{k.upper()}": plain(v) for k, v in rows.items()}
    by_file = read(f"{BASE}[{table}]\n{in_file(rows)}")
    by_environment = read(BASE, environ)
    assert getattr(by_file, table) == getattr(by_environment, table)
    assert getattr(by_file, table) != getattr(read(BASE), table)


def test_a_channel_is_the_same_from_a_file_and_from_the_environment() -> None:
    environ = {f"LLM_GATEWAY_CHANNELS_0_{k.upper()}": plain(v) for k, v in CHANNEL.items()}
    by_file, by_environment = read(BASE + in_file(CHANNEL)), read(BASE, environ)
    assert by_file.channels == by_environment.channels
    assert by_file.channels[0].model_timeouts == {"o*": {"first_token": 120, "idle": None}}
    live_channels(by_file, {})


def test_an_error_row_is_the_same_from_a_file_and_from_the_environment() -> None:
    assert set(RULE) == set(LISTS["error_rules"])
    environ = {f"LLM_GATEWAY_ERROR_RULES_0_{k.upper()}": plain(v) for k, v in RULE.items()}
    by_file, by_environment = read(f"{BASE}[[error_rules]]\n{in_file(RULE)}"), read(BASE, environ)
    table = failover_of(by_file).table()
    assert table._own == failover_of(by_environment).table()._own


def test_every_setting_arrives() -> None:
    rows = "".join(f"[{table}]\n{in_file(rows)}" for table, rows in WRITTEN.items())
    settings = read(BASE + rows)
    made = failover_of(settings)
    assert (made.max_attempts, made.time_budget, made.retry_after_max) == (7, 120.0, 3600.0)
    assert (made.backoff.first, made.backoff.factor, made.backoff.cap) == (0.25, 3, 4.0)
    assert made.fallback_models == {"a": ["b", "c"]}
    assert made.health is not None
    rules = made.health
    assert (rules.failures, rules.window_seconds, rules.recovery) == (3, 120.0, "test")
    assert (rules.calm, rules.slow_test, rules.least_calls) == (300.0, 4.0, 4)
    upkeep = upkeep_of(settings)
    assert (upkeep.sweep, upkeep.concurrency, upkeep.seal is None) == (None, 2, False)


def test_health_changes_single_numbers_of_the_preset_that_errors_names() -> None:
    settings = read(f'{BASE}[failover]\nerrors = "one-api"\n[health]\nslow_test = "9s"\n')
    rules = failover_of(settings).health_rules()
    assert (rules.window_calls, rules.success_below, rules.slow_test) == (10, 0.8, 9.0)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("[health]\nfailures = -1", "health.failures must be a whole number from 0"),
        ("[health]\nfalures = 3", "health.falures is not a setting; did you mean failures?"),
        ('[health]\ncalm = "soon"', "health.calm must be a duration like"),
        ("[health]\njitter = 2", "health.jitter must be a number from 0 to 1"),
        ('[health]\nrecovery = "never"', "health: recovery cannot be 'never'"),
        ("[health]\nleast_calls = 90", "health: least_calls cannot be above window_calls"),
        ("[[error_rules]]\nhere = true", "error_rules[0] says for no error what it means"),
        ("[[error_rules]]\nstatus = 418", "error_rules[0] changes nothing"),
        ("[[error_rules]]\nstatus = 99\nhere = true", "error_rules[0]: 99 is no status"),
        ("[[error_rules]]\nstats = 418", "error_rules[0].stats is not a setting; did you mean"),
        ('[[error_rules]]\nmessage = "re:("\nhere = true', "error_rules[0]: 're:(' is no regular"),
        (
            '[[error_rules]]\nmessage = "re:(a+)+"\nhere = true',
            "error_rules[0]: 're:(a+)+' repeats",
        ),
        ('[failover]\nerrors = "onepai"', "failover.errors is one of default, new-api, one-api"),
        ('[failover]\nstrategy = "best"', "failover.strategy is one of cheapest"),
        ('[failover]\nstream_recovery = "x"', "failover.stream_recovery is one of buffer"),
        ("[failover]\ntime_budget = 0", "failover.time_budget must be above 0 seconds"),
        ('[failover]\naffinity = ["moon"]', "affinity knows header:NAME"),
        (
            '[failover]\nfallback_models = { a = "b" }',
            "failover.fallback_models must be a table of",
        ),
        ('[state]\nstore = "mongo://x"', "state.store: "),
        ('[state]\non_failure = "shut"', "state.on_failure must be one of open, closed"),
        ('[crypto]\nkeys = ["short"]', "crypto.keys: "),
        ("[keys]\nconcurrency = 0", "keys.concurrency must be a whole number from 1"),
        ('[aliases]\na = "b"\nb = "a"', "aliases: 'a' -> 'b' -> 'a' goes in a circle"),
    ],
)
def test_what_cannot_work_is_one_line_that_names_it(written: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        live_channels(read(f"{BASE}{written}\n"), {})
    assert refusal.value.message.startswith(f"settings: {said}")
    assert "\n" not in refusal.value.message


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("key_limits = { rmp = 3 }", "key_limits has 'rmp'; known are concurrency, rpm"),
        ("key_limits = { rpm = 1.5 }", "key_limits.rpm must be a whole number"),
        ('key_limits = { wait = "5s" }', "key_limits.wait must be a number of seconds"),
        ("key_limits = { time_zone = 3 }", "key_limits.time_zone must be a text"),
        ("key_limits = { concurrency = 0 }", "key_limits: concurrency of a key must be at least 1"),
        ('model_timeouts = { "o*" = { idel = 3 } }', "model_timeouts of 'o*': timeouts has 'idel'"),
        ('model_timeouts = { "o*" = { idle = 0 } }', "model_timeouts of 'o*': timeouts.idle must"),
        ('credential = "token"', "credential is one of key, refresh_token, client_credentials"),
        ('credential = "refresh_token"', "credential = 'refresh_token' needs a token_url"),
        ('credential = "caller"', 'credential = "caller" has no keys of its own'),
        ('billing = "paypal"', "billing is one of dashboard"),
        ("token_exchange = { url = 3 }", "token_exchange: there is no field 'url'"),
        (
            'model_mapping = { a = "b", b = "a" }',
            "model_mapping: 'a' -> 'b' -> 'a' goes in a circle",
        ),
    ],
)
def test_what_is_wrong_with_a_channel_is_one_line_that_names_it(written: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        live_channels(read(f"{BASE}{written}\n"), {})
    message = refusal.value.message.removeprefix("settings: ").removeprefix("channels[0]: ")
    assert message.startswith(f"channel 'main': {said}")
    assert "\n" not in message


def test_a_reload_that_could_not_start_anew_is_refused() -> None:
    document: dict[str, Any] = tomllib.loads(BASE)
    gateway = Gateway.from_settings(document, environ={})
    for wrong in (
        {"health": {"recovery": "never"}},
        {"error_rules": [{"status": 418}]},
        {"crypto": {"keys": ["short"]}},
        {"state": {"store": "mongo://x"}},
        {"aliases": {"a": "b", "b": "a"}},
    ):
        with pytest.raises(ConfigurationError):
            gateway.reload({**document, **wrong})
    gateway.reload(document)


def test_a_secret_may_stand_in_the_environment_however_deep_it_is_written() -> None:
    written = 'credential = "refresh_token"\n' + (
        'token_exchange = { token_url = "https://t.test", rotates = false, '
        'params = { client_secret = "env:SECRET" } }\n'
    )
    settings = read(BASE + written, {"SECRET": "s3"})
    assert settings.channels[0].token_exchange["params"] == {"client_secret": "s3"}
    with pytest.raises(ConfigurationError) as refusal:
        read(BASE + written)
    assert refusal.value.message == (
        "settings: channels[0].token_exchange: the environment variable SECRET is not set; set it"
    )
