"""Scheduled test calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from asgi_llm_gateway.channels.checkup import Checkup
from asgi_llm_gateway.channels.error_class import ErrorClass
from asgi_llm_gateway.channels.error_table import ErrorTable
from asgi_llm_gateway.channels.health import health_rules
from asgi_llm_gateway.channels.preset_default import SERVER_ERROR
from asgi_llm_gateway.errors import ConfigurationError, ConnectFailed
from tests.channels_health.clocked import Watched
from tests.channels_health.refusals import refused

GONE = ErrorClass("gone", health="remove", scope="channel")


class Script:
    """Test calls that answer from a script; the channels they were made on."""

    def __init__(self, **script: float | Exception) -> None:
        self.script = script
        self.asked: list[str] = []
        self.now = self.most = 0
        self.once = asyncio.Event()
        self.twice = asyncio.Event()

    async def __call__(self, channel: str) -> float:
        (self.twice if channel in self.asked else self.once).set()
        self.asked.append(channel)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        outcome = self.script.get(channel, 0.1)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def checkup(
    health: Watched, tests: Script, channels: Sequence[str] = ("a", "b", "c"), **more: Any
) -> Checkup:
    return Checkup(health, ErrorTable(), tests, channels=lambda: channels, **more)


async def test_only_what_is_ill_is_tested_and_comes_back() -> None:
    health, tests = Watched(), Script()
    health.ended("b", "m", verdict=GONE, seconds=0)
    health.disable("c")
    await checkup(health, tests).round()
    assert tests.asked == ["b"]
    assert health.admits("b", "m")
    assert not health.admits("c", "m")


async def test_a_model_that_is_ill_has_its_channel_tested() -> None:
    health, tests = Watched(), Script()
    health.fails(SERVER_ERROR, times=5)
    assert checkup(health, tests).due() == ["a"]


async def test_all_but_those_disabled_by_hand_are_tested_if_asked_for() -> None:
    health, tests = Watched(health_rules("one-api")), Script(a=7.0, b=0.5)
    health.disable("c")
    await checkup(health, tests, which="all").round()
    assert tests.asked == ["a", "b"]
    assert not health.admits("a", "m")
    assert health.admits("b", "m")


async def test_a_test_that_fails_leaves_it_out() -> None:
    health, tests = Watched(), Script(a=refused(401, b""), b=ConnectFailed("x"))
    health.ended("a", "m", verdict=GONE, seconds=0)
    health.ended("b", "m", verdict=GONE, seconds=0)
    await checkup(health, tests).round()
    assert not health.admits("a", "m")
    assert not health.admits("b", "m")


async def test_a_test_that_breaks_down_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    health, tests = Watched(), Script(a=ZeroDivisionError("x"))
    for name in "abc":
        health.ended(name, "m", verdict=GONE, seconds=0)
    with caplog.at_level(logging.ERROR):
        await checkup(health, tests).round()
    assert [health.admits(name, "m") for name in "abc"] == [False, True, True]
    assert [r.getMessage() for r in caplog.records if r.exc_info] == ["a test call broke down"]


async def test_no_more_tests_at_once_than_allowed() -> None:
    health, tests = Watched(), Script()
    await checkup(health, tests, [f"c{n}" for n in range(20)], which="all", at_once=3).round()
    assert len(tests.asked) == 20
    assert tests.most == 3


async def test_rounds_come_by_themselves_and_end_with_the_resources() -> None:
    health, tests = Watched(), Script()
    async with checkup(health, tests, which="all", every=0.01).resources:
        assert tests.asked == []  # the first comes after one interval
        async with asyncio.timeout(10):
            await tests.twice.wait()
    asked = len(tests.asked)
    await asyncio.sleep(0.05)
    assert len(tests.asked) == asked


async def test_a_list_of_channels_that_fails_stops_no_later_round(
    caplog: pytest.LogCaptureFixture,
) -> None:
    health, tests = Watched(), Script()
    lists: Iterator[list[str] | Exception] = iter([ZeroDivisionError("x"), ["a"], ["a"]])

    def channels() -> list[str]:
        found = next(lists, [])
        if isinstance(found, Exception):
            raise found
        return found

    checks = Checkup(health, ErrorTable(), tests, channels=channels, which="all", every=0.01)
    async with checks.resources, asyncio.timeout(10):
        await tests.once.wait()
    assert "a round of test calls failed; the next one comes" in caplog.text


async def test_it_is_off_unless_an_interval_is_given() -> None:
    tests = Script()
    before = len(asyncio.all_tasks())
    async with checkup(Watched(), tests, which="all").resources:
        assert len(asyncio.all_tasks()) == before
    assert tests.asked == []


@pytest.mark.parametrize("wrong", [{"every": -1}, {"at_once": 0}, {"which": "some"}])
def test_numbers_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="checkup"):
        checkup(Watched(), Script(), **wrong)
