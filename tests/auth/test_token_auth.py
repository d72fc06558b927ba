"""Who is let in, who is not, and what those who are not are told."""

from __future__ import annotations

import hmac
import json
from hashlib import sha256
from typing import Any

import pytest

from asgi_llm_gateway.auth import AccessToken, MemoryTokenStore, TokenAuthMiddleware
from asgi_llm_gateway.errors import ConfigurationError
from asgi_llm_gateway.exchange import Exchange
from tests.auth.doors import CHAT, Hand, Inside, door, knock


async def test_a_good_token_is_let_in_and_every_part_inside_knows_the_caller():
    app, inside = door(access_tokens={"sk-alice": {"name": "alice", "group": "vip"}})
    answer = await knock(app, body=b'{"model": "m"}')
    assert (answer.status, answer.json) == (200, "alice")
    caller = inside.exchange.caller
    assert caller is not None
    assert (caller.group, caller.token_id) == ("vip", sha256(b"sk-alice").hexdigest())
    assert inside.bodies == [b'{"model": "m"}']


@pytest.mark.parametrize(
    "header",
    [
        ("authorization", "bearer sk-alice"),
        ("authorization", "sk-alice"),
        ("x-api-key", "sk-alice"),
        ("api-key", "sk-alice"),
        ("x-goog-api-key", "sk-alice"),
    ],
)
async def test_every_sdk_s_way_of_showing_the_token_works(header: tuple[str, str]):
    app, _ = door()
    assert (await knock(app, None, headers=[header])).status == 200


async def test_the_query_is_looked_at_on_gemini_routes_only():
    app, _ = door()
    gemini = "/v1beta/models/gemini-2.5-flash:generateContent"
    assert (await knock(app, None, path=gemini, query=b"key=sk-alice")).status == 200
    assert (await knock(app, None, path=gemini, query=b"key=sk-eve")).status == 401
    assert (await knock(app, None, path=CHAT, query=b"key=sk-alice")).status == 401


NOW = 1_800_000_000.0
KNOWN = [
    AccessToken.of("sk-alice", name="alice"),
    AccessToken.of("sk-off", name="off", enabled=False),
    AccessToken.of("sk-over", name="over", expires=NOW),
    AccessToken.of("sk-both", name="both", expires=NOW, enabled=False, ips=["10.0.0.0/8"]),
    AccessToken.of("sk-old", name="moved").rotated("sk-moved", until=NOW),
    AccessToken.of("sk-off-elsewhere", name="off", enabled=False, ips=["10.0.0.0/8"]),
]
BAD: list[list[tuple[str, str | bytes]]] = [
    [],
    [("authorization", "")],
    [("authorization", "Bearer")],
    [("authorization", "Bearer sk-unknown")],
    [("authorization", "Bearer sk-alic")],
    [("authorization", "Bearer sk-alicee")],
    [("authorization", "Bearer SK-ALICE")],
    [("authorization", "Bearer sk-off")],
    [("authorization", "Bearer sk-over")],
    [("authorization", "Bearer sk-both")],
    [("authorization", "Bearer sk-old")],
    [("authorization", "Bearer sk-off-elsewhere")],
    [("authorization", "Basic c2stYWxpY2U6")],
    [("authorization", b"Bearer sk-\xff")],
    [("authorization", "Bearer " + "x" * 5000)],
    [("authorization", "Bearer sk-alice"), ("authorization", "Bearer sk-alice")],
    [("authorization", "Bearer " + sha256(b"sk-alice").hexdigest())],
    [("authorization", "Bearer sha256:" + sha256(b"sk-alice").hexdigest())],
    [("x-api-key", "sk-off")],
    [("x-api-key", "")],
    [("cookie", "access_token=sk-alice")],
]


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1beta/models/g:generateContent"])
@pytest.mark.parametrize("where", ["access_tokens", "store", "asked store"])
async def test_no_refusal_says_what_was_wrong_with_the_token(path: str, where: str):
    memory = MemoryTokenStore(KNOWN)

    class Asked:
        async def get(self, sha256: str) -> AccessToken | None:
            return memory.find(sha256)

    how: dict[str, Any] = {"access_tokens": {"access_tokens": KNOWN}, "store": {"store": memory}}
    app, inside = door(**how.get(where, {"store": Asked()}), clock=Hand(NOW))
    answers = set()
    for headers in BAD:
        answer = await knock(app, None, path=path, headers=[*headers, ("x-request-id", "r-1")])
        answers.add((answer.status, tuple(answer.headers), answer.body))
    assert len(answers) == 1
    status, _, body = answers.pop()
    assert status == 401
    assert b"Authorization: Bearer" in body
    assert inside.scopes == []


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        (CHAT, ("error", "type", "authentication_error")),
        ("/v1/messages", ("error", "type", "authentication_error")),
        ("/v1beta/models/g:generateContent", ("error", "status", "UNAUTHENTICATED")),
        ("/v1/nothing/here", ("error", "code", "invalid_api_key")),
    ],
)
async def test_a_refusal_speaks_the_caller_s_dialect(path: str, shape: tuple[str, str, str]):
    app, _ = door()
    answer = await knock(app, "sk-eve", path=path, headers=[("x-request-id", "abc")])
    outer, member, value = shape
    assert answer.json[outer][member] == value
    assert answer.header("content-type") == "application/json"
    assert answer.header("www-authenticate") == "Bearer"
    assert answer.header("x-request-id") == "abc"
    assert b"sk-eve" not in answer.body
    assert (answer.exchange.outcome, answer.exchange.status) == ("refused", 401)


