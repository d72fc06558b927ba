"""Events come out the same however the bytes arrive (WHATWG HTML, "Server-sent events")."""

import itertools
import json
import random
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asgi_llm_gateway.errors import BadAnswer
from asgi_llm_gateway.wire.sse import Event, SSEReader, WholeEvents, encode, last_border, write

CORPUS = Path(__file__).resolve().parents[2] / "../shared/cassettes/dev.jsonl"


def read(pieces, **limits):
    reader = SSEReader(**limits)
    events = [event for piece in pieces for event in reader.feed(piece)]
    return events + reader.finish(), reader.rest


def data_of(stream):
    return [event.data for event in read([stream])[0]]


def cut(data, points):
    edges = [0, *sorted(points), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


LINES = st.one_of(
    st.sampled_from(
        [
            b"",
            b"data",
            b"data:",
            b"data: ",
            b"data:x",
            b"data: {}",
            b"data:  two spaces",
            b": OPENROUTER PROCESSING",
            b":",
            b"event: ping",
            b"event",
            b"id: 7",
            b"id: a\0b",
            b"id",
            b"retry: 1500",
            b"retry: soon",
            b"retry: 99999999999999999999",
            b"unknown: field",
            "data: é漢😀".encode(),
            b"data: [DONE]",
            b"\xef\xbb\xbfdata: a second mark is data of nobody",
        ]
    ),
    st.binary(max_size=6),
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
STREAMS = st.builds(
    lambda start, lines, tail: start + b"".join(line + end for line, end in lines) + tail,
    st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\xef\xbb"]),
    st.lists(st.tuples(LINES, ENDS), max_size=20),
    LINES,
)


@given(STREAMS, st.data())
@example(b"data: x\r\r\ndata: y\r\n\r\n", None)
@example(b"data: x\n\n\r\ndata: y\n\n\r", None)
def test_any_chunking_gives_the_same_events(stream, draw):
    whole = read([stream])
    assert read([stream[i : i + 1] for i in range(len(stream))]) == whole
    points = draw.draw(st.lists(st.integers(0, len(stream)))) if draw else [len(stream) // 2]
    assert read(cut(stream, points)) == whole


@given(STREAMS, st.data())
def test_cutting_at_borders_loses_no_byte_and_splits_no_event(stream, draw):
    stream = b": no mark here\n" + stream
    whole = WholeEvents(1000)
    messages = [
        whole.feed(p) for p in cut(stream, draw.draw(st.lists(st.integers(0, len(stream)))))
    ]
    messages.append(whole.finish())
    assert b"".join(messages) + whole.rest == stream
    alone = []
    for message in messages:
        reader = SSEReader()
        reader.feed(b"\xef\xbb\xbf")  # so that no mark inside the stream is taken for its first
        alone += reader.feed(message) + reader.finish()
        assert reader.rest == b""
    events, rest = read([stream])
    assert [e.data for e in alone] == [e.data for e in events if not rest or e.raw != rest]


def reference_borders(buffer):
    """After which bytes a line ends that is empty, by reading the standard word for word."""
    borders, line, position = [0], 0, 0
    while position < len(buffer):
        if buffer[position] in b"\r\n":
            end = position + (2 if buffer[position : position + 2] == b"\r\n" else 1)
            if position == line and line > 0:
                borders.append(end)
            line = position = end
        else:
            position += 1
    return borders


@given(st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b"x"])).map(b"".join))
def test_the_last_border_is_the_end_of_the_last_blank_line(buffer):
    assert last_border(buffer) == reference_borders(buffer)[-1]


@pytest.mark.parametrize(
    ("stream", "border"),
    [
        (b"", 0),
        (b"data: x", 0),
        (b"data: x\n", 0),
        (b"data: x\r\n", 0),
        (b"data: x\n\n", 9),
        (b"data: x\r\n\r\n", 11),
        (b"data: x\r\r", 9),
        (b"data: x\n\r", 9),
        (b"data: x\r\n\n", 10),
        (b"data: x\n\ndata: y", 9),
        (b"data: x\r\n\r\ndata: y\r\n", 11),
    ],
)
def test_a_border_is_any_two_line_ends(stream, border):
    assert last_border(stream) == border


