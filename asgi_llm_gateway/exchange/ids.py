"""Identifiers nobody can guess or meet twice, without a system call each."""

from __future__ import annotations

import os


class RandomIds:
    """128 random bits at a time from the system's own source, fetched for many ids at once.

    A forked process starts with an empty stock: parent and child must not hand out the same.
    """

    _STOCK = 256

    def __init__(self) -> None:
        self._stock: list[str] = []
        if hasattr(os, "register_at_fork"):  # Windows has neither
            os.register_at_fork(after_in_child=self._stock.clear)

    def __call__(self) -> str:
        """32 hex digits."""
        try:
            return self._stock.pop()
        except IndexError:
            digits = os.urandom(16 * self._STOCK).hex()
            self._stock += [digits[i : i + 32] for i in range(0, len(digits), 32)]
            return self._stock.pop()


new_id = RandomIds()
