"""Rows of a user's own on top of a preset."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from asgi_llm_gateway.channels.error_class import statuses_of
from asgi_llm_gateway.channels.error_table import ErrorTable
from asgi_llm_gateway.errors import ConfigurationError
from tests.channels_health.refusals import late, openai, refused


def table(*rows: dict[str, Any]) -> ErrorTable:
    return ErrorTable(rules=rows)


def test_what_a_row_does_not_say_stays_as_the_preset_has_it() -> None:
    changed = table({"status": 429, "cooldown": 60}).classify(refused(429, b""))
    assert changed == replace(ErrorTable().classify(refused(429, b"")), cooldown=60)


def test_the_first_row_that_fits_counts() -> None:
    both = table({"status": [418], "elsewhere": True}, {"status": ["4xx"], "here": True})
    assert both.classify(refused(418, b"")).elsewhere
    assert not both.classify(refused(418, b"")).here
    assert both.classify(refused(404, b"")).here


def test_every_field_that_is_given_must_fit() -> None:
    rules = table({"status": ["5xx"], "message": "try later", "elsewhere": False})
    assert not rules.classify(openai(500, "Please TRY LATER.")).elsewhere
    assert rules.classify(openai(500, "no")).elsewhere
    assert not rules.classify(openai(404, "Please try later")).elsewhere


@pytest.mark.parametrize(
    ("row", "failure"),
    [
        ({"status": 418}, refused(418, b"")),
        ({"status": "418"}, refused(418, b"")),
        ({"status": ["410-420"]}, refused(418, b"")),
        ({"code": "X_1"}, openai(400, code="x_1")),
        ({"code": 1305}, openai(400, code=1305)),
        ({"type": ["A", "B"]}, openai(400, type="b")),
        ({"message": "Kaputt"}, openai(400, "ganz KAPUTT")),
        ({"message": r"re:^ganz\s"}, openai(400, "Ganz kaputt")),
        ({"kind": "timeout"}, late("idle")),
        ({"kind": ["timeout.idle"]}, late("idle")),
        ({"kind": "error_200"}, refused(200, {"error": "x"}, in_200=True)),
    ],
)
def test_a_row_finds_its_errors(row: dict[str, Any], failure: Any) -> None:
    verdict = table({**row, "name": "mine"}).classify(failure)
    assert verdict.name == "mine"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"statsu": 400}, "error_rules[0]: 'statsu' is no member of a row; did you mean 'status'?"),
        ({"zzz": 400}, "error_rules[0]: 'zzz' is no member of a row; known are status, kind"),
        ({"elsewhere": True}, "error_rules[0] says for no error what it means; give one of status"),
        ({"status": 400}, "error_rules[0] changes nothing; give one of name, here"),
        ({"status": 700, "here": True}, "error_rules[0]: 700 is no status"),
        ({"status": "4yy", "here": True}, "error_rules[0]: '4yy' is no status"),
        ({"status": "500-400", "here": True}, "error_rules[0]: '500-400' is no status"),
        ({"status": [], "here": True}, "error_rules[0]: status must be a text or a list of texts"),
        (
            {"status": True, "here": True},
            "error_rules[0]: status must be a text or a list of texts",
        ),
        (
            {"message": "", "here": True},
            "error_rules[0]: message must be a text or a list of texts",
        ),
        ({"message": "re:(", "here": True}, "error_rules[0]: 're:(' is no regular expression"),
        ({"kind": "teapot", "here": True}, "error_rules[0]: kind 'teapot' is none of refused"),
        ({"status": 400, "here": 1}, "error_rules[0]: here must be true or false, not 1"),
        ({"status": 400, "health": "ill"}, "error_rules[0]: health must be one of none, cooldown"),
        (
            {"status": 400, "scope": "all"},
            "error_rules[0]: scope must be one of key, model, channel",
        ),
        ({"status": 400, "fallback": "x"}, 'error_rules[0]: fallback must be one of "", "any"'),
        ({"status": 400, "fallback": ["any"]}, 'error_rules[0]: fallback must be one of "", "any"'),
        (
            {"status": 400, "cooldown": -1},
            "error_rules[0]: cooldown must be seconds from 0, not -1",
        ),
        ({"status": 400, "cooldown": float("inf")}, "error_rules[0]: cooldown must be seconds"),
    ],
)
def test_a_row_that_cannot_work_is_refused_in_one_line(row: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        table(row)
    assert refusal.value.message.startswith(said)
    assert "\n" not in refusal.value.message


def test_the_row_that_is_wrong_is_named_by_its_number() -> None:
    with pytest.raises(ConfigurationError, match=r"error_rules\[1\]: "):
        table({"status": 418, "here": True}, {"status": 9, "here": True})


def test_statuses_are_numbers_classes_and_ranges() -> None:
    assert statuses_of([429, "500-502"]) == {429, 500, 501, 502}
    assert statuses_of(["5XX"]) == set(range(500, 600))
