"""A form is read up to its first file, and only its `model` is ever changed."""

import itertools

import pytest
import python_multipart
from hypothesis import given
from hypothesis import strategies as st

from asgi_llm_gateway.errors import BodyTooLarge, InvalidRequest, UnsupportedMedia
from asgi_llm_gateway.wire.multipart import MultipartPrelude

TYPE = b"multipart/form-data; boundary=BoUnD"
FILE = b'Content-Disposition: form-data; name="file"; filename="a.mp3"\r\nContent-Type: audio/mpeg'


def field(name, value):
    return b'Content-Disposition: form-data; name="%b"\r\n\r\n%b' % (name, value)


def form(*parts, boundary=b"BoUnD"):
    start = b"--" + boundary
    return b"".join(start + b"\r\n" + part + b"\r\n" for part in parts) + start + b"--\r\n"


def file(content=b"\xff\xfb\x90audio\r\n--Bo\r\n"):
    return FILE + b"\r\n\r\n" + content


def relay(pieces, model=None, content_type=TYPE, **limits):
    """What the relay does with a form: the prelude, and the bytes it sends."""
    prelude = MultipartPrelude(content_type, **limits)
    pieces = iter(pieces)
    for piece in pieces:
        prelude.feed(piece)
        if prelude.done:
            break
    sent = [prelude.seen if model is None else prelude.rewrite(model)]
    for piece in pieces:
        prelude.scan(piece)
        sent.append(piece)
    prelude.finish()
    return prelude, b"".join(sent)


def parts_of(body, boundary=b"BoUnD"):
    """The parts as python-multipart reads them: (headers, content)."""
    parts = []
    callbacks = {
        "on_part_begin": lambda: parts.append([b"", b""]),
        "on_header_field": lambda data, a, b: parts[-1].__setitem__(0, parts[-1][0] + data[a:b]),
        "on_header_value": lambda data, a, b: parts[-1].__setitem__(0, parts[-1][0] + data[a:b]),
        "on_part_data": lambda data, a, b: parts[-1].__setitem__(1, parts[-1][1] + data[a:b]),
    }
    parser = python_multipart.MultipartParser(boundary, callbacks)
    parser.write(body)
    parser.finalize()
    return [tuple(part) for part in parts]


UPLOAD = form(field(b"model", b"fast"), field(b"language", b"de"), file(), field(b"late", b"1"))


@pytest.mark.parametrize("model", [None, "whisper-1"])
def test_every_split_reads_and_rewrites_the_same(model):
    whole = relay([UPLOAD], model)
    want = UPLOAD if model is None else UPLOAD.replace(b"\r\nfast\r\n", b"\r\nwhisper-1\r\n")
    assert whole[1] == want
    for a, b in itertools.combinations(range(0, len(UPLOAD), 3), 2):
        prelude, sent = relay([UPLOAD[:a], UPLOAD[a:b], UPLOAD[b:]], model)
        assert prelude.fields == {"model": "fast", "language": "de"}
        assert sent == want
    prelude, sent = relay([UPLOAD[i : i + 1] for i in range(len(UPLOAD))], model)
    assert (prelude.fields, prelude.model, sent) == (whole[0].fields, "fast", want)


def test_the_file_is_not_kept():
    prelude = MultipartPrelude(TYPE)
    head = form(field(b"model", b"m"), file(b""))[: -len(b"\r\n--BoUnD--\r\n")]
    prelude.feed(head)
    assert prelude.done
    for _ in range(50):
        prelude.scan(b"x" * 65536)
    assert prelude.seen == head
    prelude.scan(b"\r\n--BoUnD--\r\n")
    prelude.finish()


CONTENT = (
    st.lists(
        st.sampled_from(
            [b"\r\n", b"--", b"-", b"x", b"--Boun", b"\r\n--BoUn", b"=", b"\r", b"\n", b"D"]
        )
    )
    .map(b"".join)
    .filter(lambda c: not any(b + b"--BoUnD" in b"\r\n" + c for b in (b"\r", b"\n")))
)
PARTS = st.lists(
    st.tuples(st.sampled_from([b"a", b"b[]", b"model", b"stream"]), CONTENT, st.booleans()),
    max_size=5,
    unique_by=lambda part: part[0],
)


