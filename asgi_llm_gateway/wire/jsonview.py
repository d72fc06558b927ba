"""The JSON body of a request, read and changed over its raw bytes.

One pass finds the top-level members and checks the whole; their values stay raw until somebody asks
for one. Changing a member splices its new value in: every other byte stays as the caller sent it.

A member that occurs twice is refused, however it is spelled: JSON libraries disagree on which one
counts, so the value checked here might not be the value the provider acts on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from ..errors import InvalidRequest
from .jsonscan import HEADER, members_of, not_usable, places_of, read_members
from .jsonshape import Shape, shape_of

_object_of = msgspec.json.Decoder(dict[str, Any]).decode
_value_of = msgspec.json.Decoder().decode


class JSONObject:
    """A request body that is a JSON object.

    Raises `InvalidRequest` for anything else: not JSON (NaN and Infinity are not), not UTF-8, not
    an object, nested too deeply, an unpaired surrogate, more than `MAX_MEMBERS` members, or a
    member that occurs twice.

        body = JSONObject(b'{"model": "fast", "messages": []}')
        body.set("model", "gpt-4o-mini")
        body.raw  # b'{"model": "gpt-4o-mini", "messages": []}'
    """

    __slots__ = ("_document", "_members", "_raw", "_shape", "_view")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._members: dict[str, msgspec.Raw] | None
        self._members, self._shape = read_members(raw)
        self._view: View | None = None
        self._document: dict[str, Any] | None = None

    @property
    def raw(self) -> bytes:
        """The body as it now stands."""
        return self._raw

    @property
    def view(self) -> View:
        """The few members the gateway acts on; InvalidRequest names one of the wrong type."""
        view = self._view
        if view is None:
            view = self._view = view_of(self)
        return view

    @property
    def members(self) -> dict[str, msgspec.Raw]:
        """The raw value of every member, in the order of the body; to be read only."""
        members = self._members
        if members is None:
            members = self._members = members_of(self._raw)
        return members

    @property
    def shape(self) -> Shape:
        """What the names of the members say."""
        if self._members is None:
            self._shape = shape_of(tuple(self.members))
        return self._shape

    def names(self) -> tuple[str, ...]:
        """The names of the members, in the order of the body."""
        return tuple(self.members)

    def get(self, name: str) -> Any:
        """The decoded value of one member, None if it is absent (or null)."""
        raw = self.members.get(name)
        if raw is None:
            return None
        try:
            return _value_of(raw)
        except (msgspec.DecodeError, RecursionError) as error:
            raise not_usable(bytes(raw), error, param=name) from error

    def raw_member(self, name: str) -> bytes | None:
        """The bytes of one member's value, None if it is absent."""
        raw = self.members.get(name)
        return None if raw is None else bytes(raw)

    @property
    def document(self) -> dict[str, Any]:
        """The whole body, decoded once; to be read only, changes go through `set`."""
        document = self._document
        if document is None:
            try:
                document = self._document = _object_of(self._raw)
            except (msgspec.DecodeError, RecursionError) as error:
                raise not_usable(self._raw, error) from error
        return document

    def set(self, name: str, value: object) -> None:
        """Gives a member a new value, or adds it at the end."""
        self.set_raw(name, msgspec.json.encode(value))

    def set_raw(self, name: str, value: bytes) -> None:
        """`set` for a value that is already JSON; it is not checked."""
        self._renew(self.spliced({name: value}))

    def spliced(self, changes: Mapping[str, bytes]) -> bytes:
        """The body with the JSON values in `changes` set, this object itself left as it is."""
        raw = self._raw
        places = places_of(raw, self.members, changes)
        pieces: list[bytes] = []
        position = 0
        for name, place in places.items():
            pieces += raw[position : place.value], changes[name]
            position = place.end
        added = [
            b"%b:%b" % (msgspec.json.encode(name), value)
            for name, value in changes.items()
            if name not in places
        ]
        if added:
            brace = raw.rindex(b"}")
            if self.members:
                added[0] = b"," + added[0]
            pieces += raw[position:brace], b",".join(added)
            position = brace
        pieces.append(raw[position:])
        return b"".join(pieces)

    def remove(self, name: str) -> None:
        """Takes a member out, if it is there."""
        members = self.members
        place = places_of(self._raw, members, (name,)).get(name)
        if place is None:
            return
        raw = self._raw
        if next(iter(members)) != name:
            self._renew(raw[: place.begin] + raw[place.end :])
        elif len(members) == 1:
            self._renew(raw[: place.name] + raw[place.end :])
        else:
            following = HEADER.match(raw, place.end)
            assert following is not None
            self._renew(raw[: place.name] + raw[following.start(1) :])

    def replace(self, document: dict[str, Any]) -> None:
        """Takes `document` as the whole new body."""
        self._renew(msgspec.json.encode(document))

    def _renew(self, raw: bytes) -> None:
        self._raw = raw
        # Read again when somebody asks: the old members would keep the old body in memory.
        self._members = None
        self._document = None
        self._view = None


class View(msgspec.Struct, frozen=True, gc=False):
    """The few members of a request that the gateway acts on; absent and null are the same."""

    model: str | None = None
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    user: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    n: int | None = None


def view_of(body: JSONObject) -> View:
    """The members of `body` we act on, checked.

    Raises `InvalidRequest` naming the member (`param`) that has the wrong type; also for a name
    that differs from one of them in case only, since providers written in Go take it for the same.
    """
    members, shape = body.members, body.shape
    if shape.misspelt is not None:
        name = shape.misspelt
        raise InvalidRequest(f"`{name}` must be spelled `{name.casefold()}`", param=name)
    found: dict[str, Any] = {}
    for name, decode, what in shape.fields:
        try:
            found[name] = decode(members[name])
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidRequest(f"`{name}` must be {what}", param=name) from error
    model = found.get("model")
    if model is not None:
        check_model(model)
    return View(**found)


def check_model(model: str) -> None:
    """Raises `InvalidRequest` for a model name that no log line, header or URL could carry."""
    if not model or len(model) > 256:
        raise InvalidRequest("`model` must have 1 to 256 characters", param="model")
    if not model.isprintable() and _UNUSABLE.search(model):
        raise InvalidRequest("`model` cannot hold control characters", param="model")


_UNUSABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
