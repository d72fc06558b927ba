"""What a store or a callable said is believed for a short while, and never for too long."""

from __future__ import annotations

from typing import Any

from asgi_llm_gateway.auth import AccessToken
from asgi_llm_gateway.auth.cache import ResultCache
from asgi_llm_gateway.errors import Unavailable
from asgi_llm_gateway.exchange import Caller
from tests.auth.doors import Hand, door, knock


class Slow:
    """A store that counts how often it is asked."""

    def __init__(self, *tokens: AccessToken) -> None:
        self.tokens = {token.sha256: token for token in tokens}
        self.asked = 0
        self.down = False

    async def get(self, sha256: str) -> AccessToken | None:
        self.asked += 1
        if self.down:
            raise Unavailable("the token store cannot be reached", retry_after=2)
        return self.tokens.get(sha256)


ALICE = AccessToken.of("sk-alice", name="alice")


async def test_a_good_token_is_asked_for_once_in_a_while():
    store, timer = Slow(ALICE), Hand()
    app, _ = door(store=store, timer=timer)
    for _ in range(3):
        assert (await knock(app)).status == 200
    assert store.asked == 1
    store.tokens.clear()
    timer.now += 4.9
    assert (await knock(app)).status == 200
    timer.now += 0.1
    assert (await knock(app)).status == 401
    assert store.asked == 2


async def test_an_unknown_token_is_forgotten_sooner():
    store, timer = Slow(), Hand()
    app, _ = door(store=store, timer=timer)
    for _ in range(3):
        assert (await knock(app)).status == 401
    assert store.asked == 1
    store.tokens[ALICE.sha256] = ALICE
    timer.now += 1
    assert (await knock(app)).status == 200
    assert store.asked == 2


async def test_what_is_no_credential_is_never_looked_up():
    store = Slow(ALICE)
    app, _ = door(store=store)
    for headers in ([], [("authorization", "Basic xyz")], [("x-api-key", "x" * 2000)]):
        assert (await knock(app, None, headers=headers)).status == 401
    assert store.asked == 0


async def test_zero_seconds_ask_every_time():
    store = Slow(ALICE)
    app, _ = door(store=store, cache_ttl=0, negative_cache_ttl=0)
    for secret in ("sk-alice", "sk-alice", "sk-eve", "sk-eve"):
        await knock(app, secret)
    assert store.asked == 4


async def test_expiry_is_checked_on_every_call_whatever_is_cached():
    clock, timer = Hand(), Hand(0)
    store = Slow(AccessToken.of("sk-alice", name="alice", expires=clock.now + 2))
    app, _ = door(store=store, clock=clock, timer=timer)
    assert (await knock(app)).status == 200
    clock.now += 2
    assert (await knock(app)).status == 401
    assert store.asked == 1


async def test_a_grace_window_is_checked_on_every_call_whatever_is_cached():
    clock = Hand()
    store = Slow()
    token = ALICE.rotated("sk-new", until=clock.now + 2)
    store.tokens = {ALICE.sha256: token, token.sha256: token}
    app, _ = door(store=store, clock=clock, timer=Hand(0))
    assert (await knock(app, "sk-alice")).status == 200
    clock.now += 2
    assert (await knock(app, "sk-alice")).status == 401
    assert (await knock(app, "sk-new")).status == 200


async def test_addresses_are_checked_on_every_call_whatever_is_cached():
    store = Slow(AccessToken.of("sk-alice", name="alice", ips=["10.0.0.0/8"]))
    app, _ = door(store=store)
    assert (await knock(app, client=("10.0.0.1", 1))).status == 200
    assert (await knock(app, client=("11.0.0.1", 1))).status == 403
    assert (await knock(app, client=("10.0.0.2", 1))).status == 200
    assert store.asked == 1


async def test_a_store_that_cannot_be_asked_lets_nobody_in_and_is_asked_again():
    store = Slow(ALICE)
    store.down = True
    app, inside = door(store=store)
    answer = await knock(app)
    assert answer.status == 503
    assert answer.header("retry-after") == "2"
    assert inside.scopes == []
    store.down = False
    assert (await knock(app)).status == 200


async def test_tokens_that_begin_alike_are_never_taken_for_one_another():
    async def authenticate(credential: str, scope: Any) -> Caller | None:
        return Caller(credential[-1], credential) if credential[-1] in "ab" else None

    app, _ = door(authenticate=authenticate)
    begin = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9." + "x" * 200
    for _ in range(2):
        assert (await knock(app, begin + "a")).json == "a"
        assert (await knock(app, begin + "b")).json == "b"
        assert (await knock(app, begin + "c")).status == 401


def test_a_flood_of_bad_credentials_stays_bounded_and_pushes_no_good_one_out():
    cache: ResultCache[str] = ResultCache(size=3, negative_size=50, timer=Hand(0))
    cache.put("good", "alice")
    for number in range(10_000):
        cache.put(f"bad{number}", None)
    assert len(cache) == 51
    assert cache.good("good") == "alice"
    assert cache.bad("bad9999")
    assert not cache.bad("bad0")


def test_the_oldest_good_ones_make_room_and_what_is_over_is_dropped():
    timer = Hand(0)
    cache: ResultCache[str] = ResultCache(10, 1, size=2, timer=timer)
    for name in ("a", "b", "a", "c"):
        cache.put(name, name)
    assert [cache.good(name) for name in ("a", "b", "c")] == ["a", None, "c"]
    timer.now = 10
    cache.put("d", "d")
    assert len(cache) == 1
    assert cache.good("a") is None


def test_the_last_answer_counts():
    cache: ResultCache[str] = ResultCache(timer=Hand(0))
    cache.put("x", None)
    cache.put("x", "alice")
    assert (cache.good("x"), cache.bad("x")) == ("alice", False)
    cache.put("x", None)
    assert (cache.good("x"), cache.bad("x")) == (None, True)
