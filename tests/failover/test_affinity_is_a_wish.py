"""Affinity keeps a caller's calls together while that works, and is in nobody's way when not."""

from __future__ import annotations

from typing import Any

from tests.failover.world import World, world
from tests.faults import TEXT, good, rate_limited, refusal, silence
from tests.faulty import Provider

ALIKE: dict[str, Any] = {"affinity": ["user"]}
EQUAL = {"priority": 0}


async def favourite(there: World, user: str) -> tuple[str, Provider, Provider]:
    """Where this user's calls go, that provider, and the other one."""
    where = {(await there.ask(user=user)).where for _ in range(8)}
    assert len(where) == 1
    (name,) = where
    return (name, there.a, there.b) if name == "a" else (name, there.b, there.a)


async def test_calls_that_are_alike_go_to_one_channel_and_others_elsewhere_too() -> None:
    async with world(channel=EQUAL, other=EQUAL, failover=ALIKE) as there:
        names = {(await favourite(there, f"user-{n}"))[0] for n in range(12)}
        assert names == {"a", "b"}


async def test_a_favourite_that_fails_is_left_for_the_other() -> None:
    for fault in (refusal(503), rate_limited("retry-after: 20"), silence()):
        async with world(channel=EQUAL, other=EQUAL, failover=ALIKE) as there:
            name, provider, other = await favourite(there, "alice")
            provider.script = (fault,)
            before = len(other.tried)
            for stream in (False, True):
                got = await there.ask(stream=stream, user="alice")
                assert (got.text, got.where[-1] != name) == (TEXT, True)
            assert len(other.tried) == before + 2
            await there.nothing_left()


async def test_a_favourite_that_failed_once_is_one_again() -> None:
    async with world(channel=EQUAL, other=EQUAL, failover=ALIKE) as there:
        name, provider, _ = await favourite(there, "alice")
        provider.script = (refusal(503), good())
        assert (await there.ask(user="alice")).text == TEXT
        assert (await favourite(there, "alice"))[0] == name


async def test_affinity_does_not_lift_a_channel_over_its_priority() -> None:
    async with world(failover=ALIKE) as there:
        assert {(await favourite(there, f"user-{n}"))[0] for n in range(6)} == {"a"}
