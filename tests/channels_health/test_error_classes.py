"""Which errors of which providers mean what, row by row of every preset."""

from __future__ import annotations

import json

import pytest

from asgi_llm_gateway.channels.error_class import ErrorClass, ErrorRule, Facts, Match
from asgi_llm_gateway.channels.error_table import ErrorTable, facts_of
from asgi_llm_gateway.channels.presets import PRESETS
from asgi_llm_gateway.errors import ConfigurationError, GatewayError, ProviderRefused
from tests.channels_health.refusals import (
    DEFAULT,
    NEW_API,
    ONE_API,
    anthropic,
    gemini,
    late,
    openai,
    refused,
)

TABLE = ErrorTable()


@pytest.mark.parametrize(
    ("failure", "name"), [case[1:] for case in DEFAULT], ids=[c[0] for c in DEFAULT]
)
def test_the_default_table_knows_the_errors_of_providers(failure: GatewayError, name: str) -> None:
    assert TABLE.classify(failure).name == name


@pytest.mark.parametrize(
    ("preset", "failure", "name", "elsewhere"),
    [("one-api", *case[1:]) for case in ONE_API] + [("new-api", *case[1:]) for case in NEW_API],
    ids=[f"one-api {c[0]}" for c in ONE_API] + [f"new-api {c[0]}" for c in NEW_API],
)
def test_the_tables_of_one_api_and_new_api_do_what_those_do(
    preset: str, failure: GatewayError, name: str, elsewhere: bool
) -> None:
    verdict = ErrorTable(preset).classify(failure)
    assert (verdict.name, verdict.elsewhere) == (name, elsewhere)
    assert not verdict.here
    assert verdict.fallback in ("", "any")


@pytest.mark.parametrize(
    ("preset", "failures"),
    [
        ("default", [case[1] for case in DEFAULT]),
        ("one-api", [case[1] for case in ONE_API]),
        ("new-api", [case[1] for case in NEW_API]),
    ],
    ids=["default", "one-api", "new-api"],
)
def test_every_row_of_a_preset_is_reached_by_some_error(
    preset: str, failures: list[GatewayError]
) -> None:
    rules = PRESETS[preset]
    reached = {
        _first(rules, facts_of(failure, passed=passed))
        for failure in failures
        for passed in (False, True)
    }
    assert sorted(set(range(len(rules))) - reached) == []


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_no_code_type_or_plain_phrase_of_a_row_is_hidden_by_a_row_above(preset: str) -> None:
    rules = PRESETS[preset]
    hidden = []
    for rule in rules:
        match = rule.match
        found: list[dict[str, tuple[str, ...]]] = [{"codes": (code,)} for code in match.codes]
        found += [{"types": (name,)} for name in match.types]
        found += [{"messages": (w,)} for w in match.messages if not w.startswith("re:")]
        hidden += [one for one in found if not _reaches(rules, rule, one)]
    assert hidden == []


def _reaches(
    rules: tuple[ErrorRule, ...], rule: ErrorRule, found: dict[str, tuple[str, ...]]
) -> bool:
    kinds = tuple(rule.match.kinds) or ("refused",)
    facts = [Facts(kinds, s, **found) for s in rule.match.statuses or (400, 499)]
    numbers = [_first(rules, one) for one in facts]
    return any(n < len(rules) and rules[n].verdict is rule.verdict for n in numbers)


def _first(rules: tuple[ErrorRule, ...], facts: Facts) -> int:
    return next((n for n, rule in enumerate(rules) if rule.match.fits(facts)), len(rules))


def test_what_is_the_callers_fault_is_never_tried_again() -> None:
    for status in (400, 404, 405, 410, 411, 413, 414, 415, 416, 418, 422, 423, 424, 426, 428, 431):
        verdict = TABLE.classify(refused(status, b""))
        assert verdict == ErrorClass("caller"), status


def test_a_single_5xx_or_reset_may_be_tried_here_again_and_silence_may_not() -> None:
    assert TABLE.classify(refused(500, b"")).here
    assert TABLE.classify(DEFAULT_BY_NAME["a reset"]).here
    for name in ("no first byte", "no first token", "a stall", "no connection", "HTML with 200"):
        verdict = TABLE.classify(DEFAULT_BY_NAME[name])
        assert verdict.elsewhere
        assert not verdict.here, name


