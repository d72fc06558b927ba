"""Every example runs as its first lines say."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from asgi_llm_gateway import Gateway
from asgi_llm_gateway.cli import main
from asgi_llm_gateway.providers.simulator import Simulator
from tests.served import served

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").iterdir())


def app_of(name: str) -> Any:
    return runpy.run_path(str(ROOT / "examples" / name))["app"]


def chat(base_url: str, token: str | None, model: str = "gpt-4o") -> httpx.Response:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    return httpx.post(f"{base_url}/chat/completions", json=body, headers=headers, timeout=20)


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "LLM_GATEWAY_ACCESS_TOKEN", "ALICE_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.is_file()], ids=lambda e: e.name)
def test_an_example_is_short_and_begins_with_what_it_shows(example: Path) -> None:
    lines = example.read_text().splitlines()
    assert len(lines) < 60
    assert lines[0].startswith(('"""', "# "))


def test_uvicorn_serves_the_app_from_the_repository_root(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "uvicorn", "examples.uvicorn_app:app", "--port", "0"]
    log = (tmp_path / "log").open("w+")
    with (
        log,
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True
        ) as uvicorn,
    ):
        try:
            assert uvicorn.stdout is not None
            token = re.search(r"Bearer (sk-\S+)", uvicorn.stdout.readline())
            url = None
            while url is None and uvicorn.poll() is None:
                log.seek(0)
                url = re.search(r"http://127\.0\.0\.1:\d+", log.read())
            assert token
            assert url
            answer = chat(f"{url[0]}/v1", token[1])
            assert (answer.status_code, answer.headers["x-llm-channel"]) == (200, "simulated")
            assert chat(f"{url[0]}/v1", "sk-wrong").status_code == 401
        finally:
            uvicorn.terminate()


def test_the_app_relays_to_the_provider_whose_key_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    simulator = Simulator(keys=["sk-real"])
    with served(simulator) as provider:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-real")
        monkeypatch.setenv("OPENAI_BASE_URL", provider)
        monkeypatch.setenv("LLM_GATEWAY_ACCESS_TOKEN", "sk-mine")
        with served(app_of("uvicorn_app.py")) as url:
            answer = chat(f"{url}/v1", "sk-mine")
    assert (answer.status_code, answer.headers["x-llm-channel"]) == (200, "openai")
    assert [seen.key for seen in simulator.calls] == ["sk-real"]


def test_mounted_in_starlette_the_host_keeps_its_routes() -> None:
    with served(app_of("mount_in_starlette.py")) as url:
        assert httpx.get(url).text.startswith("The host's own page")
        token = "sk-alice-for-trying-out"
        for model in ("gpt-4o", "best"):
            answer = chat(f"{url}/v1", token, model)
            assert (answer.status_code, answer.headers["x-llm-channel"]) == (200, "main")
        assert chat(f"{url}/v1", None).status_code == 401
        assert chat(f"{url}/v1", token, "text-embedding-3-small").status_code == 403


def test_mounted_in_fastapi_the_host_names_the_callers() -> None:
    with served(app_of("mount_in_fastapi.py")) as url:
        assert httpx.get(f"{url}/users").json() == {"users": 1}
        assert chat(f"{url}/llm/v1", "sk-carol-for-trying-out").status_code == 200
        assert chat(f"{url}/llm/v1", "sk-nobody").status_code == 401


def test_added_parts_leave_the_hosts_routes_alone(capfd: pytest.CaptureFixture[str]) -> None:
    with served(app_of("add_middleware.py")) as url:
        assert httpx.get(f"{url}/hello").status_code == 200
        assert chat(f"{url}/v1", "sk-dave-for-trying-out").status_code == 200
        assert chat(f"{url}/v1", "sk-nobody").status_code == 401
    assert "dave gpt-4o 200 ok" in capfd.readouterr().out


def test_keys_rotate_in_a_stock_client(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples/rotating_keys.py"), run_name="__main__")
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == ["sync: 1 dead key was dropped", "async: it streams"]
    assert "sk-good" in told[2]
    assert "sk-dead" not in told[2]


async def test_the_settings_file_is_good_and_serves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALICE_TOKEN", "sk-alice")
    file = ROOT / "examples" / "gateway.toml"
    assert main(["check", str(file)]) == 0
    assert "2 channels, 1 access token" in capsys.readouterr().out
    gateway = Gateway.from_settings(file, environ=dict(os.environ))
    async with (
        gateway,
        httpx.AsyncClient(transport=httpx.ASGITransport(gateway), base_url="http://g") as client,
    ):
        answer = await client.post(
            "/v1/chat/completions",
            json={"model": "best", "messages": [{"role": "user", "content": "hello"}]},
            headers={"authorization": "Bearer sk-alice"},
        )
    assert (answer.status_code, answer.headers["x-llm-channel"]) == (200, "main")


def test_every_example_is_run_here() -> None:
    run_here = Path(__file__).read_text()
    names = [e.name for e in EXAMPLES if e.is_file()]
    assert [n for n in names if n not in run_here and n != "uvicorn_app.py"] == []
