"""What the pages tell of errors, health, choosing, billing and headers is what the code does."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import pytest

from asgi_llm_gateway.channels.affinity import Affinity
from asgi_llm_gateway.channels.choosing import STRATEGIES
from asgi_llm_gateway.channels.error_class import KINDS, ErrorClass, Facts
from asgi_llm_gateway.channels.health.rules import PRESETS as HEALTH
from asgi_llm_gateway.channels.policy import STREAM_RECOVERIES
from asgi_llm_gateway.channels.preset_default import OWN
from asgi_llm_gateway.channels.presets import PRESETS
from asgi_llm_gateway.keys.billing import WINDOW_DAYS
from asgi_llm_gateway.keys.choosing import CHOOSERS
from asgi_llm_gateway.keys.probes import BILLING, billing_of, probe_named
from asgi_llm_gateway.relay.times import FIRST_TOKEN, TOTAL
from tests.docs.pages import ROOT, table, value, word, words

API = "https://host.example/v1"
CLASSES = {rule.verdict.name: rule.verdict for rule in PRESETS["default"]} | {"own": OWN}
ROWS = table("class")
YES_NO = {"yes": True, "no": False}


def verdict_on(facts: Facts) -> ErrorClass:
    return next((rule.verdict for rule in PRESETS["default"] if rule.match.fits(facts)), OWN)


def facts_of(before: str, seen: str) -> Facts:
    """What a word of the column "seen as" stands for; `before` is the text in front of it."""
    if before.endswith("code "):
        return Facts(("refused",), 400, codes=(seen,))
    if before.endswith("type "):
        return Facts(("refused",), 400, types=(seen,))
    if seen.isdecimal():
        return Facts(("refused",), int(seen))
    assert seen in KINDS
    return Facts((seen.partition(".")[0], seen))


def test_every_class_of_errors_is_told_once() -> None:
    assert sorted(word(row[0]) for row in ROWS) == sorted(CLASSES)


@pytest.mark.parametrize("row", ROWS, ids=[word(row[0]) for row in ROWS])
def test_a_class_of_errors_means_what_its_row_says(row: tuple[str, ...]) -> None:
    name, _, here, elsewhere, health, scope, billable, fallback, rests = row
    assert CLASSES[word(name)] == ErrorClass(
        word(name),
        here=YES_NO[here],
        elsewhere=YES_NO[elsewhere],
        health=health,  # type: ignore[arg-type]
        scope=scope,  # type: ignore[arg-type]
        billable=YES_NO[billable],
        fallback=fallback,  # type: ignore[arg-type]
        cooldown=float(rests or 0),
    )


@pytest.mark.parametrize("row", ROWS, ids=[word(row[0]) for row in ROWS])
def test_a_class_is_that_of_the_errors_in_its_row(row: tuple[str, ...]) -> None:
    for found in re.finditer("`([^`]+)`", row[1]):
        facts = facts_of(row[1][: found.start()], found[1])
        assert verdict_on(facts).name == word(row[0]), found[1]


def test_every_kind_of_failure_is_told() -> None:
    assert [word(row[0]) for row in table("kind")] == list(KINDS)


def test_presets_have_the_numbers_of_health_that_are_told() -> None:
    rows = table("`[health]`")
    for column, preset in enumerate(("default", "one-api", "new-api"), 1):
        told = {word(row[0]): value(row[column]) for row in rows}
        real = {field.name: getattr(HEALTH[preset], field.name) for field in fields(HEALTH[preset])}
        assert told == real
    assert PRESETS.keys() == HEALTH.keys()


@pytest.mark.parametrize(
    ("heading", "known"),
    [
        ("`strategy`", STRATEGIES),
        ("`choose_key`", CHOOSERS),
        ("`stream_recovery`", STREAM_RECOVERIES),
        ("`billing`", BILLING),
    ],
)
def test_a_table_names_everything_there_is(heading: str, known: Any) -> None:
    assert sorted(word(row[0]) for row in table(heading)) == sorted(known)


def test_every_place_of_affinity_is_told() -> None:
    told = [word(row[0]) for row in table("`affinity`")]
    Affinity(told)
    assert len(told) == 1 + len({"conversation", "prompt_cache_key", "user"} & set(told))


@pytest.mark.parametrize("row", table("`billing`"), ids=lambda row: word(row[0]))
def test_billing_asks_the_pages_that_are_told(row: tuple[str, ...]) -> None:
    probe = probe_named(word(row[0]), API)
    asked = [] if probe is None else [getattr(probe, field.name) for field in fields(probe)]  # type: ignore[arg-type]
    assert words(row[1]) == [one for one in asked if isinstance(one, str)]


def test_hosts_have_the_billing_that_is_told() -> None:
    text = (ROOT / "docs/keys.md").read_text(encoding="utf-8")
    told = text[text.index("Unless given, the host decides") :].partition("billing_urls")[0]
    hosts = [one for one in words(told) if "." in one]
    assert len(hosts) == 7
    for host in hosts:
        found = billing_of("custom", f"https://{host}/v1")
        assert (found == "models") == (host == "api.openai.com")
        assert found == "models" or found in host
    for provider in ("openai", "custom"):
        assert billing_of(provider, API) == "dashboard"
    assert billing_of("groq", API) == "models"
    assert f"last {WINDOW_DAYS} days" in text


def test_callers_headers_are_those_the_relay_reads() -> None:
    assert {word(row[0]).encode() for row in table("caller's header")} == {TOTAL, FIRST_TOKEN}


def test_the_map_of_the_house_names_rooms_and_files_that_are_there() -> None:
    house = ROOT / "asgi_llm_gateway"
    for row in table("room"):
        (room,) = words(row[0])
        assert (house / room).is_dir() or (house / f"{room}.py").is_file(), room
        for name in words(row[1]) if room in ("relay", "channels", "keys", "state") else ():
            file = name if name.endswith((".lua", "*", "/")) else f"{name}.py"
            assert any((house / room).glob(file.rstrip("/"))), name
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    for path in re.findall(r"`([\w/*]+/[\w*]+\.py)`", text):
        assert any(house.glob(path)), path
    for path in re.findall(r"`(tests/\w+)`", text):
        assert (ROOT / path).is_dir(), path
