"""Where the top-level members of a JSON object stand in its bytes, and that none occurs twice.

Everything here is linear in the body and does not recurse, whatever the body nests.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from typing import NamedTuple

import msgspec

from ..errors import InvalidRequest

MAX_MEMBERS = 1000
"""Top-level members of one body; the widest known request has fewer than fifty."""

members_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text_of = msgspec.json.Decoder(str).decode

# What stands before a value of the top-level object, in JSON already known to be well-formed.
# Possessive, so that no input makes it try twice.
HEADER = re.compile(
    rb'[ \t\r\n]*+[{,][ \t\r\n]*+("[^"\\]*+(?:\\.[^"\\]*+)*+")[ \t\r\n]*+:[ \t\r\n]*+', re.DOTALL
)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class Place(NamedTuple):
    """Where a member stands: after the last one's value, its name, its value, its end."""

    begin: int
    name: int
    value: int
    end: int


def read_members(raw: bytes) -> dict[str, msgspec.Raw]:
    """The raw values of an object by name; raises InvalidRequest as `JSONObject` says."""
    try:
        if not raw.isascii():
            raw.decode()  # msgspec checks the strings it decodes, not those it leaves raw
        members = members_of(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise not_usable(raw, error) from error
    count = len(members)
    if count > MAX_MEMBERS:
        raise InvalidRequest(f"the request body has more than {MAX_MEMBERS} members")
    if members:
        spaced = raw.startswith(b'": ', len(next(iter(members))) + 2)
        if not (_is_spaced(raw, members) if spaced else _is_compact(raw, members)):
            _refuse_repeated(raw, members)
    return members


def _is_compact(raw: bytes, members: dict[str, msgspec.Raw]) -> bool:
    """Whether `raw` is these members with nothing between them, so that none was left out.

    Names, values, quotes, colons, commas and braces are then every byte there is.
    """
    counted = sum(map(len, members)) + sum(map(len, members.values()))
    return counted + 4 * len(members) + 1 == len(raw)


def _is_spaced(raw: bytes, members: dict[str, msgspec.Raw]) -> bool:
    """Whether `raw` is these members as Python's json.dumps writes them.

    Where each must stand is known from those before it, and what stands there is looked at, since
    a repeated member can be as long as the spaces are.
    """
    if len(members) > 32 or len("".join(members)) > 1024:
        return False  # a stranger's names are not worth remembering; the walk will do
    position = -1  # as if a blank stood before the brace, so that all headers are equally long
    for name, value in members.items():
        header = _spaced_header(name)
        if position < 0:
            begins = raw.startswith(b"{" + header[2:])
        else:
            begins = raw.startswith(header, position)
        if not begins:
            return False
        position += len(header) + len(value)
    return position == len(raw) - 1


@lru_cache(256)
def _spaced_header(name: str) -> bytes:
    return f', "{name}": '.encode()


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