@given(PARTS, st.booleans(), st.data())
def test_forms_read_as_python_multipart_reads_them(parts, rewrite, draw):
    parts = [(n, b"m" if n == b"model" else c, f and n != b"model") for n, c, f in parts]
    files = [i for i, part in enumerate(parts) if part[2]]
    if files:  # a model before the file
        parts.sort(key=lambda part: part[0] != b"model")
        files = [i for i, part in enumerate(parts) if part[2]]
    before = parts[: files[0]] if files else parts
    raw = [
        b'Content-Disposition: form-data; name="%b"; filename=f\r\n\r\n%b' % (n, c)
        if f
        else field(n, c)
        for n, c, f in parts
    ]
    body = form(*raw)
    points = sorted(draw.draw(st.lists(st.integers(0, len(body)))))
    pieces = [body[a:b] for a, b in itertools.pairwise([0, *points, len(body)])]
    prelude, sent = relay(pieces, "new" if rewrite else None)
    assert prelude.fields == {n.decode(): c.decode() for n, c, _ in before}
    want = [
        (head, b"new" if rewrite and b'"model"' in head else content)
        for head, content in parts_of(body)
    ]
    if rewrite and not any(name == b"model" for name, _, _ in parts):
        want.insert(0, (b'Content-Dispositionform-data; name="model"', b"new"))
    assert parts_of(sent) == want


def test_a_model_is_put_first_where_there_was_none():
    body = form(field(b"language", b"de"), file())
    assert relay([body], "m")[1] == form(field(b"model", b"m"), field(b"language", b"de"), file())
    assert relay([form(file())], "m")[1] == form(field(b"model", b"m"), file())
    assert relay([form()], "m")[1] == form(field(b"model", b"m"))
    preamble = b"This is a form.\r\n" + form(file())
    assert relay([preamble], "m")[1] == b"This is a form.\r\n" + form(field(b"model", b"m"), file())


def test_repeated_fields_are_a_list_and_empty_ones_are_there():
    name = b"timestamp_granularities[]"
    prelude, _ = relay(
        [form(field(name, b"word"), field(name, b"segment"), field(name, b""), field(b"p", b""))]
    )
    assert prelude.fields == {"timestamp_granularities[]": ["word", "segment", ""], "p": ""}
    assert prelude.model is None


@pytest.mark.parametrize(
    "head",
    [
        b'Content-Disposition: form-data; name="model"',
        b'CONTENT-DISPOSITION: Form-Data; NAME="model"',
        b"content-disposition:form-data;name=model",
        b'Content-Disposition: form-data ; name = "model" ;',
        b'Content-Type: text/plain\r\nContent-Disposition: form-data; name="model"',
        b'Content-Disposition: form-data; name="model"\r\nContent-Transfer-Encoding: 8bit',
    ],
)
def test_every_spelling_of_the_model_field_is_found(head):
    prelude, sent = relay([form(head + b"\r\n\r\nfast", file())], "m")
    assert prelude.model == "fast"
    assert sent == form(head + b"\r\n\r\nm", file())
    with pytest.raises(InvalidRequest, match="`model` must come before the file"):
        relay([form(file(), head + b"\r\n\r\nfast")])
    with pytest.raises(InvalidRequest, match="`model` occurs twice"):
        relay([form(field(b"model", b"fast"), head + b"\r\n\r\ndear")])


def test_a_late_model_is_found_at_every_split():
    body = form(field(b"model", b"cheap"), file(), field(b"x", b"1"), field(b"model", b"dear"))
    for point in range(len(body)):
        with pytest.raises(InvalidRequest, match="must come before the file") as refusal:
            relay([body[:point], body[point:]])
        assert refusal.value.param == "model"
    with pytest.raises(InvalidRequest, match="must come before the file"):
        relay([body[i : i + 1] for i in range(len(body))])


@pytest.mark.parametrize(
    "head",
    [
        b'Content-Disposition: form-data; name="x"; filename=""',
        b"Content-Disposition: form-data; name=\"x\"; filename*=utf-8''%e2%82%ac.mp3",
        b'Content-Disposition: form-data; name="x"; filename="a\\"b;c=\xff.mp3"',
        b'Content-Disposition: form-data; name="x"\r\nContent-Type: audio/wav',
        b'Content-Type: Application/Octet-Stream\r\nContent-Disposition: form-data; name="x"',
        b'Content-Disposition: form-data; name="x"; filename=a\r\n'
        b"Content-Transfer-Encoding: base64",
    ],
)
def test_a_file_is_known_by_its_name_or_type(head):
    prelude = MultipartPrelude(TYPE)
    prelude.feed(b"--BoUnD\r\n" + head + b"\r\n\r\n")
    assert prelude.done
    assert prelude.fields == {}


