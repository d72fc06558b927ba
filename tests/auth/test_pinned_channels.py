"""A token with `pin` may name the channel to use behind its secret; any other may not."""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llm_gateway.auth import AccessToken, MemoryTokenStore
from asgi_llm_gateway.auth.pinning import MOST, cuts
from asgi_llm_gateway.exchange import Caller
from tests.auth.doors import CHAT, Hand, door, knock

NOW = 1_800_000_000.0
KNOWN = [
    AccessToken.of("sk-root", name="root", pin=True),
    AccessToken.of("sk-root-deep", name="deep", pin=True),
    AccessToken.of("sk-alice", name="alice"),
    AccessToken.of("sk-alice-pins", name="pins", pin=True),
    AccessToken.of("sk-bound", name="bound", pin=True, channels=["main", "other"]),
    AccessToken.of("sk-home", name="home", pin=True, ips=["10.0.0.0/8"]),
    AccessToken.of("sk-off", name="off", pin=True, enabled=False),
    AccessToken.of("sk-over", name="over", pin=True, expires=NOW),
    AccessToken.of("sk-old", name="moved", pin=True).rotated("sk-new", until=NOW + 60),
]


class Asked:
    """A store that has to be awaited, and counts how often it is."""

    def __init__(self, *tokens: AccessToken) -> None:
        self.memory = MemoryTokenStore(tokens or KNOWN)
        self.asked: list[str] = []

    async def get(self, sha256: str) -> AccessToken | None:
        self.asked.append(sha256)
        return self.memory.find(sha256)


def opened(where: str, **how: Any) -> tuple[Any, Any]:
    known: dict[str, Any] = {
        "tokens": {"access_tokens": KNOWN},
        "memory": {"store": MemoryTokenStore(KNOWN)},
        "store": {"store": Asked()},
    }
    return door(**known[where], clock=Hand(NOW), **how)


EVERYWHERE = pytest.mark.parametrize("where", ["tokens", "memory", "store"])


@EVERYWHERE
@pytest.mark.parametrize(
    ("credential", "name", "pinned"),
    [
        ("sk-root", "root", None),
        ("sk-root-main", "root", "main"),
        ("sk-root-my-own.channel_2", "root", "my-own.channel_2"),
        ("sk-root-deep", "deep", None),
        ("sk-root-deep-main", "deep", "main"),
        ("sk-root-deeper", "root", "deeper"),
        ("sk-alice-pins-a", "pins", "a"),
        ("sk-old-main", "moved", "main"),
        ("sk-new-main", "moved", "main"),
        ("sk-root-" + "x" * 64, "root", "x" * 64),
        ("sk-root-a-b-c-d-e-f-g-h", "root", "a-b-c-d-e-f-g-h"),
    ],
)
async def test_the_longest_known_token_decides_and_the_rest_names_the_channel(
    where: str, credential: str, name: str, pinned: str | None
) -> None:
    app, inside = opened(where)
    for _ in range(2):
        assert (await knock(app, credential)).json == name
        caller = inside.exchange.caller
        assert caller is not None
        assert caller.pinned == pinned


@EVERYWHERE
@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key", "x-goog-api-key"])
async def test_a_pin_works_wherever_a_token_is_shown(where: str, header: str) -> None:
    app, inside = opened(where)
    assert (await knock(app, None, headers=[(header, "sk-root-main")])).status == 200
    assert inside.exchange.caller.pinned == "main"


REFUSED = [
    "sk-nobody",
    "sk-nobody-main",
    "sk-alice-main",
    "sk-alice-pinsx",
    "sk-off-main",
    "sk-over-main",
    "sk-root-",
    "sk-root--main",
    "sk-root-.main",
    "sk-root-ma/in",
    "sk-root-" + "x" * 65,
    "sk-root-a-b-c-d-e-f-g-h-i",
    "sk-main",
]


@EVERYWHERE
async def test_a_pin_that_is_not_allowed_is_refused_like_a_token_nobody_knows(where: str) -> None:
    app, inside = opened(where)
    answers = set()
    for credential in REFUSED:
        answer = await knock(app, credential, headers=[("x-request-id", "r-1")])
        answers.add((answer.status, tuple(answer.headers), answer.body))
    assert len(answers) == 1
    assert answers.pop()[0] == 401
    assert inside.scopes == []


@EVERYWHERE
async def test_a_pinned_call_may_come_from_the_token_s_addresses_only(where: str) -> None:
    app, _ = opened(where)
    assert (await knock(app, "sk-home-main", client=("10.0.0.1", 1))).status == 200
    assert (await knock(app, "sk-home-main", client=("11.0.0.1", 1))).status == 403


@EVERYWHERE
async def test_a_token_bound_to_channels_may_pin_only_one_of_them(where: str) -> None:
    app, inside = opened(where)
    assert (await knock(app, "sk-bound-other")).status == 200
    assert inside.exchange.caller.pinned == "other"
    answer = await knock(app, "sk-bound-third")
    assert (answer.status, answer.json["error"]["code"]) == (403, "permission_denied")
    assert len(inside.scopes) == 1


