"""What an access token is made of, and what it cannot be made of."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest

from asgi_llm_gateway.auth import AccessToken, MemoryTokenStore
from asgi_llm_gateway.auth.token import new_token
from asgi_llm_gateway.errors import ConfigurationError

NOW = 1_800_000_000.0


def digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def test_only_the_hash_of_a_secret_is_kept_and_shown_nowhere():
    token = AccessToken.of("sk-alice-secret", name="alice")
    assert token.sha256 == digest("sk-alice-secret")
    assert "secret" not in repr(token)
    assert token.sha256 not in repr(token)


def test_the_caller_is_what_parts_see_of_the_token():
    token = AccessToken.of(
        "sk-alice", name="alice", user="u1", group="vip", models=["gpt-*"], channels=["main"]
    )
    caller = token.caller
    assert (caller.name, caller.user, caller.group) == ("alice", "u1", "vip")
    assert (caller.models, caller.channels) == (("gpt-*",), ("main",))
    assert caller.token_id == digest("sk-alice")
    assert token.caller is caller


def test_new_tokens_are_long_differ_and_can_be_used():
    first, second = new_token(), new_token("team-")
    assert first.startswith("sk-")
    assert second.startswith("team-")
    assert len(first) > 40
    assert first[3:] != second[5:]
    assert AccessToken.of(first, name="a").sha256 == digest(first)


@pytest.mark.parametrize(
    "expires",
    [
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2026, 1, 1, 2, tzinfo=UTC).astimezone(),
        "2026-01-01T00:00:00Z",
        "2026-01-01T02:00:00+02:00",
        1_767_225_600,
        1_767_225_600.5,
    ],
)
def test_an_expiry_is_a_moment_however_it_is_written(expires: Any):
    token = AccessToken.of("sk-a", name="a", expires=expires)
    assert token.is_good(1_767_225_599)
    assert not token.is_good(1_767_232_801)


def test_a_token_without_expiry_never_expires_and_one_switched_off_is_never_good():
    assert AccessToken.of("sk-a", name="a").is_good(1e15)
    assert not AccessToken.of("sk-a", name="a", enabled=False).is_good(NOW)


def test_a_token_is_over_at_the_very_second_it_expires():
    token = AccessToken.of("sk-a", name="a", expires=NOW)
    assert token.is_good(NOW - 0.001)
    assert not token.is_good(NOW)


def test_after_a_rotation_the_old_secret_is_good_until_the_grace_ends():
    old = AccessToken.of("sk-old", name="a", group="vip")
    token = old.rotated("sk-new", until=NOW + 60)
    assert token.group == "vip"
    assert token.belongs_to(digest("sk-new"), NOW + 1000)
    assert token.belongs_to(digest("sk-old"), NOW + 59)
    assert not token.belongs_to(digest("sk-old"), NOW + 60)
    assert not token.belongs_to(digest("sk-other"), NOW)


@pytest.mark.parametrize(
    ("secret", "says"),
    [
        ("", "3 to 1024"),
        ("sk", "3 to 1024"),
        ("x" * 1025, "3 to 1024"),
        (None, "3 to 1024"),
        (b"sk-alice", "3 to 1024"),
        ("sk alice", "space"),
        ("sk-al\x00ice", "no HTTP header"),
        ("sk-al\r\nice", "no HTTP header"),
        ("sk-älice", "no HTTP header"),
        ("env:ALICE", "hand in the secret"),
        ("file:alice.txt", "hand in the secret"),
    ],
)
def test_a_secret_nobody_can_or_should_use_is_refused_without_repeating_it(secret: Any, says: str):
    with pytest.raises(ConfigurationError, match=says) as refused:
        AccessToken.of(secret, name="alice")
    assert "'alice'" in refused.value.message
    if secret and len(secret) > 2 and ":" not in str(secret):
        assert str(secret) not in refused.value.message


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"model": ["gpt-4"]}, "no field 'model'"),
        ({"quota": 1, "zebra": 2}, "no field 'quota'"),
        ({"ips": ["10.0.0.0/33"]}, "ips: '10.0.0.0/33'"),
        ({"ips": ["10.0.0.1/8"]}, "write 10.0.0.0/8"),
        ({"ips": ["home"]}, "ips: 'home'"),
        ({"ips": [167772160]}, "ips: 167772160"),
        ({"ips": "10.0.0.0/8"}, r"ips is a list; put '10.0.0.0/8' in \[ \]"),
        ({"ips": []}, "ips is empty"),
        ({"models": "gpt-4"}, "models is a list"),
        ({"models": []}, "models is empty"),
        ({"models": [4]}, "models: 4"),
        ({"channels": 1}, "channels is a list"),
        ({"channels": []}, "channels is empty"),
        ({"expires": "tomorrow"}, "expires: 'tomorrow'"),
        ({"expires": "2030-01-01"}, "expires: 2030-01-01 00:00:00 has no time zone"),
        ({"expires": datetime(2030, 1, 1)}, "no time zone"),
        ({"expires": -1}, "expires: -1"),
        ({"expires": True}, "expires: True"),
        ({"expires": float("nan")}, "expires: nan"),
        ({"expires": 1_800_000_000_000}, "expires: 1800000000000"),
        ({"enabled": "yes"}, "enabled is true or false"),
        ({"name": ""}, "name is a text"),
        ({"name": "a\nb"}, "name is a text"),
        ({"name": 5}, "name is a text"),
        ({"group": ""}, "group is a text"),
        ({"user": "\x00"}, "user is a text"),
        ({"previous": "ab" * 32}, "come together"),
        ({"previous_until": NOW}, "come together"),
        ({"previous": "sk-old", "previous_until": NOW}, "previous is the SHA-256"),
    ],
)
def test_a_field_that_cannot_work_is_named_with_its_token(fields: dict[str, Any], says: str):
    with pytest.raises(ConfigurationError, match=says) as refused:
        AccessToken.from_mapping("sk-alice", {"name": "alice", **fields})
    assert refused.value.message.startswith("access token ")
    assert "sk-alice" not in refused.value.message


def test_a_settings_table_names_its_secret_by_itself_or_by_hash():
    by_token = AccessToken.from_mapping(None, {"name": "a", "token": "sk-alice"})
    by_hash = AccessToken.from_mapping(None, {"name": "a", "sha256": digest("sk-alice").upper()})
    by_prefix = AccessToken.from_mapping("sha256:" + digest("sk-alice"), {"name": "a"})
    assert by_token == by_hash == by_prefix


@pytest.mark.parametrize(
    ("secret", "fields", "says"),
    [
        (None, {"name": "a"}, "needs token or sha256"),
        (
            None,
            {"name": "a", "token": "sk-a", "sha256": "ab" * 32},
            "has both token and sha256; drop one",
        ),
        ("sk-a", {"name": "a", "token": "sk-b"}, "given twice"),
        ("sk-a", {}, "no name"),
        (None, {"name": "a", "sha256": "abc"}, "64 hexadecimal"),
        (None, {"name": "a", "sha256": digest("")}, "empty text"),
        ("sha256:zz", {"name": "a"}, "64 hexadecimal"),
        (7, {"name": "a"}, "3 to 1024"),
    ],
)
def test_a_table_with_no_secret_or_two_is_refused(secret: Any, fields: dict[str, Any], says: str):
    with pytest.raises(ConfigurationError, match=says):
        AccessToken.from_mapping(secret, fields)


def test_two_tokens_cannot_have_one_secret_not_even_a_replaced_one():
    alice = AccessToken.of("sk-old", name="alice").rotated("sk-alice", until=NOW)
    with pytest.raises(ConfigurationError, match="'alice' and 'bob' have the same secret"):
        MemoryTokenStore([alice, AccessToken.of("sk-old", name="bob")])


@pytest.mark.parametrize("given", [{"sk-alice": "alice"}, ["sk-alice"], "sk-alice"])
def test_an_access_token_that_is_not_described_by_a_table_is_refused(given: Any):
    with pytest.raises(ConfigurationError, match=r"\"name\": \"alice\""):
        MemoryTokenStore.of(given)
