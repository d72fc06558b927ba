"""Server-sent events: reading, cutting at event borders, writing.

Source: the WHATWG HTML standard, section 9.2 "Server-sent events". A line ends with LF, CR or CRLF;
an event ends with a blank line (its *border*). Bytes stay bytes: what a provider's JSON means is
for the dialects, and most streams are forwarded without being read at all.

A CR that is the last byte so far may be half of a CRLF, so the incremental classes decide on it
only when the next byte or the end of the stream is known. Any chunking of the same bytes therefore
gives the same events, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from ..errors import BadAnswer

MAX_EVENT = 16 * 1024 * 1024
"""Bytes of one event. A generated image travels as one data line of several megabytes."""

_BOM = b"\xef\xbb\xbf"
_LINE_ENDS = b"\r\n"
_USUAL_BORDERS = (b"\n\n", b"\r\n\r\n")
_whole_json = msgspec.json.Decoder(msgspec.Raw).decode


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event as it stood in the stream.

    `data` is its data lines joined by LF. `event`, `id` and `retry` (milliseconds) are what this
    event itself carried. `raw` is every byte of it, comments and border included; a relay that
    changes nothing sends it as it is.
    """

    data: bytes
    event: bytes = b""
    id: bytes | None = None
    retry: int | None = None
    raw: bytes = b""


def last_border(buffer: bytes) -> int:
    """The index just after the last event border in `buffer`; 0 if it holds none.

    A final CR counts as a whole line end here, since nothing is known to follow `buffer`.
    """
    if buffer.endswith(_USUAL_BORDERS):
        return len(buffer)
    border = buffer.rfind(b"\n\n") + 2
    if b"\r" in buffer:
        # A blank line that ends in CR or CRLF. A CR before the CR is a line end of its own.
        last = max(buffer.rfind(b"\n\r"), buffer.rfind(b"\r\r")) + 2
        if last > 1:
            border = max(border, last + (buffer[last : last + 1] == b"\n"))
    return border if border > 1 else 0


class WholeEvents:
    """Cuts a stream at event borders: what comes out holds whole events, the rest is held back.

    Nothing is parsed or changed: the pieces joined are the bytes that went in. Raises `BadAnswer`
    when one event grows over `max_held` bytes.
    """

    __slots__ = ("_held", "_max_held")

    def __init__(self, max_held: int = MAX_EVENT) -> None:
        self._max_held = max_held
        self._held = bytearray()

    def feed(self, data: bytes) -> bytes:
        """Everything up to the last event border so far that has not been given out yet."""
        if not self._held and data.endswith(_USUAL_BORDERS):
            return data
        return self._cut(data) if data else b""

    @property
    def rest(self) -> bytes:
        """The beginning of an event whose border has not come yet."""
        return bytes(self._held)

    def finish(self) -> bytes:
        """At the end of the stream: a last whole event that waited to see what follows its CR."""
        held = bytes(self._held)
        if held and last_border(held) == len(held):
            self._held.clear()
            return held
        return b""

    def _cut(self, data: bytes) -> bytes:
        held = self._held
        before = len(held)
        # Two bytes of what is held are enough to see a border that began there.
        seam = min(before, 2)
        probe = bytes(held[before - seam :]) + data if seam else data
        border = last_border(probe[:-1] if probe.endswith(b"\r") else probe)
        if border:
            cut = before + border - seam
        else:
            # Between events blank lines mean nothing: they are passed on and never held.
            cut = 0 if before else len(data) - len(data.lstrip(_LINE_ENDS))
        held += data
        if cut == len(held) - 1 and held.endswith(b"\r"):
            cut += 1
        out = bytes(held[:cut])
        del held[:cut]
        if len(held) > self._max_held:
            raise _too_large("an event", self._max_held)
        return out


