"""Refresh tokens that are replaced at every use: saved before anything is done with them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asgi_llm_gateway.errors import KeyRevoked, StateUnavailable
from asgi_llm_gateway.keys.credentials import (
    ExchangedCredentials,
    FileTokens,
    Grant,
    MemoryTokens,
    SharedTokens,
    TokenExchange,
    TokenExchangeFailed,
    TokenStore,
)
from asgi_llm_gateway.keys.key import Key
from asgi_llm_gateway.keys.sealing import Seal
from asgi_llm_gateway.state import State
from tests.keys_credentials.token_host import FIRST, Clock, TokenHost, until
from tests.served import served
from tests.valkey import Valkey

Make = Callable[[], TokenStore]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def rotating() -> TokenHost:
    return TokenHost(rotates=True)


@pytest.fixture
def key() -> Key:
    return Key(FIRST)


@pytest.fixture(params=["file", "shared"])
def make(request: pytest.FixtureRequest, tmp_path: Path, valkey: Valkey) -> Make:
    def made() -> TokenStore:
        if request.param == "file":
            return FileTokens(tmp_path / "tokens.json", seal=Seal([b"k" * 32]))
        return SharedTokens(State(valkey.url, prefix=valkey.prefix))

    return made


class Failing(MemoryTokens):
    """A durable store whose saves fail so many times."""

    durable = True

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    async def save(self, name: str, owner: str, grant: Grant, serial: int) -> bool:
        if self.failures > 0:
            self.failures -= 1
            raise StateUnavailable("the shared store does not answer")
        return await super().save(name, owner, grant, serial)


def credentials_to(
    host: TokenHost, store: TokenStore, clock: Clock | None = None, **how: Any
) -> ExchangedCredentials:
    clock = clock or Clock()
    exchange = TokenExchange(token_url=host.url)
    given = {"clock": clock.wall, "ticks": clock.ticks, "second_look": 0.3}
    return ExchangedCredentials(exchange, host.upstream(), store, **{**given, **how})


async def test_each_refresh_shows_the_token_the_last_one_gave(
    rotating: TokenHost, key: Key, make: Make
) -> None:
    clock = Clock()
    credentials = credentials_to(rotating, make(), clock)
    for number in range(1, 5):
        assert await credentials.secret(key) == f"at-{number}"
        clock.seconds += 3600
    assert rotating.shown == [FIRST, "rt-1", "rt-2", "rt-3"]


async def test_a_restart_goes_on_where_the_last_process_stopped(
    rotating: TokenHost, key: Key, make: Make
) -> None:
    clock = Clock()
    for number in range(1, 4):
        credentials = credentials_to(rotating, make(), clock)
        assert await credentials.secret(key) == f"at-{number}"
        again = credentials_to(rotating, make(), clock)
        assert await again.secret(key) == f"at-{number}"
        clock.seconds += 3600
    assert rotating.shown == [FIRST, "rt-1", "rt-2"]


async def test_an_answer_without_a_refresh_token_leaves_the_one_before(
    rotating: TokenHost, key: Key, make: Make
) -> None:
    """RFC 6749 section 6: the host may give a new one, and need not."""
    clock = Clock()
    credentials = credentials_to(rotating, make(), clock)
    await credentials.secret(key)
    rotating.rotates = False
    for _ in range(2):
        clock.seconds += 3600
        await credentials.secret(key)
    clock.seconds += 3600
    await credentials_to(rotating, make(), clock).secret(key)
    assert rotating.shown == [FIRST, "rt-1", "rt-1", "rt-1"]


async def test_it_is_saved_before_the_access_token_is_used(rotating: TokenHost, key: Key) -> None:
    order: list[str] = []

    class Watched(Failing):
        async def save(self, *args: Any) -> bool:
            await asyncio.sleep(0.05)
            order.append("saved")
            return await super().save(*args)

    credentials = credentials_to(rotating, Watched(0))

    async def used() -> None:
        await credentials.secret(key)
        order.append("used")

    await asyncio.gather(*(used() for _ in range(3)))
    assert order == ["saved", "used", "used", "used"]


async def test_a_save_that_fails_fails_the_call_and_the_next_one_saves_it(
    rotating: TokenHost, key: Key
) -> None:
    store = Failing(1)
    credentials = credentials_to(rotating, store)
    with pytest.raises(StateUnavailable):
        await credentials.secret(key)
    assert await credentials.secret(key) == "at-1"
    assert rotating.shown == [FIRST]  # used up once, and never shown again
    await credentials.aclose()


async def test_what_could_not_be_saved_is_saved_when_the_store_is_back(
    rotating: TokenHost, key: Key
) -> None:
    store = Failing(2)
    clock = Clock()
    credentials = credentials_to(rotating, store, clock)
    with pytest.raises(StateUnavailable):
        await credentials.secret(key)
    await until(lambda: store._grants)  # nobody calls meanwhile
    clock.seconds = 3600
    assert await credentials_to(rotating, store, clock).secret(key) == "at-2"
    assert rotating.shown == [FIRST, "rt-1"]


async def test_what_could_not_be_saved_is_saved_when_it_is_closed(
    rotating: TokenHost, key: Key
) -> None:
    store = Failing(1)
    credentials = credentials_to(rotating, store)
    with pytest.raises(StateUnavailable):
        await credentials.secret(key)
    await credentials.aclose()
    [(grant, _)] = store._grants.values()
    assert grant.refresh == "rt-1"


async def test_a_save_that_fails_leaves_the_old_token_its_life(
    rotating: TokenHost, key: Key
) -> None:
    store = Failing(0)
    clock = Clock()
    credentials = credentials_to(rotating, store, clock)
    await credentials.secret(key)
    store.failures = 1
    clock.seconds = 3598
    assert await credentials.secret(key) == "at-1"
    assert await credentials.secret(key) == "at-2"
    assert rotating.shown == [FIRST, "rt-1"]
    await credentials.aclose()


async def test_a_store_that_pauses_while_a_token_rotates_loses_nothing(
    rotating: TokenHost, key: Key, own_valkey: Valkey
) -> None:
    rotating.gate = asyncio.Event()
    state = State(own_valkey.url, timeout=0.2)
    credentials = credentials_to(rotating, SharedTokens(state))
    call = asyncio.create_task(credentials.secret(key))
    await until(lambda: rotating.asked)
    with own_valkey.paused():
        rotating.gate.set()
        with pytest.raises(StateUnavailable):
            await call
    await until(lambda: own_valkey.call("KEYS", "*token*") != [], within=10)
    await credentials.aclose()
    other = credentials_to(rotating, SharedTokens(State(own_valkey.url)))
    assert await other.secret(key) == "at-1"
    assert rotating.shown == [FIRST]


async def test_a_full_disk_while_a_token_rotates_loses_nothing(
    rotating: TokenHost, key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotating.gate = asyncio.Event()
    credentials = credentials_to(rotating, FileTokens(tmp_path / "t"))
    call = asyncio.create_task(credentials.secret(key))
    await until(lambda: rotating.asked)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    rotating.gate.set()
    with pytest.raises(StateUnavailable):
        await call
    monkeypatch.undo()
    await credentials.aclose()
    assert await credentials_to(rotating, FileTokens(tmp_path / "t")).secret(key) == "at-1"
    assert rotating.shown == [FIRST]


async def test_a_revoked_refresh_token_is_a_dead_key(
    rotating: TokenHost, key: Key, make: Make
) -> None:
    clock = Clock()
    credentials = credentials_to(rotating, make(), clock)
    await credentials.secret(key)
    rotating.known.clear()
    clock.seconds = 3600
    with pytest.raises(KeyRevoked):
        await credentials.secret(key)
    with pytest.raises(KeyRevoked):
        await credentials_to(rotating, make(), clock).secret(key)


async def test_a_refused_refresh_token_that_somebody_has_just_replaced_is_no_dead_key(
    rotating: TokenHost, key: Key, state: State
) -> None:
    """Another worker lost its claim while it was fetching, and saves a moment later."""
    slow = credentials_to(rotating, SharedTokens(state, lease=0.05))
    rotating.gate = asyncio.Event()
    slow_call = asyncio.create_task(slow.secret(key))
    await until(lambda: rotating.asked)
    await asyncio.sleep(0.1)  # its claim lapses
    quick = credentials_to(rotating, SharedTokens(state))
    quick_call = asyncio.create_task(quick.secret(key))
    await until(lambda: len(rotating.asked) == 2)
    rotating.gate.set()
    assert await slow_call == "at-1"
    assert await quick_call == "at-1"
    assert rotating.shown == [FIRST, FIRST]


async def test_late_savers_do_not_put_an_old_refresh_token_in_the_place_of_a_new_one(
    rotating: TokenHost, key: Key, state: State
) -> None:
    """A host that lets a token be shown twice; the first worker is stopped before it can save."""
    clock = Clock()

    class Stopped(SharedTokens):
        go = asyncio.Event()

        async def save(self, *args: Any) -> bool:
            await self.go.wait()
            return await super().save(*args)

    class Lenient(TokenHost):
        def _answer(self, params: dict[str, Any]) -> tuple[Any, Any]:
            self.known |= set(self.shown)
            return super()._answer(params)

    host = Lenient(rotates=True)
    store = Stopped(state, lease=0.05)
    stopped = asyncio.create_task(credentials_to(host, store, clock).secret(key))
    await until(lambda: host.issued == 1)
    await asyncio.sleep(0.1)
    assert await credentials_to(host, SharedTokens(state), clock).secret(key) == "at-2"
    store.go.set()
    assert await stopped == "at-2"
    clock.seconds = 3600
    await credentials_to(host, SharedTokens(state), clock).secret(key)
    assert host.shown[-1] == "rt-2"


async def test_a_rotation_nobody_expected_is_used_and_told(
    rotating: TokenHost, key: Key, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    exchange = TokenExchange(token_url=rotating.url, rotates=False)
    credentials = ExchangedCredentials(exchange, rotating.upstream(), clock=clock.wall)
    assert await credentials.secret(key) == "at-1"
    clock.seconds = 3600
    assert await credentials.secret(key) == "at-2"
    assert rotating.shown == [FIRST, "rt-1"]
    assert "said not to rotate" in caplog.text


WORKER = """
import asyncio, os, signal, sys
from asgi_llm_gateway.keys.credentials import *
from asgi_llm_gateway.keys.key import Key
from asgi_llm_gateway.state import State
from asgi_llm_gateway.upstream import DirectUpstream

