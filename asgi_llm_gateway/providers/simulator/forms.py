"""multipart/form-data, read as it arrives: a file is hashed and counted, and kept only if asked."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from .answer import Refusal

_MAX_FIELD: Final = 1024 * 1024
_MAX_KEPT: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of a form; `content` is None unless it was to be kept."""

    filename: str
    content_type: str
    size: int
    sha256: str
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class Form:
    """A form's fields and files by name."""

    fields: dict[str, str]
    files: dict[str, list[Upload]]


async def read_form(chunks: AsyncIterator[bytes], content_type: bytes, *, keep: bool) -> Form:
    """The form in a body; raises Refusal for one that is none or whose fields are too large."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise Refusal(415, "Expected a multipart/form-data body with a boundary.")
    reader = _Reader(keep)
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": reader.begin,
            "on_header_field": reader.header_name,
            "on_header_value": reader.header_value,
            "on_header_end": reader.header_end,
            "on_headers_finished": reader.headers_end,
            "on_part_data": reader.data,
            "on_part_end": reader.end,
            "on_end": reader.finish,
        },
    )
    try:
        async for chunk in chunks:
            parser.write(chunk)
    except MultipartParseError as exc:
        raise Refusal(400, "Could not parse the multipart form of your request.") from exc
    if not reader.finished:
        raise Refusal(400, "The multipart form of your request has no end.")
    return Form(reader.fields, reader.files)


class _Reader:
    """The parser's callbacks: one part at a time."""

    def __init__(self, keep: bool) -> None:
        self.fields: dict[str, str] = {}
        self.files: dict[str, list[Upload]] = {}
        self.finished = False
        self._keep = keep
        self.begin()

    def begin(self) -> None:
        self._headers: dict[bytes, bytes] = {}
        self._header = (b"", b"")
        self._name = ""
        self._filename: str | None = None
        self._size = 0
        self._hash = hashlib.sha256()
        self._content = bytearray()

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0] + data[start:end], self._header[1])

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0], self._header[1] + data[start:end])

    def header_end(self) -> None:
        self._headers[self._header[0].lower()] = self._header[1]
        self._header = (b"", b"")

    def headers_end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if b"filename" in options:
            self._filename = options[b"filename"].decode("utf-8", "replace")

    def data(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        is_field = self._filename is None
        if is_field and self._size > _MAX_FIELD:
            raise Refusal(413, f"The form field {self._name!r} is too large.")
        if is_field or self._keep:
            if self._size > _MAX_KEPT:
                raise Refusal(413, "The file is too large for the simulator to keep.")
            self._content += data[start:end]
        if not is_field:
            self._hash.update(data[start:end])

    def end(self) -> None:
        if self._filename is None:
            self.fields[self._name] = self._content.decode("utf-8", "replace")
            return
        kind = self._headers.get(b"content-type", b"application/octet-stream")
        upload = Upload(
            filename=self._filename,
            content_type=kind.decode("latin-1"),
            size=self._size,
            sha256=self._hash.hexdigest(),
            content=bytes(self._content) if self._keep else None,
        )
        self.files.setdefault(self._name.removesuffix("[]"), []).append(upload)

    def finish(self) -> None:
        self.finished = True
