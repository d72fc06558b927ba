"""`llm-gateway keys`: list, add, remove, restore and balance, on the store of a running gateway."""

from __future__ import annotations

import asyncio
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from asgi_llm_gateway.cli import main
from asgi_llm_gateway.keys.billing import Balance
from asgi_llm_gateway.keys.key import Key
from asgi_llm_gateway.keys.limits import KeyLimits
from asgi_llm_gateway.keys.redis import RedisKeyPool
from asgi_llm_gateway.state import State
from tests.cli.process import environment
from tests.keys_sweep.billing_host import MODELS, Account, BillingHost
from tests.served import served
from tests.upstreams import Reply
from tests.valkey import Valkey, valkey  # noqa: F401 - a fixture

ONE, TWO, THREE = (f"sk-number-{n}" for n in ("one", "two", "three"))
SHARED = """
[state]
store = "env:STORE"
"""
CHANNELS = """
[[channels]]
name = "main"
base_url = "{base_url}"
keys = ["env:MAIN_KEY"]
models = ["*"]
key_limits = {{ rpd = 1000 }}
[[channels]]
name = "spare"
base_url = "{base_url}"
billing = "none"
keys = ["env:SPARE_KEY"]
models = ["*"]
"""


def mark(secret: str) -> str:
    return Key(secret).fingerprint


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


