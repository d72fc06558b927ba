"""How much of everything a DirectUpstream allows."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Bounds"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Counts, bytes and seconds; per origin where connections are meant, else per answer.

    `read_ahead` is how many bytes of an answer may lie unread before the socket is left alone;
    one more read of the transport (up to 256 KB) may come on top.
    """

    max_connections: int
    max_waiting: int
    idle_expiry: float
    max_head_bytes: int
    max_line_bytes: int
    max_headers: int
    read_ahead: int