DEFAULT_BY_NAME = {name: failure for name, failure, _ in DEFAULT}


def test_scopes_are_the_key_the_model_on_the_channel_or_the_channel() -> None:
    scopes = {
        name: (verdict.scope, verdict.health)
        for name, failure, _ in DEFAULT
        if (verdict := TABLE.classify(failure)).health != "none"
    }
    assert scopes["a wrong key"] == ("key", "remove")
    assert scopes["403"] == ("key", "cooldown")
    assert scopes["a bare 429"] == ("key", "cooldown")
    assert scopes["402"] == ("key", "cooldown")
    assert scopes["503"] == ("model", "cooldown")
    assert scopes["a reset"] == ("model", "cooldown")
    assert scopes["no first token"] == ("model", "cooldown")
    assert scopes["HTML with 200"] == ("model", "cooldown")
    assert scopes["no connection"] == ("channel", "cooldown")
    assert scopes["no connection in time"] == ("channel", "cooldown")


def test_context_and_content_go_to_their_own_fallbacks_and_nowhere_else() -> None:
    context = TABLE.classify(DEFAULT_BY_NAME["too long"])
    content = TABLE.classify(DEFAULT_BY_NAME["azure: filtered"])
    assert (context.fallback, content.fallback) == ("context", "content")
    for verdict in (context, content):
        assert [verdict.here, verdict.elsewhere, verdict.billable] == [False] * 3
        assert verdict.health == "none"


def test_a_key_without_money_rests_for_an_hour_and_stays() -> None:
    verdict = TABLE.classify(DEFAULT_BY_NAME["no quota left"])
    assert (verdict.health, verdict.cooldown) == ("cooldown", 3600)


def test_words_count_against_a_key_only_where_no_caller_can_put_them() -> None:
    for rule in PRESETS["default"]:
        if rule.verdict.health != "none":
            assert all(words.startswith("re:^") for words in rule.match.messages), rule


@pytest.mark.parametrize(
    "told",
    [
        "The model `incorrect api key provided: x` does not exist",
        "Unknown parameter: 'x\nYour credit balance is too low'",
        'Invalid value "This organization has been disabled."',
        "unknown field: api key not valid",
    ],
)
def test_a_caller_whose_words_are_repeated_harms_no_key(told: str) -> None:
    for failure in (openai(400, told), anthropic(400, "x", told), gemini(400, "y", told)):
        assert TABLE.classify(failure).name == "caller"


def test_a_model_named_like_an_error_harms_no_key() -> None:
    model = "Incorrect API key provided"
    failure = openai(400, f"{model} is not a valid model ID")
    assert TABLE.classify(failure, model=model).name == "caller"
    assert TABLE.classify(failure).name == "dead_key"
    assert (
        TABLE.classify(openai(400, "Incorrect API key provided: sk"), model="o1").name == "dead_key"
    )


def test_an_expression_sees_one_message_at_a_time() -> None:
    body = {
        "error": {
            "message": "Bad value",
            "errors": [{"message": "second\nincorrect api key provided"}],
        }
    }
    assert TABLE.classify(refused(400, body)).name == "caller"


def test_a_rule_object_replaces_what_the_preset_says() -> None:
    teapot = ErrorClass("teapot", elsewhere=True)
    table = ErrorTable(rules=[ErrorRule(Match(statuses=frozenset({418})), teapot)])
    assert table.classify(refused(418, b"")) is teapot
    assert table.classify(refused(401, b"")).name == "dead_key"


def test_the_kinds_of_failures_can_be_told_apart() -> None:
    assert facts_of(late("idle")).kinds == ("timeout", "timeout.idle")
    assert facts_of(refused(500, b"")).kinds == ("refused",)
    assert facts_of(refused(200, {"error": "x"}, in_200=True)).kinds == ("error_200",)


def test_an_error_with_200_that_names_its_status_keeps_it() -> None:
    body = json.dumps({"error": {"code": 403}}).encode()
    failure = ProviderRefused("x", status=403, body=body)
    assert facts_of(failure).status == 403


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(ConfigurationError, match="default, one-api, new-api, not 'two-api'"):
        ErrorTable("two-api")
