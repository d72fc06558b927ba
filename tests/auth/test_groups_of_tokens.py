"""A token's groups: one, or several that are tried in order; and the switch for pinning."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_llm_gateway.auth import AccessToken
from asgi_llm_gateway.errors import ConfigurationError
from tests.auth.doors import door, knock


@pytest.mark.parametrize(
    ("fields", "groups"),
    [
        ({}, ("default",)),
        ({"group": "vip"}, ("vip",)),
        ({"groups": ["vip"]}, ("vip",)),
        ({"groups": ["vip", "default"]}, ("vip", "default")),
        ({"groups": ("a", "b", "a")}, ("a", "b")),
        ({"group": "a", "groups": ["a", "b"]}, ("a", "b")),
    ],
)
async def test_the_caller_has_the_token_s_groups_in_order(
    fields: dict[str, Any], groups: tuple[str, ...]
) -> None:
    app, inside = door(access_tokens={"sk-alice": {"name": "alice", **fields}})
    assert (await knock(app)).status == 200
    caller = inside.exchange.caller
    assert (caller.groups, caller.group) == (groups, groups[0])


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"groups": []}, "groups is empty; give group alone"),
        ({"groups": "vip"}, "groups is a list"),
        ({"groups": ["a", ""]}, "groups: ''"),
        ({"groups": ["a", 1]}, "groups: 1"),
        ({"group": "b", "groups": ["a", "b"]}, "group is the first of groups"),
        ({"pin": "yes"}, "pin is true or false"),
        ({"pin": 1}, "pin is true or false"),
    ],
)
def test_groups_and_pins_that_cannot_work_are_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        AccessToken.from_mapping("sk-alice", {"name": "alice", **fields})


def test_a_rotation_keeps_groups_and_pin() -> None:
    token = AccessToken.of("sk-old", name="a", groups=["x", "y"], pin=True)
    new = token.rotated("sk-new", until=2_000_000_000)
    assert (new.caller.groups, new.pin) == (("x", "y"), True)
