"""What can change while the gateway runs: one immutable value behind one reference."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Snapshot(Generic[T]):
    """Holds the value of the moment; `swap` replaces it whole.

    An exchange keeps the value it began with (`exchange.hold`), so that a reload in the middle of
    a call changes nothing about that call.
    """

    __slots__ = ("current",)

    def __init__(self, value: T) -> None:
        self.current = value

    def swap(self, value: T) -> T:
        """Put `value` in place for exchanges that begin from now on; returns the old one."""
        old, self.current = self.current, value
        return old
