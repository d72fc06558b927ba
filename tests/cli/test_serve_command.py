"""`llm-gateway serve` as its operator sees it: start, reload, logs, stop."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path

import httpx
import pytest

from tests.cli.process import run, serving
from tests.valkey import Valkey, valkey  # noqa: F401 - a fixture

TOKEN = "sk-alice"
SETTINGS = """
[server]
port = 0
[[access_tokens]]
name = "alice"
token = "sk-alice"
[[channels]]
name = "one"
provider = "simulator"
models = ["gpt-*"]
"""
SECOND = '[[channels]]\nname = "two"\nprovider = "simulator"\nmodels = ["tts-*", "o3"]\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "gateway.toml").write_text(SETTINGS)
    return tmp_path


def test_it_serves_the_file_beside_it_and_ends_in_order(folder: Path) -> None:
    with serving("serve", cwd=folder) as served:
        assert served.line.endswith("/v1 (1 channel, 1 access token)")
        assert served.call().status_code == 401
        answer = served.call(TOKEN)
        assert (answer.status_code, answer.headers["x-llm-channel"]) == (200, "one")
        assert "server" not in answer.headers
        root = served.base_url.removesuffix("/v1")
        assert httpx.get(f"{root}/health/ready").json() == {"status": "ready"}
        assert served.stop(signal.SIGTERM) == 0
        assert served.log == ""


def test_ctrl_c_ends_it_too(folder: Path) -> None:
    with serving("serve", cwd=folder) as served:
        assert served.stop(signal.SIGINT) == 0


def test_a_hangup_reloads_channels_and_a_bad_file_changes_nothing(folder: Path) -> None:
    file = folder / "gateway.toml"
    with serving("serve", "gateway.toml", cwd=folder) as served:
        assert served.call(TOKEN, "o3").status_code == 404
        file.write_text(SETTINGS + SECOND)
        served.process.send_signal(signal.SIGHUP)
        served.until_logged("reloaded gateway.toml: 2 channels, 1 access tokens")
        assert served.call(TOKEN, "gpt-4o").headers["x-llm-channel"] == "one"
        assert served.call(TOKEN, "o3").headers["x-llm-channel"] == "two"
        file.write_text(SETTINGS.replace("models", "modles"))
        served.process.send_signal(signal.SIGHUP)
        served.until_logged("not reloaded: gateway.toml: channels[0].modles is not a setting")
        assert served.call(TOKEN).status_code == 200


def test_a_stream_under_way_is_ended_before_the_process_is(folder: Path) -> None:
    with serving("simulate", "--port", "0", "--tokens-per-second", "30", cwd=folder) as provider:
        paced = f'base_url = "{provider.base_url}"\n'
        (folder / "gateway.toml").write_text(SETTINGS + paced)
        with serving("serve", cwd=folder) as served:
            body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
            with httpx.stream(
                "POST",
                f"{served.base_url}/chat/completions",
                json={**body, "stream": True},
                headers={"authorization": f"Bearer {TOKEN}"},
                timeout=30,
            ) as answer:
                lines = answer.iter_lines()
                assert next(lines).startswith("data: ")
                served.process.send_signal(signal.SIGTERM)
                rest = list(lines)
            assert "data: [DONE]" in rest
            assert len(rest) > 8
            assert served.process.wait(30) == 0


def test_a_stream_that_never_ends_is_cut_at_the_deadline(folder: Path) -> None:
    with serving("simulate", "--port", "0", "--fault", "gpt-4o=stall:2", cwd=folder) as provider:
        limit = SETTINGS.replace("port = 0", "port = 0\nshutdown_timeout = 0.2")
        (folder / "gateway.toml").write_text(f'{limit}base_url = "{provider.base_url}"\n')
        with serving("serve", cwd=folder) as served:
            body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
            headers = {"authorization": f"Bearer {TOKEN}"}
            url = f"{served.base_url}/chat/completions"
            with (
                httpx.Client(timeout=30) as client,
                client.stream(
                    "POST", url, json={**body, "stream": True}, headers=headers
                ) as answer,
            ):
                lines = answer.iter_lines()
                assert next(lines).startswith("data: ")
                served.process.send_signal(signal.SIGTERM)
                with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
                    list(lines)
            assert served.process.wait(30) == 0


def test_flags_go_over_the_environment_and_that_over_the_file(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = str(taken.getsockname()[1])
        with serving("serve", "--port", "0", cwd=folder, LLM_GATEWAY_SERVER_PORT=busy) as served:
            assert f":{busy}/" not in served.line
        refused = run("serve", cwd=folder, LLM_GATEWAY_SERVER_PORT=busy)
    assert refused.returncode == 1
    assert refused.stderr.splitlines() == [
        f"llm-gateway: cannot listen on 127.0.0.1:{busy}: Address already in use; choose another "
        "--host or --port"
    ]


def test_log_dir_gets_a_log_of_iso_times_and_no_secrets(folder: Path) -> None:
    (folder / "gateway.toml").write_text(
        SETTINGS.replace("models =", 'keys = ["sk-very-secret"]\nmodels =')
    )
    with serving("serve", "--log-dir", "logs", cwd=folder) as served:
        assert served.call(TOKEN).status_code == 200
        served.process.send_signal(signal.SIGHUP)
        served.until_logged("reloaded")
    text = (folder / "logs" / "gateway.log").read_text()
    moment = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
    assert re.match(rf"{moment} INFO asgi_llm_gateway\.gateway: reloaded", text)
    assert "secret" not in text
    assert TOKEN not in text


def test_the_environment_alone_is_enough(tmp_path: Path) -> None:
    with serving(
        "serve",
        cwd=tmp_path,
        LLM_GATEWAY_SERVER_PORT="0",
        LLM_GATEWAY_CHANNELS_0_NAME="env",
        LLM_GATEWAY_CHANNELS_0_PROVIDER="simulator",
        LLM_GATEWAY_CHANNELS_0_MODELS="*",
        LLM_GATEWAY_ACCESS_TOKEN="sk-root",
        LLM_GATEWAY_SERVER_ROOT_PATH="/llm",
    ) as served:
        assert served.base_url.endswith("/llm/v1")
        answer = httpx.get(
            served.base_url.replace("/llm/v1", "/v1/models"),
            headers={"authorization": "Bearer sk-root"},
        )
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            'token = "sk-alice"',
            "access_tokens[0]: access token 'alice' needs token or sha256",
        ),
        (
            '[[access_tokens]]\nname = "alice"\ntoken = "sk-alice"',
            "nobody may call: add an [[access_",
        ),
        ('models = ["gpt-*"]', "channels[0]: channel 'one': models is empty"),
    ],
)
def test_it_refuses_to_start_on_settings_that_cannot_work(
    folder: Path, change: str, line: str
) -> None:
    (folder / "gateway.toml").write_text(SETTINGS.replace(change, ""))
    refused = run("serve", cwd=folder)
    assert (refused.returncode, refused.stdout) == (1, "")
    (found,) = refused.stderr.splitlines()
    assert found.startswith(f"llm-gateway: gateway.toml: {line}")


def test_everybody_may_call_only_where_the_settings_say_so(folder: Path) -> None:
    tables = '[[access_tokens]]\nname = "alice"\ntoken = "sk-alice"'
    (folder / "gateway.toml").write_text(SETTINGS.replace(tables, "[auth]\nanonymous = true"))
    with serving("serve", cwd=folder) as served:
        assert served.line.endswith("(1 channel, open to everybody)")
        assert served.call().status_code == 200


@pytest.mark.slow
def test_several_workers_share_the_port_and_a_hangup_replaces_them(
    folder: Path,
    valkey: Valkey,  # noqa: F811
) -> None:
    shared = f'[state]\nstore = "{valkey.url}"\n'
    (folder / "gateway.toml").write_text(SETTINGS + shared)
    with serving("serve", "--workers", "2", "--log-level", "debug", cwd=folder) as served:
        assert served.line.endswith("in 2 processes")
        assert served.call(TOKEN).status_code == 200
        (folder / "gateway.toml").write_text(SETTINGS + shared + SECOND)
        served.process.send_signal(signal.SIGHUP)
        served.until_logged("Finished server process", times=2)
        assert served.call(TOKEN, "o3").headers["x-llm-channel"] == "two"
        assert served.stop(signal.SIGTERM) == 0


@pytest.mark.slow
def test_a_hangup_with_settings_that_cannot_work_leaves_a_worker_serving(
    folder: Path,
    valkey: Valkey,  # noqa: F811
) -> None:
    shared = f'[state]\nstore = "{valkey.url}"\n'
    (folder / "gateway.toml").write_text(SETTINGS + shared)
    with serving("serve", "--workers", "2", cwd=folder) as served:
        assert served.call(TOKEN).status_code == 200
        (folder / "gateway.toml").write_text("[server]\nprot = 1\n")
        served.process.send_signal(signal.SIGHUP)
        served.until_logged("server.prot is not a setting; did you mean port?")
        assert served.call(TOKEN).status_code == 200
        served.stop(signal.SIGTERM)
