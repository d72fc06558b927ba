"""One set of keys for all gateways of a store: what one finds out or is told, all go by."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from asgi_llm_gateway.cli import main
from asgi_llm_gateway.keys.key import Key
from tests.faulty import Provider, faulty
from tests.shared_state.gateways import (
    asked,
    gateway,
    leading_to,
    pool,
    posted,
    process,
    secrets,
    settings,
    write,
)
from tests.upstreams import ask
from tests.valkey import Valkey

ONE, TWO, BY_HAND = "sk-a-key-1", "sk-a-key-2", "sk-added-by-hand"
SOON = 1.0
"""Seconds after which every gateway goes by a change."""


async def test_a_key_that_dies_through_one_gateway_is_used_by_no_other(valkey: Valkey) -> None:
    async with faulty() as provider:
        channel = leading_to(provider)
        async with gateway(valkey, channel) as first, gateway(valkey, channel) as second:
            provider.dead_keys.add(ONE)
            while ONE not in provider.keys:
                assert (await ask(first)).status == 200
            seen = len(provider.keys)
            assert {answer.status for answer in await asked(second, 20)} == {200}
            assert set(provider.keys[seen:]) == {TWO}
            assert await secrets(second) == {TWO}
            (lost,) = await pool(second).quarantined()
            assert (lost.fingerprint, "401" in lost.reason) == (Key(ONE).fingerprint, True)


async def test_the_last_key_that_dies_is_told_to_callers_of_every_gateway(valkey: Valkey) -> None:
    async with faulty() as provider:
        channel = leading_to(provider, keys=[ONE])
        async with gateway(valkey, channel) as first, gateway(valkey, channel) as second:
            provider.dead_keys.add(ONE)
            assert [(await ask(each)).status for each in (first, second)] == [503, 503]
            assert provider.keys == [ONE]


async def test_a_restart_never_revives_what_died(valkey: Valkey) -> None:
    async with faulty() as provider:
        channel = leading_to(provider, choose_key="round_robin")
        provider.dead_keys.add(ONE)
        async with gateway(valkey, channel) as before:
            await asked(before, 3)
        assert provider.keys.count(ONE) == 1
        provider.dead_keys.clear()
        async with gateway(valkey, channel) as after:
            await asked(after, 5)
            after.reload(settings(valkey, channel))
            await asked(after, 5)
            assert await secrets(after) == {TWO}
        assert provider.keys.count(ONE) == 1


async def test_keys_gone_from_the_settings_go_and_those_added_by_hand_stay(valkey: Valkey) -> None:
    async with faulty() as provider:
        async with gateway(valkey, leading_to(provider)) as first:
            await pool(first).add([BY_HAND])
            assert await secrets(first) == {ONE, TWO, BY_HAND}
        async with gateway(valkey, leading_to(provider, keys=[TWO])) as second:
            assert await secrets(second) == {TWO, BY_HAND}
            second.reload(settings(valkey, leading_to(provider, keys=[ONE])))
            seen = len(provider.keys)
            await asked(second, 20)
            assert set(provider.keys[seen:]) == {ONE, BY_HAND}
            second.reload(settings(valkey, leading_to(provider, keys=[ONE, BY_HAND])))
            assert await secrets(second) == {ONE, BY_HAND}
            second.reload(settings(valkey, leading_to(provider, keys=[ONE])))
            assert await secrets(second) == {ONE, BY_HAND}, "it was added by hand before"


async def test_a_gateway_whose_settings_lost_a_key_takes_it_from_the_others(valkey: Valkey) -> None:
    async with faulty() as provider, gateway(valkey, leading_to(provider)) as old:
        await asked(old, 4)
        async with gateway(valkey, leading_to(provider, keys=[TWO])):
            seen = len(provider.keys)
            await asked(old, 10)
        assert set(provider.keys[seen:]) == {TWO}


async def test_a_store_that_was_emptied_gets_the_settings_keys_again(valkey: Valkey) -> None:
    async with faulty() as provider, gateway(valkey, leading_to(provider)) as one:
        assert (await ask(one)).status == 200
        valkey.call("FLUSHALL")
        assert (await ask(one)).status == 200
        assert await secrets(one) == {ONE, TWO}


async def used_at(provider: Provider, seconds: float = 0.5) -> set[tuple[str, str]]:
    """Which gateway (by the calls' text) uses which key for so long."""
    seen = len(provider.tried)
    await asyncio.sleep(seconds)
    return {(t.document["messages"][0]["content"], t.key) for t in provider.tried[seen:]}


class Users:
    """Calls that go on through two gateways, one of them in a process of its own."""

    def __init__(self, *calls: Callable[[], Awaitable[Any]]) -> None:
        self._calls = calls
        self.statuses: set[int] = set()

    async def __aenter__(self) -> Users:
        self._tasks = [asyncio.create_task(self._go_on(call)) for call in self._calls]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def _go_on(self, call: Callable[[], Awaitable[Any]]) -> None:
        while True:
            answer = await call()
            self.statuses.add(getattr(answer, "status_code", None) or answer.status)
            await asyncio.sleep(0.005)


@pytest.mark.slow
async def test_the_command_line_changes_the_keys_of_running_gateways(
    valkey: Valkey, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Added, taken out, put back: a second later every process goes by it."""
    async with faulty() as provider, httpx.AsyncClient() as client:
        channel = leading_to(provider)
        file = write(tmp_path / "shell", settings(valkey, {**channel, "keys": ["env:NOT_HERE"]}))

        async def keys(*arguments: str) -> None:
            code = await asyncio.to_thread(main, ["keys", *arguments, "--file", str(file)])
            assert code == 0, capsys.readouterr().err

        async with (
            process(tmp_path / "served", valkey, channel) as served,
            gateway(valkey, channel) as here,
        ):
            said = [[{"role": "user", "content": word}] for word in ("there", "here")]
            users = Users(
                lambda: posted(client, served, messages=said[0]),
                lambda: ask(here, {"model": "m", "messages": said[1]}),
            )
            both = {"there", "here"}
            async with users:
                await keys("add", "--channel", "a", "--plain", BY_HAND)
                await asyncio.sleep(SOON)
                assert {(who, BY_HAND) for who in both} <= await used_at(provider)
                for secret in (ONE, BY_HAND):
                    await keys("remove", "--plain", secret)
                await asyncio.sleep(SOON)
                assert await used_at(provider) == {(who, TWO) for who in both}
                await keys("restore", Key(ONE).fingerprint)
                await asyncio.sleep(SOON)
                assert await used_at(provider) == {(who, key) for who in both for key in (ONE, TWO)}
            assert users.statuses == {200}


@pytest.mark.slow
async def test_a_key_that_dies_in_one_process_is_used_by_none_a_second_later(
    valkey: Valkey, tmp_path: Path
) -> None:
    """Two commands of two workers each, under load; then a restart, and a hangup without a key."""
    async with faulty() as provider, httpx.AsyncClient() as client:
        channel = leading_to(provider)
        two: dict[str, Any] = {"server": {"port": 0, "workers": 2}}
        async with (
            process(tmp_path / "one", valkey, channel, **two) as one,
            process(tmp_path / "two", valkey, channel, **two) as other,
        ):
            for starting in (one, other):  # its line comes before its workers
                assert (await posted(client, starting)).status_code == 200
            calls = [lambda: posted(client, one), lambda: posted(client, other)]
            async with Users(*calls * 4) as users:
                await asyncio.sleep(2)
                assert set(provider.keys) == {ONE, TWO}
                provider.dead_keys.add(ONE)
                died = asyncio.get_running_loop().time()
                await asyncio.sleep(3)
            assert users.statuses == {200}
            late = [t for t in provider.tried if t.key == ONE and t.at > died + SOON]
            assert late == []
            assert [t.key for t in provider.tried if t.at > died + SOON].count(TWO) > 20
            provider.dead_keys.clear()
            assert await asyncio.to_thread(other.stop, signal.SIGTERM) == 0
        async with process(tmp_path / "two", valkey, channel) as again:
            seen = len(provider.keys)
            for _ in range(10):
                assert (await posted(client, again)).status_code == 200
            assert set(provider.keys[seen:]) == {TWO}
            write(
                tmp_path / "two",
                settings(valkey, {**channel, "keys": ["sk-new"]}, server={"port": 0}),
            )
            again.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(again.until_logged, "reloaded")
            seen = len(provider.keys)
            for _ in range(10):
                assert (await posted(client, again)).status_code == 200
            assert set(provider.keys[seen:]) == {"sk-new"}
