"""What a failed attempt means: a table of rows, looked up. Pure.

The user's rows are asked first, then the preset's; the first row that fits is the verdict.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from ..errors import (
    BadAnswer,
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
    GatewayError,
    KeyRevoked,
    KeysBusy,
    PoolTimeout,
    ProviderRefused,
    UpstreamError,
    UpstreamTimeout,
)
from .error_class import ErrorClass, ErrorRule, Facts
from .error_facts import said_in
from .error_rows import Override, override
from .preset_default import OWN
from .presets import PRESETS

_KINDS: Final[tuple[tuple[type[GatewayError], str], ...]] = (
    (ConnectFailed, "connect"),
    (ConnectionLost, "lost"),
    (PoolTimeout, "busy"),
    (BadAnswer, "bad_answer"),
    (KeyRevoked, "revoked"),
    (UpstreamError, "upstream"),
    (KeysBusy, "keys_busy"),
)

_STATUS_OF_TYPE: Final[Mapping[str, int]] = {
    # Anthropic: https://docs.anthropic.com/en/api/errors
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
    # Google's names of google.rpc.Code
    "invalid_argument": 400,
    "failed_precondition": 400,
    "out_of_range": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "aborted": 409,
    "resource_exhausted": 429,
    "internal": 500,
    "unavailable": 503,
    "deadline_exceeded": 504,
}
"""The status an error would have come with, had it not come with 200."""

_LEAD: Final = 64
"""Bytes in which a web page begins with its first tag."""
_TOO_SHORT: Final = 8
"""A model's name of fewer letters may be a part of any word."""
_BORDERS: Final = re.compile(r"[/:@]")
_MODEL: Final = "[model]"


class ErrorTable:
    """A preset with rows of the user's own on top.

        table = ErrorTable("default", [{"status": [418], "elsewhere": True}])
        verdict = table.classify(failure)

    A row is an ErrorRule, or a table as settings write it: what such a row does not say stays as
    the preset has it. Raises ConfigurationError for an unknown preset or a row that cannot work.
    """

    def __init__(
        self, preset: str = "default", rules: Sequence[ErrorRule | Mapping[str, Any]] = ()
    ) -> None:
        if preset not in PRESETS:
            known = ", ".join(PRESETS)
            raise ConfigurationError(f"the error presets are {known}, not {preset!r}")
        self._preset = PRESETS[preset]
        self._own: tuple[ErrorRule | Override, ...] = tuple(
            rule if isinstance(rule, ErrorRule) else override(rule, f"error_rules[{at}]")
            for at, rule in enumerate(rules)
        )

    def classify(
        self, failure: GatewayError, *, model: str = "", passed: bool = False
    ) -> ErrorClass:
        """The verdict on an attempt that failed.

        `model` is the provider's name of the model: callers choose it and providers repeat it in
        their messages, so it is taken out of them before their words are read. `passed`: the call
        was passed through, to a path of the caller's choice.
        """
        facts = facts_of(failure, model=model, passed=passed)
        for rule in self._own:
            if rule.match.fits(facts):
                if isinstance(rule, ErrorRule):
                    return rule.verdict
                return rule.onto(self._by_preset(facts))
        return self._by_preset(facts)

    def _by_preset(self, facts: Facts) -> ErrorClass:
        for rule in self._preset:
            if rule.match.fits(facts):
                return rule.verdict
        return OWN


def facts_of(failure: GatewayError, *, model: str = "", passed: bool = False) -> Facts:
    """What a failure is, as rows are matched against it."""
    if isinstance(failure, ProviderRefused):
        facts = _of_refusal(failure, model.lower())
        return replace(facts, kinds=(*facts.kinds, "passed")) if passed else facts
    if isinstance(failure, UpstreamTimeout):
        return Facts(("timeout", f"timeout.{failure.phase}"))
    for kind, name in _KINDS:
        if isinstance(failure, kind):
            return Facts((name,))
    return Facts(("own",))


def _of_refusal(failure: ProviderRefused, model: str) -> Facts:
    said = said_in(failure.body)
    messages = tuple(_without(model, message) for message in said.messages)
    kind, status = "refused", failure.status
    # Only an error inside an answer of status 200 comes without the answer's headers.
    if not failure.headers:
        kind = "error_200"
        if status == 502:
            status = _status_in(said.codes, said.types)
    kinds = (kind, "web_page") if failure.body[:_LEAD].lstrip()[:1] == b"<" else (kind,)
    return Facts(kinds, status, tuple(said.codes), tuple(said.types), messages)


def _without(model: str, message: str) -> str:
    """The message without the model's name: as it is, as providers trim it, and each of its parts,
    for there are providers that take off what stands before a slash or after a colon."""
    for name in dict.fromkeys(map(str.strip, (model, *_BORDERS.split(model)))):
        if len(name) >= _TOO_SHORT:
            message = message.replace(name, _MODEL)
        elif name:  # no part of another word
            message = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", _MODEL, message)
    return message


def _status_in(codes: Mapping[str, None], types: Mapping[str, None]) -> int:
    for code in codes:
        if code.isdecimal() and len(code) == 3 and 400 <= int(code) <= 599:
            return int(code)
    return next((_STATUS_OF_TYPE[name] for name in types if name in _STATUS_OF_TYPE), 502)
