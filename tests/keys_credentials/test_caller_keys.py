"""Keys that callers bring: used for their own calls, and kept under nothing but a hash."""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace
from typing import Any

import pytest

from asgi_llm_gateway.errors import ConfigurationError, KeysBusy
from asgi_llm_gateway.exchange.record import Exchange
from asgi_llm_gateway.keys.credentials import (
    CallerKeys,
    ExchangedCredentials,
    MemoryTokens,
    PlainCredentials,
    TokenExchange,
)
from asgi_llm_gateway.keys.key import Key
from tests.keys_credentials.token_host import Clock, TokenHost

ALICE, BOB = "rt-alice-00000000", "rt-bob-0000000000"


def by(bearer: Any) -> Any:
    return SimpleNamespace(bearer=bearer)


async def taken(keys: CallerKeys, bearer: str) -> Key:
    key = await keys.take(by(bearer))
    assert key is not None
    return key


def test_an_exchange_has_no_bearer_unless_it_is_given_one() -> None:
    assert Exchange.bearer is None


async def test_the_callers_bearer_is_the_key() -> None:
    keys = CallerKeys()
    key = await taken(keys, ALICE)
    assert await PlainCredentials().secret(key) == ALICE
    assert key.id != (await taken(keys, BOB)).id


@pytest.mark.parametrize("bearer", [None, "", b"bytes", "two words", "a\r\nb: c", "ü", "x" * 9000])
async def test_what_is_no_bearer_is_no_key(bearer: Any) -> None:
    assert await CallerKeys().take(by(bearer)) is None
    assert await CallerKeys().take(object()) is None


async def test_there_is_no_second_key_to_try() -> None:
    keys = CallerKeys()
    key = await taken(keys, ALICE)
    assert await keys.take(by(ALICE), {key.fingerprint}) is None


async def test_a_caller_has_so_many_calls_under_way_and_others_are_not_held_up() -> None:
    keys = CallerKeys(concurrency=2)
    first, _ = await taken(keys, ALICE), await taken(keys, ALICE)
    with pytest.raises(KeysBusy):
        await keys.take(by(ALICE))
    await taken(keys, BOB)
    keys.report(first, "ok")
    await taken(keys, ALICE)


async def test_a_call_that_is_reported_twice_gives_nobody_elses_place_back() -> None:
    keys = CallerKeys(concurrency=2)
    first, _ = await taken(keys, ALICE), await taken(keys, ALICE)
    keys.report(first, "failed")
    keys.report(first, "left")
    await taken(keys, ALICE)
    with pytest.raises(KeysBusy):
        await keys.take(by(ALICE))


async def test_a_cooldown_is_the_callers_own() -> None:
    clock = Clock()
    keys = CallerKeys(clock=clock.ticks)
    keys.report(await taken(keys, ALICE), "failed", cooldown=30)
    with pytest.raises(KeysBusy) as caught:
        await keys.take(by(ALICE))
    assert caught.value.retry_after == pytest.approx(30)
    await taken(keys, BOB)
    clock.seconds = 31
    await taken(keys, ALICE)


async def test_a_refused_bearer_is_asked_for_again_and_nothing_can_be_added() -> None:
    keys = CallerKeys()
    await keys.remove(await taken(keys, ALICE), "the provider answered 401")
    await taken(keys, ALICE)
    assert await keys.all() == []
    with pytest.raises(ConfigurationError):
        await keys.add([BOB])
    with pytest.raises(ConfigurationError):
        CallerKeys(concurrency=0)


async def test_what_is_kept_is_bounded_and_expires() -> None:
    clock = Clock()
    keys = CallerKeys(most=10, idle=100, clock=clock.ticks)
    for number in range(50):
        keys.report(await taken(keys, f"bearer-{number}"), "ok")
    assert len(keys._seen) == 10
    clock.seconds = 200
    for _ in range(2):
        keys.report(await taken(keys, ALICE), "ok")
    assert len(keys._seen) == 1


async def test_an_idle_caller_with_a_call_under_way_or_a_cooldown_is_remembered() -> None:
    clock = Clock()
    keys = CallerKeys(concurrency=1, idle=10, clock=clock.ticks)
    await taken(keys, ALICE)
    keys.report(await taken(keys, BOB), "failed", cooldown=1000)
    clock.seconds = 100
    await taken(keys, "third")
    for bearer in (ALICE, BOB):
        with pytest.raises(KeysBusy):
            await keys.take(by(bearer))


async def test_a_report_for_a_forgotten_caller_changes_nothing() -> None:
    keys = CallerKeys(most=1)
    key = await taken(keys, ALICE)
    await taken(keys, BOB)
    keys.report(key, "ok")
    assert len(keys._seen) == 1


async def test_between_calls_nothing_holds_the_bearer() -> None:
    keys = CallerKeys()
    bearer = "-".join(["rt", "made", "up", "4711"])
    keys.report(await taken(keys, bearer), "ok")
    await asyncio.sleep(0)
    gc.collect()
    assert bearer not in repr(everything_below(keys))


async def test_each_caller_gets_the_token_of_its_own_bearer_only() -> None:
    host = TokenHost(known={ALICE, BOB})
    exchange = TokenExchange(token_url=host.url, rotates=False)
    store = MemoryTokens()
    credentials = ExchangedCredentials(exchange, host.upstream(), store)
    keys = CallerKeys()
    got = {ALICE: await credentials.secret(await taken(keys, ALICE))}
    got[BOB] = await credentials.secret(await taken(keys, BOB))
    assert got[ALICE] != got[BOB]
    assert host.shown == [ALICE, BOB]
    for bearer in (ALICE, BOB):
        assert await credentials.secret(await taken(keys, bearer)) == got[bearer]
    assert len(host.shown) == 2
    held = repr([everything_below(part) for part in (keys, credentials._all, store)])
    assert ALICE not in held
    assert BOB not in held


def everything_below(thing: Any, depth: int = 8) -> Any:
    """What an object holds, by its dictionaries, slots and members."""
    if isinstance(thing, str | bytes | int | float | None) or depth == 0:
        return thing
    if isinstance(thing, dict):
        return [(k, everything_below(v, depth - 1)) for k, v in thing.items()]
    if isinstance(thing, list | tuple | set):
        return [everything_below(v, depth - 1) for v in thing]
    names = [*getattr(thing, "__dict__", {}), *getattr(type(thing), "__slots__", ())]
    return [(name, everything_below(getattr(thing, name, None), depth - 1)) for name in names]
