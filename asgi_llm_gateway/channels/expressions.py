"""Regular expressions of a user's, run over what providers say, which may repeat what callers say.

Python's matcher goes back over every way to read a text. A repeat of a group that itself repeats or
branches has exponentially many, and a caller who knows the row could stop the event loop with one
call: such an expression is refused when it is written down. What is left costs a power of the
text's length, so only so much of a message is looked at.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from ..errors import ConfigurationError

MARK: Final = "re:"
LOOKED_AT: Final = 512
"""Characters of a message an expression is run over."""

_PART: Final = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[aiLmsux-]+\)|\((?:\?(?:P?<\w+>|P=\w+|#|[=!>:|]|<[=!]"
    r"|[aiLmsux-]+:))?|\)|[*+?][+?]?|\{\d*,?\d*\}[+?]?|\||.",
    re.DOTALL,
)
_FLAGS: Final = re.compile(r"\(\?[aiLmsux-]+\)")


@lru_cache(1024)
def expression(wanted: str) -> re.Pattern[str]:
    """The compiled form of `re:…`; raises ConfigurationError for one that is none, and for one that
    could take for ever."""
    text = wanted.removeprefix(MARK)
    try:
        compiled = re.compile(text, re.IGNORECASE)
    except (re.error, RecursionError, OverflowError) as exc:
        raise ConfigurationError(f"{wanted!r} is no regular expression: {exc}") from exc
    if _explodes(text):
        raise ConfigurationError(
            f"{wanted!r} repeats a group that repeats or branches itself, which can take for ever; "
            "write it without the outer repeat"
        )
    return compiled


def occurs(wanted: str, said: str) -> bool:
    """Whether a plain text, or `re:` and an expression, is in what was said."""
    if wanted.startswith(MARK):
        return expression(wanted).search(said, 0, LOOKED_AT) is not None
    return wanted in said


def _explodes(text: str) -> bool:
    """Whether a group that can be matched in several ways is repeated."""
    groups = [False]
    """For each group that is open: whether it can."""
    ended = False
    """The same of the group that ended just now."""
    for part in _PART.findall(text):
        if ended and _repeats(part):
            return True
        groups[-1] |= _varies(part)
        if part[0] == "(" and not _FLAGS.fullmatch(part):
            groups.append(False)
        ended = groups.pop() if part == ")" and len(groups) > 1 else False
        groups[-1] |= ended
    return False


def _varies(part: str) -> bool:
    return part == "|" or part[0] in "*+?" or (part[0] == "{" and "," in part and part != "{,}")


def _repeats(part: str) -> bool:
    """Whether it asks for what stands before it more than once."""
    counts = re.fullmatch(r"\{(\d*),?(\d*)\}[+?]?", part)
    if counts is None:
        return part[0] in "*+"
    return ("," in part and not counts[2]) or int(counts[2] or counts[1] or 0) > 1
