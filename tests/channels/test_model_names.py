"""Names that stand for other names: a channel's mapping in chains, aliases, virtual models."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llm_gateway import Caller, ConfigurationError
from asgi_llm_gateway.channels.index import ChannelTable
from asgi_llm_gateway.channels.mapping import chained, flattened
from asgi_llm_gateway.channels.serving import Serving
from tests.channels.lives import live

# A channel's mapping


@pytest.mark.parametrize(
    ("mapping", "ends"),
    [
        ({}, {}),
        ({"a": "b"}, {"a": "b"}),
        ({"a": "b", "b": "c"}, {"a": "c", "b": "c"}),
        ({"b": "c", "a": "b", "c": "d"}, {"a": "d", "b": "d", "c": "d"}),
        ({"a": "a"}, {"a": "a"}),
        ({"a": "b", "b": "b"}, {"a": "b", "b": "b"}),
    ],
)
def test_a_mapping_goes_on_in_chains(mapping: dict[str, str], ends: dict[str, str]) -> None:
    assert chained(mapping, "here") == ends


@pytest.mark.parametrize(
    ("mapping", "circle"),
    [
        ({"a": "b", "b": "a"}, "'a' -> 'b' -> 'a'"),
        ({"x": "a", "a": "b", "b": "c", "c": "a"}, "'a' -> 'b' -> 'c' -> 'a'"),
    ],
)
def test_a_circle_is_refused_when_the_channel_is_built(
    mapping: dict[str, str], circle: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        live(model_mapping=mapping)
    assert "channel 'main': model_mapping" in refused.value.message
    assert circle in refused.value.message


def test_a_chain_may_be_longer_than_the_stack() -> None:
    mapping = {f"m{n}": f"m{n + 1}" for n in range(50_000)}
    assert chained(mapping, "here")["m0"] == "m50000"
    with pytest.raises(ConfigurationError, match="circle"):
        chained({**mapping, "m50000": "m0"}, "here")


def test_the_provider_is_asked_by_the_end_of_the_chain() -> None:
    channel = live(models=["gpt-*"], model_mapping={"fast": "gpt-4o", "gpt-4o": "gpt-4o-2024"})
    assert channel.upstream_model("fast") == "gpt-4o-2024"
    assert channel.upstream_model("gpt-4o") == "gpt-4o-2024"
    assert channel.upstream_model("gpt-5") == "gpt-5"
    assert channel.serves("fast")
    assert not channel.serves("slow")
    assert channel.listed() == ["fast", "gpt-4o"]


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdefgh"), min_size=1))
)
def test_either_it_ends_in_what_is_no_alias_or_there_is_a_circle(aliases: Any) -> None:
    try:
        ends = flattened(aliases, "here")
    except ConfigurationError:
        assert _reaches_itself(aliases)
        return
    assert not _reaches_itself(aliases)
    assert set(ends) == set(aliases)
    for name, models in ends.items():
        assert models == tuple(dict.fromkeys(_spelled_out(name, aliases)))


def _spelled_out(name: str, aliases: dict[str, list[str]]) -> list[str]:
    found = []
    for model in aliases[name]:
        itself = model == name or model not in aliases
        found += [model] if itself else _spelled_out(model, aliases)
    return found


def _reaches_itself(aliases: dict[str, list[str]]) -> bool:
    """A circle of more than one name."""
    for start, models in aliases.items():
        seen: set[str] = set()
        ahead = [m for m in models if m != start]
        while ahead:
            name = ahead.pop()
            if name == start:
                return True
            if name not in seen:
                seen.add(name)
                ahead += [m for m in aliases.get(name, ()) if m != name]
    return False


# Aliases


def table(aliases: Any, *channels: Any) -> ChannelTable:
    return ChannelTable(channels or [live()], aliases)


def test_a_name_that_is_no_alias_is_the_model_itself() -> None:
    assert table({}).resolve("gpt-4o") == ("gpt-4o",)


def test_an_alias_may_name_several_models_asked_in_order() -> None:
    found = table({"best": ["gpt-4o", "claude"], "fast": "mini", "any": ("best", "fast", "x")})
    assert found.resolve("best") == ("gpt-4o", "claude")
    assert found.resolve("any") == ("gpt-4o", "claude", "mini", "x")
    assert found.resolve("fast") == ("mini",)
    assert found.aliases == {"best": "gpt-4o", "fast": "mini", "any": "gpt-4o"}


def test_a_model_may_be_given_fallbacks_under_its_own_name() -> None:
    assert table({"gpt-4o": ["gpt-4o", "claude"]}).resolve("gpt-4o") == ("gpt-4o", "claude")
    found = table({"gpt-4o": ["gpt-4o", "claude"], "best": "gpt-4o"})
    assert found.resolve("best") == ("gpt-4o", "claude")


@pytest.mark.parametrize(
    ("aliases", "says"),
    [
        ({"a": "b", "b": ["x", "a"]}, "aliases: 'a' -> 'b' -> 'a' goes in a circle"),
        ({"a": []}, "aliases: 'a' must name a model"),
        ({"a": ""}, "aliases: 'a' must name a model"),
        ({"a": ["b", ""]}, "aliases: 'a' must name a model"),
        ({"a": [1]}, "aliases: 'a' must name a model"),
        ({"a": 1}, "aliases: 'a' must name a model"),
    ],
)
def test_aliases_that_cannot_work_are_refused_when_the_table_is_built(
    aliases: Any, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        table(aliases)


def test_an_alias_is_listed_when_any_of_its_models_is_served_to_the_caller() -> None:
    found = table(
        {"best": ["nobody-has", "b1"], "vip": ["v1"], "none": "nowhere"},
        live("b", models=["b1"], provider="openai", keys=["sk-1"]),
        live("v", models=["v1"], groups=["vip"]),
    )
    assert found.listed(None) == {"b1": "openai", "best": "openai"}
    assert set(found.listed(Caller("x", "t", groups=("vip", "default")))) == {
        "b1",
        "best",
        "v1",
        "vip",
    }
    only = Caller("x", "t", models=("best",))
    assert set(found.listed(only)) == {"best"}


# Looking a model up


MODELS = st.sampled_from(["gpt-4", "gpt-4o", "gpt-4o-mini", "claude", "claude-4", "o3", ""])
PATTERNS = st.sampled_from(["*", "gpt-*", "gpt-4?", "claude*", "[go]*", "gpt-4", "o3", "claude"])


@given(st.lists(st.lists(PATTERNS, min_size=1, max_size=3), max_size=6), MODELS)
def test_looking_up_finds_what_asking_each_channel_would(
    models: list[list[str]], model: str
) -> None:
    channels = [live(f"c{n}", models=patterns) for n, patterns in enumerate(models)]
    wanted = [n for n, channel in enumerate(channels) if channel.serves(model)]
    assert Serving(channels).places(model) == wanted
