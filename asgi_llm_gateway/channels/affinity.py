"""Affinity: calls that are alike go to the same channel, for the sake of the provider's own caches.

What makes calls alike is read from the request; which channel that means is computed from both
names alone, so every process comes to the same one and nothing is stored. It is a preference: a
channel that cannot be used is passed by, and what preferred it goes to the next in its own order.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from math import log as _log

from ..errors import ConfigurationError, Headers
from ..exchange.body import Body, JSONBody
from .live import LiveChannel
from .tier import Tier

_LONGEST = 1024
"""Characters of a request's word that are looked at; more of them would still be one word."""
_WINDOW = 16
"""Channels that compete for one preference: all up to so many, else those next to it on a ring."""
_CONVERSATION = b"x-conversation-id"
_HEADER = "header:"
_MASK = 2**64 - 1
_ODD = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""Two multipliers that spread a 64-bit number's bits (Stafford's mix 13, as in SplitMix64)."""
_LOG_53 = _log(2**53)


class Affinity:
    """Where to look for what makes calls alike; the first place that has it decides.

        Affinity(["header:x-session-id", "prompt_cache_key", "user"])

    `header:NAME`, or one of `conversation` (the `x-conversation-id` header, else the body's
    `conversation`), `prompt_cache_key`, and `user` (also Anthropic's `metadata.user_id`). Raises
    ConfigurationError for any other word.
    """

    def __init__(self, sources: Iterable[str]) -> None:
        if isinstance(sources, str):
            raise ConfigurationError(f"affinity is a list; put {sources!r} in [ ]")
        self.sources = tuple(sources)
        self._readers = [(_kind(source), _reader(source)) for source in self.sources]

    def of(self, headers: Headers, body: Body | None) -> str | None:
        """What this request (header names in lower case) has in common with others like it."""
        for kind, read in self._readers:
            found = read(headers, body)
            if isinstance(found, str) and found:
                return f"{kind}\0{found[:_LONGEST]}"
        return None


Reader = Callable[[Headers, Body | None], object]


def _kind(source: str) -> str:
    return source.lower() if source.startswith(_HEADER) else source


def _reader(source: str) -> Reader:
    if source.startswith(_HEADER) and len(source) > len(_HEADER) and source.isascii():
        name = source[len(_HEADER) :].lower().encode("ascii")
        return lambda headers, _body: _header(headers, name)
    if source in _READERS:
        return _READERS[source]
    known = ", ".join(sorted(_READERS))
    raise ConfigurationError(f"affinity knows header:NAME, {known}; not {source!r}")


def _header(headers: Headers, wanted: bytes) -> str | None:
    return next((value.decode("latin-1") for name, value in headers if name == wanted), None)


def _member(body: Body | None, name: str) -> object:
    return body.get(name) if isinstance(body, JSONBody) else None


def _user(_headers: Headers, body: Body | None) -> object:
    found = _member(body, "user")
    if found is None:
        metadata = _member(body, "metadata")
        found = metadata.get("user_id") if isinstance(metadata, dict) else None
    return found


def _conversation(headers: Headers, body: Body | None) -> object:
    found: object = _header(headers, _CONVERSATION)
    if found is None:
        found = _member(body, "conversation")
    return found.get("id") if isinstance(found, dict) else found


def _cache_key(_headers: Headers, body: Body | None) -> object:
    return _member(body, "prompt_cache_key")


_READERS: dict[str, Reader] = {
    "conversation": _conversation,
    "prompt_cache_key": _cache_key,
    "user": _user,
}


def preferred(
    tier: Tier, point: int, admits: Callable[[LiveChannel], bool] | None
) -> LiveChannel | None:
    """The channel that what hashes to `point` prefers among those that may be used.

    Weighted rendezvous hashing: each channel draws a number from its name and the point, its weight
    counting, and the highest wins; so a channel that comes or goes takes or leaves only its own.
    Of more than a dozen or so equals only those next to the point on a ring compete, and then one
    that comes or goes may move the share of one channel more. None when none of them may be used.
    """
    points, entries = tier.ring
    start = bisect_left(points, point)
    best: LiveChannel | None = None
    most = 0.0
    for own, weight, channel in entries[start : start + min(len(points), _WINDOW)]:
        mixed = point ^ own
        mixed = (mixed ^ mixed >> 30) * _ODD[0] & _MASK
        mixed = (mixed ^ mixed >> 27) * _ODD[1] & _MASK
        # The logarithm of an evenly spread number below 1, over the weight: the greatest of these
        # is each channel's as often as its weight says.
        score = (_log((mixed >> 11) + 1) - _LOG_53) / weight
        if (best is None or score > most) and (admits is None or admits(channel)):
            best, most = channel, score
    return best
