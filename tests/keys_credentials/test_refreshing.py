"""Access tokens: fetched once for everybody, ahead of time, and kept going when the host fails."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest

from asgi_llm_gateway.errors import ConnectFailed, KeyRevoked, StateUnavailable, UpstreamError
from asgi_llm_gateway.keys.credentials import (
    ExchangedCredentials,
    MemoryTokens,
    PlainCredentials,
    SharedTokens,
    TokenExchange,
    TokenExchangeFailed,
)
from asgi_llm_gateway.keys.key import Key
from asgi_llm_gateway.state import State
from asgi_llm_gateway.upstream import DirectUpstream, UpstreamRequest
from tests.keys_credentials.token_host import FIRST, Clock, TokenHost, until
from tests.served import served
from tests.valkey import Valkey


def credentials_to(host: TokenHost, clock: Clock | None = None, **how: Any) -> ExchangedCredentials:
    clock = clock or Clock()
    exchange = TokenExchange(token_url=host.url, rotates=host.rotates)
    given = {"clock": clock.wall, "ticks": clock.ticks, "second_look": 0.05}
    return ExchangedCredentials(exchange, host.upstream(), **{**given, **how})


@pytest.fixture
def key() -> Key:
    return Key(FIRST)


async def test_a_plain_key_is_its_own_secret_and_has_no_other(key: Key) -> None:
    plain = PlainCredentials()
    assert await plain.secret(key) == FIRST
    assert await plain.renew(key, FIRST) is False
    await plain.aclose()


async def test_500_calls_at_once_make_one_refresh(host: TokenHost, key: Key) -> None:
    host.pause = 0.05
    credentials = credentials_to(host)
    got = await asyncio.gather(*(credentials.secret(key) for _ in range(500)))
    assert set(got) == {"at-1"}
    assert len(host.asked) == 1


async def test_each_key_has_its_own_token(host: TokenHost) -> None:
    host.known.add("rt-other")
    credentials = credentials_to(host)
    got = await asyncio.gather(*(credentials.secret(Key(s)) for s in (FIRST, "rt-other", FIRST)))
    assert got[0] == got[2] != got[1]
    assert sorted(host.shown) == sorted([FIRST, "rt-other"])


async def test_a_real_host_on_a_socket_is_asked_once(host: TokenHost, key: Key) -> None:
    with served(host) as base:
        upstream = DirectUpstream()
        exchange = TokenExchange(token_url=f"{base}/token", rotates=False, client_id="app")
        credentials = ExchangedCredentials(exchange, upstream)
        got = await asyncio.gather(*(credentials.secret(key) for _ in range(500)))
        assert set(got) == {"at-1"}
        assert await credentials.renew(key, "at-1")
        assert await credentials.secret(key) == "at-2"
        await credentials.aclose()
        await upstream.aclose()
    assert [asked.params["client_id"] for asked in host.asked] == ["app", "app"]
    assert host.asked[0].headers["connection"] == "close"


async def test_a_waiter_that_leaves_stops_nothing_for_the_others(host: TokenHost, key: Key) -> None:
    host.gate = asyncio.Event()
    credentials = credentials_to(host)
    waiters = [asyncio.create_task(credentials.secret(key)) for _ in range(3)]
    await until(lambda: host.asked)
    waiters[0].cancel()
    await asyncio.wait(waiters[:1])
    host.gate.set()
    assert await asyncio.gather(*waiters[1:]) == ["at-1", "at-1"]
    assert len(host.asked) == 1


async def test_when_everybody_leaves_the_token_is_had_all_the_same(
    host: TokenHost, key: Key
) -> None:
    host.gate = asyncio.Event()
    credentials = credentials_to(host)
    waiter = asyncio.create_task(credentials.secret(key))
    await until(lambda: host.asked)
    waiter.cancel()
    await asyncio.wait([waiter])
    host.gate.set()
    await credentials.aclose()
    assert await credentials.secret(key) == "at-1"
    assert len(host.asked) == 1


async def test_a_token_is_used_until_shortly_before_it_expires(host: TokenHost, key: Key) -> None:
    clock = Clock()
    credentials = credentials_to(host, clock, margin=60.0)
    assert await credentials.secret(key) == "at-1"
    clock.seconds = 3539
    assert await credentials.secret(key) == "at-1"
    assert len(host.asked) == 1
    clock.seconds = 3541
    assert await credentials.secret(key) == "at-1"  # the old one goes on while the next is fetched
    await until(lambda: len(host.asked) == 2)
    await credentials.aclose()
    assert await credentials.secret(key) == "at-2"
    assert len(host.asked) == 2


async def test_in_its_last_seconds_a_token_is_waited_for(host: TokenHost, key: Key) -> None:
    clock = Clock()
    credentials = credentials_to(host, clock)
    await credentials.secret(key)
    clock.seconds = 3597
    assert await credentials.secret(key) == "at-2"
    clock.seconds = 10_000
    assert await credentials.secret(key) == "at-3"


async def test_a_short_life_is_not_eaten_up_by_the_margin(host: TokenHost, key: Key) -> None:
    host.lives = 10.0
    clock = Clock()
    credentials = credentials_to(host, clock, margin=60.0)
    await credentials.secret(key)
    clock.seconds = 7.9
    assert await credentials.secret(key) == "at-1"
    assert len(host.asked) == 1


@pytest.mark.parametrize("fault", [500, 503, 429, 302, b"<html>", b"{}", (400, {"error": "x"})])
async def test_a_failing_host_is_an_upstream_error_and_the_next_call_asks_again(
    host: TokenHost, key: Key, fault: Any
) -> None:
    host.faults = [fault]
    credentials = credentials_to(host)
    with pytest.raises(TokenExchangeFailed) as caught:
        await credentials.secret(key)
    assert isinstance(caught.value, UpstreamError)
    assert not isinstance(caught.value, KeyRevoked)
    assert await credentials.secret(key) == "at-1"


async def test_a_failure_is_everybodys_who_waited(host: TokenHost, key: Key) -> None:
    host.pause, host.faults = 0.05, [500]
    credentials = credentials_to(host)
    got = await asyncio.gather(
        *(credentials.secret(key) for _ in range(50)), return_exceptions=True
    )
    assert {type(failure) for failure in got} == {TokenExchangeFailed}
    assert len({id(failure) for failure in got}) == 50
    assert len(host.asked) == 1


async def test_a_host_that_goes_on_failing_is_asked_less_and_less(
    host: TokenHost, key: Key
) -> None:
    host.faults = [500] * 1000
    clock = Clock()
    credentials = credentials_to(host, clock)
    for _ in range(600):
        with pytest.raises(TokenExchangeFailed):
            await credentials.secret(key)
        clock.seconds += 0.1
    assert 6 <= len(host.asked) <= 10
    host.faults = []
    clock.seconds += 15
    assert await credentials.secret(key) == "at-1"


async def test_a_host_that_names_a_time_is_left_alone_until_then(host: TokenHost, key: Key) -> None:
    class Busy(TokenHost):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            self.issued += 1
            head = [(b"retry-after", b"20")]
            await send({"type": "http.response.start", "status": 429, "headers": head})
            await send({"type": "http.response.body", "body": b""})

    busy, clock = Busy(), Clock()
    credentials = credentials_to(busy, clock)
    for _ in range(3):
        with pytest.raises(TokenExchangeFailed) as caught:
            await credentials.secret(key)
        assert caught.value.retry_after == 20.0
        clock.seconds += 9
    assert busy.issued == 1


async def test_while_it_lives_the_old_token_goes_on_when_the_host_fails(
    host: TokenHost, key: Key
) -> None:
    clock = Clock()
    credentials = credentials_to(host, clock)
    await credentials.secret(key)
    host.faults = [500] * 1000
    for seconds in (3545, 3560, 3597, 3599.9):
        clock.seconds = seconds
        assert await credentials.secret(key) == "at-1"
        await credentials.aclose()
    clock.seconds = 3620
    with pytest.raises(TokenExchangeFailed):
        await credentials.secret(key)


async def test_while_the_old_token_goes_on_a_failing_host_is_left_alone(
    host: TokenHost, key: Key
) -> None:
    clock = Clock()
    credentials = credentials_to(host, clock)
    await credentials.secret(key)
    host.faults = [500] * 1000
    clock.seconds = 3545
    for _ in range(100):
        assert await credentials.secret(key) == "at-1"
        await credentials.aclose()
        clock.seconds += 0.05
    assert 3 <= len(host.asked) <= 6


async def test_a_silent_host_is_given_up(host: TokenHost, key: Key) -> None:
    host.faults = [("hang", b"")]
    credentials = credentials_to(host, timeout=0.1)
    with pytest.raises(TokenExchangeFailed):
        await credentials.secret(key)
    assert await credentials.secret(key) == "at-1"


async def test_an_upstream_without_time_limits_is_given_up_as_well(key: Key) -> None:
    class Endless:
        requests: ClassVar[list[UpstreamRequest]] = []

        async def send(self, request: UpstreamRequest) -> Any:
            self.requests.append(request)
            await asyncio.Event().wait()

        async def aclose(self) -> None:
            return

    upstream = Endless()
    exchange = TokenExchange(token_url="https://auth.test/token", rotates=False)
    credentials = ExchangedCredentials(exchange, upstream, timeout=0.1)
    async with asyncio.timeout(5):
        with pytest.raises(TokenExchangeFailed):
            await credentials.secret(key)
    [request] = upstream.requests
    assert request.timeouts.total == 0.1
    assert not isinstance(request.body, bytes)  # what is no bytes, no upstream can send again
    body = b"".join([piece async for piece in request.body])
    assert (request.content_length, body) == (len(body), body)
    assert FIRST.encode() in body


async def test_a_host_that_cannot_be_reached_is_not_the_provider_being_away(key: Key) -> None:
    class Away:
        async def send(self, request: Any) -> Any:
            raise ConnectFailed("could not connect to the provider")

        async def aclose(self) -> None:
            return

    exchange = TokenExchange(token_url="https://auth.test/token", rotates=False)
    with pytest.raises(TokenExchangeFailed) as caught:
        await ExchangedCredentials(exchange, Away()).secret(key)
    assert caught.value.code == "token_exchange_failed"


async def test_a_401_refreshes_once_for_everybody_who_met_it(host: TokenHost, key: Key) -> None:
    host.pause = 0.02
    credentials = credentials_to(host)
    assert await credentials.secret(key) == "at-1"
    renewed = await asyncio.gather(*(credentials.renew(key, "at-1") for _ in range(200)))
    assert set(renewed) == {True}
    assert await credentials.secret(key) == "at-2"
    assert len(host.asked) == 2
    assert await credentials.renew(key, "at-1") is True  # late news of the same 401
    assert len(host.asked) == 2


async def test_a_new_token_that_is_refused_as_well_means_the_key(host: TokenHost, key: Key) -> None:
    clock = Clock()
    credentials = credentials_to(host, clock)
    await credentials.secret(key)
    assert await credentials.renew(key, "at-1") is True
    assert await credentials.renew(key, "at-2") is False
    assert len(host.asked) == 2
    clock.seconds = 60
    assert await credentials.renew(key, "at-2") is True
    assert await credentials.secret(key) == "at-3"


async def test_after_an_ordinary_refresh_a_401_still_refreshes(host: TokenHost, key: Key) -> None:
    clock = Clock()
    credentials = credentials_to(host, clock)
    await credentials.secret(key)
    assert await credentials.renew(key, "at-1") is True
    clock.seconds = 3598
    assert await credentials.secret(key) == "at-3"
    assert await credentials.renew(key, "at-3") is True


async def test_calls_that_begin_during_a_renewal_wait_for_it(host: TokenHost, key: Key) -> None:
    credentials = credentials_to(host)
    await credentials.secret(key)
    host.gate = asyncio.Event()
    renewing = asyncio.create_task(credentials.renew(key, "at-1"))
    await until(lambda: len(host.asked) == 2)
    calling = asyncio.create_task(credentials.secret(key))
    await asyncio.sleep(0.01)
    assert not calling.done()
    host.gate.set()
    assert await calling == "at-2"
    assert await renewing is True


async def test_a_refused_token_does_not_go_on_when_the_host_fails(
    host: TokenHost, key: Key
) -> None:
    credentials = credentials_to(host)
    await credentials.secret(key)
    host.faults = [500]
    with pytest.raises(TokenExchangeFailed):
        await credentials.renew(key, "at-1")
    assert await credentials.secret(key) == "at-2"


async def test_a_token_refused_after_its_key_was_forgotten_is_refreshed(
    host: TokenHost, key: Key, state: State
) -> None:
    await credentials_to(host, store=SharedTokens(state)).secret(key)
    forgetful = credentials_to(host, store=SharedTokens(state))
    assert await forgetful.renew(key, "at-1") is True
    assert await forgetful.secret(key) == "at-2"


async def test_a_host_that_gives_the_refused_token_again_is_not_asked_in_a_circle(
    host: TokenHost, key: Key
) -> None:
    same = (200, {"access_token": "at-same", "expires_in": 3600})
    host.faults = [same] * 100
    credentials = credentials_to(host)
    await credentials.secret(key)
    for _ in range(20):
        assert await credentials.renew(key, "at-same") is False
        assert await credentials.secret(key) == "at-same"
    assert len(host.asked) == 2


async def test_a_revoked_key_is_told_so_and_the_host_not_asked_for_a_while(
    host: TokenHost, key: Key
) -> None:
    host.known.clear()
    clock = Clock()
    credentials = credentials_to(host, clock)
    for _ in range(20):
        with pytest.raises(KeyRevoked):
            await credentials.secret(key)
    assert len(host.asked) == 1
    host.known.add(FIRST)
    clock.seconds = 31
    assert await credentials.secret(key) == "at-1"


async def test_a_key_revoked_while_its_token_lives_is_revoked(host: TokenHost, key: Key) -> None:
    clock = Clock()
    credentials = credentials_to(host, clock)
    await credentials.secret(key)
    host.known.clear()
    clock.seconds = 3550
    assert await credentials.secret(key) == "at-1"
    await credentials.aclose()
    with pytest.raises(KeyRevoked):
        await credentials.secret(key)


async def test_two_loops_of_one_process_make_one_refresh(host: TokenHost, key: Key) -> None:
    host.pause = 0.1
    credentials = credentials_to(host)
    got = await asyncio.gather(
        *(asyncio.to_thread(lambda: asyncio.run(credentials.secret(key))) for _ in range(4))
    )
    assert set(got) == {"at-1"}
    assert len(host.asked) == 1


async def test_only_so_many_keys_are_remembered(host: TokenHost) -> None:
    names = [f"rt-many-{i}" for i in range(50)]
    host.known.update(names)
    credentials = credentials_to(host, most=10)
    for name in names:
        await credentials.secret(Key(name))
    assert len(credentials._all) <= 10


async def test_two_states_on_one_store_make_one_refresh(
    host: TokenHost, key: Key, valkey: Valkey
) -> None:
    host.pause = 0.2
    workers = [
        credentials_to(host, store=SharedTokens(State(valkey.url, prefix=valkey.prefix)))
        for _ in range(4)
    ]
    got = await asyncio.gather(*(w.secret(key) for w in workers for _ in range(100)))
    assert set(got) == {"at-1"}
    assert len(host.asked) == 1


async def test_a_401_at_one_worker_is_a_refresh_for_all(
    host: TokenHost, key: Key, valkey: Valkey
) -> None:
    host.pause = 0.05
    workers = [
        credentials_to(host, store=SharedTokens(State(valkey.url, prefix=valkey.prefix)))
        for _ in range(3)
    ]
    await asyncio.gather(*(worker.secret(key) for worker in workers))
    renewed = await asyncio.gather(*(worker.renew(key, "at-1") for worker in workers))
    assert renewed == [True] * 3
    assert {await worker.secret(key) for worker in workers} == {"at-2"}
    assert len(host.asked) == 2


async def test_a_restart_goes_on_with_the_shared_token(
    host: TokenHost, key: Key, state: State
) -> None:
    await credentials_to(host, store=SharedTokens(state)).secret(key)
    assert await credentials_to(host, store=SharedTokens(state)).secret(key) == "at-1"
    assert len(host.asked) == 1


async def test_a_token_asked_for_otherwise_is_not_used(
    host: TokenHost, key: Key, state: State
) -> None:
    store = SharedTokens(state)
    await credentials_to(host, store=store).secret(key)
    wider = TokenExchange(token_url=host.url, params={"scope": "more"}, rotates=False)
    other = ExchangedCredentials(wider, host.upstream(), store, clock=Clock().wall)
    assert await other.secret(key) == "at-2"


async def test_a_dead_worker_holds_the_others_up_for_its_lease_only(
    host: TokenHost, key: Key, state: State
) -> None:
    class Dead(SharedTokens):
        """Its process ends between claiming and saving."""

        async def save(self, *args: Any) -> bool:
            raise asyncio.CancelledError

    dead = credentials_to(host, store=Dead(state, lease=0.5))
    with pytest.raises(asyncio.CancelledError):
        await dead.secret(key)
    alive = credentials_to(host, store=SharedTokens(state, lease=0.5))
    assert await alive.secret(key) == "at-2"


async def test_with_the_store_away_each_process_refreshes_what_does_not_rotate(
    host: TokenHost, key: Key, own_valkey: Valkey
) -> None:
    state = State(own_valkey.url, timeout=0.2)
    credentials = credentials_to(host, store=SharedTokens(state))
    own_valkey.kill()
    assert await credentials.secret(key) == "at-1"
    assert await credentials.secret(key) == "at-1"
    assert len(host.asked) == 1


async def test_with_the_store_away_what_rotates_is_not_touched(
    host: TokenHost, key: Key, own_valkey: Valkey
) -> None:
    host.rotates = True
    state = State(own_valkey.url, timeout=0.2)
    credentials = credentials_to(host, store=SharedTokens(state))
    own_valkey.kill()
    with pytest.raises(StateUnavailable):
        await credentials.secret(key)
    assert host.asked == []


async def test_memory_is_shared_by_channels_that_are_given_the_same(
    host: TokenHost, key: Key
) -> None:
    store = MemoryTokens()
    one, other = credentials_to(host, store=store), credentials_to(host, store=store)
    assert await one.secret(key) == await other.secret(key) == "at-1"
    assert len(host.asked) == 1
