"""Who serves a model: one immutable table, swapped whole on a reload."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby

from ..errors import ConfigurationError, ModelNotFound, NotSupported
from ..exchange.caller import Caller
from .live import LiveChannel

Tiers = tuple[tuple[LiveChannel, ...], ...]
"""Channels of equal priority together, the highest priority first."""

DEFAULT_GROUP = "default"
_REMEMBERED = 4096


class ChannelTable:
    """The channels of the moment and the aliases in front of them.

    Raises ConfigurationError when two channels share a name.
    """

    def __init__(self, channels: Iterable[LiveChannel], aliases: Mapping[str, str]) -> None:
        self.channels = tuple(sorted(channels, key=lambda c: -c.config.priority))
        self.aliases = dict(aliases)
        self.by_name = {c.name: c for c in self.channels}
        if len(self.by_name) < len(self.channels):
            names = [c.name for c in self.channels]
            twice = next(n for n in names if names.count(n) > 1)
            raise ConfigurationError(f"two channels are named {twice!r}; rename one")
        self._found: dict[tuple[str, str, str], Tiers] = {}

    def resolve(self, model: str) -> str:
        """The model an alias stands for, or the name itself."""
        return self.aliases.get(model, model)

    def tiers(self, model: str, endpoint: str, caller: Caller | None) -> Tiers:
        """The channels that serve this model on this endpoint to this caller.

        Raises ModelNotFound, naming model and group, when none serves the model; NotSupported
        when those that do cannot serve the endpoint.
        """
        group = caller.group if caller else DEFAULT_GROUP
        if caller is not None and caller.channels is not None:
            return self._look(model, endpoint, group, caller)
        found = self._found.get((model, endpoint, group))
        if found is None:
            found = self._look(model, endpoint, group, caller)
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            self._found[(model, endpoint, group)] = found
        return found

    def _look(self, model: str, endpoint: str, group: str, caller: Caller | None) -> Tiers:
        mine = [c for c in self.channels if c.serves(model) and c.open_to(group, caller)]
        if not mine:
            raise ModelNotFound(
                f"no channel serves the model {model!r} to the group {group!r}", param="model"
            )
        able = [c for c in mine if endpoint in c.provider.endpoints]
        if not able:
            raise NotSupported(f"no channel that serves {model!r} can serve this endpoint")
        return _tiers(able)

    def passthrough(self, caller: Caller | None) -> Tiers:
        """The channels that take any path, for this caller."""
        group = caller.group if caller else DEFAULT_GROUP
        return _tiers(
            [c for c in self.channels if c.config.passthrough and c.open_to(group, caller)]
        )

    def can_serve(self, endpoint: str) -> bool:
        """Whether any channel at all can serve this endpoint."""
        return any(endpoint in c.provider.endpoints for c in self.channels)

    def listed(self, caller: Caller | None) -> dict[str, str]:
        """Model names this caller may use, each with the provider that owns it."""
        group = caller.group if caller else DEFAULT_GROUP
        names: dict[str, str] = {}
        for channel in self.channels:
            if channel.open_to(group, caller):
                for model in channel.listed():
                    names.setdefault(model, channel.provider.name)
        for alias, model in self.aliases.items():
            for channel in self.channels:
                if channel.serves(model) and channel.open_to(group, caller):
                    names.setdefault(alias, channel.provider.name)
        return {m: owner for m, owner in names.items() if caller is None or caller.may_use(m)}


def _tiers(channels: list[LiveChannel]) -> Tiers:
    by_priority = groupby(channels, key=lambda c: c.config.priority)
    return tuple(tuple(tier) for _, tier in by_priority)
