"""`llm-gateway check`: what it shows, and what it says before anything is served."""

from __future__ import annotations

from pathlib import Path

import pytest

from asgi_llm_gateway.cli import main

SETTINGS = """
[auth]
anonymous = true
[failover]
strategy = "latency"
max_attempts = 2
fallback_models = { gpt-4o = ["deepseek-chat", "gone"] }
[health]
failures = 3
[[error_rules]]
status = 418
elsewhere = true
[aliases]
best = ["gpt-4o", "nowhere"]
[[channels]]
name = "main"
provider = "openai"
keys = ["sk-one-11111111", "sk-two-22222222"]
models = ["gpt-*"]
base_url = "https://host.test/v1?code=sk-in-the-query"
[[channels]]
name = "tokens"
provider = "openai"
keys = ["refresh-one-1111"]
models = ["gpt-*"]
credential = "refresh_token"
token_exchange = { token_url = "https://token.test", rotates = false }
[[channels]]
name = "callers"
provider = "deepseek"
models = ["deepseek-*"]
credential = "caller"
[[channels]]
name = "spare"
provider = "openai"
keys = ["sk-three-3333333"]
models = ["gone"]
enabled = false
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "gateway.toml"
    file.write_text(SETTINGS)
    return file


@pytest.mark.usefixtures("file")
def test_it_shows_keys_as_what_they_are_and_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    told = capsys.readouterr().out
    rows = {line.split()[0]: line for line in told.splitlines() if line}
    assert rows["tokens"].endswith("each a refresh token")
    assert rows["callers"].endswith("the callers' own")
    assert rows["spare"].startswith("spare (off)")
    assert "https://host.test/v1 " in rows["main"]
    assert not [secret for secret in ("sk-", "refresh-one") if secret in told]


@pytest.mark.usefixtures("file")
def test_it_shows_what_is_done_when_calls_fail(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        "failover: latency, up to 2 attempts of a model, errors default and 1 error row above it, "
        "[health] failures" in lines
    )
    assert "state: kept in each process" in lines


@pytest.mark.usefixtures("file")
def test_it_notes_models_that_nobody_serves(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert notes == [
        "note: aliases.best: no channel serves 'nowhere'",
        "note: failover.fallback_models.gpt-4o: no channel serves 'gone'",
    ]


@pytest.mark.parametrize("command", ["check", "serve"])
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("failures = 3", "failures = 3\nfalures = 1", "health.falures is not a setting"),
        ("status = 418", "status = 999", "error_rules[0]: 999 is no status"),
        ('strategy = "latency"', 'strategy = "fastest"', "failover.strategy is one of"),
        ('"nowhere"]', '"x"]\nx = "best"', "aliases: 'best' -> 'x' -> 'best' goes in a circle"),
        ("enabled = false", 'billing = "paypal"', "channel 'spare': billing is one of"),
        ("rotates = false", "rotates = true", "channel 'tokens': a refresh token that rotates"),
        ("rotates = false", "rotate = false", "channel 'tokens': token_exchange: there is no"),
        ('provider = "deepseek"', 'provider = "deepsek"', "channel 'callers': no provider is"),
        ("enabled = false", "key_limits = { rpm = 0 }", "channels[3]: channel 'spare': key_limits"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_served(
    file: Path, capsys: pytest.CaptureFixture[str], command: str, old: str, new: str, said: str
) -> None:
    assert old in SETTINGS
    file.write_text(SETTINGS.replace(old, new))
    assert main([command]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(f"llm-gateway: gateway.toml: {said}")
    assert len(err.splitlines()) == 1


TESTED = """
[auth]
anonymous = true
[[channels]]
name = "good"
provider = "simulator"
models = ["gpt-4o"]
[[channels]]
name = "bad"
provider = "simulator"
models = ["*"]
[[channels]]
name = "off"
provider = "simulator"
models = ["m"]
enabled = false
"""


def test_every_channel_that_is_on_can_be_asked_something_small(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(TESTED.replace('"*"', '"gpt-4*"'))
    assert main(["check", "--test", str(file)]) == 0
    said = capsys.readouterr().out.rpartition("test call")[2]
    assert "good" in said
    assert "failed" not in said
    assert "off" not in said


def test_a_channel_that_fails_its_test_is_told_by_the_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(TESTED.replace('"*"', '"nobody-knows-*"'))
    assert main(["check", "--test", str(file)]) == 1
    said = capsys.readouterr().out
    assert "has no model to test; give it a test_model" in said