async def test_a_refusal_does_not_read_the_body():
    app, _ = door()
    answer = await knock(app, None, body=[b"x" * 1000] * 50)
    assert answer.status == 401
    assert answer.received == []


async def test_a_token_without_a_list_of_models_lets_the_body_through_unread():
    seen: list[Any] = []

    async def lazy(scope: Any, receive: Any, send: Any) -> None:
        seen.append(Exchange.of(scope).body)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    app = TokenAuthMiddleware(lazy, access_tokens={"sk-alice": {"name": "alice"}})
    answer = await knock(app, body=b"{not json")
    assert answer.status == 204
    assert answer.received == []
    assert seen == [None]


async def test_the_hash_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch):
    compared: list[tuple[str, str]] = []

    def spy(left: str, right: str) -> bool:
        compared.append((left, right))
        return hmac.compare_digest(left, right)

    monkeypatch.setattr("asgi_llm_gateway.auth.token.compare_digest", spy)
    app, _ = door()
    assert (await knock(app)).status == 200
    whole = sha256(b"sk-alice").hexdigest()
    assert compared == [(whole, whole)]


async def test_a_store_that_finds_another_s_token_lets_nobody_in():
    class Confused:
        async def get(self, sha256: str) -> AccessToken | None:
            return KNOWN[0]

    app, inside = door(store=Confused())
    assert (await knock(app, "sk-eve")).status == 401
    assert (await knock(app, "sk-alice")).status == 200
    assert len(inside.scopes) == 1


async def test_during_a_rotation_both_secrets_are_the_same_caller():
    clock = Hand(NOW)
    token = AccessToken.of("sk-old", name="alice").rotated("sk-new", until=NOW + 60)
    app, inside = door(access_tokens=[token], clock=clock)
    for secret in ("sk-old", "sk-new"):
        assert (await knock(app, secret)).status == 200
        assert inside.exchange.caller is token.caller
    clock.now += 60
    assert (await knock(app, "sk-old")).status == 401
    assert (await knock(app, "sk-new")).status == 200


async def test_a_token_stops_working_the_moment_it_expires():
    clock = Hand(NOW)
    app, _ = door(access_tokens={"sk-alice": {"name": "alice", "expires": NOW + 10}}, clock=clock)
    assert (await knock(app)).status == 200
    clock.now += 10
    assert (await knock(app)).status == 401


async def test_no_tokens_at_all_means_nobody_is_let_in():
    app, inside = door(access_tokens={})
    assert (await knock(app)).status == 401
    assert inside.scopes == []


async def test_tokens_swapped_in_a_memory_store_count_from_the_next_call_on():
    store = MemoryTokenStore(KNOWN)
    app, _ = door(store=store)
    assert (await knock(app)).status == 200
    store.swap([])
    assert (await knock(app)).status == 401


async def test_of_two_in_a_row_the_inner_one_decides_too():
    inner, inside = door(access_tokens={"sk-alice": {"name": "inner"}})
    both = {"sk-alice": {"name": "outer"}, "sk-bob": {"name": "bob"}}
    app = TokenAuthMiddleware(inner, access_tokens=both)
    assert (await knock(app, "sk-bob")).status == 401
    answer = await knock(app, "sk-alice")
    assert answer.json == "inner"
    assert len(inside.scopes) == 1


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"access_tokens": {}, "store": MemoryTokenStore()},
        {"access_tokens": {"sk-alice": {"name": "alice"}}, "store": MemoryTokenStore()},
    ],
)
def test_it_is_told_in_exactly_one_way_who_is_known(how: dict[str, Any]):
    with pytest.raises(ConfigurationError, match="exactly one of"):
        TokenAuthMiddleware(Inside(), **how)


@pytest.mark.parametrize("how", [{"prefixes": "/v1"}, {"bypass": "files"}])
def test_a_list_that_is_a_text_is_refused(how: dict[str, Any]):
    with pytest.raises(ConfigurationError, match="is a list"):
        door(**how)


async def test_a_secret_never_appears_in_what_is_told_or_logged(caplog: pytest.LogCaptureFixture):
    caplog.set_level(0)
    app, _ = door(access_tokens=KNOWN, clock=Hand(NOW))
    for secret in ("sk-off", "sk-unknown-secret"):
        answer = await knock(app, secret)
        told = answer.body + repr(answer.headers).encode() + caplog.text.encode()
        assert secret.encode() not in told
        assert json.loads(answer.body)
    assert "sk-alice" not in repr(app) + repr(vars(app))
