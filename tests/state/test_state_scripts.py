"""Scripts run by name where the store knows them, and by their text where it does not."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from typing import Any

import pytest

from asgi_llm_gateway.state import Script, State, StateFault
from asgi_llm_gateway.state.line import Line
from tests.valkey import Valkey

BOTH = Script("return {KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2])}")
COUNT = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")


def calls(valkey: Valkey, *names: str) -> list[int]:
    """How often each command has been called since the fixture's `reset`."""
    stats = valkey.call("INFO", "commandstats")
    return [stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in names]


@pytest.fixture
def counted(valkey: Valkey) -> Valkey:
    """The shared server with its statistics at zero."""
    valkey.call("CONFIG", "RESETSTAT")
    return valkey


async def test_keys_and_arguments_reach_the_script(valkey: Valkey) -> None:
    async with (state := State(valkey.url)).resources:
        assert await state.run(BOTH, ["a", "b"], [b"\xff", 3]) == [b"a", b"b", b"\xff", 3]
        assert await state.run(Script("return #ARGV"), []) == 0


async def test_a_script_unknown_to_the_server_is_brought_once_for_all_of_a_tick(
    counted: Valkey,
) -> None:
    async with (state := State(counted.url)).resources:
        for _ in range(2):
            counted.call("SCRIPT", "FLUSH")
            await asyncio.gather(*(state.run(COUNT, ["n"], [1]) for _ in range(100)))
        assert await state.command("GET", "n") == b"200"
    by_text, by_name = calls(counted, "eval", "evalsha")
    assert by_text == 2
    assert by_name == 200 + 198, "each asked, was told NOSCRIPT, and 99 asked again"


async def test_a_known_script_costs_one_command(counted: Valkey) -> None:
    async with (state := State(counted.url)).resources:
        await state.run(COUNT, ["n"], [1])
        counted.call("CONFIG", "RESETSTAT")
        assert await state.run(COUNT, ["n"], [1]) == 2
    assert calls(counted, "eval", "evalsha") == [0, 1]


async def test_a_script_is_brought_although_its_bringer_is_cancelled(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought: list[Any] = []
    call = Line.call

    def cancelling(self: Line, args: Any) -> asyncio.Future[Any]:
        future = call(self, args)
        if args[0] == "EVAL" and not brought:
            brought.append(args)
            future.cancel()
        return future

    monkeypatch.setattr(Line, "call", cancelling)
    async with (state := State(valkey.url)).resources:
        runs = (state.run(COUNT, ["n"], [1]) for _ in range(3))
        done: list[Any] = await asyncio.gather(*runs, return_exceptions=True)
    assert isinstance(done[0], asyncio.CancelledError)
    assert sorted(done[1:]) == [1, 2]
    assert brought


@pytest.mark.parametrize("forbidden", ["acl", "renamed"])
async def test_where_names_are_forbidden_the_text_is_sent(forbidden: str) -> None:
    server = Valkey(options=[("rename-command", 'EVALSHA ""')] if forbidden == "renamed" else [])
    try:
        server.start()
        url = server.url
        if forbidden == "acl":
            server.call("ACL", "SETUSER", "u", "on", ">pw", "~*", "+@all", "-evalsha", "-script")
            url = url.replace("//", "//u:pw@")
        async with (state := State(url)).resources:
            assert await asyncio.gather(*(state.run(COUNT, ["n"], [1]) for _ in range(5)))
            assert await state.run(COUNT, ["n"], [1]) == 6
        assert calls(server, "eval") == [6]
    finally:
        server.discard()


async def test_a_scripts_own_error_is_a_fault(valkey: Valkey) -> None:
    async with (state := State(valkey.url)).resources:
        with pytest.raises(StateFault, match="oh no"):
            await state.run(Script("return redis.error_reply('MINE oh no')"), [])
        with pytest.raises(StateFault):
            await state.run(Script("this is not Lua"), [])


def test_a_script_is_read_from_the_package_that_ships_it(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "__init__.py").write_text("")
    (tmp_path / "shipped" / "take.lua").write_text("return 'ü'\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    script = Script.of("shipped", "take.lua")
    assert script == Script("return 'ü'\n")
    assert len(script.sha) == 40
    with pytest.raises(FileNotFoundError):
        Script.of("shipped", "missing.lua")
    assert files("shipped").joinpath("take.lua").is_file()


async def test_the_name_is_the_one_the_server_gives_it(valkey: Valkey) -> None:
    name = valkey.call("SCRIPT", "LOAD", COUNT.text)
    assert name in {COUNT.sha, COUNT.sha.encode()}
