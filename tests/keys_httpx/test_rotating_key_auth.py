"""RotatingKeyAuth: a stock client that changes keys by itself."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Collection
from typing import Any

import httpx
import httpx2
import pytest

from asgi_llm_gateway.errors import ConfigurationError, KeysBusy, StateUnavailable, Unavailable
from asgi_llm_gateway.keys.httpx_auth import RotatingKeyAuth
from asgi_llm_gateway.keys.key import Key
from asgi_llm_gateway.keys.limits import KeyLimits
from asgi_llm_gateway.keys.pool import MemoryKeyPool
from tests.keys_httpx.callers import WAYS, Caller, Provider, way_name

ONE, TWO, THREE = "sk-one-of-the-pool", "sk-two-of-the-pool", "sk-three-of-the-pool"


@pytest.fixture(params=WAYS, ids=way_name)
def way(request: pytest.FixtureRequest) -> Any:
    return request.param


def pool_of(*secrets: str) -> MemoryKeyPool:
    return MemoryKeyPool(secrets, choose="round_robin")


def secrets(pool: Any) -> list[str]:
    return [key.secret for key in pool.keys]


def in_flight(pool: Any) -> int:
    return sum(key.in_flight for key in pool.keys)


def test_an_auth_is_one_to_both_libraries() -> None:
    auth = RotatingKeyAuth([ONE])
    assert isinstance(auth, RotatingKeyAuth)
    assert isinstance(auth, httpx.Auth)
    assert isinstance(auth, httpx2.Auth)


def test_a_class_of_ones_own_is_an_auth_too() -> None:
    class Mine(RotatingKeyAuth):
        def __init__(self) -> None:
            super().__init__([ONE], header="x-api-key", scheme="")

    auth = Mine()
    assert isinstance(auth, Mine)
    assert isinstance(auth, httpx.Auth)


def test_the_class_is_had_without_importing_either_library() -> None:
    code = (
        "import sys; from asgi_llm_gateway.keys.httpx_auth import RotatingKeyAuth;"
        "assert not {'httpx', 'httpx2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_httpx2_an_auth_is_httpxs_alone() -> None:
    code = (
        "import sys; sys.modules['httpx2'] = None\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name: None if name == 'httpx2' else find(name)\n"
        "from asgi_llm_gateway.keys.httpx_auth import RotatingKeyAuth; import httpx\n"
        "assert isinstance(RotatingKeyAuth(['sk-a']), httpx.Auth)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_each_call_takes_the_next_key_whatever_the_client_had_there(way: Any) -> None:
    provider, pool = Provider(), pool_of(ONE, TWO)
    caller = Caller(way, provider, RotatingKeyAuth(pool))
    for _ in range(4):
        response = await caller.post(headers={"Authorization": "Bearer sk-the-clients-own"})
        assert response.status_code == 200
        assert response.request.headers.get_list("authorization") == [
            f"Bearer {provider.calls[-1]}"
        ]
    assert provider.calls == [ONE, TWO, ONE, TWO]
    assert in_flight(pool) == 0


async def test_the_key_may_stand_in_another_header(way: Any) -> None:
    provider = Provider(header="x-api-key")
    caller = Caller(way, provider, RotatingKeyAuth([ONE], header="x-api-key", scheme=""))
    await caller.post()
    assert provider.calls == [ONE]


async def test_a_key_that_is_refused_is_dropped_and_another_answers(way: Any) -> None:
    provider, pool = Provider({ONE: 401}), pool_of(ONE, TWO)
    caller = Caller(way, provider, RotatingKeyAuth(pool))
    response = await caller.post()
    assert response.status_code == 200
    assert [past.status_code for past in response.history] == [401]
    await caller.post()
    assert provider.calls == [ONE, TWO, TWO]
    assert secrets(pool) == [TWO]
    assert in_flight(pool) == 0
    assert len(set(provider.bodies)) == 1, "the body was sent again as it was"


async def test_a_key_over_its_limit_rests_and_another_answers(way: Any) -> None:
    provider, pool = Provider({ONE: 429}, {"retry-after": "60"}), pool_of(ONE, TWO)
    caller = Caller(way, provider, RotatingKeyAuth(pool))
    for _ in range(3):
        assert (await caller.post()).status_code == 200
    assert provider.calls == [ONE, TWO, TWO, TWO]
    assert secrets(pool) == [ONE, TWO]
    assert in_flight(pool) == 0


async def test_a_key_comes_back_when_it_has_rested(way: Any) -> None:
    provider, pool = Provider({ONE: 429}, {"retry-after-ms": "200"}), pool_of(ONE)
    caller = Caller(way, provider, RotatingKeyAuth(pool, wait=5))
    assert (await caller.post()).status_code == 429
    provider.answers.clear()
    assert (await caller.post()).status_code == 200
    assert provider.calls == [ONE, ONE]


async def test_a_key_rests_as_long_as_was_agreed_when_the_provider_does_not_say(way: Any) -> None:
    provider, pool = Provider({ONE: 429}), pool_of(ONE)
    caller = Caller(way, provider, RotatingKeyAuth(pool, wait=0, cooldown=60))
    assert (await caller.post()).status_code == 429
    with pytest.raises(KeysBusy) as caught:
        await caller.post()
    assert caught.value.retry_after
    assert provider.calls == [ONE]


async def test_a_call_is_sent_twice_at_the_most(way: Any) -> None:
    provider, pool = Provider({ONE: 429, TWO: 429, THREE: 429}), pool_of(ONE, TWO, THREE)
    caller = Caller(way, provider, RotatingKeyAuth(pool))
    assert (await caller.post()).status_code == 429
    assert len(set(provider.calls)) == len(provider.calls) == 2
    assert in_flight(pool) == 0


async def test_dead_keys_do_not_use_up_the_one_retry(way: Any) -> None:
    dead = [f"sk-dead-{number}" for number in range(5)]
    provider = Provider(dict.fromkeys(dead, 401))
    pool = MemoryKeyPool([*dead, ONE], choose="least_used")
    caller = Caller(way, provider, RotatingKeyAuth(pool))
    assert (await caller.post()).status_code == 200
    assert provider.calls == [*dead, ONE]
    assert secrets(pool) == [ONE]
    assert in_flight(pool) == 0


async def test_behind_dead_keys_there_is_one_retry_still_and_no_more(way: Any) -> None:
    four = "sk-four-of-the-pool"
    provider = Provider({ONE: 401, TWO: 429, THREE: 429, four: 429})
    pool = MemoryKeyPool([ONE, TWO, THREE, four], choose="least_used")
    caller = Caller(way, provider, RotatingKeyAuth(pool))
    assert (await caller.post()).status_code == 429
    assert provider.calls == [ONE, TWO, THREE]
    assert in_flight(pool) == 0


async def test_a_call_ends_when_every_key_is_dead(way: Any) -> None:
    provider, pool = Provider({ONE: 401, TWO: 401, THREE: 401}), pool_of(ONE, TWO, THREE)
    caller = Caller(way, provider, RotatingKeyAuth(pool))
    assert (await caller.post()).status_code == 401
    assert sorted(provider.calls) == sorted([ONE, TWO, THREE])
    assert secrets(pool) == []


def test_threads_are_told_at_once_when_no_key_can_be_free_in_time() -> None:
    provider, pool = Provider({ONE: 429}, {"retry-after": "60"}), pool_of(ONE)
    auth = RotatingKeyAuth(pool, wait=30)
    with httpx.Client(transport=provider.transport(httpx, "sync"), auth=auth) as client:
        assert client.post("https://provider.test/v1").status_code == 429
        with pytest.raises(KeysBusy) as refused:
            client.post("https://provider.test/v1")
    assert refused.value.retry_after == pytest.approx(60, abs=10)


async def test_more_than_one_other_key_may_be_asked_for(way: Any) -> None:
    provider, pool = Provider({ONE: 401, TWO: 429}), pool_of(ONE, TWO, THREE)
    caller = Caller(way, provider, RotatingKeyAuth(pool, retry=5))
    assert (await caller.post()).status_code == 200
    assert (provider.calls[0], provider.calls[-1]) == (ONE, THREE)
    provider.answers[THREE] = 429
    assert (await caller.post()).status_code == 429
    assert provider.calls[-1] == THREE
    assert len(provider.calls) <= 5, "no key is asked twice for one request"


async def test_retrying_can_be_left_to_the_client(way: Any) -> None:
    provider, pool = Provider({ONE: 401}), pool_of(ONE, TWO)
    caller = Caller(way, provider, RotatingKeyAuth(pool, retry=False))
    assert (await caller.post()).status_code == 401
    assert provider.calls == [ONE]
    assert secrets(pool) == [TWO]


async def test_the_last_keys_refusal_is_what_the_client_gets(way: Any) -> None:
    provider, pool = Provider({ONE: 401}), pool_of(ONE)
    caller = Caller(way, provider, RotatingKeyAuth(pool))
    response = await caller.post()
    assert (response.status_code, response.json()) == (401, {"status": 401})
    with pytest.raises(Unavailable, match="no key left"):
        await caller.post()
    assert provider.calls == [ONE]


@pytest.mark.parametrize("status", [400, 403, 404, 500, 503])
async def test_other_errors_are_no_fault_of_the_key(way: Any, status: int) -> None:
    provider, pool = Provider({ONE: status}), pool_of(ONE, TWO)
    caller = Caller(way, provider, RotatingKeyAuth(pool))
    assert (await caller.post()).status_code == status
    assert provider.calls == [ONE]
    assert secrets(pool) == [ONE, TWO]
    assert in_flight(pool) == 0


async def test_a_body_that_comes_once_is_sent_once(way: Any) -> None:
    provider, pool = Provider({ONE: 401}), pool_of(ONE, TWO)
    caller = Caller(way, provider, RotatingKeyAuth(pool))
    response = await caller.post(json=None, content=caller.body(b"a", b"b"))
    assert response.status_code == 401
    assert provider.bodies == [b"ab"]
    assert secrets(pool) == [TWO], "the key is dead all the same"


@pytest.mark.parametrize(("max_body", "calls"), [(1000, 2), (10, 1)])
async def test_a_body_that_says_its_length_is_sent_again(
    way: Any, max_body: int, calls: int
) -> None:
    provider, pool = Provider({ONE: 401}), pool_of(ONE, TWO)
    caller = Caller(way, provider, RotatingKeyAuth(pool, max_body=max_body))
    await caller.post(json=None, files={"file": ("a.wav", b"sound")})
    assert len(provider.bodies) == calls
    assert len(set(provider.bodies)) == 1


async def test_a_key_is_in_use_until_the_answer_was_read(way: Any) -> None:
    provider, pool = Provider(streams=True), pool_of(ONE, TWO)
    caller = Caller(way, provider, RotatingKeyAuth(pool))
    first, second = await caller.open(), await caller.open()
    assert in_flight(pool) == 2
    assert await caller.read(first) == b"onetwo"
    assert in_flight(pool) == 1
    await caller.close(second)
    assert in_flight(pool) == 0
    for response in (first, second):
        await caller.close(response)
        assert response.elapsed.total_seconds() >= 0
    assert in_flight(pool) == 0


@pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda library: library.__name__)
async def test_a_key_that_serves_one_call_at_a_time_never_serves_two(library: Any) -> None:
    provider = Provider(streams=True)
    pool = MemoryKeyPool([ONE, TWO], limits=KeyLimits(concurrency=1, tpm=1000))
    most = 0

    def look() -> None:
        nonlocal most
        most = max(most, *(key.in_flight for key in pool.keys))

    provider.during = look
    caller = Caller((library, "async"), provider, RotatingKeyAuth(pool))

    async def one() -> None:
        response = await caller.open()
        await asyncio.sleep(0.005)
        assert await caller.read(response) == b"onetwo"

    await asyncio.gather(*(one() for _ in range(20)))
    assert most == 1
    assert sorted(key.uses for key in pool.keys) == [10, 10]
    assert in_flight(pool) == 0


def test_threads_wait_for_a_key_that_serves_one_call_at_a_time() -> None:
    provider, held = Provider(), threading.Lock()

    def exclusively() -> None:
        assert held.acquire(blocking=False), "two calls at once on one key"
        time.sleep(0.01)
        held.release()

    provider.during = exclusively
    auth = RotatingKeyAuth(MemoryKeyPool([ONE], limits=KeyLimits(concurrency=1)))
    statuses: list[int] = []

    def work() -> None:
        transport = provider.transport(httpx, "sync")
        with httpx.Client(transport=transport, auth=auth, base_url="http://provider") as client:
            statuses.extend(client.post("/", json={}).status_code for _ in range(3))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert statuses == [200] * 12
    assert in_flight(auth.pool) == 0


async def test_a_refused_key_is_given_back_before_the_refusal_is_read(way: Any) -> None:
    provider, pool = Provider({ONE: 429}, streams=True), pool_of(ONE)
    caller = Caller(way, provider, RotatingKeyAuth(pool))
    response = await caller.open()
    assert in_flight(pool) == 0
    assert await caller.read(response) == b"onetwo"
    assert in_flight(pool) == 0


async def test_a_connection_that_fails_is_no_fault_of_the_key(way: Any) -> None:
    library, _ = way
    provider, pool = Provider(), pool_of(ONE, TWO)

    def fail() -> None:
        assert in_flight(pool) == 1
        raise library.ConnectError("nobody there")

    provider.during = fail
    caller = Caller(way, provider, RotatingKeyAuth(pool))
    with pytest.raises(library.ConnectError):
        await caller.post()
    assert provider.calls == [ONE]
    assert secrets(pool) == [ONE, TWO]
    assert in_flight(pool) == 0


async def test_another_hosts_401_says_nothing_about_the_key(way: Any) -> None:
    library, mode = way

    def handle(request: Any) -> Any:
        if request.url.host == "provider":
            return library.Response(307, headers={"location": "http://elsewhere/"})
        assert "authorization" not in request.headers
        return library.Response(401)

    pool = pool_of(ONE, TWO)
    mock = library.MockTransport(handle)
    caller = Caller((library, mode), mock, RotatingKeyAuth(pool), follow_redirects=True)
    assert (await caller.post()).status_code == 401
    assert secrets(pool) == [ONE, TWO]
    assert in_flight(pool) == 0


async def test_secrets_are_in_no_log_and_no_repr(
    way: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    provider, pool = Provider({ONE: 401, TWO: 429}), pool_of(ONE, TWO)
    auth = RotatingKeyAuth(pool)
    await Caller(way, provider, auth).post()
    seen = caplog.text + repr(auth) + repr(vars(auth)) + repr(pool)
    assert "of-the-pool" not in seen
    assert pool_of(ONE).keys[0].fingerprint in caplog.text, "the log names the key that was dropped"


@pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda library: library.__name__)
async def test_a_call_that_is_cancelled_gives_its_key_back(library: Any) -> None:
    asked = asyncio.Event()

    async def handle(request: Any) -> Any:
        asked.set()
        await asyncio.Event().wait()

    pool = pool_of(ONE)
    caller = Caller((library, "async"), library.MockTransport(handle), RotatingKeyAuth(pool))
    call = asyncio.create_task(caller.post())
    await asked.wait()
    assert in_flight(pool) == 1
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert in_flight(pool) == 0


def test_threads_share_a_pool_and_lose_no_key() -> None:
    provider = Provider({ONE: 401})
    pool = MemoryKeyPool([ONE, TWO, THREE], choose="least_used")
    auth = RotatingKeyAuth(pool)
    statuses: list[int] = []

    def work() -> None:
        transport = provider.transport(httpx, "sync")
        with httpx.Client(transport=transport, auth=auth, base_url="http://provider") as client:
            statuses.extend(client.post("/", json={}).status_code for _ in range(100))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert statuses == [200] * 800
    assert secrets(pool) == [TWO, THREE]
    assert in_flight(pool) == 0
    assert sum(key.uses for key in pool.keys) == 800


class Remote:
    """A pool that is not in this process's memory."""

    def __init__(self, *, broken: bool = False) -> None:
        self.key = Key(ONE)
        self.broken = broken
        self.reports: list[str] = []

    async def take(
        self, exchange: Any, tried: Collection[str] = (), *, wait: float = 0.0
    ) -> Key | None:
        if tried:
            raise KeysBusy("the other one is in use", retry_after=1.0)
        return self.key

    async def remove(self, key: Key, reason: str) -> None:
        if self.broken:
            raise StateUnavailable("no store")

    def report(self, key: Key, outcome: str, *, usage: Any = None, cooldown: float = 0.0) -> None:
        self.reports.append(outcome)


async def test_a_pool_of_ones_own_serves_asynchronous_clients() -> None:
    pool: Any = Remote()
    caller = Caller((httpx, "async"), Provider({ONE: 401}), RotatingKeyAuth(pool))
    assert (await caller.post()).status_code == 401, "the other key was busy: nothing is waited for"
    assert pool.reports == ["failed"]


async def test_a_key_is_given_back_also_when_its_removal_fails() -> None:
    pool: Any = Remote(broken=True)
    caller = Caller((httpx, "async"), Provider({ONE: 401}), RotatingKeyAuth(pool))
    with pytest.raises(StateUnavailable):
        await caller.post()
    assert pool.reports == ["failed"]


async def test_a_synchronous_client_needs_a_pool_in_memory() -> None:
    pool: Any = Remote()
    caller = Caller((httpx, "sync"), Provider(), RotatingKeyAuth(pool))
    with pytest.raises(ConfigurationError, match="Remote: give RotatingKeyAuth a MemoryKeyPool"):
        await caller.post()


def test_one_text_is_not_a_list_of_keys() -> None:
    with pytest.raises(ConfigurationError, match="list of keys") as caught:
        RotatingKeyAuth(ONE)
    assert ONE not in str(caught.value)
