"""Browsers of other origins, outside of authentication."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_llm_gateway.auth.cors import EXPOSED, cors
from asgi_llm_gateway.errors import ConfigurationError
from tests.auth.doors import door, knock

OURS = "https://chat.example"


def preflight(origin: str, **more: str) -> list[tuple[str, str]]:
    asked = {"access-control-request-method": "POST", **more}
    return [("origin", origin), *asked.items()]


async def test_a_preflight_is_answered_without_a_token_for_any_header():
    app, inside = door()
    headers = preflight(OURS, **{"access-control-request-headers": "authorization, x-stainless-os"})
    answer = await knock(cors(app, [OURS]), None, method="OPTIONS", headers=headers)
    assert answer.status == 200
    assert answer.header("access-control-allow-origin") == OURS
    assert answer.header("access-control-allow-headers") == "authorization, x-stainless-os"
    assert "POST" in (answer.header("access-control-allow-methods") or "")
    assert inside.scopes == []


async def test_refusals_and_answers_can_be_read_by_scripts_of_the_origin():
    app, _ = door()
    for token, status in (("sk-eve", 401), ("sk-alice", 200)):
        answer = await knock(cors(app, [OURS]), token, headers=[("origin", OURS)])
        assert answer.status == status
        assert answer.header("access-control-allow-origin") == OURS
        assert answer.header("access-control-expose-headers") == ", ".join(EXPOSED)
        assert answer.header("vary") == "Origin"


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "https://chat.example.evil", "http://chat.example"]
)
async def test_another_origin_gets_no_leave(origin: str):
    app, inside = door()
    open_to_ours = cors(app, [OURS])
    answer = await knock(open_to_ours, None, method="OPTIONS", headers=preflight(origin))
    assert answer.status == 400
    assert answer.header("access-control-allow-origin") is None
    answer = await knock(open_to_ours, headers=[("origin", origin)])
    assert answer.header("access-control-allow-origin") is None
    assert len(inside.scopes) == 1


async def test_open_to_all_never_goes_with_credentials():
    app, _ = door()
    everyone = cors(app, ["*"])
    for how in (
        {"token": None, "method": "OPTIONS", "headers": preflight("https://evil.example")},
        {"headers": [("origin", "https://evil.example"), ("cookie", "a=b")]},
    ):
        answer = await knock(everyone, **how)  # type: ignore[arg-type]
        assert answer.status == 200
        assert answer.header("access-control-allow-credentials") is None


async def test_without_origins_nothing_is_wrapped():
    app, _ = door()
    assert cors(app, []) is app


@pytest.mark.parametrize(
    "origins", ["https://chat.example", ["https://chat.example/"], ["chat.example"],
                ["https://Chat.example"], ["https://u@chat.example"], [""]],
)  # fmt: skip
def test_what_is_no_origin_is_named(origins: Any):
    app, _ = door()
    with pytest.raises(ConfigurationError, match="cors_origins"):
        cors(app, origins)
