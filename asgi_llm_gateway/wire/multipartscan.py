"""The delimiters and part headers of a multipart/form-data stream.

Sources: RFC 2046 section 5.1 (boundaries) and RFC 7578. Strict, since what libraries read in
different ways could be one thing to us and another to a provider.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ..errors import InvalidRequest, UnsupportedMedia

CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PARAMETER = re.compile(
    rb"[ \t]*+;[ \t]*+([!#$%&'*+.^_`|~0-9A-Za-z-]++)[ \t]*+=[ \t]*+"
    rb'("[^"\\\r\n]*+(?:\\.[^"\\\r\n]*+)*+"|[^\s;"]++)'
)
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_FILE_TYPES = (b"audio/", b"image/", b"video/", b"application/octet-stream")
_PLAIN_ENCODINGS = (None, b"7bit", b"8bit", b"binary")
_MAX_HEAD = 16 * 1024


class Part(NamedTuple):
    """What the headers of one part say."""

    name: str
    is_file: bool


class Mark(NamedTuple):
    """One delimiter in the stream: where it begins, where the part after it begins, its headers.

    `head` is None for the closing delimiter. Offsets count from the first byte of the body.
    """

    begin: int
    body: int
    head: bytes | None


class Marks:
    """Finds the delimiters and part headers in a stream, keeping no more than one part's headers.

    After `closed` only white space may follow. RFC 2046 would allow and ignore an epilogue, but no
    client sends one, and a lenient provider might find another part in it.
    """

    def __init__(self, boundary: bytes) -> None:
        self.closed = False
        self._delimiter = b"--" + boundary
        # As if a line had just ended, so that a delimiter in the first line is like any other.
        self._buffer = bytearray(b"\r\n")
        self._offset = -2
        self._from = 2
        self.in_head = False
        """A delimiter has come, but not all of the headers after it."""

    def feed(self, data: bytes) -> list[Mark]:
        """The delimiters whose part headers `data` completes."""
        marks: list[Mark] = []
        self._buffer += data
        while not self.closed:
            if not self.in_head and not self._find_delimiter():
                break
            mark = self._read_head()
            if mark is None:
                break
            marks.append(mark)
        if self.closed:
            if self._buffer.strip():
                raise malformed("something follows its closing boundary")
            self._buffer.clear()
        return marks

    def _find_delimiter(self) -> bool:
        buffer = self._buffer
        while (at := buffer.find(self._delimiter, self._from)) >= 0:
            before = bytes(buffer[at - 2 : at])
            if before == b"\r\n":
                self._drop(at)
                self.in_head = True
                return True
            if before.endswith((b"\r", b"\n")):
                raise malformed("lines must end with CR LF")
            self._from = at + 1
        # A delimiter may have begun in the last bytes, and what stood before it must be known.
        self._drop(max(2, len(buffer) - len(self._delimiter) + 1))
        self._from = 2
        return False

    def _drop(self, upto: int) -> None:
        """Forgets the buffer but for two bytes before `upto`."""
        del self._buffer[: upto - 2]
        self._offset += upto - 2

    def _read_head(self) -> Mark | None:
        """The mark of the delimiter that begins at buffer[2]; None while its headers go on."""
        buffer = self._buffer
        begin = self._offset + 2
        line = 2 + len(self._delimiter)
        if buffer.startswith(b"--", line):
            self.closed = True
            del buffer[: line + 2]
            return Mark(begin, self._offset + line + 2, None)
        end = buffer.find(b"\r\n\r\n", line)
        if _BARE_LF.search(buffer, line, len(buffer) if end < 0 else end):
            raise malformed("lines must end with CR LF")
        if end < 0:
            if len(buffer) - line > _MAX_HEAD:
                raise malformed("the headers of a part are too long")
            return None
        first = buffer.find(b"\r\n", line)
        if buffer[line:first].strip(b" \t"):
            raise malformed("a line begins with the boundary but goes on")
        head = bytes(buffer[first + 2 : end])
        self._drop(end + 4)
        self.in_head = False
        self._from = 2
        return Mark(begin, self._offset + 2, head)


def boundary_of(content_type: bytes) -> bytes:
    """The boundary that a Content-Type names; raises UnsupportedMedia if it is no form."""
    kind, _, _ = content_type.partition(b";")
    if kind.strip().lower() != b"multipart/form-data":
        raise UnsupportedMedia("this endpoint reads multipart/form-data")
    boundary = _parameters(content_type[len(kind) :].rstrip(), "the content type").get(b"boundary")
    if boundary is None or _BOUNDARY.fullmatch(boundary) is None:
        raise malformed("the content type has no usable boundary")
    return boundary


def part_of(head: bytes) -> Part:
    """What the header lines of a part say; raises InvalidRequest if that is not plain."""
    headers: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n"):
        key, colon, value = line.partition(b":")
        key = key.lower()
        if not colon or not key or key != key.strip() or b"\r" in line:
            raise malformed("a header of a part cannot be read")
        if key in headers:
            raise malformed("a part has the same header twice")
        headers[key] = value.strip()
    disposition = headers.get(b"content-disposition", b"")
    kind, _, _ = disposition.partition(b";")
    parameters = _parameters(disposition[len(kind) :], "a content-disposition")
    if kind.strip().lower() != b"form-data" or b"name" not in parameters:
        raise malformed("a part has no name")
    if b"name*" in parameters:
        raise malformed("RFC 7578 has no `name*`; use `name`")
    name = _name_of(parameters[b"name"])
    is_file = (
        b"filename" in parameters
        or b"filename*" in parameters
        or headers.get(b"content-type", b"").lower().startswith(_FILE_TYPES)
    )
    encoding = headers.get(b"content-transfer-encoding")
    if not is_file and (encoding and encoding.lower()) not in _PLAIN_ENCODINGS:
        raise malformed(f"the field `{name}` has a content-transfer-encoding")
    return Part(name, is_file)


def _name_of(raw: bytes) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError as error:
        raise malformed("the name of a part is not valid UTF-8") from error
    if "\\" in name or CONTROL.search(name):
        raise malformed("the name of a part holds a backslash or a control character")
    if name != "model" and name.strip().casefold() == "model":
        raise InvalidRequest("the field `model` must be spelled `model`", param="model")
    return name


def _parameters(raw: bytes, where: str) -> dict[bytes, bytes]:
    """The parameters of a header value; quoted ones without their quotes, escapes left in."""
    found: dict[bytes, bytes] = {}
    position = 0
    while position < len(raw):
        match = _PARAMETER.match(raw, position)
        if match is None:
            if raw[position:].strip(b" \t;"):
                raise malformed(f"{where} cannot be read")
            break
        key = match[1].lower()
        if key in found:
            raise malformed(f"{where} has the parameter `{key.decode()}` twice")
        value = match[2]
        found[key] = value[1:-1] if value.startswith(b'"') else value
        position = match.end()
    return found


def malformed(why: str) -> InvalidRequest:
    """The refusal of a body that is not multipart, or not plainly so."""
    return InvalidRequest(f"the multipart body cannot be read: {why}")
