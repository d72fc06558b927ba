"""What Health asks of whatever tells other processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from .events import Name

if TYPE_CHECKING:
    from .book import Health


class Sharing(Protocol):
    """Who tells other processes: bound once, and told of changes without being waited for."""

    def bind(self, health: Health) -> None: ...

    def note(self, name: Name, *, by_hand: bool) -> None: ...