async def test_what_is_pinned_is_the_same_caller_in_everything_else() -> None:
    app, inside = opened("tokens")
    await knock(app, "sk-root")
    plain = inside.exchange.caller
    await knock(app, "sk-root-main")
    pinned = inside.exchange.caller
    assert (pinned.name, pinned.token_id, pinned.groups) == (
        plain.name,
        plain.token_id,
        plain.groups,
    )
    assert plain.pinned is None


async def test_an_old_secret_pins_no_longer_than_it_is_good() -> None:
    clock = Hand(NOW + 60)
    app, _ = door(access_tokens=KNOWN, clock=clock)
    assert (await knock(app, "sk-old-main")).status == 401
    assert (await knock(app, "sk-new-main")).status == 200


async def test_the_token_s_hash_is_compared_in_constant_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[tuple[str, str]] = []

    def spy(left: str, right: str) -> bool:
        compared.append((left, right))
        return hmac.compare_digest(left, right)

    monkeypatch.setattr("asgi_llm_gateway.auth.token.compare_digest", spy)
    app, _ = opened("tokens")
    assert (await knock(app, "sk-root-main")).status == 200
    whole = sha256(b"sk-root").hexdigest()
    assert compared == [(whole, whole)]


# A store's look-ups


async def test_a_store_is_asked_for_a_pinned_token_once_in_a_while() -> None:
    store, timer = Asked(), Hand()
    app, _ = door(store=store, clock=Hand(NOW), timer=timer)
    for channel in ("main", "main", "other"):
        assert (await knock(app, f"sk-root-{channel}")).status == 200
    token = sha256(b"sk-root").hexdigest()
    assert store.asked.count(token) == 1
    assert len(store.asked) == 3  # the two wholes, which nobody has, and the token
    timer.now += 5
    assert (await knock(app, "sk-root-main")).status == 200
    assert store.asked.count(token) == 2


async def test_a_bad_credential_is_looked_up_a_bounded_number_of_times() -> None:
    store = Asked()
    app, _ = door(store=store, clock=Hand(NOW), timer=Hand())
    dashes = "sk-" + "-".join("abcdefghijklmnopqrstuvwxyz" * 10)
    for _ in range(3):
        assert (await knock(app, dashes)).status == 401
    assert len(store.asked) == len(set(store.asked)) == MOST + 1


async def test_without_a_token_that_pins_nothing_more_is_looked_up() -> None:
    looked: list[str] = []

    class Watched(MemoryTokenStore):
        def find(self, sha256: str) -> AccessToken | None:
            looked.append(sha256)
            return super().find(sha256)

    store = Watched([AccessToken.of("sk-alice", name="alice")])
    app, _ = door(store=store)
    assert (await knock(app, "sk-alice-main-main")).status == 401
    assert len(looked) == 1
    store.swap(KNOWN)
    assert (await knock(app, "sk-root-main")).status == 200


async def test_a_callable_is_given_the_whole_and_may_pin_by_itself() -> None:
    seen: list[str] = []

    async def authenticate(credential: str, scope: Any) -> AccessToken | Caller | None:
        seen.append(credential)
        if credential == "sk-root-main":
            return Caller("root", "id-1", pinned="main", channels=("main",))
        if credential == "sk-root-third":
            return Caller("root", "id-1", pinned="third", channels=("main",))
        return KNOWN[0] if credential == "sk-root" else None

    app, inside = door(authenticate=authenticate)
    assert (await knock(app, "sk-root-main")).status == 200
    assert inside.exchange.caller.pinned == "main"
    assert (await knock(app, "sk-root-third")).status == 403
    assert (await knock(app, "sk-root-other")).status == 401
    assert seen == ["sk-root-main", "sk-root-third", "sk-root-other"]


# Cutting a credential


def test_a_credential_is_cut_at_each_dash_the_longest_token_first() -> None:
    assert list(cuts(b"sk-a-b-c.d")) == [(b"sk-a-b", "c.d"), (b"sk-a", "b-c.d")]
    assert list(cuts(b"sk-a")) == []
    assert list(cuts(b"sk-abc-")) == []
    assert list(cuts(b"")) == []


@given(st.text("ab-._", max_size=200), st.from_regex(r"[a-z][a-z.-]{0,6}", fullmatch=True))
def test_a_token_with_any_channel_behind_it_can_be_cut_there(token: str, channel: str) -> None:
    token = "sk-" + token
    found = list(cuts(f"{token}-{channel}".encode()))
    assert len(found) <= MOST
    if channel.count("-") < MOST:
        assert (token.encode(), channel) in found
    assert [len(secret) for secret, _ in found] == sorted((len(s) for s, _ in found), reverse=True)


async def test_a_pin_and_a_path_that_names_a_channel_are_held_to_the_token_s_list() -> None:
    app, _ = opened("tokens")
    path = "/v1/oneapi/proxy/main/x"
    assert (await knock(app, "sk-bound-main", path=CHAT)).status == 200
    assert (await knock(app, "sk-bound-third", path=path)).status == 403
