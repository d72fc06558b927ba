"""A credential that also names a channel: `sk-alice-main` is Alice's token and the channel `main`.

Both a token and a channel's name may hold dashes, so there are several ways to cut one; the longest
token that is known decides. Only tokens with `pin` may do it: for any other the whole is a secret
nobody knows, and it is refused like one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .token import MIN_LENGTH

MOST = 8
"""Ways to cut a credential that are looked up; so a channel that is to be pinned to has at most
seven dashes in its name."""

_LONGEST_NAME = 64
_NAME = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # as channels may be named


def cuts(credential: bytes) -> Iterator[tuple[bytes, str]]:
    """Each way to read a credential as a token and the name of a channel, longest token first."""
    start = max(MIN_LENGTH, len(credential) - _LONGEST_NAME - 1)
    dash = len(credential)
    given = 0
    while given < MOST and (dash := credential.rfind(b"-", start, dash)) >= 0:
        name = credential[dash + 1 :]
        if _NAME.fullmatch(name):
            given += 1
            yield credential[:dash], name.decode("ascii")