class Operator:
    """Somebody at a shell, in a folder with settings."""

    def __init__(self, folder: Path, store: Valkey, out: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.store = store
        self._out = out
        self.told = ""
        self.complaint = ""

    def does(self, *arguments: str) -> int:
        """Run `llm-gateway keys …` in this process."""
        self._out.readouterr()
        code = main(["keys", *arguments])
        self.told, self.complaint = self._out.readouterr()
        return code

    def sees(self, *arguments: str) -> Any:
        """What `--json` prints."""
        assert self.does(*arguments, "--json") == 0
        return json.loads(self.told)

    def states(self) -> set[tuple[str, str, str]]:
        return {(row["channel"], row["fingerprint"], row["state"]) for row in self.sees("list")}

    def gateway_does(self, name: str, do: Callable[[RedisKeyPool], Any], *keys: str) -> None:
        """What a gateway with these keys in its settings does with its pool."""

        async def go() -> None:
            pool = RedisKeyPool(name, keys, state=State(self.store.url), limits=KeyLimits(rpd=1000))
            async with AsyncExitStack() as stack:
                assert pool.resources is not None
                await stack.enter_async_context(pool.resources)
                await do(pool)

        asyncio.run(go())

    def writes(self, base_url: str) -> None:
        settings = SHARED + CHANNELS.format(base_url=base_url)
        (self.folder / "gateway.toml").write_text(settings)


@pytest.fixture
def operator(
    tmp_path: Path,
    valkey: Valkey,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Operator:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STORE", valkey.url)
    at_work = Operator(tmp_path, valkey, capsys)
    at_work.writes("https://provider.test/v1")

    async def use_once(pool: RedisKeyPool) -> None:
        key = await pool.take(None)
        assert key is not None
        pool.report(key, "ok")

    at_work.gateway_does("main", use_once, ONE)
    return at_work


def test_keys_of_a_running_gateway_are_listed_with_what_they_did_today(operator: Operator) -> None:
    assert operator.does("list") == 0
    heading, row = operator.told.splitlines()
    assert heading.split() == ["key", "channel", "balance", "as", "of", "today", "state"]
    expected = [mark(ONE), "main", "-", "-", "1", "requests,", "0", "tokens", "in", "use"]
    assert row.split() == expected
    assert ONE not in operator.told
    assert operator.sees("list") == [
        {
            "fingerprint": mark(ONE),
            "channel": "main",
            "state": "in use",
            "today": {"requests": 1, "tokens": 0},
        }
    ]


def test_looking_puts_nothing_in_and_takes_nothing_out(operator: Operator) -> None:
    """The shell has none of the keys the gateway was started with, and need not."""
    for _ in range(2):
        assert operator.states() == {("main", mark(ONE), "in use")}


def test_a_key_is_added_taken_out_and_put_back(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{TWO}\n\n  {THREE}\n{TWO}\n"))
    assert operator.does("add", "--channel", "main") == 0
    assert operator.told.splitlines() == [
        f"{mark(TWO)} is in use in channel main",
        f"{mark(THREE)} is in use in channel main",
    ]
    assert operator.does("remove", mark(TWO), "--reason", "leaked in a screenshot") == 0
    assert operator.told == f"{mark(TWO)} is out of use in channel main\n"
    assert operator.states() == {
        ("main", mark(ONE), "in use"),
        ("main", mark(TWO), "quarantined"),
        ("main", mark(THREE), "in use"),
    }
    (lost,) = [row for row in operator.sees("list") if row["state"] == "quarantined"]
    assert lost["reason"] == "leaked in a screenshot"
    assert abs(time.time() - _seconds(lost["since"])) < 60
    assert operator.does("list") == 0
    assert re.search(
        rf"^{mark(TWO)} .* quarantined \d{{4}}-\S+Z: leaked in a screenshot$",
        operator.told,
        re.MULTILINE,
    )
    assert operator.does("restore", mark(TWO)) == 0
    assert operator.told == f"{mark(TWO)} is in use again in channel main\n"
    assert {state for _, _, state in operator.states()} == {"in use"}


def test_a_removed_key_of_the_settings_stays_out_when_the_gateway_starts_again(
    operator: Operator,
) -> None:
    assert operator.does("remove", mark(ONE)) == 0

    async def look(pool: RedisKeyPool) -> None:
        assert await pool.all() == []
        assert [lost.reason for lost in await pool.quarantined()] == ["by hand"]

    operator.gateway_does("main", look, ONE)


def test_secrets_come_from_the_environment_files_and_standard_input_and_not_from_the_command_line(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MORE", TWO)
    (operator.folder / "keys.txt").write_text(f"{THREE}\n{TWO}\n")
    assert operator.does("add", "--channel", "spare", "env:MORE", "file:keys.txt") == 0
    assert {mark(TWO), mark(THREE)} == {
        name for channel, name, _ in operator.states() if channel == "spare"
    }
    for refused in (["add", "--channel", "spare", ONE], ["remove", ONE]):
        assert operator.does(*refused) == 1
        assert "everybody on this machine" in operator.complaint
        assert ONE not in operator.complaint
    assert operator.does("remove", "--plain", TWO) == 0
    assert operator.does("remove", "env:MORE") == 1
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{THREE}\n"))
    assert operator.does("remove", "-") == 0
    assert operator.does("add", "--channel", "spare", "--plain", TWO) == 0
    assert operator.does("add", "--channel", "spare", "--plain", TWO) == 0
    assert operator.told == f"{mark(TWO)} is in use in channel spare (and was before)\n"


@pytest.mark.parametrize(
    ("arguments", "stdin", "complaint"),
    [
        (["add"], "sk-x\n", "say which channel the keys are for, with --channel NAME; there are"),
        (["add", "--channel", "main"], " \n", "there is no key in what was given"),
        (
            ["add", "--channel", "main"],
            "sk-x\nsk y\n",
            "line 2 of standard input: a key holds a space",
        ),
        (["add", "--channel", "main", "env:NOT_SET"], "", "NOT_SET is not set"),
        (["add", "--channel", "main", "file:nowhere"], "", "cannot read nowhere"),
        (["list", "--channel", "other"], "", "named 'other'; there are: main, spare"),
        (["remove", "0123456789ab"], "", "0123456789ab is in use in no channel"),
        (["restore", "0123456789ab"], "", "0123456789ab is in no channel's quarantine"),
        (["balance", "0123456789ab"], "", "0123456789ab is in use in no channel"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    operator: Operator,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    stdin: str,
    complaint: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
    assert operator.does(*arguments) == 1
    (line,) = operator.complaint.splitlines()
    assert line.startswith("llm-gateway: ")
    assert complaint in line
    assert "sk y" not in line


def test_a_key_of_several_channels_is_taken_out_of_the_one_named(operator: Operator) -> None:
    for channel in ("main", "spare"):
        assert operator.does("add", "--channel", channel, "--plain", TWO) == 0
    assert operator.does("remove", Key(TWO).id, "--channel", "spare") == 0
    assert ("main", mark(TWO), "in use") in operator.states()
    assert ("spare", mark(TWO), "quarantined") in operator.states()


def test_balances_are_asked_for_now_told_and_kept(operator: Operator) -> None:
    host = BillingHost(
        {ONE: Account(limit=5, used_cents=125), TWO: Account(limit=5, used_cents=900)},
        {MODELS: Reply.error(401)},
    )
    with served(host.app) as base:
        operator.writes(f"{base}/v1")
        for channel, secret in (("main", TWO), ("main", THREE), ("spare", TWO)):
            assert operator.does("add", "--channel", channel, "--plain", secret) == 0
        assert operator.does("balance") == 0
        lines = operator.told.splitlines()
        assert operator.does("balance", mark(ONE)) == 0
        assert operator.told.splitlines()[1:] == [
            f"{mark(ONE)}  main     1.25 of 5.00 USD used",
            "channel main: 3.75 USD left",
        ]
        (refused,) = operator.sees("balance", mark(THREE))
    assert refused["problem"] == "the billing host answered 401"
    assert sorted(lines[1:5]) == sorted(
        [
            f"{mark(ONE)}  main     1.25 of 5.00 USD used",
            f"{mark(TWO)}  main     9.00 of 5.00 USD used",
            f"{mark(THREE)}  main     the billing host answered 401",
            f"{mark(TWO)}  spare    nothing is asked about this channel's keys",
        ]
    )
    assert lines[5:] == ["channel main: 3.75 USD left"]
    states = {row["fingerprint"]: row for row in operator.sees("list", "--channel", "main")}
    assert {row["state"] for row in states.values()} == {"in use"}, "asking takes nothing out"
    balance = states[mark(ONE)]["balance"]
    assert (balance["limit"], balance["used"], balance["left"]) == (5.0, 1.25, 3.75)
    assert abs(time.time() - _seconds(balance["checked"])) < 60
    assert "balance" not in states[mark(THREE)]


def test_a_balance_that_is_known_is_listed_with_its_time(operator: Operator) -> None:
    async def save(pool: RedisKeyPool) -> None:
        balance = Balance(left=12.0, currency="CNY", checked=1_790_000_000.0, access_until=2e9)
        await pool.save_balance(Key(ONE), balance)

    operator.gateway_does("main", save, ONE)
    assert operator.does("list") == 0
    assert "12.00 CNY left  2026-09-21T14:13:20Z" in operator.told
    (row,) = operator.sees("list")
    assert row["balance"]["access_until"] == "2033-05-18T03:33:20Z"


@pytest.mark.parametrize("store", ["", '[state]\nstore = "memory://"\n'])
@pytest.mark.parametrize("arguments", [["list"], ["add"], ["remove", "0123456789ab"], ["balance"]])
def test_without_a_shared_store_it_says_where_keys_live_and_what_to_add(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], store: str, arguments: list[str]
) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(store + CHANNELS.format(base_url="https://h.test"))
    assert main(["keys", *arguments, "--file", str(file)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "keys live in the serving process only" in line
    assert 'Add [state] with store = "redis://localhost:6379/0"' in line


def test_a_store_that_is_away_is_said_in_a_line(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE", "redis://:hush@127.0.0.1:1/0?timeout=0.2")
    for arguments in (["list"], ["remove", mark(ONE)], ["add", "--channel", "main", "env:STORE"]):
        assert operator.does(*arguments) == 1
        (line,) = operator.complaint.splitlines()
        assert line.startswith("llm-gateway: gateway.toml: state.store: ")
        assert "hush" not in line


def test_channels_are_seen_as_the_gateway_sees_them(operator: Operator) -> None:
    file = operator.folder / "gateway.toml"
    written = file.read_text()
    callers = (
        'name = "theirs"\ncredential = "caller"\nbase_url = "https://h.test"\nmodels = ["*"]\n'
    )
    file.write_text(f"{written}proxy = 'http://127.0.0.1:1'\n[[channels]]\n{callers}")
    assert operator.states() == {("main", mark(ONE), "in use")}
    assert operator.does("list", "--channel", "theirs") == 1
    file.write_text(written.replace('name = "spare"', 'name = "spare"\nprovider = "nobody"'))
    assert operator.does("list") == 1
    (line,) = operator.complaint.splitlines()
    assert line.startswith("llm-gateway: gateway.toml: ")
    assert "nobody" in line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_whoever_types_keys_is_told_how_to_end(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(TWO))
    assert operator.does("add", "--channel", "spare") == 0
    assert operator.complaint == "One key a line; end with Ctrl-D.\n"


def test_the_command_works_as_a_process(operator: Operator) -> None:
    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "asgi_llm_gateway", "keys", *arguments],
            cwd=operator.folder,
            env=environment({"STORE": operator.store.url}),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    added = run("add", "--channel", "spare", stdin=f"{TWO}\n")
    assert (added.returncode, added.stderr) == (0, "")
    removed = run("remove", mark(TWO))
    assert (removed.returncode, removed.stderr) == (0, "")
    shown = run("list", "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    states = {(row["fingerprint"], row["state"]) for row in json.loads(shown.stdout)}
    assert states == {(mark(ONE), "in use"), (mark(TWO), "quarantined")}
    refused = run("remove", TWO)
    assert refused.returncode == 1
    assert TWO not in refused.stderr
