"""Who serves a model: one immutable table, swapped whole on a reload."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from itertools import groupby

from ..errors import ConfigurationError, ModelNotFound, NotFound, NotSupported, PermissionDenied
from ..exchange.caller import Caller
from .live import LiveChannel
from .mapping import Names, flattened
from .serving import Serving
from .tier import Tier

Tiers = tuple[tuple[LiveChannel, ...], ...]
"""Channels of equal priority together, the highest priority first; of a caller's several groups
those of the first group before those of the second."""

DEFAULT_GROUP = "default"
_NOBODY = Caller("", "", group=DEFAULT_GROUP)
_REMEMBERED = 4096
_NONE: frozenset[int] = frozenset()


class ChannelTable:
    """The channels of the moment and the aliases in front of them.

    A channel that is not `enabled` stays in `channels` and serves nobody. Raises ConfigurationError
    when two channels share a name, and for aliases that go in a circle.
    """

    def __init__(self, channels: Iterable[LiveChannel], aliases: Mapping[str, Names]) -> None:
        self.channels = tuple(sorted(channels, key=lambda c: -c.config.priority))
        self._models = flattened(aliases, "aliases")
        self.aliases = {alias: models[0] for alias, models in self._models.items()}
        """The model that is asked first for each alias; `resolve` has all of them."""
        self.by_name = {c.name: c for c in self.channels}
        if len(self.by_name) < len(self.channels):
            names = [c.name for c in self.channels]
            twice = next(n for n in names if names.count(n) > 1)
            raise ConfigurationError(f"two channels are named {twice!r}; rename one")
        self.takes_bearers = any(c.config.credential == "caller" for c in self.channels)
        """Some channel's key is what the caller itself shows."""
        self._serving = Serving(self.channels)
        inside: dict[str, set[int]] = {}
        for place, channel in enumerate(self.channels):
            for group in channel.config.groups if channel.config.enabled else ():
                inside.setdefault(group, set()).add(place)
        self._inside: Mapping[str, AbstractSet[int]] = inside
        self._found: dict[Hashable, Tiers] = {}
        self._same: dict[tuple[int, ...], Tier] = {}

    def resolve(self, model: str) -> tuple[str, ...]:
        """The models a name stands for: the first is asked first, the others are its fallbacks."""
        return self._models.get(model) or (model,)

    def tiers(self, model: str, endpoint: str, caller: Caller | None) -> Tiers:
        """The channels that serve this model on this endpoint to this caller.

        Raises ModelNotFound, naming model and group, when none serves the model; NotSupported
        when those that do cannot serve the endpoint. For a caller pinned to a channel that is not
        there or not its own, NotFound or PermissionDenied.
        """
        who = caller or _NOBODY
        asked = (model, endpoint, who.groups, who.channels, who.pinned)
        return self._found.get(asked) or self._remember(asked, self._look(model, endpoint, who))

    def passthrough(self, caller: Caller | None) -> Tiers:
        """The channels that take any path, for this caller; raises as `tiers` for a pinned one."""
        who = caller or _NOBODY
        asked = (who.groups, who.channels, who.pinned)
        found = self._found.get(asked)
        if found is None:
            places = [p for p, c in enumerate(self.channels) if c.config.passthrough]
            found = self._remember(asked, self._tiers(self._open(places, who)))
        return found

    def listed(self, caller: Caller | None) -> dict[str, str]:
        """Model names this caller may use, each with the provider that owns it."""
        rows = self._open(range(len(self.channels)), caller or _NOBODY)
        mine = {place for row in rows for place in row}
        names: dict[str, str] = {}
        for place in sorted(mine):
            for model in self.channels[place].listed():
                names.setdefault(model, self.channels[place].provider.name)
        for alias, models in self._models.items():
            owners = (p for model in models for p in self._serving.places(model) if p in mine)
            owner = next(owners, None)
            if owner is not None:
                names.setdefault(alias, self.channels[owner].provider.name)
        return {m: owner for m, owner in names.items() if caller is None or caller.may_use(m)}

    def _look(self, model: str, endpoint: str, who: Caller) -> Tiers:
        rows = self._open(self._serving.places(model), who)
        if not any(rows):
            raise _unserved(model, who)
        channels = self.channels
        rows = [[p for p in row if endpoint in channels[p].provider.endpoints] for row in rows]
        if not any(rows):
            raise NotSupported(f"no channel that serves {model!r} can serve this endpoint")
        return self._tiers(rows)

    def _open(self, places: Iterable[int], who: Caller) -> list[list[int]]:
        """Of these places the ones that are open to the caller, by its groups in turn."""
        bound = who.channels
        if who.pinned is not None:
            only = self._pinned(who.pinned, bound)
            return [[place for place in places if self.channels[place] is only]]
        rows: list[list[int]] = []
        left = list(places)
        for group in who.groups:
            inside = self._inside.get(group, _NONE)
            row = [place for place in left if place in inside]
            left = [place for place in left if place not in inside]
            rows.append(row)
        if bound is not None:
            rows = [[place for place in row if self.channels[place].name in bound] for row in rows]
        return rows

    def _pinned(self, name: str, bound: tuple[str, ...] | None) -> LiveChannel:
        """The channel a caller is pinned to, whatever groups it serves."""
        if bound is not None and name not in bound:
            raise PermissionDenied(f"this access token may not use the channel {name!r}")
        channel = self.by_name.get(name)
        if channel is None:
            raise NotFound(f"there is no channel {name!r}", code="channel_not_found")
        if not channel.config.enabled:
            raise PermissionDenied(f"the channel {name!r} is switched off", code="channel_off")
        return channel

    def _tiers(self, rows: Iterable[list[int]]) -> Tiers:
        return tuple(
            self._tier(tuple(places))
            for row in rows
            for _, places in groupby(row, key=lambda place: self.channels[place].config.priority)
        )

    def _tier(self, places: tuple[int, ...]) -> Tier:
        """One object for the same channels, whichever model and caller they are looked up for."""
        tier = self._same.get(places)
        if tier is None:
            tier = self._same[places] = Tier(self.channels[place] for place in places)
        return tier

    def _remember(self, asked: Hashable, tiers: Tiers) -> Tiers:
        """Callers choose models, and there may be many of them: it must not fill up."""
        if len(self._found) >= _REMEMBERED or len(self._same) >= _REMEMBERED:
            self._found.clear()
            self._same.clear()
        self._found[asked] = tiers
        return tiers


def _unserved(model: str, who: Caller) -> ModelNotFound:
    if who.pinned is not None:
        said = f"the channel {who.pinned!r} does not serve the model {model!r}"
    elif len(who.groups) == 1:
        said = f"no channel serves the model {model!r} to the group {who.group!r}"
    else:
        groups = ", ".join(repr(group) for group in who.groups)
        said = f"no channel serves the model {model!r} to the groups {groups}"
    return ModelNotFound(said, param="model")
