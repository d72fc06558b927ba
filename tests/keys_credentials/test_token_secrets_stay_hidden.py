"""Neither keys nor tokens nor client secrets are in a repr, a log line or an error."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from asgi_llm_gateway.errors import GatewayError
from asgi_llm_gateway.keys.credentials import (
    CallerKeys,
    Exchanged,
    ExchangedCredentials,
    FileTokens,
    Grant,
    TokenExchange,
)
from asgi_llm_gateway.keys.key import Key
from tests.keys_credentials.token_host import FIRST, Clock, TokenHost

HIDDEN = (FIRST, "rt-1", "rt-2", "at-1", "at-2", "client-secret-1", "url-secret-1", "head-secret-1")


def shows(text: str) -> list[str]:
    return [secret for secret in HIDDEN if secret in text]


def exchange(**how: Any) -> TokenExchange:
    given: dict[str, Any] = {
        "token_url": "https://auth.test/token?key=url-secret-1",
        "client_id": "app",
        "client_secret": "client-secret-1",
        "headers": {"x-key": "head-secret-1"},
        "params": {"also": "head-secret-1"},
    }
    return TokenExchange(**{**given, **how})


@pytest.mark.parametrize("body", ["form", "json", "query"])
def test_no_repr_shows_one(body: str) -> None:
    things: list[Any] = [
        exchange(body=body),
        exchange(body=body).exchange_request(FIRST),
        Exchanged("at-1", 1.0, "rt-1"),
        Grant("at-1", 2.0, 1.0, "rt-1"),
        Key(FIRST),
    ]
    for thing in things:
        assert shows(repr(thing)) == []
        assert shows(str(thing)) == []


async def test_no_log_line_and_no_error_shows_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    host, clock = TokenHost(rotates=True), Clock()
    tokens = FileTokens(tmp_path / "t")
    credentials = ExchangedCredentials(
        exchange(), host.upstream(), tokens, clock=clock.wall, ticks=clock.ticks, second_look=0.0
    )
    key = Key(FIRST)
    echo = {"error": FIRST, "error_description": FIRST, "access_token": "at-1"}
    host.faults = [500, 503, (400, echo), f"<html>{FIRST}".encode(), (401, echo), ("hang", b"")]
    credentials._replacing.timeout = 0.1
    shown: list[str] = []
    for step in range(12):
        if step == 9:
            host.known.clear()
        try:
            await credentials.secret(key)
        except GatewayError as failure:
            shown.append("".join(traceback.format_exception(failure)))
            shown.append(repr(failure))
        clock.seconds += 3700
    assert len(shown) == 2 * (6 + 3)
    assert any("KeyRevoked" in text for text in shown)
    await credentials.aclose()
    shown += [caplog.text, repr(credentials), repr(tokens)]
    assert [shows(text) for text in shown] == [[]] * len(shown)
    assert key.fingerprint in caplog.text


async def test_a_callers_bearer_is_in_none_either(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    keys = CallerKeys()
    key = await keys.take(SimpleNamespace(bearer=FIRST))
    assert key is not None
    await keys.remove(key, "the provider answered 401")
    assert shows(repr(keys) + repr(key) + caplog.text) == []
    assert key.fingerprint in caplog.text
