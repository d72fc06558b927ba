"""A callable of the host's decides who calls: JWT, OIDC or whatever else it has."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest

from asgi_llm_gateway.auth import AccessToken
from asgi_llm_gateway.errors import AuthenticationFailed, RateLimited
from asgi_llm_gateway.exchange import Caller
from tests.auth.doors import Hand, door, knock

SECRET = b"the host's signing key"
NOW = 1_800_000_000.0


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def jwt(claims: dict[str, Any], *, key: bytes = SECRET, algorithm: str = "HS256") -> str:
    """RFC 7519, signed by RFC 7518's HS256."""
    head = b64(json.dumps({"alg": algorithm, "typ": "JWT"}).encode())
    signed = f"{head}.{b64(json.dumps(claims).encode())}"
    return f"{signed}.{b64(hmac.digest(key, signed.encode(), 'sha256'))}"


async def by_jwt(credential: str, scope: Any) -> AccessToken | None:
    parts = credential.split(".")
    if len(parts) != 3:
        return None
    try:
        head, claims, given = (unb64(part) for part in parts)
        wanted = hmac.digest(SECRET, f"{parts[0]}.{parts[1]}".encode(), "sha256")
        if json.loads(head)["alg"] != "HS256" or not hmac.compare_digest(given, wanted):
            return None
        said = json.loads(claims)
    except (ValueError, KeyError):
        return None
    return AccessToken(
        name=said["sub"],
        sha256=hashlib.sha256(credential.encode()).hexdigest(),
        group=said.get("group", "default"),
        expires=said["exp"],
    )


async def test_a_signed_jwt_is_a_caller_until_it_expires():
    clock = Hand(NOW)
    app, inside = door(authenticate=by_jwt, clock=clock)
    token = jwt({"sub": "alice", "group": "vip", "exp": NOW + 2})
    assert (await knock(app, token)).json == "alice"
    assert inside.exchange.caller is not None
    assert inside.exchange.caller.group == "vip"
    clock.now += 2
    assert (await knock(app, token)).status == 401


@pytest.mark.parametrize(
    "token",
    [
        jwt({"sub": "alice", "exp": NOW + 60}, key=b"somebody else's key"),
        jwt({"sub": "alice", "exp": NOW + 60}, algorithm="none"),
        jwt({"sub": "alice", "exp": NOW - 60}),
        jwt({"sub": "alice", "exp": NOW + 60})[:-2],
        "a.b.c",
        "sk-alice",
    ],
)
async def test_a_jwt_that_is_not_good_is_refused_like_any_token(token: str):
    app, inside = door(authenticate=by_jwt, clock=Hand(NOW))
    answer = await knock(app, token)
    assert answer.status == 401
    assert "no good access token" in answer.json["error"]["message"]
    assert inside.scopes == []


async def test_a_callable_may_name_the_caller_itself():
    bob = Caller("bob", "id-7", group="vip", extra={"tenant": 7})

    async def authenticate(credential: str, scope: Any) -> Caller | None:
        return bob if credential == "let-me-in" and scope["method"] == "POST" else None

    app, inside = door(authenticate=authenticate)
    assert (await knock(app, "let-me-in")).status == 200
    assert inside.exchange.caller is bob
    assert (await knock(app, "else")).status == 401


async def test_a_callable_s_own_refusal_does_not_say_what_was_wrong():
    async def authenticate(credential: str, scope: Any) -> None:
        raise AuthenticationFailed("the signature of this token has expired")

    app, _ = door(authenticate=authenticate)
    answer = await knock(app, "x-y-z")
    assert answer.status == 401
    assert b"signature" not in answer.body


async def test_another_gateway_error_of_a_callable_is_told_to_the_caller():
    async def authenticate(credential: str, scope: Any) -> None:
        raise RateLimited("too many tries", retry_after=30)

    app, _ = door(authenticate=authenticate)
    answer = await knock(app, "x-y-z")
    assert (answer.status, answer.header("retry-after")) == (429, "30")


@pytest.mark.parametrize("result", [True, "alice", {"name": "alice"}, 0, False])
async def test_a_callable_that_returns_something_else_lets_nobody_in(result: Any):
    async def authenticate(credential: str, scope: Any) -> Any:
        return result

    app, inside = door(authenticate=authenticate)
    for _ in range(2):
        answer = await knock(app, "x-y-z")
        assert answer.status == 500
        assert type(result).__name__ in answer.json["error"]["message"]
    assert inside.scopes == []


async def test_a_bug_of_the_callable_lets_nobody_in():
    async def authenticate(credential: str, scope: Any) -> None:
        raise KeyError("sub")

    app, inside = door(authenticate=authenticate)
    with pytest.raises(KeyError):
        await app({"type": "http", "method": "POST", "path": "/v1/chat/completions",
                   "headers": [(b"x-api-key", b"sk-alice")]}, None, None)  # type: ignore[arg-type]  # fmt: skip
    assert inside.scopes == []
