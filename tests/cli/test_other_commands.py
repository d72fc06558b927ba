"""check, token, simulate, demo, and what the command line itself says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from asgi_llm_gateway import AccessToken, __version__
from asgi_llm_gateway.cli import main
from asgi_llm_gateway.cli.demo import real_provider
from asgi_llm_gateway.settings import read_settings
from tests.cli.process import run, serving

SETTINGS = """
[[access_tokens]]
name = "alice"
token = "env:ALICE_TOKEN"
[[channels]]
name = "main"
provider = "openai"
keys = ["file:keys.txt", "env:OPENAI_KEY"]
models = ["gpt-*"]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "gateway.toml").write_text(SETTINGS)
    (tmp_path / "keys.txt").write_text("sk-first\n\nsk-second\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALICE_TOKEN", "sk-alice")
    monkeypatch.setenv("OPENAI_KEY", "sk-third")
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_check_shows_channels_and_fingerprints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("gateway.toml is good: 1 channel, 1 access token\n")
    row = next(line for line in told.splitlines() if line.startswith("main"))
    assert re.search(r"openai +https://api\.openai\.com/v1 +0 +gpt-\* +3 \([0-9a-f]{12}, ", row)
    assert "sk-" not in told


def test_check_tells_each_problem_in_a_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_KEY")
    assert main(["check"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "llm-gateway: gateway.toml: channel 'main': the environment variable OPENAI_KEY is not "
        "set; set it"
    ]
    file = folder / "gateway.toml"
    file.write_text(SETTINGS.replace("keys", "kyes").replace("name =", "nmae ="))
    assert main(["check", str(file)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 5


def test_without_a_file_it_says_what_to_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["check"]) == 1
    assert "there is no gateway.toml here: name a settings file" in capsys.readouterr().err


def test_a_new_token_is_let_in_by_the_table_printed_with_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["token", "new", "--name", 'al"ice', "--group", "vip"]) == 0
    secret, _, table = capsys.readouterr().out.partition("\n")
    file = tmp_path / "tokens.toml"
    file.write_text(table)
    assert secret not in table
    (token,) = read_settings(file, environ={}).access_tokens
    assert token == AccessToken.of(secret, name='al"ice', group="vip")
    assert main(["token", "new"]) == 0
    assert capsys.readouterr().out.partition("\n")[0] != secret


def test_the_version_and_the_help_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--version"], ["serve", "--version"]):
        with pytest.raises(SystemExit, match="0"):
            main(arguments)
        assert capsys.readouterr().out == f"llm-gateway {__version__}\n"
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    told = capsys.readouterr().out
    assert all(command in told for command in ("serve", "demo", "simulate", "check", "token"))
    with pytest.raises(SystemExit, match="2"):
        main(["no-such-command"])


def test_simulate_serves_a_provider_with_faults(tmp_path: Path) -> None:
    arguments = ["--port", "0", "--key", "sk-good", "--model", "m", "--fault", "m=once:503"]
    with serving("simulate", *arguments, cwd=tmp_path) as served:
        assert served.call("sk-bad", "m").status_code == 503
        assert served.call("sk-bad", "m").status_code == 401
        assert served.call("sk-good", "m").status_code == 200
        assert served.call("sk-good", "other").status_code == 404


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("503", "--fault is TARGET=FAULT, like gpt-4o=once:503"),
        ("m=zzz", "no fault is named 'zzz'"),
    ],
)
def test_simulate_refuses_a_fault_there_is_not(
    fault: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "--port", "0", "--fault", fault]) == 1
    assert line in capsys.readouterr().err


def test_the_demo_makes_its_calls_and_says_how_to_make_more(tmp_path: Path) -> None:
    shown = run("demo", "--once", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert ["plain", "200", "north", "1"] in [row[:4] for row in rows]
    assert ["streamed", "200", "north", "1"] in [row[:4] for row in rows]
    assert ["failed", "over", "200", "north", "2"] in [row[:5] for row in rows]
    assert re.search(r"\(log\) key [0-9a-f]{12} taken out", shown.stdout)
    for hint in (
        "curl http://127.0.0.1:",
        "from openai import OpenAI",
        "Authorization: Bearer sk-",
    ):
        assert hint in shown.stdout


@pytest.mark.slow
def test_the_demo_serves_on_until_it_is_stopped(tmp_path: Path) -> None:
    with serving("demo", cwd=tmp_path) as served:
        assert served.process.stdout is not None
        lines = iter(served.process.stdout.readline, "")
        told = "".join(_until(lines, "Serving until Ctrl-C."))
        token = re.search(r"Bearer (sk-[\w-]+)", told)
        url = re.search(r"curl (\S+)", told)
        assert token
        assert url
        body = {"model": "gpt-4o", "messages": []}
        headers = {"authorization": f"Bearer {token[1]}"}
        assert httpx.post(url[1], json=body, headers=headers).status_code in (200, 400)
        assert served.stop(signal.SIGINT) == 0


@pytest.mark.slow
def test_the_demo_relays_to_a_real_provider_whose_variable_is_set(tmp_path: Path) -> None:
    with serving("simulate", "--port", "0", "--key", "sk-real", cwd=tmp_path) as provider:
        environ = {"OPENAI_API_KEY": "sk-real", "OPENAI_BASE_URL": provider.base_url}
        shown = run("demo", "--once", cwd=tmp_path, **environ)
        assert (shown.returncode, shown.stderr) == (0, "")
        assert "OPENAI_API_KEY is set: relaying to openai" in shown.stdout
        assert "failed over" not in shown.stdout
        wrong = run("demo", "--once", cwd=tmp_path, **{**environ, "OPENAI_API_KEY": "sk-wrong"})
        assert wrong.returncode == 1
        assert "plain: the answer was" in wrong.stderr


def test_the_demo_takes_the_first_provider_it_has_a_key_for() -> None:
    assert real_provider({}) is None
    assert real_provider({"OPENAI_API_KEY": " ", "VLLM_API_KEY": "x"}) is None
    both = real_provider({"GROQ_API_KEY": "x", "OPENAI_API_KEY": "y"})
    assert both is not None
    assert both.name == "openai"


def _until(lines: Iterator[str], last: str) -> Iterator[str]:
    for line in lines:
        yield line
        if last in line:
            return


@pytest.mark.parametrize("command", [["simulate"], ["demo", "--once"]])
def test_a_port_that_is_none_is_told_in_a_line(command: list[str]) -> None:
    done = run(*command, "--port", "99999")
    assert done.returncode == 1
    assert done.stderr == "llm-gateway: --port is a number from 0 to 65535, not 99999\n"


def test_who_reads_no_further_gets_no_traceback(folder: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "asgi_llm_gateway", "check"],
        cwd=folder,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
