"""What a dialect knows about its wire format. Pure: documents and bytes in, facts out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .tap import Tap
from .text import Text

Document = Any
Texts = Callable[[Document], Iterator[Text]]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One wire format.

    request_texts and answer_texts yield every text of a decoded request, or of a decoded answer
    or stream event, with a setter: the only place that knows where text lives. `required` are the
    members a request cannot lack, each with the first bytes its JSON may have. `answer_list` is
    the member of a good answer that is a list. `tap` makes the reader of one stream.
    """

    name: str
    request_texts: Texts
    answer_texts: Texts
    required: tuple[tuple[str, bytes], ...] = ()
    answer_list: str | None = None
    tap: Callable[[bool], Tap] = Tap