class SSEReader:
    """Reads events from a stream given in pieces of any size.

    Blocks without a data line (comments, a lone `id:` or `retry:`) are no events. Raises
    `BadAnswer` for a line over `max_line` or an event over `max_event` bytes.
    """

    __slots__ = ("_max_event", "_max_line", "_open_line", "_start", "_unended", "_whole")

    def __init__(self, *, max_line: int = MAX_EVENT, max_event: int = MAX_EVENT) -> None:
        self._max_line = max_line
        self._max_event = max_event
        self._whole = WholeEvents(max_event)
        self._open_line = 0
        self._start: bytes | None = b""
        self._unended = b""

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes."""
        if self._start is not None:
            data = self._without_bom(data)
        region = self._whole.feed(data)
        if region is not data:
            self._measure_line(data)
        return self._events(region) if region else []

    def finish(self) -> list[Event]:
        """The last event of a stream that ended without its border, if it is all there.

        The standard drops such an event, but some providers end with it. It counts when every
        line of it is ended, or when its data is a whole JSON value or `[DONE]`; its `raw` is what
        came, so it has no border. `rest` tells that the border was missing.
        """
        if self._start:
            self._whole.feed(self._start)
            self._start = None
        events = self._events(self._whole.finish())
        self._unended = unended = self._whole.rest
        if unended:
            event = self._event(unended)
            if event is not None and (
                unended.endswith((b"\n", b"\r")) or _is_whole_value(event.data)
            ):
                events.append(event)
        return events

    @property
    def rest(self) -> bytes:
        """The bytes of an event that has not ended: after `finish`, what the stream was cut in."""
        return self._unended or self._whole.rest

    def _without_bom(self, data: bytes) -> bytes:
        assert self._start is not None
        data = self._start + data
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._start = data
            return b""
        self._start = None
        return data.removeprefix(_BOM)

    def _measure_line(self, data: bytes) -> None:
        """Keeps the length of the line that has not ended, so that it can be bounded."""
        line_start = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        self._open_line = len(data) - line_start + (0 if line_start else self._open_line)
        if self._open_line > self._max_line:
            raise _too_large("a line", self._max_line)

    def _events(self, region: bytes) -> list[Event]:
        events: list[Event] = []
        end = _line_end(region)
        if end is None:
            blocks = _mixed_blocks(region)
            return [event for event in map(self._event, blocks) if event is not None]
        border = end + end
        limit = min(self._max_event, self._max_line) - len(border)
        for block in region.split(border):
            if block.startswith(b"data: ") and b"\n" not in block and len(block) <= limit:
                # By far the most common event: one data line and nothing else.
                events.append(Event(block[6:], raw=block + border))
            elif lines := block.lstrip(end):
                event = self._event(lines + border)
                if event is not None:
                    events.append(event)
        return events

    def _event(self, block: bytes) -> Event | None:
        """The event in the lines of `block`; None if it has no data line."""
        if len(block) > self._max_event:
            raise _too_large("an event", self._max_event)
        data: list[bytes] = []
        name = b""
        ident: bytes | None = None
        retry: int | None = None
        for line in block.splitlines():
            if len(line) > self._max_line:
                raise _too_large("a line", self._max_line)
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                data.append(value)
            elif field == b"event":
                name = value
            elif field == b"id" and b"\0" not in value:
                ident = value
            elif field == b"retry" and value.isdigit() and len(value) < 16:
                retry = int(value)
        if not data:
            return None
        return Event(b"\n".join(data), name, ident, retry, block)


def write(data: bytes, event: bytes = b"", id: bytes | None = None) -> bytes:
    """One event on the wire; line breaks in `data` become data lines.

    Raises ValueError for an `event` or `id` that would break out of its line.
    """
    head = b""
    if event:
        head = b"event: " + _one_line(event) + b"\n"
    if id is not None:
        head += b"id: " + _one_line(id) + b"\n"
    if b"\n" in data or b"\r" in data:
        data = b"\ndata: ".join(re.split(rb"\r\n|\r|\n", data))
    return head + b"data: " + data + b"\n\n"


def encode(event: Event) -> bytes:
    """`event` on the wire, written anew from its fields (`raw` is not looked at)."""
    head = b"" if event.retry is None else b"retry: %d\n" % event.retry
    return head + write(event.data, event.event, event.id)


def _line_end(region: bytes) -> bytes | None:
    """How every line of `region` ends, None if they end in different ways or in CR."""
    if b"\r" not in region:
        return b"\n"
    text = region.replace(b"\r\n", b"")
    return None if b"\r" in text or b"\n" in text else b"\r\n"


def _mixed_blocks(region: bytes) -> Iterator[bytes]:
    """The blocks of a region that ends at a border, each with its border, without blank lines."""
    lines: list[bytes] = []
    for line in region.splitlines(keepends=True):
        if line.strip(_LINE_ENDS):
            lines.append(line)
        elif lines:
            lines.append(line)
            yield b"".join(lines)
            lines = []


def _is_whole_value(data: bytes) -> bool:
    if data.strip() == b"[DONE]":
        return True
    try:
        _whole_json(data)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _one_line(value: bytes) -> bytes:
    if b"\n" in value or b"\r" in value or b"\0" in value:
        raise ValueError("an event name or id cannot hold a line break or NUL")
    return value


def _too_large(what: str, limit: int) -> BadAnswer:
    return BadAnswer(f"the provider sent {what} of more than {limit} bytes")
