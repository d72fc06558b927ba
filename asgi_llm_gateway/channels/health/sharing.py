"""What Health asks of whatever tells other processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from .events import Name

if TYPE_CHECKING:
    from .book import Health


class Sharing(Protocol):
    """Who tells other processes: bound once, and told of changes without being waited for.

    Only who is about to probe waits, since there is to be one probe at a time in all processes.
    """

    def bind(self, health: Health) -> None: ...

    def note(self, name: Name, *, by_hand: bool) -> None: ...

    async def claim(self, name: Name, seconds: float) -> bool:
        """Whether no other process has a probe under way there; then none begins one for so many
        seconds, or until it is released. Never raises for a store that is away: True."""

    def release(self, name: Name) -> None: ...