@pytest.mark.parametrize(
    ("part", "why"),
    [
        (b"\r\nx", "a header of a part cannot be read"),
        (b"no colon\r\n\r\nx", "a header of a part cannot be read"),
        (b": no name\r\n\r\nx", "a header of a part cannot be read"),
        (b"Name : x\r\n\r\nx", "a header of a part cannot be read"),
        (b"Content-Disposition: form-data;\r\n name=model\r\n\r\nx", "cannot be read"),
        (b"Content-Disposition: form-data; name=x\nA: b\r\n\r\nx", "lines must end with CR LF"),
        (b"Content-Disposition: form-data; name=x\rA: b\r\n\r\nx", "cannot be read"),
        (b"Content-Type: text/plain\r\n\r\nx", "a part has no name"),
        (b"Content-Disposition: form-data\r\n\r\nx", "a part has no name"),
        (b"Content-Disposition: attachment; name=x\r\n\r\nx", "a part has no name"),
        (b"Content-Disposition: form-data; name=a; name=model\r\n\r\nx", "`name` twice"),
        (b"Content-Disposition: form-data; name=a; Name=model\r\n\r\nx", "`name` twice"),
        (b"Content-Disposition: form-data; name=a b\r\n\r\nx", "cannot be read"),
        (b'Content-Disposition: form-data; name="a\r\n\r\nx', "cannot be read"),
        (b"Content-Disposition: form-data; name=a; name*=utf-8''model\r\n\r\nx", "no `name\\*`"),
        (b"Content-Disposition: form-data; name*=utf-8''model\r\n\r\nx", "a part has no name"),
        (b'Content-Disposition: form-data; name="mod\\el"\r\n\r\nx', "a backslash"),
        (b'Content-Disposition: form-data; name="mod\0el"\r\n\r\nx', "a control character"),
        (b'Content-Disposition: form-data; name="\xff"\r\n\r\nx', "not valid UTF-8"),
        (b'Content-Disposition: form-data; name=" model"\r\n\r\nx', "must be spelled `model`"),
        (b'Content-Disposition: form-data; name="Model"\r\n\r\nx', "must be spelled `model`"),
        (
            b"Content-Disposition: form-data; name=a\r\ncontent-disposition: form-data; name=model"
            b"\r\n\r\nx",
            "the same header twice",
        ),
        (
            b"Content-Disposition: form-data; name=model\r\nContent-Transfer-Encoding: base64"
            b"\r\n\r\nbQ==",
            "content-transfer-encoding",
        ),
        (b"Content-Disposition: form-data; name=model; filename=f\r\n\r\nx", "cannot be a file"),
        (b"Content-Disposition: form-data; name=x\r\n\r\n\xff", "`x` is not valid UTF-8"),
        (b"Content-Disposition: form-data; name=model\r\n\r\n", "1 to 256 characters"),
        (b"Content-Disposition: form-data; name=model\r\n\r\na\r\nb", "control characters"),
        (b"X: " + b"y" * 17_000, "too long"),
    ],
)
def test_a_part_that_could_be_read_in_two_ways_is_refused(part, why):
    body = form(part)
    with pytest.raises(InvalidRequest, match=why):
        relay([body])
    with pytest.raises(InvalidRequest, match=why):
        relay([body[i : i + 5] for i in range(0, len(body), 5)])


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "ends before its closing boundary"),
        (b"{}", "ends before its closing boundary"),
        (UPLOAD[:-6], "ends before its closing boundary"),
        (UPLOAD[:20], "ends before its closing boundary"),
        (UPLOAD.replace(b"\r\n", b"\n"), "lines must end with CR LF"),
        (form(file(b"x\n--BoUnD\n" + field(b"model", b"dear"))), "lines must end with CR LF"),
        (form(file(b"x\r--BoUnD\r\n" + field(b"model", b"dear"))), "lines must end with CR LF"),
        (form(file(b"x\r\n--BoUnDary\r\n\r\n")), "begins with the boundary but goes on"),
        (b"--BoUnD\r\n" + field(b"a", b"") + b"--BoUnD--", "no line break before its boundary"),
        (UPLOAD + b"--BoUnD\r\n" + field(b"model", b"dear"), "follows its closing boundary"),
        (UPLOAD.replace(b"--BoUnD--", b"--BoUnD--x"), "follows its closing boundary"),
    ],
)
def test_a_body_that_could_be_read_in_two_ways_is_refused(body, why):
    with pytest.raises(InvalidRequest, match=why):
        relay([body])
    with pytest.raises(InvalidRequest, match=why):
        relay([body[i : i + 1] for i in range(len(body))])


