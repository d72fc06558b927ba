"""Whatever is wrong with settings is one line that names the file, the setting and the fix."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llm_gateway import ConfigurationError
from asgi_llm_gateway.settings import live_channels, read_settings

CHANNEL: dict[str, Any] = {"name": "main", "models": ["*"]}


def problems(document: Any, **environ: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        read_settings(document, environ=environ)
    return caught.value.message.splitlines()


def channel(**more: Any) -> dict[str, Any]:
    return {"channels": [{**CHANNEL, **more}]}


def token(**fields: Any) -> dict[str, Any]:
    return {"access_tokens": [{"name": "alice", "token": "sk-alice", **fields}]}


@pytest.mark.parametrize(
    ("document", "line"),
    [
        (channel(wieght=3), "channels[0].wieght is not a setting; did you mean weight?"),
        ({"server": {"zzz": 1}}, "server.zzz is not a setting; known are host, port, workers, "),
        ({"chanels": []}, "chanels is not a table of settings; did you mean channels?"),
        ({"port": 1}, "port is a setting of a table; write it below [server]"),
        ({"rate_limit": {}}, "rate_limit is not a table of settings; known are server, "),
        ({"server": 5}, "server must be a table"),
        ({"channels": {"name": "a"}}, "channels must be a list of tables: write [[channels]]"),
        (
            {"server": {"port": "80"}},
            "server.port must be a port from 0 to 65535, not the text '80'",
        ),
        (
            {"server": {"port": True}},
            "server.port must be a port from 0 to 65535, not the flag true",
        ),
        (
            {"server": {"workers": 0}},
            "server.workers must be a whole number from 1, not the number 0",
        ),
        ({"server": {"host": ["a"]}}, "server.host must be a text, not a list"),
        ({"server": {"root_path": "llm/"}}, "server.root_path must be empty or a path like /llm"),
        (
            {"server": {"log_level": "loud"}},
            "server.log_level must be one of debug, info, warning,",
        ),
        ({"server": {"max_body_mb": float("inf")}}, "server.max_body_mb must be a number above 0"),
        (
            channel(models="gpt-*"),
            'channels[0].models must be a list of texts like ["a", "b"], not',
        ),
        (
            channel(models=[1]),
            'channels[0].models must be a list of texts like ["a", "b"], not a list',
        ),
        (channel(timeouts={"idle": "x"}), "channels[0].timeouts must be a table of seconds like"),
        (
            channel(timeouts={"ilde": 3}),
            "channels[0]: channel 'main': timeouts has 'ilde'; known are",
        ),
        (
            channel(timeouts={"idle": 0}),
            "channels[0]: channel 'main': timeouts.idle must be above 0",
        ),
        (channel(choose_key="best"), "channels[0]: channel 'main': choose_key is one of"),
        (channel(name="a b"), "channels[0]: channel 'a b': a name is 1 to 64 letters"),
        ({"channels": [{"models": ["*"]}]}, 'channels[0] has no name; add one like name = "main"'),
        (
            channel(base_url="env:NOPE"),
            "channels[0].base_url: the environment variable NOPE is not set",
        ),
        (
            channel(groups=["env:NOPE"]),
            "channels[0].groups: the environment variable NOPE is not set",
        ),
        (
            channel(timeouts={"idle": 5, "connect": "5 minutes"}),
            "channels[0].timeouts must be a table of seconds like { idle = 60 }, false for no "
            "limit, not one whose connect is the text '5 minutes'",
        ),
        (
            channel(headers={"x-secret": 77}),
            'channels[0].headers must be a table of texts like { a = "b" }, not one whose x-secret '
            "is the number",
        ),
        (channel(name={"a": "b"}), "channels[0].name must be a text, not a table"),
        ({"channels": [CHANNEL, CHANNEL]}, "channels[1].name: another channel is named 'main' too"),
        (
            {"aliases": {"a": 1}},
            'aliases must be a table like { fast = "gpt-4o-mini", best = ["gpt-4o", "claude-sonnet'
            '"] }, not one whose a is the number 1',
        ),
        ({"keys": {"sweep": "often"}}, 'keys.sweep must be a duration like 2.5 (seconds), "500ms"'),
        ({"failover": {"fallback_models": {"a": "b"}}}, "failover.fallback_models must be a table"),
        (
            token(token="env:NOPE"),
            "access_tokens[0].token: the environment variable NOPE is not set",
        ),
        (token(token="x"), "access_tokens[0]: access token 'alice': a token is a text of 3 to"),
        (token(token="file:/not/there"), "access_tokens[0].token: cannot read /not/there"),
        (
            token(sha256="0" * 64),
            "access_tokens[0]: access token 'alice' has both token and sha256; drop one",
        ),
        (
            token(ips=["10.0.0.1/8"]),
            "access_tokens[0]: access token 'alice': ips: '10.0.0.1/8' is no",
        ),
        (
            token(expires="tomorrow"),
            "access_tokens[0].expires must be a date with its time zone like",
        ),
        ({"access_tokens": [{"token": "sk-a"}]}, "access_tokens[0]: an access token has no name"),
        (
            {"access_tokens": [{"name": n, "token": "sk-same"} for n in "ab"]},
            "the access tokens 'a' and 'b' have the same secret",
        ),
    ],
)
def test_each_mistake_is_one_line_that_says_what_to_do(document: Any, line: str) -> None:
    (found,) = problems(document)
    assert found.startswith(f"settings: {line}")


@pytest.mark.parametrize(
    ("variable", "text", "line"),
    [
        (
            "LLM_GATEWAY_SERVER_PORT",
            "tcp://10.0.0.1:80",
            " must be a port from 0 to 65535, not the text",
        ),
        ("LLM_GATEWAY_SERVER_PROT", "1", ": prot is not a setting; did you mean port?"),
        (
            "LLM_GATEWAY_CHANNELS_1_NAME",
            "x",
            ": channels are numbered from 0 without a gap, and there",
        ),
        (
            "LLM_GATEWAY_CHANNELS_X_NAME",
            "x",
            ": channels are numbered from 0 without a gap, and there",
        ),
        ("LLM_GATEWAY_ALIASES", "a=b", " must be a table like {"),
        ("LLM_GATEWAY_ACCESS_TOKEN", "sk a", ": access token 'root': the token holds a space"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(
    variable: str, text: str, line: str
) -> None:
    (found,) = problems({}, **{variable: text})
    assert found.startswith(variable + line)


def test_a_list_of_something_else_than_tables_is_told_first() -> None:
    assert problems({"channels": ["a"]})[0] == "settings: channels[0] must be a table"


def test_all_mistakes_are_told_at_once() -> None:
    document = {"server": {"port": -1, "prot": 1}, **channel(wieght=1, models=3)}
    assert len(problems(document)) == 4


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"[server\n", "this is not TOML: "),
        (b"a = 1\na = 2\n", "this is not TOML: "),
        (b"# \xff\xfe\n", "this is not UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, line: str) -> None:
    file = tmp_path / "gateway.toml"
    file.write_bytes(content)
    (found,) = problems(file)
    assert found.startswith(f"{file}: {line}")
    (found,) = problems(tmp_path / "nowhere.toml")
    assert found == f"{tmp_path / 'nowhere.toml'}: cannot be read: No such file or directory"


@pytest.mark.parametrize(
    "document",
    [
        channel(keys="sk-very-secret"),
        channel(keys=["sk-very-secret", 5]),
        channel(headers="sk-very-secret"),
        channel(proxy=["sk-very-secret"]),
        token(token=["sk-very-secret"]),
        token(token="sk-very-secret x"),
        token(token="sk-very-secret", sha256="sk-very-secret"),
    ],
)
def test_no_error_repeats_a_secret(document: dict[str, Any]) -> None:
    assert "very-secret" not in "\n".join(problems(document))


def test_keys_are_named_with_their_file_and_channel_before_a_server_starts() -> None:
    settings = read_settings(channel(keys=["env:NOT_THERE"]), environ={})
    expected = "settings: channel 'main': the environment variable NOT_THERE is not set; set it"
    with pytest.raises(ConfigurationError) as caught:
        live_channels(settings, {})
    assert caught.value.message == expected


def test_no_channel_at_all_is_told_with_the_table_to_add() -> None:
    with pytest.raises(ConfigurationError, match=r"there is no channel: add a \[\[channels\]\]"):
        live_channels(read_settings({}, environ={}))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=8) | st.sampled_from(["name", "models", "port", "keys", "token"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
_TABLE = st.sampled_from(["server", "auth", "failover", "channels", "access_tokens", "aliases"])


@given(st.dictionaries(_TABLE | st.text(max_size=8), _JSON, max_size=4))
def test_any_document_is_settings_or_lines_of_problems(document: dict[str, Any]) -> None:
    with suppress(ConfigurationError):  # any other exception fails this test
        assert read_settings(document, environ={}).source == "settings"


def test_a_file_as_windows_editors_save_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_bytes(b"\xef\xbb\xbf[server]\r\nport = 9\r\n")
    assert read_settings(file, environ={}).server.port == 9
