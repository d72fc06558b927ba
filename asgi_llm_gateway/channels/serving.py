"""Which channels name a model: looked up by its name and by pattern, not channel by channel."""

from __future__ import annotations

from collections.abc import Sequence

from ..exchange.caller import matches
from .live import LiveChannel


class Serving:
    """The models of a table's channels. A channel is its place in the table.

    Names stand in one dict; each different pattern is tried once, however many channels have it.
    """

    def __init__(self, channels: Sequence[LiveChannel]) -> None:
        self._named: dict[str, list[int]] = {}
        self._globs: dict[str, list[int]] = {}
        for place, channel in enumerate(channels):
            for model in channel.plain_models:
                self._named.setdefault(model, []).append(place)
            for glob in dict.fromkeys(channel.globs):
                self._globs.setdefault(glob, []).append(place)

    def places(self, model: str) -> list[int]:
        """The places of the channels that may be asked for `model`, in the table's order."""
        found = [places for glob, places in self._globs.items() if matches(model, (glob,))]
        if (named := self._named.get(model)) is not None:
            found.append(named)
        if len(found) == 1:
            return found[0]
        return sorted({place for places in found for place in places})
