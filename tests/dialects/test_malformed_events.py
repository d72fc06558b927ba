"""Events that are no JSON are left out of a stream, counted, and nothing else is touched."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llm_gateway.dialects.soundness import sound, without_malformed
from asgi_llm_gateway.dialects.tap import DoneTap, Tap
from tests.upstreams import DONE, FakeUpstream, Reply, ask_stream, chunk, relay_to, sse

GOOD = sse(chunk("hi"))
SOUND = [
    GOOD,
    GOOD * 3,
    GOOD + DONE,
    DONE,
    b"event: response.created\n" + GOOD,
    b": a comment\n\n" + GOOD,
    b"id: 7\nevent: x\n" + GOOD + DONE,
    b": only a comment\n\n",
]
MALFORMED = [
    b'data: {"choices": [}\n\n',
    b"data: nonsense\n\n",
    b'data: {"half": "an ev\n\n',
    b"data: 5\n\n",
    b"data: [1, 2]\n\n",
    b"data: \xff\xfe\n\n",
    b'event: x\ndata: {"a":\n\n',
    b'data: {"a": 1}\ndata: {"b": 2}\n\n',
    b'data: {"a"\r\n\r\n',
]


@pytest.mark.parametrize("events", SOUND)
def test_well_formed_events_are_seen_to_be_sound(events: bytes) -> None:
    assert sound(events)
    assert without_malformed(events) == (events, 0)


@pytest.mark.parametrize("bad", MALFORMED)
@pytest.mark.parametrize("before", [b"", GOOD, b": comment\n\n"])
@pytest.mark.parametrize("after", [b"", GOOD, DONE])
def test_a_malformed_event_alone_is_left_out(bad: bytes, before: bytes, after: bytes) -> None:
    events = before + bad + after
    assert not sound(events)
    assert without_malformed(events) == (before + after, 1)


@pytest.mark.parametrize(
    "quiet", [b"data:\n\n", b"data: \n\n", b"data:[DONE]\n\n", sse(chunk("x"), end=b"\r\n\r\n")]
)
def test_what_is_unusual_but_readable_stays(quiet: bytes) -> None:
    assert without_malformed(GOOD + quiet + GOOD) == (GOOD + quiet + GOOD, 0)


lines = st.lists(
    st.sampled_from([GOOD, DONE, *SOUND[4:7], *MALFORMED, b"data: {}\n\n", b"\n", b"data:{}\n\n"])
)


@given(lines.map(b"".join))
def test_what_is_called_sound_has_nothing_malformed(events: bytes) -> None:
    if events and sound(events):
        assert without_malformed(events) == (events, 0)


@given(lines.map(b"".join))
def test_leaving_out_leaves_nothing_more_to_leave_out(events: bytes) -> None:
    left, _ = without_malformed(events)
    assert without_malformed(left) == (left, 0)


@pytest.mark.parametrize("tap", [Tap, DoneTap])
def test_a_tap_counts_what_it_leaves_out(tap: type[Tap]) -> None:
    reader = tap()
    assert reader.feed(GOOD + MALFORMED[0]) == GOOD
    assert reader.feed(MALFORMED[1]) == b""
    assert reader.skipped == 2


async def test_a_caller_never_sees_a_malformed_event_and_the_stream_is_whole() -> None:
    stream = [sse(chunk("a")), MALFORMED[0], sse(chunk("b")), sse(chunk(finish="stop")), DONE]
    answer = await ask_stream(relay_to(FakeUpstream(Reply.stream(*stream))))
    assert answer.body == b"".join([stream[0], *stream[2:]])
    assert json.loads(answer.body.split(b"\n\n")[1][6:])["choices"][0]["delta"] == {"content": "b"}
