"""What every token store promises."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from hashlib import sha256

import pytest

from asgi_llm_gateway.auth import AccessToken, MemoryTokenStore, TokenStore

Make = Callable[[Iterable[AccessToken]], Awaitable[TokenStore]]


async def in_memory(tokens: Iterable[AccessToken]) -> TokenStore:
    return MemoryTokenStore(tokens)


@pytest.fixture(params=[in_memory])
def make(request: pytest.FixtureRequest) -> Make:
    chosen: Make = request.param
    return chosen


def digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


ALICE = AccessToken.of(
    "sk-alice",
    name="alice",
    user="u-1",
    group="vip",
    models=["gpt-*", "o1"],
    channels=["main"],
    ips=["10.0.0.0/8", "2001:db8::/32"],
    expires=1_900_000_000,
)
BOB = AccessToken.of("sk-bob", name="bob", enabled=False)


async def test_a_token_is_found_by_the_hash_of_its_secret_with_all_its_fields(make: Make):
    store = await make([ALICE, BOB])
    found = await store.get(digest("sk-alice"))
    assert found is not None
    assert found.caller == ALICE.caller
    assert found.networks == ALICE.networks
    assert found.is_good(1_899_999_999)
    assert not found.is_good(1_900_000_001)


async def test_what_is_no_whole_hash_of_a_known_secret_finds_nothing(make: Make):
    store = await make([ALICE, BOB])
    whole = digest("sk-alice")
    for wrong in (digest("sk-eve"), whole[:-1], whole[:20], whole + "0", "", "*", "sk-alice"):
        assert await store.get(wrong) is None


async def test_a_token_that_is_switched_off_is_found_and_says_so(make: Make):
    store = await make([ALICE, BOB])
    found = await store.get(digest("sk-bob"))
    assert found is not None
    assert not found.enabled


async def test_a_token_is_also_found_by_the_hash_of_the_secret_before(make: Make):
    token = ALICE.rotated("sk-alice-2", until=1_850_000_000)
    store = await make([token])
    for secret in ("sk-alice", "sk-alice-2"):
        found = await store.get(digest(secret))
        assert found is not None
        assert found.caller.token_id == digest("sk-alice-2")
        assert found.belongs_to(digest(secret), 1_849_999_999)


async def test_an_empty_store_knows_nobody(make: Make):
    store = await make([])
    assert await store.get(digest("sk-alice")) is None


def test_the_memory_store_changes_its_tokens_all_at_once():
    store = MemoryTokenStore([ALICE])
    store.swap([BOB])
    assert len(store) == 1
    assert store.find(ALICE.sha256) is None
    assert store.find(BOB.sha256) is BOB
