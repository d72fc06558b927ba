"""One text inside a decoded body, wherever it lives, readable and replaceable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class Text:
    """A text and the place it stands in; assigning `value` changes the document."""

    __slots__ = ("_holder", "_member")

    def __init__(self, holder: Any, member: Any) -> None:
        self._holder = holder
        self._member = member

    @property
    def value(self) -> str:
        """The text."""
        text: str = self._holder[self._member]
        return text

    @value.setter
    def value(self, text: str) -> None:
        self._holder[self._member] = text

    def __repr__(self) -> str:
        return f"Text({self.value!r})"


def members(holder: Any, *names: str) -> Iterator[Text]:
    """The members of an object that are strings; anything else there is no text of ours."""
    if isinstance(holder, dict):
        for name in names:
            if isinstance(holder.get(name), str):
                yield Text(holder, name)


def strings(holder: Any, name: str) -> Iterator[Text]:
    """A member that is a string or a list of strings."""
    yield from members(holder, name)
    for index, item in enumerate(items(holder, name)):
        if isinstance(item, str):
            yield Text(holder[name], index)


def items(holder: Any, name: str) -> list[Any]:
    """A member that is a list; empty for anything else, since a stranger wrote the document."""
    found = holder.get(name) if isinstance(holder, dict) else None
    return found if isinstance(found, list) else []


def parts(holder: Any, name: str) -> Iterator[Text]:
    """A member that is a string or a list of content parts."""
    yield from strings(holder, name)
    for part in items(holder, name):
        yield from members(part, "text", "refusal", "transcript")


def descriptions(schema: Any) -> Iterator[Text]:
    """What a JSON schema says in words, at any depth; a model reads it like any other text."""
    left = [schema]
    while left:
        place = left.pop()
        if isinstance(place, list):
            left += place
        elif isinstance(place, dict):
            yield from members(place, "description", "title")
            left += place.values()
