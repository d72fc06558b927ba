"""Parts stand in the order they were given, and an order that cannot work is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
from starlette.middleware import Middleware

from asgi_llm_gateway import ConfigurationError, Gateway
from asgi_llm_gateway.gateway.compose import ROLES
from tests.gateway.toys import Opened, channel, chat


def part(role: str | None) -> type[Any]:
    class Part:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app(scope, receive, send)

    Part.__name__ = f"{(role or 'plain').title()}Part"
    if role:
        Part.role = role  # type: ignore[attr-defined]
    return Part


def lines(*roles: str | None) -> list[Middleware]:
    return [Middleware(part(role)) for role in roles]


def test_every_role_in_the_order_of_the_design_is_accepted() -> None:
    gateway = Gateway([channel()], middleware=lines(*ROLES))
    assert [getattr(p, "role", None) for p in gateway.parts] == list(ROLES)


def test_parts_may_be_left_out_and_may_stand_twice() -> None:
    Gateway([channel()], middleware=lines("auth", "ratelimit", "ratelimit", "cache"))


def test_classes_without_a_role_or_with_one_of_their_own_may_stand_anywhere() -> None:
    Gateway([channel()], middleware=lines(None, "telemetry", "mine", "auth", None, "cache", None))


@pytest.mark.parametrize("at", range(len(ROLES) - 1))
def test_two_parts_the_wrong_way_round_are_refused_by_their_lines(at: int) -> None:
    outer, inner = ROLES[at], ROLES[at + 1]
    message = re.escape(
        f"middleware[2] ({outer.title()}Part) must stand before middleware[0] ({inner.title()}Part)"
    )
    with pytest.raises(ConfigurationError, match=message):
        Gateway([channel()], middleware=lines(inner, None, outer))


def test_a_class_without_its_middleware_line_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match=r"middleware\[0\] must be starlette's Middleware"):
        Gateway([channel()], middleware=[part("auth")])  # type: ignore[list-item]


async def test_the_first_line_is_the_outermost_part() -> None:
    diary: list[str] = []
    gateway = Gateway(
        [channel()],
        middleware=[Middleware(Opened, name=name, diary=diary) for name in ("outer", "inner")],
    )
    async with gateway:
        assert (await chat(gateway)).status == 200
    called = [line for line in diary if line.endswith("called")]
    assert called == ["outer called", "inner called"]
