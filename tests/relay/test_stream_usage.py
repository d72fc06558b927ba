"""What a stream consumed: asked for upstream, read from its end, hidden from who did not ask."""

from __future__ import annotations

from dataclasses import replace

import pytest

from asgi_llm_gateway.providers.row import Quirks
from tests.upstreams import (
    DONE,
    USAGE,
    USAGE_CHUNK,
    FakeUpstream,
    Reply,
    ask,
    ask_stream,
    chunk,
    relay_to,
    split_everywhere,
    sse,
)

STOP = chunk(finish="stop")


BORDERS = {"lf": b"\n\n", "crlf": b"\r\n\r\n", "cr": b"\r\r"}


async def test_usage_is_asked_for_upstream_and_hidden_from_who_did_not_ask() -> None:
    upstream = FakeUpstream(Reply.stream(sse(chunk("a"), STOP), sse(USAGE_CHUNK), DONE))
    answer = await ask_stream(relay_to(upstream))
    assert upstream.asked[0].json["stream_options"] == {"include_usage": True}
    assert answer.body == sse(chunk("a"), STOP) + DONE
    usage = answer.exchange.usage
    assert (usage.input, usage.output) == (7, 2)


async def test_who_asked_for_usage_is_given_it() -> None:
    whole = sse(chunk("a"), STOP, USAGE_CHUNK) + DONE
    upstream = FakeUpstream(Reply.stream(whole))
    body = b'{"stream_options":{"include_usage":true},"stream":true,"model":"m","messages":[1]}'
    answer = await ask(relay_to(upstream), body)
    assert upstream.asked[0].body == body
    assert answer.body == whole
    assert answer.exchange.usage.output == 2


async def test_other_stream_options_are_kept_beside_the_asked_usage() -> None:
    upstream = FakeUpstream(Reply.stream(sse(STOP)))
    options = {"include_obfuscation": False, "include_usage": False}
    await ask_stream(relay_to(upstream), stream_options=options)
    assert upstream.asked[0].json["stream_options"] == {
        "include_obfuscation": False,
        "include_usage": True,
    }


@pytest.mark.parametrize("border", ["lf", "crlf"])
async def test_the_usage_chunk_is_hidden_however_it_is_coalesced_or_split(border: str) -> None:
    end = BORDERS[border]
    before, usage = sse(STOP, end=end), sse(USAGE_CHUNK, end=end)
    done = b"data: [DONE]" + end
    for pieces in split_everywhere(before + usage + done):
        answer = await ask_stream(relay_to(FakeUpstream(Reply.stream(*pieces))))
        assert answer.body == before + done, pieces
        assert answer.exchange.usage.input == 7


async def test_azures_first_chunk_without_choices_is_kept() -> None:
    first = {"choices": [], "prompt_filter_results": [{"prompt_index": 0}], "usage": None}
    whole = sse(first, chunk("a"), STOP) + DONE
    answer = await ask_stream(relay_to(FakeUpstream(Reply.stream(whole[:-20], whole[-20:]))))
    assert answer.body == whole


async def test_usage_that_rides_on_a_chunk_with_choices_is_left_there() -> None:
    whole = sse(chunk("a"), chunk(finish="stop", usage=USAGE)) + DONE
    answer = await ask_stream(relay_to(FakeUpstream(Reply.stream(whole))))
    assert answer.body == whole
    assert answer.exchange.usage.input == 7


async def test_usage_is_not_asked_where_nobody_understands_the_question() -> None:
    done = {"type": "response.completed", "response": {"usage": {"input_tokens": 3}}}
    upstream = FakeUpstream(Reply.stream(sse(done)))
    body = {"model": "m", "input": "hi", "stream": True}
    answer = await ask(relay_to(upstream), body, "/v1/responses")
    assert upstream.asked[0].json == body
    assert answer.exchange.usage.input == 3


async def test_usage_is_not_asked_of_a_provider_that_may_refuse_the_question() -> None:
    whole = sse(STOP, USAGE_CHUNK) + DONE
    upstream = FakeUpstream(Reply.stream(whole))
    relay = relay_to(upstream)
    async with relay.resources:
        assert relay.channels is not None
        channel = relay.channels.by_name["main"]
        channel.provider = replace(channel.provider, quirks=Quirks(stream_options=False))
        answer = await ask_stream(relay)
    assert "stream_options" not in upstream.asked[0].json
    assert answer.body == whole


async def test_plain_answers_tell_their_usage() -> None:
    answer = await ask(relay_to(FakeUpstream()))
    assert (answer.exchange.usage.input, answer.exchange.usage.output) == (7, 2)


async def test_comments_after_the_end_do_not_make_usage_forgotten() -> None:
    late = [b": still here\n\n"] * 20
    answer = await ask_stream(
        relay_to(FakeUpstream(Reply.stream(sse(chunk("a")), sse(STOP), sse(USAGE_CHUNK), *late)))
    )
    assert answer.exchange.usage.input == 7
    assert answer.body.endswith(DONE)
