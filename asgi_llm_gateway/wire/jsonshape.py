"""What the names of a body's members say by themselves, in the order in which they stand.

Clients send the same few sets of names over and over, so it is worked out once for each: how long
the rest of the body is when nothing but the members is in it, and which of them we act on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

_REMEMBERED = 512
_MANY_NAMES, _LONG_NAMES = 32, 1024
"""Names beyond these are a stranger's, and not worth remembering."""

Decode = Callable[[msgspec.Raw], Any]


class Field(NamedTuple):
    """A member we act on: its name, how it is decoded, and what it must be."""

    name: str
    decode: Decode
    what: str


class Shape:
    """The names of one body's members.

    `blank` is where json.dumps puts its first blank, `compact` what the body has in bytes beyond
    the values when nothing stands between them, `spaced` the body as json.dumps writes it, with %b
    for each value, `fields` what we act on. `misspelt` differs from a name we act on in case only,
    which providers written in Go take for the same.
    """

    __slots__ = ("blank", "compact", "fields", "misspelt", "spaced")

    def __init__(self, names: tuple[str, ...]) -> None:
        encoded = [name.encode() for name in names]
        self.blank = len(encoded[0]) + 4 if encoded else 0
        self.compact = sum(map(len, encoded)) + 4 * len(names) + 1
        members = [b'"%b": %%b' % name.replace(b"%", b"%%") for name in encoded]
        self.spaced = b"{" + b", ".join(members) + b"}"
        self.fields = tuple(FIELDS[name] for name in names if name in FIELDS)
        strange = (name for name in names if name not in FIELDS and name.casefold() in FIELDS)
        self.misspelt = next(strange, None)


def shape_of(names: tuple[str, ...]) -> Shape:
    """The shape of a body with these members; remembered."""
    shape = _known.get(names)
    if shape is None:
        shape = Shape(names)
        if len(names) <= _MANY_NAMES and sum(map(len, names)) <= _LONG_NAMES:
            if len(_known) >= _REMEMBERED:
                _known.clear()
            _known[names] = shape
    return shape


_known: dict[tuple[str, ...], Shape] = {}

_bool_of = msgspec.json.Decoder(bool | None).decode
_integer_of = msgspec.json.Decoder(int | None).decode
_string_of = msgspec.json.Decoder(str | None).decode
_object_of = msgspec.json.Decoder(dict[str, Any] | None).decode


def _flag_of(raw: msgspec.Raw) -> bool:
    return _bool_of(raw) or False


FIELDS = {
    field.name: field
    for field in (
        Field("model", _string_of, "a string"),
        Field("stream", _flag_of, "true or false"),
        Field("stream_options", _object_of, "an object"),
        Field("user", _string_of, "a string"),
        Field("max_tokens", _integer_of, "a whole number"),
        Field("max_completion_tokens", _integer_of, "a whole number"),
        Field("max_output_tokens", _integer_of, "a whole number"),
        Field("n", _integer_of, "a whole number"),
    )
}
"""The members we act on, by name."""