url, place, die = sys.argv[1:]

def store():
    if place.startswith("redis"):
        return SharedTokens(State(place, prefix="w:"), lease=1.0)
    return FileTokens(place, lease=1.0)

async def main():
    tokens, upstream = store(), DirectUpstream()
    save = tokens.save
    async def dying(*args):
        if die == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        saved = await save(*args)
        if die == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return saved
    tokens.save = dying
    credentials = ExchangedCredentials(TokenExchange(token_url=url + "/token"), upstream, tokens)
    key = Key(os.environ["SECRET"])
    got = await asyncio.gather(*(credentials.secret(key) for _ in range(50)))
    print(*sorted(set(got)))
    await credentials.aclose()
    await upstream.aclose()

asyncio.run(main())
"""


def worker(base: str, place: str, die: str = "never") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WORKER), base, place, die],
        env={**os.environ, "SECRET": FIRST, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=40)[0].strip()


@pytest.fixture(params=["file", pytest.param("redis", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path, valkey: Valkey) -> str:
    return valkey.url if request.param == "redis" else str(tmp_path / "tokens.json")


def test_two_processes_that_share_a_redis_make_one_refresh(
    rotating: TokenHost, valkey: Valkey
) -> None:
    rotating.pause = 0.3
    with served(rotating) as base:
        workers = [worker(base, valkey.url) for _ in range(2)]
        assert [said(process) for process in workers] == ["at-1"] * 2
    assert rotating.shown == [FIRST]


@pytest.mark.slow
def test_processes_that_share_a_file_make_one_refresh(rotating: TokenHost, tmp_path: Path) -> None:
    rotating.pause = 0.3
    with served(rotating) as base:
        workers = [worker(base, str(tmp_path / "t")) for _ in range(3)]
        assert [said(process) for process in workers] == ["at-1"] * 3
    assert rotating.shown == [FIRST]


def test_a_kill_after_the_save_loses_nothing(rotating: TokenHost, place: str) -> None:
    with served(rotating) as base:
        killed = worker(base, place, "after")
        assert said(killed) == ""
        assert killed.returncode == -signal.SIGKILL
        assert said(worker(base, place)) == "at-1"
    assert rotating.shown == [FIRST]


def test_a_kill_before_the_save_leaves_the_stored_token_to_be_shown_again(
    rotating: TokenHost, place: str
) -> None:
    """The new one died with the process; many hosts still take the one before it for a while."""
    with served(rotating) as base:
        assert said(worker(base, place, "before")) == ""
        rotating.known.add(FIRST)
        assert said(worker(base, place)) == "at-2"
    assert rotating.shown == [FIRST, FIRST]


async def test_a_claim_whose_answer_was_lost_does_not_hold_its_own_process_up(
    rotating: TokenHost, key: Key, make: Make
) -> None:
    store = make()
    claim, losses = store.claim, [StateUnavailable("the answer did not come in time")]

    async def claimed(name: str, owner: str) -> Any:
        found = await claim(name, owner)
        if losses:
            raise losses.pop()
        return found

    store.claim = claimed  # type: ignore[method-assign]
    credentials = credentials_to(rotating, store)
    with pytest.raises(StateUnavailable):
        await credentials.secret(key)
    async with asyncio.timeout(10):  # another process's would be waited for for half a minute
        assert await credentials.secret(key) == "at-1"
    assert rotating.shown == [FIRST]


async def test_a_process_that_stood_still_does_not_exchange_under_a_claim_it_may_have_lost(
    rotating: TokenHost, key: Key, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make()
    loop = asyncio.get_running_loop()
    claim, stills, now = store.claim, [40.0], loop.time

    async def claimed(name: str, owner: str) -> Any:
        found = await claim(name, owner)
        if stills:
            ahead = stills.pop()
            monkeypatch.setattr(loop, "time", lambda: now() + ahead)
        return found

    store.claim = claimed  # type: ignore[method-assign]
    credentials = credentials_to(rotating, store)
    with pytest.raises(TokenExchangeFailed):
        await credentials.secret(key)
    monkeypatch.undo()
    assert rotating.shown == []
    assert await credentials.secret(key) == "at-1"
    assert rotating.shown == [FIRST]