def test_the_examples_of_the_standard():
    assert data_of(b"data: YHOO\ndata: +2\ndata: 10\n\n") == [b"YHOO\n+2\n10"]
    stream = (
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third\n\n"
    )
    events, rest = read([stream])
    assert [(e.data, e.id) for e in events] == [
        (b"first event", b"1"),
        (b"second event", b""),
        (b" third", None),
    ]
    assert rest == b""
    assert data_of(b"data\n\ndata\ndata\n\ndata:\n\n") == [b"", b"\n", b""]
    assert data_of(b"data:test\n\ndata: test\n\n") == [b"test", b"test"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_every_field_is_read_with_every_line_end(end):
    lines = [b": hi", b"event: delta", b"id: 9", b"retry: 250", b"x: y", b"data: a", b"data:b"]
    block = end.join([*lines, b"", b""])
    assert read([block])[0] == [Event(b"a\nb", b"delta", b"9", 250, block)]


def test_blocks_without_data_are_no_events():
    assert data_of(b": ping\n\nevent: x\n\nid: 1\n\nretry: 1\n\n\n\n\ndata: y\n\n") == [b"y"]


def test_bad_ids_and_retries_are_ignored():
    (event,) = read([b"id: a\0b\nretry: -1\nretry: soon\nretry:\ndata: x\n\n"])[0]
    assert (event.id, event.retry) == (None, None)


def test_a_byte_order_mark_is_dropped_once():
    mark = b"\xef\xbb\xbf"
    assert data_of(mark + b"data: x\n\n") == [b"x"]
    assert data_of(mark + mark + b"data: x\n\ndata: y\n\n") == [b"y"]
    assert read([b"\xef", b"\xbb", b"\xbfdata: x\n\n"])[0] == read([b"data: x\n\n"])[0]
    assert read([b"\xef", b"\xbb"]) == ([], b"\xef\xbb")


def test_an_event_is_given_as_soon_as_its_border_is_there():
    reader = SSEReader()
    assert reader.feed(b"data: x\n") == []
    assert reader.rest == b"data: x\n"
    assert [e.data for e in reader.feed(b"\ndata: y")] == [b"x"]
    assert reader.feed(b"") == []
    assert reader.rest == b"data: y"


def test_a_carriage_return_waits_for_the_line_feed_that_may_follow():
    reader = SSEReader()
    assert reader.feed(b"data: x\r\n\r") == []
    assert [e.raw for e in reader.feed(b"\n")] == [b"data: x\r\n\r\n"]
    assert reader.feed(b"data: y\r\r") == []
    assert [e.raw for e in reader.finish()] == [b"data: y\r\r"]
    assert reader.rest == b""


@pytest.mark.parametrize(
    ("tail", "data"),
    [
        (b"data: {}", [b"{}"]),
        (b"data: {}\n", [b"{}"]),
        (b"data: [DONE]", [b"[DONE]"]),
        (b"data: [DONE]\r", [b"[DONE]"]),
        (b"data: plain text\n", [b"plain text"]),
        (b"event: done\ndata: 1\n", [b"1"]),
        (b'data: {"a":1', []),
        (b"data: plain te", []),
        (b"dat", []),
        (b"event: done\n", []),
        (b": comment", []),
        (b'data: {"a":\ndata: 1', []),
        (b"data: " + b"[" * 100_000, []),
    ],
)
def test_an_event_without_its_border_counts_at_the_end_if_it_is_whole(tail, data):
    events, rest = read([b"data: first\n\n" + tail])
    assert [e.data for e in events] == [b"first", *data]
    assert rest == tail
    assert all(e.raw == tail for e in events[1:])


@pytest.mark.parametrize("split", [1, 7, 100_000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("prefix", [b"data: ", b"event: e\ndata: ", b": "])
def test_a_line_over_the_limit_is_a_bad_answer(split, end, prefix):
    stream = prefix + b"x" * 100 + end + end
    pieces = [stream[i : i + split] for i in range(0, len(stream), split)]
    with pytest.raises(BadAnswer, match="more than 50 bytes"):
        read(pieces, max_line=50)
    with pytest.raises(BadAnswer, match="more than 50 bytes"):
        read([stream.rstrip()], max_line=50)
    read(pieces, max_line=106)


@pytest.mark.parametrize("split", [1, 7, 100_000])
@pytest.mark.parametrize("lines", [1, 20])
def test_an_event_over_the_limit_is_a_bad_answer(split, lines):
    stream = b"data: ok\n\n" + b"data: 0123456789\n" * lines + b"\n"
    pieces = [stream[i : i + split] for i in range(0, len(stream), split)]
    size = len(stream) - 10
    assert len(read(pieces, max_event=size)[0]) == 2
    with pytest.raises(BadAnswer):
        read(pieces, max_event=size - 1)


def test_what_is_held_back_is_bounded():
    whole = WholeEvents(100)
    assert whole.feed(b"data: x\n\ndata: ") == b"data: x\n\n"
    assert whole.feed(b"x" * 94) == b""
    with pytest.raises(BadAnswer, match="more than 100 bytes"):
        whole.feed(b"x")


def test_blank_lines_between_events_are_not_held_back():
    whole = WholeEvents()
    assert whole.feed(b"data: x\n\n\r") == b"data: x\n\n\r"
    assert whole.feed(b"\n") == b"\n"
    assert whole.feed(b"\n\ndata: y") == b"\n\n"
    assert whole.rest == b"data: y"
    assert whole.feed(b"") == b""
    assert whole.finish() == b""
    assert whole.rest == b"data: y"


def test_a_whole_event_that_waited_for_a_line_feed_is_given_at_the_end():
    whole = WholeEvents()
    assert whole.feed(b"data: y\r\n\r") == b""
    assert whole.finish() == b"data: y\r\n\r"
    assert whole.rest == b""


TEXT = st.binary(max_size=30)
NAMES = st.binary(max_size=8).filter(lambda b: not set(b) & set(b"\r\n\0"))


@given(TEXT, NAMES, st.none() | NAMES, st.none() | st.integers(0, 10**9))
def test_what_is_written_reads_back(data, name, ident, retry):
    wire = encode(Event(data, name, ident, retry))
    data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert read([wire]) == ([Event(data, name, ident, retry, wire)], b"")


def test_writing_is_plain():
    assert write(b"{}") == b"data: {}\n\n"
    assert write(b"a\r\nb\rc\nd") == b"data: a\ndata: b\ndata: c\ndata: d\n\n"
    assert write(b"1", event=b"ping", id=b"3") == b"event: ping\nid: 3\ndata: 1\n\n"


@pytest.mark.parametrize("bad", [b"a\nb", b"a\rb", b"a\0b"])
def test_a_name_or_id_cannot_break_out_of_its_line(bad):
    with pytest.raises(ValueError, match="line break"):
        write(b"x", event=bad)
    with pytest.raises(ValueError, match="line break"):
        write(b"x", id=bad)


def corpus():
    if not CORPUS.exists():
        pytest.skip("../shared/cassettes is not here")
    streams = {}
    with CORPUS.open() as rows:
        for row in map(json.loads, rows):
            if row["response"]["kind"] == "sse":
                streams[row["id"]] = row["response"]["body"].encode()
    return streams


def check_recorded(stream, rng, small):
    whole = read([stream])
    blocks = stream.replace(b"\r\n", b"\n").split(b"\n\n")
    assert len(whole[0]) == sum(
        any(line.startswith(b"data") for line in block.split(b"\n")) for block in blocks
    )
    if len(stream) <= small:
        for point in range(len(stream)):
            assert read([stream[:point], stream[point:]]) == whole
    for _ in range(3):
        points = [rng.randrange(len(stream) + 1) for _ in range(rng.randrange(1, 60))]
        assert read(cut(stream, points)) == whole


def test_recorded_streams_read_the_same_however_they_are_cut():
    streams = corpus()
    rng = random.Random(2)
    for name in rng.sample(sorted(streams), 60):
        check_recorded(streams[name], rng, small=1500)


@pytest.mark.slow
def test_all_recorded_streams_read_the_same_however_they_are_cut():
    rng = random.Random(3)
    for stream in corpus().values():
        check_recorded(stream, rng, small=5000)
        assert read([stream[i : i + 1] for i in range(len(stream))]) == read([stream])
