"""What a call consumed, as providers report it.

Sources: the OpenAI API reference (`usage` of chat completions, completions, embeddings, responses,
images and transcriptions), DeepSeek's (`prompt_cache_hit_tokens`) and Moonshot's (`cached_tokens`,
`choices[].usage`), Groq's `x_groq.usage`.

A report is a stranger's word about money, so it is read by one rule: a count is a whole number
from 0 to `MAX_TOKENS`; a negative one is 0, a larger one `MAX_TOKENS`, a fraction is rounded up,
and what is no number is as good as absent. Parts are taken out of their total in the order of the
fields of `Usage` and never exceed what is left of it. Nothing here can become negative.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec

MAX_TOKENS = 2**31 - 1
"""The largest count believed; it fits every database's integer."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a call in buckets that exclude each other; each has its own price."""

    cache_read: int = 0
    cache_write: int = 0
    audio_input: int = 0
    image_input: int = 0
    input: int = 0
    """Text that was in no cache."""
    reasoning: int = 0
    audio_output: int = 0
    output: int = 0
    """Text the caller sees."""

    @property
    def total_input(self) -> int:
        """Everything that went in."""
        return self.input + self.cache_read + self.cache_write + self.audio_input + self.image_input

    @property
    def total_output(self) -> int:
        """Everything that came out."""
        return self.output + self.reasoning + self.audio_output


def usage_from(report: Mapping[str, Any]) -> Usage | None:
    """The usage in a provider's `usage` object; None if it counts no tokens.

    Reasoning is part of the output, unless `total_tokens` says that it was added on top (xAI).
    """
    return _usage_of(_cleaned(_Report, report))


def usage_in(body: bytes) -> Usage | None:
    """The usage in a whole JSON answer, or in the data of one event; None if it has none.

    Read where providers put it: `usage`, `response.usage` (Responses), `x_groq.usage`,
    `choices[].usage` (Moonshot). An object called `usage` elsewhere is the caller's or the model's
    own and is not believed.
    """
    last = body.rfind(_NAME)
    if last < 0:
        return None
    # Providers end with it: `{` and the rest of the body is an object again if, and only if, the
    # member stands at the top level. So a long answer is not decoded from its beginning.
    end = _answer(b"{" + body[last:])
    if end is not None:
        found = _of_answer(end)
        if found is not None or body.find(_NAME, 0, last) < 0:
            return found
    whole = _answer(body)
    return _of_answer(whole) if whole is not None else _from_ends(body, (b"{",))


def usage_of_tail(tail: bytes) -> Usage | None:
    """The usage in the last bytes of an answer, plain or streamed; the last one that is not null.

    For parts that keep only the end of what they forward, so the beginning may be cut off anywhere.
    """
    if not _DATA_LINE.search(tail):
        return _from_ends(tail, (b"{",))
    lines = tail.splitlines()
    for line in reversed(lines[1:]):
        if line.startswith(b"data:"):
            found = usage_in(line[5:])
            if found is not None:
                return found
    first = lines[0]
    if first.startswith(b"data:"):
        return usage_in(first[5:])
    # The end of an event. Members next to `response` are plain values, so a `usage` two levels
    # deep can only be its own.
    return _from_ends(first, (b"{", b'{"response":{'))


_NAME = b'"usage"'
_DATA_LINE = re.compile(rb"(?:\A|[\r\n])data:")
_ATTEMPTS = 8  # a caller's schema can be echoed after the usage and hold the name many times


_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)] | None


class _Details(msgspec.Struct, gc=False):
    cached_tokens: _Count = None
    cache_write_tokens: _Count = None
    audio_tokens: _Count = None
    image_tokens: _Count = None
    reasoning_tokens: _Count = None


class _Report(msgspec.Struct, gc=False):
    """A report as it should be; some providers write `token_details` for `tokens_details`."""

    prompt_tokens: _Count = None
    input_tokens: _Count = None
    completion_tokens: _Count = None
    output_tokens: _Count = None
    total_tokens: _Count = None
    prompt_cache_hit_tokens: _Count = None
    cached_tokens: _Count = None
    num_cached_tokens: _Count = None
    prompt_tokens_details: _Details | None = None
    prompt_token_details: _Details | None = None
    input_tokens_details: _Details | None = None
    input_token_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    completion_token_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Answer(msgspec.Struct, gc=False):
    """The places of an answer that can hold usage; left raw, since any type may stand there."""

    usage: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    response: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    x_groq: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    choices: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_answer_of = msgspec.json.Decoder(_Answer).decode
