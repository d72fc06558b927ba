"""Which channels a caller may be served by: its groups in order, its pin, its own list."""

from __future__ import annotations

from dataclasses import replace

import pytest

from asgi_llm_gateway import Caller, ConfigurationError, Relay, TokenAuthMiddleware
from asgi_llm_gateway.channels.index import ChannelTable
from asgi_llm_gateway.channels.tier import Tier
from asgi_llm_gateway.errors import ModelNotFound, NotFound, NotSupported, PermissionDenied
from tests.channels.lives import live, names
from tests.upstreams import FakeUpstream, Reply, ask, called_by, channel_to

TABLE = ChannelTable(
    [
        live("vip-low", groups=["vip"], priority=-1),
        live("vip-top", groups=["vip"], priority=5),
        live("both", groups=["default", "vip"], priority=9),
        live("plain", models=["m", "gpt-*"]),
        live("open", groups=["vip"], passthrough=True),
        live("secret", groups=["staff"], models=["s-*"], passthrough=True),
    ],
    {"best": ["s-1", "m"]},
)


def caller(*groups: str, **more: object) -> Caller:
    return Caller("x", "t", groups=groups, **more)  # type: ignore[arg-type]


# Groups


def test_a_caller_has_one_group_or_several_and_group_is_the_first() -> None:
    assert Caller("x", "t").groups == ("default",)
    assert Caller("x", "t", group="vip").groups == ("vip",)
    several = caller("vip", "default")
    assert (several.group, several.groups) == ("vip", ("vip", "default"))
    assert replace(several, pinned="a").groups == ("vip", "default")
    with pytest.raises(ConfigurationError, match="group is the first of groups"):
        Caller("x", "t", group="a", groups=("b", "a"))


def test_the_tiers_of_the_first_group_come_before_those_of_the_second() -> None:
    found = names(TABLE.tiers("m", "chat", caller("vip", "default")))
    assert found == [["both"], ["vip-top"], ["open"], ["vip-low"], ["plain"]]
    found = names(TABLE.tiers("m", "chat", caller("default", "vip")))
    assert found == [["both"], ["plain"], ["vip-top"], ["open"], ["vip-low"]]


def test_a_channel_of_two_groups_comes_once() -> None:
    found = names(TABLE.tiers("m", "chat", caller("vip", "default", "vip")))
    assert [name for tier in found for name in tier].count("both") == 1


def test_a_group_nobody_serves_is_passed_by() -> None:
    assert names(TABLE.tiers("m", "chat", caller("nobody", "default"))) == [["both"], ["plain"]]
    with pytest.raises(ModelNotFound, match="'s-1' to the groups 'vip', 'default'"):
        ChannelTable([live("a", models=["m"])], {}).tiers("s-1", "chat", caller("vip", "default"))


def test_an_endpoint_only_the_second_group_has_is_served_by_it() -> None:
    table = ChannelTable(
        [live("a", provider="deepseek", keys=["sk-1"]), live("b", groups=["more"])], {}
    )
    assert names(table.tiers("m", "embeddings", caller("default", "more"))) == [["b"]]
    with pytest.raises(NotSupported):
        table.tiers("m", "embeddings", caller("default"))


def test_the_list_of_channels_cuts_every_group() -> None:
    bound = caller("vip", "default", channels=("plain", "vip-low", "gone"))
    assert names(TABLE.tiers("m", "chat", bound)) == [["vip-low"], ["plain"]]


def test_passing_through_goes_by_groups_too() -> None:
    assert names(TABLE.passthrough(caller("default"))) == []
    assert names(TABLE.passthrough(caller("default", "vip", "staff"))) == [["open"], ["secret"]]


def test_the_listing_has_the_models_of_all_groups() -> None:
    assert set(TABLE.listed(caller("default", "staff"))) == {"m", "best"}
    assert set(TABLE.listed(caller("staff"))) == {"best"}


# A pinned channel


def test_a_pinned_caller_is_served_by_that_channel_alone_whatever_its_groups() -> None:
    pinned = caller("default", pinned="secret")
    assert names(TABLE.tiers("s-1", "chat", pinned)) == [["secret"]]
    assert names(TABLE.passthrough(pinned)) == [["secret"]]
    assert set(TABLE.listed(pinned)) == {"best"}
    with pytest.raises(ModelNotFound, match="the channel 'secret' does not serve the model 'm'"):
        TABLE.tiers("m", "chat", pinned)
    assert names(TABLE.passthrough(caller("default", pinned="plain"))) == []


