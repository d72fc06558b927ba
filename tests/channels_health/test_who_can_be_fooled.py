"""What a caller makes a provider say takes no key and no channel out of service."""

from __future__ import annotations

import time
from typing import Any

import pytest

from asgi_llm_gateway.channels.error_table import ErrorTable
from asgi_llm_gateway.channels.expressions import LOOKED_AT
from asgi_llm_gateway.errors import ConfigurationError
from tests.channels_health.refusals import openai, refused

DEFAULT = ErrorTable()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("incorrect api key provided", "incorrect api key provided is not a valid model ID"),
        ("  incorrect api key provided ", "incorrect api key provided is not a valid model ID"),
        ("any/incorrect api key provided", "incorrect api key provided is not a valid model ID"),
        ("insufficient balance:free", "Insufficient balance is no model"),
        ("a@b/Invalid API key:x", "invalid api key"),
    ],
)
def test_a_models_name_is_no_error_however_the_provider_repeats_it(model: str, said: str) -> None:
    verdict = DEFAULT.classify(openai(400, said), model=model)
    assert (verdict.name, verdict.health) == ("caller", "none")


def test_a_short_name_is_taken_out_too_and_not_out_of_other_words() -> None:
    table = ErrorTable("one-api")
    assert table.classify(openai(404, "there is no credit"), model="credit").name == "failed"
    assert table.classify(openai(404, "your credits are used up"), model="it").name == "channel_off"
    assert (
        DEFAULT.classify(openai(400, "Incorrect API key provided"), model="in").name == "dead_key"
    )


@pytest.mark.parametrize("preset", ["default", "one-api", "new-api"])
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 500, 503])
def test_what_stands_at_a_path_of_the_callers_choice_says_nothing_of_key_and_channel(
    preset: str, status: int
) -> None:
    table = ErrorTable(preset)
    verdict = table.classify(openai(status, "permission denied, no credit here"), passed=True)
    assert verdict.health == "none"


def test_a_key_that_is_called_wrong_by_its_code_is_dead_on_any_path() -> None:
    verdict = DEFAULT.classify(openai(401, code="invalid_api_key"), passed=True)
    assert verdict.name == "dead_key"


def test_a_row_may_be_about_what_is_passed_through() -> None:
    table = ErrorTable("default", [{"kind": "passed", "status": 401, "health": "remove"}])
    assert table.classify(openai(401), passed=True).health == "remove"


@pytest.mark.parametrize(
    "expression",
    [
        "(a+)+$",
        "(?:a|a)*b",
        "([a-z]+ )*x",
        "(?P<w>a?)+b",
        "(a{0,16}){16}",
        "((a*))+",
        r"(.|\s)*b",
        "(?i:a+){2,}",
        "(?:(?:a|b)c)+",
        "(a?){30}a",
    ],
)
def test_an_expression_that_could_take_for_ever_is_refused_where_it_is_written(
    expression: str,
) -> None:
    with pytest.raises(ConfigurationError, match="can take for ever") as refusal:
        ErrorTable("default", [{"message": f"re:{expression}", "elsewhere": True}])
    assert refusal.value.message.startswith("error_rules[0]: ")


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("^try later", "Try later"),
        (r"quota .*exceeded", "your quota was exceeded"),
        (r"(?:foo|bar) baz+", "bar bazz"),
        (r"\(a+\)+", "(aa)"),
        (r"[(a+)]+x", "(ax"),
        (r"(?:abc){2,5}", "abcabc"),
        (r"(?i)(a|b)?c+", "ccc"),
        (r"(?:a{3})+b", "aaaaaab"),
        (r"[]a+(]+b", "]b"),
        (r"(a+){1}", "a"),
    ],
)
def test_other_expressions_find_what_they_are_about(expression: str, said: str) -> None:
    table = ErrorTable("default", [{"message": f"re:{expression}", "name": "mine"}])
    assert table.classify(openai(400, said)).name == "mine"


def test_an_expression_is_run_over_the_beginning_of_a_message_only() -> None:
    table = ErrorTable("default", [{"message": "re:late$", "name": "mine"}])
    assert table.classify(openai(400, "x" * (LOOKED_AT - 4) + "late")).name == "mine"
    assert table.classify(openai(400, "x" * LOOKED_AT + "late")).name == "caller"


def test_a_clumsy_expression_and_a_long_message_are_over_soon() -> None:
    table = ErrorTable("default", [{"message": r"re:.*quota.*exceeded.*now", "name": "mine"}])
    body: Any = {"error": {"message": "quota exceeded " * 100_000}}
    begun = time.monotonic()
    assert table.classify(refused(400, body)).name == "caller"
    assert time.monotonic() - begun < 5.0
