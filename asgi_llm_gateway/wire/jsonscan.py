"""Where the top-level members of a JSON object stand in its bytes, and that none occurs twice.

Everything here is linear in the body and does not recurse, whatever the body nests.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

import msgspec

from ..errors import InvalidRequest
from .jsonshape import Shape, shape_of

MAX_MEMBERS = 1000
"""Top-level members of one body; the widest known request has fewer than fifty."""

members_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text_of = msgspec.json.Decoder(str).decode

# What stands before a value of the top-level object, in JSON already known to be well-formed.
# Possessive, so that no input makes it try twice.
HEADER = re.compile(
    rb'[ \t\r\n]*+[{,][ \t\r\n]*+("[^"\\]*+(?:\\.[^"\\]*+)*+")[ \t\r\n]*+:[ \t\r\n]*+', re.DOTALL
)
_BLANK = ord(" ")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class Place(NamedTuple):
    """Where a member stands: after the last one's value, its name, its value, its end."""

    begin: int
    name: int
    value: int
    end: int


def read_members(raw: bytes) -> tuple[dict[str, msgspec.Raw], Shape]:
    """The raw values of an object by name, and what their names say; raises InvalidRequest as
    `JSONObject` says."""
    try:
        if not raw.isascii():
            raw.decode()  # msgspec checks the strings it decodes, not those it leaves raw
        members = members_of(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise not_usable(raw, error) from error
    if len(members) > MAX_MEMBERS:
        raise InvalidRequest(f"the request body has more than {MAX_MEMBERS} members")
    shape = shape_of(tuple(members))
    if members:
        values = members.values()
        # Just what json.dumps writes, or nothing but names, values, quotes, colons, commas and
        # braces: in both cases no member can have been left out.
        if raw[shape.blank] == _BLANK:
            plain = shape.spaced % (*values,) == raw
        else:
            plain = shape.compact + sum(map(len, values)) == len(raw)
        if not plain:
            _refuse_repeated(raw, members)
    return members, shape


def _refuse_repeated(raw: bytes, members: dict[str, msgspec.Raw]) -> None:
    """Walks the members as they stand in `raw`; raises InvalidRequest for the first repeated one.

    `members` has each name once, at its first place but with its last value. As long as name and
    value are the same bytes in both, the walk stands at the true end of each member; only a number
    can be the beginning of another, and then no header follows it.
    """
    position = 0
    found = ""
    for name, value in members.items():
        header = HEADER.match(raw, position)
        if header is None:
            raise _repeated(found)
        position = header.end()
        found = _text_of(header[1])
        if found != name or not raw.startswith(bytes(value), position):
            raise _repeated(found)
        position += len(value)
    if raw[position:].strip() != b"}":
        header = HEADER.match(raw, position)
        raise _repeated(_text_of(header[1]) if header else found)


def places_of(
    raw: bytes, members: dict[str, msgspec.Raw], wanted: Collection[str]
) -> dict[str, Place]:
    """The places of the wanted members that are there, in the order of the body."""
    places: dict[str, Place] = {}
    missing = sum(name in members for name in wanted)
    position = 0
    for name, value in members.items():
        if not missing:
            break
        header = HEADER.match(raw, position)
        assert header is not None
        end = header.end() + len(value)
        if name in wanted:
            places[name] = Place(position, header.start(1), header.end(), end)
            missing -= 1
        position = end
    return places


def _repeated(name: str) -> InvalidRequest:
    return InvalidRequest(f"`{name}` occurs twice in the request body", param=name)


def not_usable(raw: bytes, error: Exception, param: str | None = None) -> InvalidRequest:
    """What to tell the caller when `raw` (the body, or its member `param`) could not be decoded."""
    what = f"`{param}`" if param else "the request body"
    if isinstance(error, RecursionError):
        return InvalidRequest(f"{what} is nested too deeply", param=param)
    if isinstance(error, UnicodeDecodeError):
        return InvalidRequest(f"{what} is not valid UTF-8 (byte {error.start})", param=param)
    if not raw.strip():
        return InvalidRequest(f"{what} is empty; send a JSON object")
    if isinstance(error, msgspec.ValidationError):
        why = "holds a number out of range" if "range" in str(error) else "must be a JSON object"
        return InvalidRequest(f"{what} {why}", param=param)
    why = str(error).removeprefix("JSON is malformed: ")
    if "truncated" in why or "surrogate" in why:
        why = "an unpaired surrogate escape" if _SURROGATE.search(raw) else "it ends too early"
    return InvalidRequest(f"{what} is not valid JSON: {why}", param=param)
