"""What the tests of this folder share: channels that lead nowhere, and ways to look at tiers."""

from __future__ import annotations

from random import Random
from typing import Any

from asgi_llm_gateway.channels.channel import Channel
from asgi_llm_gateway.channels.live import LiveChannel
from asgi_llm_gateway.channels.surroundings import Surroundings
from asgi_llm_gateway.channels.tier import Tier

NOWHERE: Any = None
"""In place of an upstream: nothing here is ever sent."""


def live(name: str = "main", environ: dict[str, str] | None = None, **config: Any) -> LiveChannel:
    """A channel that serves everything unless told otherwise."""
    given = {"name": name, "base_url": "https://p.test/v1", "models": ["*"], **config}
    return LiveChannel(Channel(**given), NOWHERE, Surroundings(environ=environ or {}))


def equals(*channels: str | LiveChannel) -> Tier:
    """One tier of these channels."""
    return Tier(live(c) if isinstance(c, str) else c for c in channels)


def many(count: int, **config: Any) -> Tier:
    """One tier of so many channels."""
    return Tier(live(f"c{n}", **config) for n in range(count))


def names(tiers: Any) -> list[list[str]]:
    """The channels' names, tier by tier."""
    return [[channel.name for channel in tier] for tier in tiers]


class Point(Random):
    """A random source that gives one number."""

    def __init__(self, point: float) -> None:
        super().__init__(0)
        self.point = point

    def random(self) -> float:
        return self.point


class Counting:
    """Lets the named ones pass (or all but the ill ones), and counts how often it is asked."""

    def __init__(self, *ill: str) -> None:
        self.ill = frozenset(ill)
        self.asked = 0

    def __call__(self, channel: LiveChannel) -> bool:
        self.asked += 1
        return channel.name not in self.ill