def test_a_pin_to_no_channel_is_not_found() -> None:
    for asked in (TABLE.passthrough, TABLE.listed, lambda who: TABLE.tiers("m", "chat", who)):
        with pytest.raises(NotFound, match="there is no channel 'gone'") as refused:
            asked(caller("default", pinned="gone"))
        assert (refused.value.status, refused.value.code) == (404, "channel_not_found")


def test_the_list_of_channels_binds_a_pinned_caller_too() -> None:
    with pytest.raises(PermissionDenied, match="may not use the channel 'plain'"):
        TABLE.tiers("m", "chat", caller("default", pinned="plain", channels=("both",)))
    both = caller("default", pinned="both", channels=("both",))
    assert names(TABLE.tiers("m", "chat", both)) == [["both"]]


def test_an_endpoint_the_pinned_channel_does_not_have_is_not_supported() -> None:
    table = ChannelTable([live("a", provider="deepseek", keys=["sk-1"]), live("b")], {})
    with pytest.raises(NotSupported):
        table.tiers("m", "embeddings", caller("default", pinned="a"))


def test_a_channel_that_is_switched_off_serves_nobody_and_a_pin_is_told_so() -> None:
    table = ChannelTable([live("a", enabled=False), live("b")], {})
    assert names(table.tiers("m", "chat", None)) == [["b"]]
    with pytest.raises(PermissionDenied, match="'a' is switched off"):
        table.tiers("m", "chat", caller("default", pinned="a"))


async def test_a_pinned_call_tries_the_channel_s_other_keys_and_no_other_channel() -> None:
    pinned, other = FakeUpstream(Reply.error(429)), FakeUpstream()
    relay = Relay(
        [
            channel_to(pinned, name="p", keys=["sk-pin-1111", "sk-pin-2222"], groups=["staff"]),
            channel_to(other, name="q", priority=9),
        ]
    )
    answer = await ask(called_by(relay, caller("default", pinned="p")))
    assert answer.status == 429
    assert set(pinned.keys) == {"sk-pin-1111", "sk-pin-2222"}
    assert other.asked == []


# What is remembered


def test_equal_tiers_are_one_object_whoever_asks_for_whichever_model() -> None:
    table = ChannelTable([live("a"), live("b"), live("c", groups=["vip"])], {})
    first = table.tiers("m", "chat", None)[0]
    assert isinstance(first, Tier)
    assert table.tiers("n", "embeddings", Caller("y", "u"))[0] is first
    assert table.tiers("n", "chat", Caller("z", "v", channels=("a", "b")))[0] is first
    assert table.tiers("n", "chat", caller("vip", "default"))[1] is first
    assert table.passthrough(None) is table.passthrough(Caller("y", "u"))


def test_many_callers_with_lists_of_their_own_do_not_fill_the_memory() -> None:
    table = ChannelTable([live(f"c{n}") for n in range(14)], {})
    for n in range(1, 10_000):
        own = tuple(f"c{bit}" for bit in range(14) if n >> bit & 1)
        (tier,) = table.tiers("m", "chat", Caller("x", "t", channels=own))
        assert tuple(channel.name for channel in tier) == own
    assert len(table._found) <= 4096
    assert len(table._same) <= 4096


async def test_a_token_that_pins_leads_a_call_to_its_channel_and_is_told_what_is_wrong() -> None:
    usual, pinned = FakeUpstream(), FakeUpstream()
    relay = Relay(
        [
            channel_to(usual, name="main"),
            channel_to(pinned, name="spare-1", groups=["staff"], models=["only"]),
        ]
    )
    app = TokenAuthMiddleware(relay, access_tokens={"sk-root": {"name": "root", "pin": True}})

    async def asked(token: str, model: str = "only") -> tuple[int, str | None]:
        bearer = [("authorization", f"Bearer {token}")]
        answer = await ask(app, {"model": model, "messages": [1]}, headers=bearer)
        return answer.status, answer.json.get("error", {}).get("code")

    assert await asked("sk-root-spare-1") == (200, None)
    assert await asked("sk-root") == (200, None)
    assert await asked("sk-root-spare-1", "else") == (404, "model_not_found")
    assert await asked("sk-root-gone") == (404, "channel_not_found")
    assert (len(usual.asked), len(pinned.asked)) == (1, 1)
    assert b"sk-root" not in b"".join(v for _, v in pinned.asked[0].request.headers)
