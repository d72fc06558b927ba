"""Decoded events, shared by the parts that a message passes through."""

from __future__ import annotations

import json
from typing import Any

from asgi_llm_gateway.dialects.answer import EVENTS_KEY, events, rewritten
from tests.upstreams import DONE, chunk, sse


def message(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


def test_the_events_of_a_message_are_decoded_once_and_left_in_it() -> None:
    sent = message(sse(chunk("a"), chunk("b")) + DONE)
    found = events(sent)
    assert [event.document for event in found] == [chunk("a"), chunk("b"), None]
    assert events(sent) is found
    assert sent[EVENTS_KEY] is found
    assert found[0].document is found[0].document


def test_every_byte_of_a_message_is_in_some_event() -> None:
    body = b"event: x\nid: 7\n" + sse(chunk("a")) + b": hi\n" + sse(chunk("b"), end=b"\r\n\r\n")
    assert b"".join(event.raw for event in events(message(body))) == body


def test_a_message_without_events_has_none() -> None:
    assert events(message(b"", more=False)) == []
    assert events({"type": "http.response.body"}) == []


def test_what_is_no_json_object_has_no_document_and_goes_on_as_it_is() -> None:
    for data in (b"[DONE]", b"5", b"{", b'{"a": "\xff"}', b'{"a":' * 9999):
        (event,) = events(message(b"data: " + data + b"\n\n"))
        assert event.document is None
        assert event.raw == b"data: " + data + b"\n\n"


def test_a_changed_event_is_written_anew_and_the_others_stay_as_they_came() -> None:
    body = b'event: x\nid: 7\ndata: {"t": "a",  "n": 1}\n\n' + b'data:{"t":  "b"}\r\n\r\n'
    sent = message(body)
    first, second = events(sent)
    assert first.document is not None
    first.document["t"] = "***\n"
    first.changed()
    out = rewritten(sent, [first, second])
    assert out["body"] == b'event: x\nid: 7\ndata: {"t":"***\\n","n":1}\n\n' + second.raw
    assert second.raw == b'data:{"t":  "b"}\r\n\r\n'
    assert out["more_body"] is True
    assert sent["body"] == body


def test_body_and_events_of_a_rewritten_message_agree() -> None:
    sent = message(sse(chunk("a"), chunk("b"), chunk("c")))
    kept = events(sent)[1:]
    out = rewritten(sent, kept)
    assert events(out) == kept
    del out[EVENTS_KEY]
    assert [event.document for event in events(out)] == [chunk("b"), chunk("c")]
    assert json.loads(out["body"].split(b"data: ")[1])["choices"]


def test_rewriting_to_nothing_leaves_an_empty_message() -> None:
    out = rewritten(message(sse(chunk("a")), more=False), [])
    assert (out["body"], out["more_body"], out[EVENTS_KEY]) == (b"", False, [])
