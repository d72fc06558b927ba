"""What a channel is, what it serves, and the table of them."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_llm_gateway import Caller, Channel, ConfigurationError, Relay
from asgi_llm_gateway.channels.index import ChannelTable
from asgi_llm_gateway.errors import (
    ModelNotFound,
    NotSupported,
)
from asgi_llm_gateway.keys.pool import MemoryKeyPool
from asgi_llm_gateway.upstream.contract import Timeouts
from tests.channels.lives import live, names
from tests.upstreams import FakeUpstream, Reply, ask, channel_to

BAD: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "a name is"),
    ({"name": "a b"}, "a name is"),
    ({"name": "a\n"}, "a name is"),
    ({"name": "é"}, "a name is"),
    ({"name": "x" * 65}, "a name is"),
    ({"models": "gpt-4"}, "models is a list"),
    ({"groups": "default"}, "groups is a list"),
    ({"keys": "sk-1"}, "keys is a list"),
    ({"models": []}, "models is empty"),
    ({"weight": 0}, "weight must be above 0"),
    ({"weight": -1}, "weight must be above 0"),
    ({"weight": float("nan")}, "weight must be above 0"),
    ({"weight": float("inf")}, "weight must be above 0"),
    ({"choose_key": "best"}, "choose_key is one of"),
    ({"timeouts": {"conect": 1}}, "timeouts has 'conect'"),
    ({"timeouts": {"connect": 0}}, "timeouts.connect must be above 0"),
    ({"proxy": "localhost:3128"}, "proxy is a URL like"),
    ({"proxy": "foo"}, "proxy is a URL like"),
    ({"proxy": "ftp://host"}, "proxy is a URL like"),
    ({"proxy": "http://host:none"}, "proxy is a URL like"),
    ({"proxy": "http://[::1"}, "proxy is a URL like"),
]


@pytest.mark.parametrize(("config", "message"), BAD)
def test_a_channel_that_cannot_work_is_refused_when_it_is_made(
    config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Channel(**{"name": "main", "models": ["*"], **config})


def test_a_socks_proxy_names_the_package_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str) -> None:
        assert name == "socksio"

    monkeypatch.setattr("asgi_llm_gateway.channels.channel.find_spec", found)
    with pytest.raises(ConfigurationError, match=r"pip install 'httpx\[socks\]'"):
        Channel(name="main", models=["*"], proxy="socks5://user:secret@host:1080")
    monkeypatch.setattr("asgi_llm_gateway.channels.channel.find_spec", lambda name: object())
    Channel(name="main", models=["*"], proxy="socks5://user:secret@host:1080")


LATER: list[tuple[dict[str, Any], str]] = [
    ({"provider": "nobody"}, "no provider is named 'nobody'"),
    ({"base_url": None}, "base_url"),
    ({"base_url": "ftp://x"}, "base_url"),
    ({"provider": "openai"}, "needs a key"),
    ({"keys": ["env:NOTHING"]}, "channel 'main': the environment variable NOTHING"),
    ({"keys": ["sk two"]}, "channel 'main': a key holds a space"),
    ({"keys": ["OPENAI_API_KEY"]}, "channel 'main': a key looks like the name of an environment"),
    ({"keys": ["${SECRET}"]}, "channel 'main': a key looks like the name of an environment"),
    ({"keys": ["file:/dev/null"]}, "channel 'main': there is no key in file:/dev/null"),
    ({"headers": {"x-a": "a\r\nb: c"}}, "channel 'main'"),
    ({"headers": {"x a": "b"}}, "channel 'main'"),
    ({"headers": {"x-é": "b"}}, "channel 'main'"),
    ({"headers": {"x-a": "\u4e2d"}}, "channel 'main'"),
    ({"headers": {"Content-Length": "5"}}, "channel 'main'"),
]


@pytest.mark.parametrize(("config", "message"), LATER)
def test_what_only_shows_at_the_start_is_refused_there(
    config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        live(**config)


def test_a_channels_repr_shows_no_secret() -> None:
    channel = Channel(
        name="main",
        models=["*"],
        keys=["sk-secret"],
        headers={"x-a": "secret"},
        proxy="http://user:secret@p",
    )
    assert "secret" not in repr(channel)


def test_timeouts_may_be_given_by_name() -> None:
    assert live(timeouts={"idle": 5, "total": None}).timeouts == Timeouts(idle=5, total=None)


@pytest.mark.parametrize(
    ("models", "mapping", "model", "served"),
    [
        (["gpt-4"], {}, "gpt-4", True),
        (["gpt-4"], {}, "gpt-4o", False),
        (["gpt-*"], {}, "gpt-4/x", True),
        (["gpt-*"], {}, "GPT-4", False),
        (["gpt-?"], {}, "gpt-4", True),
        (["gpt-[45]"], {}, "gpt-5", True),
        (["a"], {"old": "new"}, "old", True),
        (["a"], {"old": "new"}, "new", False),
        (["*"], {}, "", True),
    ],
)
def test_models_are_served_by_name_by_glob_and_by_mapping(
    models: list[str], mapping: dict[str, str], model: str, served: bool
) -> None:
    assert live(models=models, model_mapping=mapping).serves(model) is served


def test_keys_are_read_from_where_they_are_and_each_can_be_sent() -> None:
    channel = live(environ={"KEY": "sk-env"}, keys=["sk-a", "env:KEY", "sk-a"])
    assert [key.secret for key in channel.pool.keys] == ["sk-a", "sk-env"]
    signed = dict(channel.sign(channel.pool.keys[1].secret))
    assert signed[b"authorization"] == b"Bearer sk-env"


async def test_a_provider_that_wants_no_key_is_called_without_one() -> None:
    channel = live(provider="ollama", base_url=None)
    key = await channel.pool.take(None)
    assert key is not None
    assert b"authorization" not in dict(channel.sign(key.secret))


async def test_a_pool_of_ones_own_takes_the_place_of_keys() -> None:
    pool = MemoryKeyPool(["sk-mine-1111"])
    upstream = FakeUpstream()
    assert (await ask(Relay([channel_to(upstream, keys=pool)]))).status == 200
    assert upstream.keys == ["sk-mine-1111"]


# The table


def test_channels_of_equal_priority_stand_together_the_highest_first() -> None:
    table = ChannelTable(
        [live("low", priority=-5), live("a"), live("top", priority=7), live("b")], {}
    )
    assert names(table.tiers("m", "chat", None)) == [["top"], ["a", "b"], ["low"]]
    assert table.tiers("m", "chat", None) is table.tiers("m", "chat", Caller("x", "t"))


def test_two_channels_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="two channels are named 'a'"):
        ChannelTable([live("a"), live("b"), live("a")], {})


def test_groups_and_bound_channels_cut_the_candidates() -> None:
    table = ChannelTable([live("a"), live("b", groups=["vip"]), live("c")], {})
    vip = Caller("v", "t", group="vip")
    bound = Caller("b", "t", channels=("c", "b"))
    assert names(table.tiers("m", "chat", None)) == [["a", "c"]]
    assert names(table.tiers("m", "chat", vip)) == [["b"]]
    assert names(table.tiers("m", "chat", bound)) == [["c"]]
    assert names(table.tiers("m", "chat", None)) == [["a", "c"]]
    with pytest.raises(ModelNotFound):
        table.tiers("m", "chat", Caller("n", "t", channels=()))


def test_a_model_nobody_serves_names_model_and_group() -> None:
    table = ChannelTable([live(models=["gpt-*"])], {})
    with pytest.raises(ModelNotFound, match="'claude' to the group 'vip'"):
        table.tiers("claude", "chat", Caller("v", "t", group="vip"))


def test_an_endpoint_that_none_of_those_who_serve_it_has_is_not_supported() -> None:
    table = ChannelTable([live(provider="deepseek", keys=["sk-1"]), live("b", models=["x"])], {})
    with pytest.raises(NotSupported):
        table.tiers("m", "embeddings", None)
    assert names(table.tiers("x", "embeddings", None)) == [["b"]]


def test_many_models_asked_for_do_not_fill_the_memory() -> None:
    table = ChannelTable([live()], {})
    for n in range(10_000):
        table.tiers(f"m{n}", "chat", None)
        table.channels[0].target("/chat/completions", f"m{n}")
    assert len(table._found) <= 4096
    assert len(table.channels[0]._targets) <= 1024


# A reload


async def test_keys_that_were_dead_stay_dead_in_a_channel_of_the_same_name() -> None:
    upstream = FakeUpstream(
        lambda asked: Reply.error(401) if asked.key == "sk-dead-1111" else Reply.chat()
    )

    def channels(name: str) -> list[Channel]:
        keys = ["sk-dead-1111", "sk-good-2222"]
        return [channel_to(upstream, name=name, keys=keys, choose_key="round_robin")]

    relay = Relay(channels("main"))
    await ask(relay)
    relay.reload(channels("main"))
    await ask(relay)
    await ask(relay)
    assert upstream.keys.count("sk-dead-1111") == 1
    relay.reload(channels("renamed"))
    await ask(relay)
    await ask(relay)
    assert upstream.keys.count("sk-dead-1111") == 2


async def test_a_reload_that_cannot_work_changes_nothing() -> None:
    first, second = FakeUpstream(), FakeUpstream()
    relay = Relay([channel_to(first)], aliases={"a": "m"})
    await ask(relay)
    with pytest.raises(ConfigurationError):
        relay.reload([channel_to(second), channel_to(second)], {"b": "m"})
    await ask(relay)
    assert (len(first.asked), len(second.asked)) == (2, 0)
    assert relay.channels is not None
    assert relay.channels.aliases == {"a": "m"}


async def test_a_reload_can_take_the_last_alias_away() -> None:
    upstream = FakeUpstream()
    relay = Relay([channel_to(upstream)], aliases={"a": "m"})
    relay.reload([channel_to(upstream)], {})
    await ask(relay, {"model": "a", "messages": [1]})
    assert upstream.asked[0].json["model"] == "a"


async def test_a_reload_that_leads_elsewhere_forgets_which_keys_were_dead() -> None:
    dead = MemoryKeyPool(["sk-one-11111111"])
    await dead.remove(dead.keys[0], "the provider answered 401")
    for base_url, left in (("https://wrong.test", 0), ("https://right.test", 1)):
        old = live(base_url="https://wrong.test")
        old.pool = dead
        new = live(base_url=base_url, keys=["sk-one-11111111"])
        new.adopt(old)
        assert len(new.pool.keys) == left


def test_what_is_remembered_by_model_or_key_is_bounded() -> None:
    channel = live(base_url="https://one.test")
    for number in range(3000):
        channel.target("/chat/completions", f"m{number}")
        channel.sign(f"sk-{number:08}")
    assert len(channel._targets) <= 1024
    assert len(channel._signed) <= 1024
    assert ("/chat/completions", "m2999") in channel._targets
