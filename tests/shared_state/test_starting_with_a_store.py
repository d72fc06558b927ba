"""What a gateway does at its start about the store it is to share with others."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from asgi_llm_gateway import ConfigurationError, Gateway
from asgi_llm_gateway.cli import main
from asgi_llm_gateway.state import State
from tests.cli.process import run, serving
from tests.shared_state.gateways import gateway, pool, settings, write
from tests.upstreams import ASK, ask
from tests.valkey import Valkey, ValkeyCluster
from tests.valkey import valkey_cluster as cluster  # noqa: F401 - a fixture

SLACK = 1.5
"""Seconds a busy machine may add."""
WRONG = (
    "redis:/localhost",
    "redis://localhost:port",
    "postgresql://localhost/db",
    "localhost:6379",
)


def simulated(count: int = 1) -> list[dict[str, Any]]:
    return [
        {"name": f"c{n}", "provider": "simulator", "models": ["gpt-*"], "keys": ["sk-secret-key"]}
        for n in range(count)
    ]


@contextmanager
def silent() -> Iterator[str]:
    """The URL of something that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"redis://:hush@127.0.0.1:{listener.getsockname()[1]}/0"


def of_the_store(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Warnings about the store itself; what follows from it for keys and health is told apart."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name == "asgi_llm_gateway.state"
    ]


@pytest.mark.parametrize("url", WRONG)
def test_a_url_that_is_none_is_refused_before_the_start_in_one_line(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Gateway.from_settings(settings(url, *simulated()), environ={})
    (line,) = refused.value.message.splitlines()
    assert re.match(r"settings: .*\[state\] store: ", line)
    with pytest.raises(ConfigurationError, match=r"\[state\] store: "):
        Gateway([], state=url)


def test_the_command_refuses_such_a_url_in_one_line_too(tmp_path: Path) -> None:
    write(tmp_path, settings(WRONG[0], *simulated(), server={"port": 0}))
    refused = run("serve", cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (1, "")
    (line,) = refused.stderr.splitlines()
    assert line.startswith("llm-gateway: gateway.toml: ")
    assert "[state] store: the URL must begin with memory://, redis://" in line


@pytest.mark.parametrize("store", ["refusing", "silent"])
async def test_a_store_that_cannot_be_reached_is_one_warning_and_no_obstacle(
    store: str, caplog: pytest.LogCaptureFixture
) -> None:
    with silent() as mute:
        url = mute if store == "silent" else "redis://:hush@127.0.0.1:1/0"
        document = settings(url, *simulated(20), state={"store": url, "timeout": 0.5})
        began = time.monotonic()
        async with Gateway.from_settings(document, environ={}) as one:
            assert time.monotonic() - began < 1.0 + SLACK, "however many channels there are"
            (line,) = of_the_store(caplog)
            assert len(caplog.records) <= 3, "not one for every channel"
            assert re.search(r"redis://127\.0\.0\.1:\d+/0 ", line)
            assert re.search(r"no answer in time|cannot connect: ", line)
            began = time.monotonic()
            answers = [await ask(one, {**ASK, "model": "gpt-4o"}) for _ in range(5)]
            assert {answer.status for answer in answers} == {200}
            assert time.monotonic() - began < 1.0 + SLACK
    assert "hush" not in caplog.text
    assert "sk-secret-key" not in caplog.text


async def test_a_password_that_is_refused_is_told_in_the_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Valkey(password="right")
    try:
        server.start()
        url = server.url.replace("right", "wrong-one")
        async with gateway(url, *simulated()) as one:
            (line,) = of_the_store(caplog)
            assert re.search("(?i)authentication|password", line)
            assert (await ask(one, {**ASK, "model": "gpt-4o"})).status == 200
    finally:
        server.discard()
    assert "wrong-one" not in caplog.text


async def test_a_store_that_comes_up_later_is_found_and_given_the_keys(
    own_valkey: Valkey,
) -> None:
    own_valkey.kill()
    async with gateway(own_valkey, *simulated()) as one:
        own_valkey.start()
        async with asyncio.timeout(15):
            while not own_valkey.call("EXISTS", "llm:{keys:c0}:ids"):
                assert (await ask(one, {**ASK, "model": "gpt-4o"})).status == 200
                await asyncio.sleep(0.05)
        assert len(await pool(one, "c0").all()) == 1


async def test_a_store_that_is_there_is_no_line_at_all(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway(valkey, *simulated()):
        assert of_the_store(caplog) == []
    assert await State(valkey.url).greet()


async def test_a_cluster_is_found_too(
    cluster: ValkeyCluster,  # noqa: F811
) -> None:
    state = State(cluster.url)
    async with state.resources:
        assert await state.greet()


@pytest.mark.parametrize("how", ["flag", "file", "environment"])
def test_workers_without_a_shared_store_are_refused_with_the_line_to_add(
    tmp_path: Path, how: str
) -> None:
    server = {"port": 0, **({"workers": 2} if how == "file" else {})}
    write(tmp_path, settings("memory://", *simulated(), server=server))
    flags = ["--workers", "2"] if how == "flag" else []
    environ = {"LLM_GATEWAY_SERVER_WORKERS": "2"} if how == "environment" else {}
    refused = run("serve", *flags, cwd=tmp_path, **environ)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.splitlines() == [
        "llm-gateway: gateway.toml: server.workers = 2 needs a store that the processes share: "
        'add [state] with store = "redis://localhost:6379/0", or serve with one worker'
    ]


def test_check_says_so_as_well_and_one_worker_needs_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for workers, code in ((2, 1), (1, 0)):
        server = {"workers": workers}
        file = write(tmp_path, settings("memory://", *simulated(), server=server))
        assert main(["check", str(file)]) == code
    assert "server.workers = 2 needs a store" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_with_a_store_serve(tmp_path: Path, valkey: Valkey) -> None:
    write(tmp_path, settings(valkey, *simulated(), server={"port": 0}))
    with serving("serve", "--workers", "2", cwd=tmp_path) as served:
        assert served.line.endswith("in 2 processes")
        assert served.call().status_code == 200
        assert served.stop(signal.SIGTERM) == 0