def test_a_boundary_inside_a_line_is_content():
    content = b"see --BoUnD and --BoUnD--"
    assert relay([form(field(b"prompt", content), file(content))])[0].fields == {
        "prompt": content.decode()
    }


def test_padding_after_a_boundary_and_white_space_at_the_end_are_harmless():
    body = UPLOAD.replace(b"--BoUnD\r\n", b"--BoUnD \t\r\n") + b" \r\n"
    prelude, sent = relay([body, b"\r\n"])
    assert prelude.fields == {"model": "fast", "language": "de"}
    assert sent == body + b"\r\n"


@pytest.mark.parametrize(
    "content_type",
    [
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b'multipart/form-data; boundary=""',
        b'multipart/form-data; boundary="a',
        b'multipart/form-data; boundary="a "',
        b'multipart/form-data; boundary="a\\b"',
        b"multipart/form-data; boundary=" + b"x" * 71,
        b"multipart/form-data; boundary=a\x00b",
        b"multipart/form-data; boundary=a; boundary=b",
        b"multipart/form-data; charset=utf-8",
        b"multipart/form-data boundary=a",
    ],
)
def test_a_missing_or_bad_boundary_is_refused(content_type):
    with pytest.raises(InvalidRequest) as refusal:
        MultipartPrelude(content_type)
    assert refusal.value.status in (400, 415)


@pytest.mark.parametrize(
    "content_type",
    [
        b'Multipart/Form-Data; charset=utf-8; Boundary="BoUnD"',
        b"multipart/form-data;boundary=BoUnD;",
        b"multipart/form-data ; boundary = BoUnD ",
    ],
)
def test_a_boundary_may_be_written_in_every_legal_way(content_type):
    assert relay([UPLOAD], content_type=content_type)[0].model == "fast"


@pytest.mark.parametrize("boundary", [b"a", b"a b", b"----WebKitFormBoundary7MA4YWxkTrZu0gW", b"-"])
def test_boundaries_of_all_shapes_work(boundary):
    body = form(field(b"model", b"m"), file(b"- a b -a --"), boundary=boundary)
    kind = b'multipart/form-data; boundary="%b"' % boundary
    assert relay([body], "n", content_type=kind)[1] == body.replace(b"\r\nm\r\n", b"\r\nn\r\n")


def test_another_content_type_is_unsupported():
    with pytest.raises(UnsupportedMedia, match="multipart/form-data"):
        MultipartPrelude(b"multipart/mixed; boundary=a")


@pytest.mark.parametrize("split", [1, 13, 10_000])
def test_fields_are_limited_in_number_and_size(split):
    def send(body, **limits):
        return relay([body[i : i + split] for i in range(0, len(body), split)], **limits)

    body = form(field(b"a", b"x" * 100), field(b"b", b""), file())
    prelude_size = body.index(b"audio/mpeg\r\n\r\n") + len(b"audio/mpeg\r\n\r\n")
    assert send(body, max_fields=2, max_field_bytes=100, max_prelude=prelude_size)
    with pytest.raises(InvalidRequest, match="more than 1 fields") as refusal:
        send(body, max_fields=1)
    assert refusal.value.status == 400
    with pytest.raises(BodyTooLarge, match="`a` has more than 99 bytes"):
        send(body, max_field_bytes=99)
    with pytest.raises(BodyTooLarge, match=f"more than {prelude_size - 1} bytes"):
        send(body, max_prelude=prelude_size - 1)


def test_an_endless_field_is_stopped_early():
    prelude = MultipartPrelude(TYPE, max_field_bytes=1000)
    prelude.feed(b"--BoUnD\r\n" + field(b"prompt", b""))
    with pytest.raises(BodyTooLarge):
        prelude.feed(b"x" * 2000)


def test_an_endless_preamble_is_stopped_early():
    prelude = MultipartPrelude(TYPE, max_prelude=1000)
    prelude.feed(b"x" * 1000)
    with pytest.raises(BodyTooLarge, match="more than 1000 bytes"):
        prelude.feed(b"x")


def test_a_model_that_would_break_the_form_cannot_be_written():
    prelude, _ = relay([UPLOAD])
    with pytest.raises(ValueError, match="control characters"):
        prelude.rewrite("m\r\n--BoUnD--")