_answers_of = msgspec.json.Decoder(list[_Answer]).decode
_report_of = msgspec.json.Decoder(_Report).decode
_object_of = msgspec.json.Decoder(dict[str, Any]).decode
_NO_DETAILS = _Details()


def _of_answer(answer: _Answer) -> Usage | None:
    if isinstance(answer.usage, msgspec.Raw):
        found = _of_report(answer.usage)
        if found is not None:
            return found
    for holder in _holders(answer):
        if isinstance(holder.usage, msgspec.Raw):
            found = _of_report(holder.usage)
            if found is not None:
                return found
    return None


def _holders(answer: _Answer) -> Iterator[_Answer]:
    """What inside an answer may have a usage of its own."""
    for raw in (answer.response, answer.x_groq):
        if isinstance(raw, msgspec.Raw):
            yield from _decoded(b"[%b]" % raw)
    if isinstance(answer.choices, msgspec.Raw):
        yield from reversed(_decoded(answer.choices))


def _decoded(raw: bytes) -> list[_Answer]:
    try:
        return _answers_of(raw)
    except msgspec.DecodeError:
        return []


def _of_report(raw: msgspec.Raw) -> Usage | None:
    if bytes(raw) == b"null":  # in every chunk but the last, so worth no exception
        return None
    try:
        return _usage_of(_report_of(raw))
    except (msgspec.DecodeError, RecursionError):
        pass  # something in it is not as it should be: read what is
    try:
        return usage_from(_object_of(raw))
    except (msgspec.DecodeError, RecursionError):
        return None


def _answer(document: bytes) -> _Answer | None:
    try:
        return _answer_of(document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _from_ends(tail: bytes, openings: tuple[bytes, ...]) -> Usage | None:
    """The usage in the end of a JSON object that an opening makes whole again."""
    position = len(tail)
    for _ in range(_ATTEMPTS):
        position = tail.rfind(_NAME, 0, position)
        if position < 0:
            break
        for opening in openings:
            answer = _answer(opening + tail[position:])
            found = None if answer is None else _of_answer(answer)
            if found is not None:
                return found
    return None


def _usage_of(report: _Report) -> Usage | None:
    total_input = _or(report.prompt_tokens, report.input_tokens)
    total_output = _or(report.completion_tokens, report.output_tokens)
    total = report.total_tokens
    if total_input is None and total_output is None and total is None:
        return None
    output = total_output or 0
    if total_input is None:
        total_input = max(0, (total or 0) - output)

    details = (
        report.prompt_tokens_details
        or report.input_tokens_details
        or report.prompt_token_details
        or report.input_token_details
        or _NO_DETAILS
    )
    cached = _or(details.cached_tokens, report.prompt_cache_hit_tokens)
    cached = _or(_or(cached, report.cached_tokens), report.num_cached_tokens)
    cache_read, left = _take(cached, total_input)
    cache_write, left = _take(details.cache_write_tokens, left)
    audio_input, left = _take(details.audio_tokens, left)
    image_input, left = _take(details.image_tokens, left)

    details = (
        report.completion_tokens_details
        or report.output_tokens_details
        or report.completion_token_details
        or _NO_DETAILS
    )
    thought = details.reasoning_tokens
    if thought and total == total_input + output + thought:
        reasoning, visible = thought, output
    else:
        reasoning, visible = _take(thought, output)
    audio_output, visible = _take(details.audio_tokens, visible)
    return Usage(
        cache_read, cache_write, audio_input, image_input, left, reasoning, audio_output, visible
    )


_Shape = TypeVar("_Shape", _Report, _Details)


def _cleaned(shape: type[_Shape], given: Mapping[str, Any]) -> _Shape:
    """What of a report can be used, by the rule at the top of this file."""
    fields: dict[str, Any] = {}
    for name in shape.__struct_fields__:
        value: Any = given.get(name)
        if name.endswith("_details"):
            if isinstance(value, Mapping):
                fields[name] = _cleaned(_Details, value)
        elif _is_number(value):
            fields[name] = math.ceil(min(max(value, 0), MAX_TOKENS))
    return shape(**fields)


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return not math.isnan(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _or(first: int | None, second: int | None) -> int | None:
    return second if first is None else first


def _take(part: int | None, total: int) -> tuple[int, int]:
    """A part that is at most its total, and what the total has left."""
    taken = min(part or 0, total)
    return taken, total - taken
