"""Multipart uploads: the fields before the first file are read, files only pass through.

Sources: RFC 7578 (multipart/form-data) and RFC 2046 section 5.1 (boundaries). What libraries are
known to read in different ways (bare line feeds, `name*`, a second `model`) is refused, so that
the field checked here is the field the provider acts on.
"""

from __future__ import annotations

from ..errors import BodyTooLarge, InvalidRequest
from .jsonview import check_model
from .multipartscan import CONTROL, Mark, Marks, boundary_of, malformed, part_of


class MultipartPrelude:
    """Reads the fields of a multipart body up to the first file, from pieces of any size.

        prelude = MultipartPrelude(content_type)
        while not prelude.done: prelude.feed(piece)
        send(prelude.rewrite("whisper-1"))   # or prelude.seen, to change nothing
        for piece in rest: prelude.scan(piece); send(piece)
        prelude.finish()

    Raises `InvalidRequest` for a body that is not well-formed, for a second `model` and for one
    after a file (it would come too late to choose a channel by), `BodyTooLarge` over a limit, and
    `UnsupportedMedia` for another content type. Limits are in bytes, but for `max_fields`.
    """

    def __init__(
        self,
        content_type: bytes,
        *,
        max_fields: int = 64,
        max_field_bytes: int = 1024 * 1024,
        max_prelude: int = 4 * 1024 * 1024,
    ) -> None:
        boundary = boundary_of(content_type)
        self.fields: dict[str, str | list[str]] = {}
        """Values by name, a list where a name is repeated."""
        self.done = False
        """The first file begins, or the body has ended without one."""
        self._delimiter = b"--" + boundary
        self._marks = Marks(boundary)
        self._seen = bytearray()
        self._open: tuple[str, int] | None = None
        self._first = 0
        self._model: tuple[int, int] | None = None
        self._count = 0
        self._max_fields = max_fields
        self._max_field_bytes = max_field_bytes
        self._max_prelude = max_prelude

    @property
    def model(self) -> str | None:
        """The value of the `model` field, None if there is none before the first file."""
        model = self.fields.get("model")
        return model if isinstance(model, str) else None

    @property
    def seen(self) -> bytes:
        """Every byte fed until `done`, unchanged; what follows is the caller's to pass on."""
        return bytes(self._seen)

    def feed(self, data: bytes) -> None:
        """Takes the next piece of the body; for use until `done`."""
        self._seen += data
        for mark in self._marks.feed(data):
            self._take(mark)
        if not self.done:
            size = len(self._seen)
            if size > self._max_prelude:
                raise self._too_long()
            if self._open is not None and not self._marks.in_head:
                name, begin = self._open
                # All that can still turn out to be the delimiter is taken off.
                self._check_size(name, size - begin - len(self._delimiter) - 2)

    def scan(self, data: bytes) -> None:
        """Looks at the next piece of the body after `done`, only for a `model` that comes late."""
        for mark in self._marks.feed(data):
            self._take(mark)

    def finish(self) -> None:
        """At the end of the body; raises InvalidRequest if its closing boundary never came."""
        if not self._marks.closed:
            raise InvalidRequest("the multipart body ends before its closing boundary")

    def rewrite(self, model: str) -> bytes:
        """`seen` with this model in its `model` field, or in a new first field.

        The length of the body changes by the difference to `seen`.
        """
        value = model.encode()
        if CONTROL.search(model):
            raise ValueError("a model name cannot hold control characters")
        seen = self.seen
        if self._model is not None:
            begin, end = self._model
            return seen[:begin] + value + seen[end:]
        head = b'\r\nContent-Disposition: form-data; name="model"\r\n\r\n'
        field = self._delimiter + head + value + b"\r\n"
        return seen[: self._first] + field + seen[self._first :]

    def _take(self, mark: Mark) -> None:
        part = None if mark.head is None else part_of(mark.head)
        if self.done:
            if part is not None and part.name == "model":
                raise InvalidRequest("the field `model` must come before the file", param="model")
            return
        if mark.body > self._max_prelude:
            raise self._too_long()
        if self._count == 0:
            self._first = mark.begin
        if self._open is not None:
            self._add(*self._open, mark.begin - 2)
        self._open = None
        if part is None or part.is_file:
            if part is not None and part.name == "model":
                raise InvalidRequest("the field `model` cannot be a file", param="model")
            self.done = True
            return
        self._count += 1
        if self._count > self._max_fields:
            raise InvalidRequest(f"the form has more than {self._max_fields} fields")
        self._open = (part.name, mark.body)

    def _add(self, name: str, begin: int, end: int) -> None:
        if end < begin:
            raise malformed("a part has no line break before its boundary")
        self._check_size(name, end - begin)
        try:
            value = self._seen[begin:end].decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"the field `{name}` is not valid UTF-8", param=name) from error
        if name == "model":
            check_model(value)
        before = self.fields.get(name)
        if before is None:
            self.fields[name] = value
            if name == "model":
                self._model = (begin, end)
        elif name == "model":
            raise InvalidRequest("the field `model` occurs twice", param="model")
        elif isinstance(before, list):
            before.append(value)
        else:
            self.fields[name] = [before, value]

    def _check_size(self, name: str, size: int) -> None:
        if size > self._max_field_bytes:
            limit = self._max_field_bytes
            raise BodyTooLarge(f"the field `{name}` has more than {limit} bytes", param=name)

    def _too_long(self) -> BodyTooLarge:
        return BodyTooLarge(f"the fields before the file have more than {self._max_prelude} bytes")
