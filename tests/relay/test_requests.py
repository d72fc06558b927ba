"""What a caller's request becomes on its way to a provider."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from asgi_llm_gateway import BodyLimits, Caller, Relay
from tests.asgi import call
from tests.upstreams import (
    ASK,
    FakeUpstream,
    Reply,
    ask,
    called_by,
    channel_to,
    nothing_left,
    openai_error,
    relay_to,
)

GOOD: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "chat": ("/chat/completions", {"messages": [{"role": "user"}]}, {"choices": []}),
    "completions": ("/completions", {"prompt": "hi"}, {"choices": []}),
    "embeddings": ("/embeddings", {"input": "hi"}, {"data": []}),
    "responses": ("/responses", {"input": "hi"}, {"output": []}),
    "images": ("/images/generations", {"prompt": "a cat"}, {"data": []}),
    "speech": ("/audio/speech", {"input": "hi", "voice": "alloy"}, {"x": 1}),
    "moderations": ("/moderations", {"input": "hi"}, {"results": []}),
}


@pytest.mark.parametrize("name", GOOD)
async def test_each_endpoint_is_relayed_to_the_same_path_byte_for_byte(name: str) -> None:
    path, members, answered = GOOD[name]
    upstream = FakeUpstream(Reply.json(json.dumps(answered, indent=1).encode()))
    body = json.dumps({**members, "model": "m", "x_unknown": {"é": [1.50, 1e3]}}, indent=2).encode()
    answer = await ask(relay_to(upstream), body, "/v1" + path)
    assert answer.status == 200
    assert answer.body == json.dumps(answered, indent=1).encode()
    assert upstream.asked[0].body == body
    assert upstream.asked[0].request.target == "/v1" + path
    assert upstream.asked[0].request.method == "POST"


@pytest.mark.parametrize("root", ["", "/v1", "/llm/v1", "/llm"])
async def test_the_mount_does_not_matter(root: str) -> None:
    upstream = FakeUpstream()
    path = root + ("" if root.endswith("/v1") else "/v1") + "/chat/completions"
    answer = await ask(relay_to(upstream), path=path, root_path=root)
    assert answer.status == 200
    assert upstream.asked[0].request.target == "/v1/chat/completions"


# Checked before anything is sent

BAD: list[tuple[str, dict[str, Any], str]] = [
    ("/chat/completions", {}, "messages"),
    ("/chat/completions", {"messages": None}, "messages"),
    ("/chat/completions", {"messages": []}, "messages"),
    ("/chat/completions", {"messages": "hi"}, "messages"),
    ("/chat/completions", {"messages": {}}, "messages"),
    ("/chat/completions", {"messages": [1], "model": ""}, "model"),
    ("/chat/completions", {"messages": [1], "model": 5}, "model"),
    ("/chat/completions", {"messages": [1], "model": None}, "model"),
    ("/chat/completions", {"messages": [1], "model": "a\nb"}, "model"),
    ("/chat/completions", {"messages": [1], "model": "m" * 300}, "model"),
    ("/chat/completions", {"messages": [1], "stream": "true"}, "stream"),
    ("/chat/completions", {"messages": [1], "stream": 1}, "stream"),
    ("/chat/completions", {"messages": [1], "stream_options": []}, "stream_options"),
    ("/chat/completions", {"messages": [1], "MODEL": "m"}, "MODEL"),
    ("/completions", {}, "prompt"),
    ("/completions", {"prompt": 5}, "prompt"),
    ("/completions", {"prompt": []}, "prompt"),
    ("/embeddings", {}, "input"),
    ("/embeddings", {"input": {}}, "input"),
    ("/embeddings", {"input": []}, "input"),
    ("/images/generations", {}, "prompt"),
    ("/images/generations", {"prompt": ["a"]}, "prompt"),
    ("/audio/speech", {}, "input"),
    ("/moderations", {}, "input"),
    ("/moderations", {"input": 5}, "input"),
]


@pytest.mark.parametrize(("path", "members", "param"), BAD)
async def test_what_cannot_be_used_is_refused_naming_the_member(
    path: str, members: dict[str, Any], param: str
) -> None:
    upstream = FakeUpstream()
    answer = await ask(relay_to(upstream), {"model": "m", **members}, "/v1" + path)
    assert answer.status == 400
    error = openai_error(answer)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert not upstream.asked
    assert answer.exchange.outcome == "refused"


@pytest.mark.parametrize(
    "members", [{"messages": [1]}, {"messages": [1], "model": None}], ids=["absent", "null"]
)
async def test_a_missing_model_is_refused(members: dict[str, Any]) -> None:
    answer = await ask(relay_to(FakeUpstream()), members)
    assert answer.status == 400
    assert openai_error(answer)["param"] == "model"


@pytest.mark.parametrize(
    ("path", "members", "answered", "model"),
    [
        ("/images/generations", {"prompt": "a"}, {"data": []}, "dall-e-2"),
        ("/moderations", {"input": "a"}, {"results": []}, "text-moderation-latest"),
    ],
)
async def test_some_endpoints_have_a_model_when_none_is_named(
    path: str, members: dict[str, Any], answered: dict[str, Any], model: str
) -> None:
    upstream = FakeUpstream(Reply.json(answered))
    answer = await ask(relay_to(upstream), members, "/v1" + path)
    assert answer.status == 200
    assert upstream.asked[0].json == {**members, "model": model}
    assert answer.exchange.model == model


async def test_default_models_are_settable() -> None:
    upstream = FakeUpstream(Reply.json({"results": []}))
    relay = Relay([channel_to(upstream)], default_models={"moderations": "omni"})
    await ask(relay, {"input": "a"}, "/v1/moderations")
    assert upstream.asked[0].json["model"] == "omni"


# Names of models


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"model":', b',"messages":[1]}'),
        (b'{ "messages" : [1.0, 1e2, "\\u00e9\xc3\xa9"] ,\n"model"\t: ', b' , "z":null }'),
        (b'{"messages":[{"model":"asked"}],"m":"asked","mo\\u0064el":', b"}"),
    ],
    ids=["compact", "spaced", "escaped"],
)
async def test_a_mapped_model_changes_nothing_else_in_the_body(before: bytes, after: bytes) -> None:
    upstream = FakeUpstream()
    relay = relay_to(upstream, model_mapping={"asked": "pro vider/é"})
    answer = await ask(relay, before + b'"asked"' + after)
    assert answer.status == 200
    assert upstream.asked[0].body == before + '"pro vider/é"'.encode() + after


async def test_an_alias_is_resolved_before_channels_are_chosen_and_before_mapping() -> None:
    upstream = FakeUpstream()
    relay = Relay(
        [channel_to(upstream, models=["real"], model_mapping={"real": "provider-real"})],
        aliases={"best": "real"},
    )
    answer = await ask(relay, {**ASK, "model": "best"})
    assert answer.status == 200
    assert upstream.asked[0].json["model"] == "provider-real"
    assert answer.exchange.model == "best"


async def test_an_alias_alone_renames_too() -> None:
    upstream = FakeUpstream()
    relay = Relay([channel_to(upstream, models=["real"])], aliases={"best": "real"})
    await ask(relay, {**ASK, "model": "best"})
    assert upstream.asked[0].json["model"] == "real"


async def test_a_caller_limited_to_models_is_refused_others_before_anything_is_sent() -> None:
    upstream = FakeUpstream()
    relay = Relay([channel_to(upstream)], aliases={"gpt-alias": "other"})
    app = called_by(relay, Caller("bob", "t", models=("gpt-*",)))
    assert (await ask(app, {**ASK, "model": "gpt-alias"})).status == 200
    answer = await ask(app, {**ASK, "model": "other"})
    assert answer.status == 403
    assert openai_error(answer)["code"] == "model_not_allowed"
    assert len(upstream.asked) == 1


async def test_globs_tell_case_apart_and_span_slashes() -> None:
    relay = relay_to(FakeUpstream(), models=["meta/*"])
    assert (await ask(relay, {**ASK, "model": "meta/llama/3"})).status == 200
    assert (await ask(relay, {**ASK, "model": "Meta/llama"})).status == 404


async def test_the_engines_path_names_the_model() -> None:
    upstream = FakeUpstream(Reply.json({"data": []}))
    relay = relay_to(upstream, model_mapping={"ada/2": "mapped"})
    for model, wanted in [("text-ada", "text-ada"), ("ada/2", "mapped")]:
        answer = await ask(relay, {"input": "hi"}, f"/v1/engines/{model}/embeddings")
        assert answer.status == 200
        assert upstream.asked[-1].json == {"input": "hi", "model": wanted}
        assert upstream.asked[-1].request.target == "/v1/embeddings"


# GET /models


def listing(answer: Any) -> list[str]:
    return [model["id"] for model in answer.json["data"]]


def listed_relay() -> Relay:
    upstream = FakeUpstream()
    return Relay(
        [
            channel_to(
                upstream,
                provider="openai",
                models=["gpt-4o*", "my-own", "nothing-known-*"],
                model_mapping={"old": "my-own"},
            ),
            channel_to(upstream, name="vip", models=["secret"], groups=["vip"]),
        ],
        aliases={"best": "my-own", "wild": "nothing-known-1", "hidden": "secret"},
    )


async def test_models_are_plain_names_mapping_keys_known_matches_and_aliases() -> None:
    answer = await call(listed_relay(), "GET", "/v1/models")
    models = listing(answer)
    assert {"my-own", "old", "gpt-4o", "gpt-4o-mini", "best", "wild"} <= set(models)
    assert not {"gpt-4o*", "nothing-known-*", "secret", "hidden", "gpt-4.1"} & set(models)
    assert len(set(models)) == len(models)
    assert answer.json["object"] == "list"
    assert {m["owned_by"] for m in answer.json["data"]} == {"openai"}


async def test_models_are_cut_to_what_the_caller_may_use() -> None:
    relay = listed_relay()
    vip = await call(called_by(relay, Caller("v", "t", group="vip")), "GET", "/v1/models")
    assert listing(vip) == ["secret", "hidden"]
    few = await call(called_by(relay, Caller("f", "t", models=("my-*",))), "GET", "/v1/models")
    assert listing(few) == ["my-own"]
    none = await call(called_by(relay, Caller("n", "t", channels=())), "GET", "/v1/models")
    assert listing(none) == []


async def test_one_model() -> None:
    relay = listed_relay()
    answer = await call(relay, "GET", "/v1/models/my-own")
    assert answer.json["id"] == "my-own"
    head = await call(relay, "HEAD", "/v1/models/my-own")
    assert (head.status, head.body) == (200, b"")
    for model in ("secret", "my-own/../secret", "x" * 10_000):
        answer = await call(relay, "GET", f"/v1/models/{model}")
        assert answer.status == 404
        openai_error(answer)


async def test_models_in_other_dialects() -> None:
    relay = listed_relay()
    answer = await call(relay, "GET", "/v1/models", headers={"anthropic-version": "2023-06-01"})
    assert {"type": "model", "id": "my-own"}.items() <= answer.json["data"][0].items() | set()
    answer = await call(relay, "GET", "/v1beta/models", headers={"x-goog-api-key": "k"})
    assert "models/my-own" in [model["name"] for model in answer.json["models"]]


# Bodies


async def test_a_compressed_body_is_inflated_and_sent_plain() -> None:
    upstream = FakeUpstream()
    body = json.dumps(ASK).encode()
    answer = await ask(
        relay_to(upstream), gzip.compress(body), headers={"content-encoding": "gzip"}
    )
    assert answer.status == 200
    assert upstream.asked[0].body == body
    assert upstream.asked[0].header("content-encoding") is None


async def test_a_body_over_the_limit_is_refused_before_it_is_read() -> None:
    upstream = FakeUpstream()
    relay = Relay([channel_to(upstream)], limits=BodyLimits(max_bytes=100))
    answer = await ask(relay, b"x" * 200)
    assert answer.status == 413
    assert answer.received == []
    openai_error(answer)


def form(*fields: tuple[str, str], rest: bytes = b"") -> bytes:
    parts = b"".join(
        b'--b\r\ncontent-disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (n.encode(), v.encode())
        for n, v in fields
    )
    return parts + FILE + rest + b"\r\n--b--\r\n"


FILE = (
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
    b"Content-Type: audio/wav\r\n\r\n"
)
FORM = {"content-type": "multipart/form-data; boundary=b"}
SOUND = "/v1/audio/transcriptions"


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("announced", [True, False])
async def test_a_form_with_a_mapped_model_is_changed_in_that_field_only(
    size: int, announced: bool
) -> None:
    upstream = FakeUpstream(Reply.json({"text": "hi"}))
    relay = relay_to(upstream, model_mapping={"whisper": "longer-whisper-1"})
    body = form(("language", "en"), ("model", "whisper"), rest=b"\r\n--x" * 500)
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    headers = FORM if announced else {**FORM, "transfer-encoding": "chunked"}
    answer = await call(relay, "POST", SOUND, headers=headers, body=pieces)
    assert answer.status == 200
    wanted = body.replace(b"\r\nwhisper\r\n", b"\r\nlonger-whisper-1\r\n")
    asked = upstream.asked[0]
    assert asked.body == wanted
    assert asked.header("content-type") == FORM["content-type"]
    if size < len(body):  # else all of it was read at once, and went out as plain bytes
        assert asked.request.content_length == (len(wanted) if announced else None)


async def test_a_form_that_needs_no_change_is_sent_byte_for_byte() -> None:
    upstream = FakeUpstream(Reply.json({"text": "hi"}))
    body = form(("model", "whisper-1"))
    await call(relay_to(upstream), "POST", SOUND, headers=FORM, body=[body[:50], body[50:]])
    assert upstream.asked[0].body == body


async def test_a_form_without_a_model_gets_the_default_one() -> None:
    upstream = FakeUpstream(Reply.json({"text": "hi"}))
    body = form(("language", "en"))
    await call(relay_to(upstream), "POST", SOUND, headers=FORM, body=body)
    field = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
    assert upstream.asked[0].body == field + body


async def test_a_form_is_never_held_in_whole() -> None:
    ahead: list[int] = []
    upstream = FakeUpstream(Reply.json({"text": "hi"}))
    total = 200

    async def pieces() -> AsyncIterator[bytes]:
        yield form(("model", "m"))[: -len(b"\r\n--b--\r\n")]
        for n in range(total):
            arrived = len(upstream.asked[0].body) if upstream.asked else 0
            ahead.append(n * 10_000 - arrived)
            yield b"x" * 10_000
        yield b"\r\n--b--\r\n"

    headers = {**FORM, "transfer-encoding": "chunked"}
    answer = await call(relay_to(upstream), "POST", SOUND, headers=headers, body=pieces())
    assert answer.status == 200
    assert max(ahead) <= 20_000
    assert len(upstream.asked[0].body) > total * 10_000


async def test_a_model_after_the_file_is_refused_and_nothing_is_left() -> None:
    late = b'\r\n--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nm'
    body = form(("language", "en"), rest=b"x" * 100 + late)
    upstream = FakeUpstream(Reply.json({"text": "hi"}))
    relay = relay_to(upstream)
    answer = await call(relay, "POST", SOUND, headers=FORM, body=[body[:300], body[300:]])
    assert answer.status == 400
    assert openai_error(answer)["param"] == "model"
    await nothing_left(relay)


async def test_an_upload_that_takes_long_but_goes_on_is_not_given_up() -> None:
    upstream = FakeUpstream(Reply.json({"text": "hi"}))
    limits = BodyLimits(idle=0.4, total=0.5)
    relay = Relay([channel_to(upstream)], limits=limits)
    body = form(("model", "m"), rest=b"x" * 900)
    pieces = [body[at : at + 100] for at in range(0, len(body), 100)]
    answer = await call(relay, "POST", SOUND, headers=FORM, body=pieces, pause=0.15)
    assert answer.status == 200


async def test_an_upload_that_stops_is_given_up() -> None:
    async def stalls() -> AsyncIterator[bytes]:
        yield form(("model", "m"))[:-10]
        await asyncio.sleep(30)

    upstream = FakeUpstream(Reply.json({"text": "hi"}))
    relay = Relay([channel_to(upstream)], limits=BodyLimits(idle=0.3))
    headers = {**FORM, "transfer-encoding": "chunked"}
    answer = await call(relay, "POST", SOUND, headers=headers, body=stalls())
    assert answer.status == 408
    openai_error(answer)
    await nothing_left(relay)


async def test_a_model_that_is_null_goes_out_as_the_default_that_was_checked() -> None:
    upstream = FakeUpstream(Reply.json({"results": []}))
    limited = called_by(relay_to(upstream), Caller("a", "t", models=("text-moderation-latest",)))
    answer = await ask(limited, {"model": None, "input": "x"}, "/v1/moderations")
    assert answer.status == 200
    assert upstream.asked[0].json["model"] == "text-moderation-latest"
