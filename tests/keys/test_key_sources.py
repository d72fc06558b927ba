"""Where keys are written down."""

from __future__ import annotations

from pathlib import Path

import pytest

from asgi_llm_gateway.errors import ConfigurationError
from asgi_llm_gateway.keys.sources import resolve, resolve_all

WHERE = "channel 'main'"


def test_a_key_stands_for_itself() -> None:
    assert resolve(" sk-1 ", {}, where=WHERE) == ["sk-1"]
    assert resolve("  ", {}, where=WHERE) == []


def test_an_environment_variable_holds_one() -> None:
    assert resolve("env:KEY", {"KEY": " sk-1\n"}, where=WHERE) == ["sk-1"]


@pytest.mark.parametrize("environ", [{}, {"KEY": ""}, {"KEY": "  "}])
def test_a_variable_that_is_not_set_is_named(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"channel 'main'.*KEY is not set"):
        resolve("env:KEY", environ, where=WHERE)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_holds_one_a_line_blank_and_repeated_lines_skipped(tmp_path: Path, end: str) -> None:
    path = tmp_path / "keys.txt"
    path.write_bytes(end.join(["sk-1", "", "  sk-2  ", "sk-1", "\t", "sk-3"]).encode())
    assert resolve(f"file:{path}", {}, where=WHERE) == ["sk-1", "sk-2", "sk-3"]


def test_a_line_that_begins_with_a_hash_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text("# of the team\nsk-1\n#sk-old\nsk-2#3\n")
    assert resolve(f"file:{tmp_path / 'keys.txt'}", {}, where=WHERE) == ["sk-1", "sk-2#3"]


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "$KEY", "${OPENAI}", "MY_TOKEN", "A_SECRET"])
def test_a_variable_without_its_env_is_no_key(name: str) -> None:
    with pytest.raises(ConfigurationError, match="write env:NAME"):
        resolve(name, {name: "sk-1"}, where=WHERE)
    assert resolve(f"env: {name}", {name: "sk-1"}, where=WHERE) == ["sk-1"]


@pytest.mark.parametrize("key", ["sk-1", "KEY", "AKIAIOSFODNN7EXAMPLE", "GOCSPX-A_KEY", "key_A"])
def test_what_only_resembles_a_variable_is_a_key(key: str) -> None:
    assert resolve(key, {}, where=WHERE) == [key]


def test_an_empty_file_holds_none(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text("\n\n")
    assert resolve(f"file:{tmp_path / 'keys.txt'}", {}, where=WHERE) == []


@pytest.mark.parametrize("bad", ["sk two", "sk-é", "sk-\x7f", "sk-\x00"])
def test_a_bad_line_is_named_by_its_number_and_never_shown(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "keys.txt"
    path.write_text(f"sk-1\n\n{bad}\n", encoding="utf-8")
    with pytest.raises(ConfigurationError) as refused:
        resolve(f"file:{path}", {}, where=WHERE)
    assert f"line 3 of {path}" in str(refused.value)
    assert bad not in str(refused.value)
    with pytest.raises(ConfigurationError) as refused:
        resolve(bad, {}, where=WHERE)
    assert bad not in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read .*nothing\.txt: No such file"):
        resolve(f"file:{tmp_path / 'nothing.txt'}", {}, where=WHERE)
    (tmp_path / "latin").write_bytes(b"sk-\xff")
    with pytest.raises(ConfigurationError, match="it is not UTF-8 text"):
        resolve(f"file:{tmp_path / 'latin'}", {}, where=WHERE)
    with pytest.raises(ConfigurationError, match="cannot read"):
        resolve(f"file:{tmp_path}", {}, where=WHERE)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_bytes(b"\xef\xbb\xbfsk-1\nsk-2\n")
    assert resolve(f"file:{tmp_path / 'keys.txt'}", {}, where=WHERE) == ["sk-1", "sk-2"]


def test_several_sources_are_one_list_each_key_once(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text("sk-2\nsk-1\n")
    sources = ["sk-1", f"file:{tmp_path / 'keys.txt'}", "env:KEY"]
    assert resolve_all(sources, {"KEY": "sk-2"}, where=WHERE) == ["sk-1", "sk-2"]
