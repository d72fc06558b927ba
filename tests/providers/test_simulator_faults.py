"""Every way the simulator goes wrong, and that it notices a caller who leaves."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from asgi_llm_gateway.errors import ConfigurationError
from asgi_llm_gateway.providers.simulator import Fault, Simulator
from tests.providers.simulated import Call, Sent, chat, headers_of, post, scope

PATH = "/v1/chat/completions"


async def faulty(fault: str, **more: Any) -> Sent:
    return await post(Simulator(faults={"gpt-4o": fault}), PATH, chat(**more))


def begin(simulator: Simulator, call: Call, *, key: str | None = "sk-test") -> asyncio.Task[None]:
    headers = scope("POST", PATH, *headers_of(key))
    return asyncio.create_task(simulator(headers, call.receive, call.send))


def request(**more: Any) -> bytes:
    return json.dumps(chat(**more)).encode()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 503, 529])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_status_is_answered_in_openais_error_shape(status: int, stream: bool) -> None:
    sent = await faulty(str(status), stream=stream)
    assert sent.status == status
    assert set(sent.json["error"]) == {"message", "type", "param", "code"}
    assert ("retry-after" in sent.headers) is (status in (429, 503))


async def test_retry_after_can_be_chosen() -> None:
    assert (await faulty("429")).headers["retry-after"] == "1"
    assert (await faulty("429:30")).headers["retry-after"] == "30"


async def test_a_fault_is_aimed_at_a_key_a_model_or_everything() -> None:
    simulator = Simulator(keys=["sk-a"], faults={"sk-a": "503", "gpt-4o": "500", "sk-dead": "401"})
    assert (await post(simulator, PATH, chat(), key="sk-a")).status == 503
    assert (await post(simulator, PATH, chat(), key="sk-b")).status == 500
    assert (await post(simulator, PATH, chat() | {"model": "gpt-5"}, key="sk-b")).status == 401
    assert simulator.calls[0].fault == "503"
    simulator.set_fault("sk-a", None)
    assert (await post(simulator, PATH, chat() | {"model": "gpt-5"}, key="sk-a")).status == 200
    simulator.set_fault("*", "429")
    assert (await post(simulator, PATH, chat() | {"model": "gpt-5"}, key="sk-a")).status == 429


async def test_a_key_that_only_has_a_fault_reaches_it() -> None:
    simulator = Simulator(keys=["sk-good"], faults={"sk-page": "html"})
    sent = await post(simulator, PATH, chat(), key="sk-page")
    assert (sent.status, sent.headers["content-type"]) == (200, "text/html; charset=utf-8")


async def test_a_fault_can_strike_once() -> None:
    simulator = Simulator(faults={"gpt-4o": "once:500"})
    statuses = [(await post(simulator, PATH, chat())).status for _ in range(3)]
    assert statuses == [500, 200, 200]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_web_page_an_empty_body_and_an_error_can_come_with_200(stream: bool) -> None:
    page = await faulty("html", stream=stream)
    assert (page.status, page.body.startswith(b"<!doctype")) == (200, True)
    empty = await faulty("empty", stream=stream)
    assert (empty.status, empty.body, empty.ended) == (200, b"", True)
    error = await faulty("error_body", stream=stream)
    assert (error.status, error.headers["content-type"]) == (200, "application/json")
    assert error.json["error"]["type"] == "server_error"


async def test_a_stream_can_begin_with_an_error() -> None:
    sent = await faulty("error_event_first", stream=True)
    assert sent.headers["content-type"].startswith("text/event-stream")
    (event,) = sent.data
    assert event["error"]["type"] == "server_error"
    assert (await faulty("error_event_first")).json["error"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_reset_leaves_no_head(stream: bool) -> None:
    simulator = Simulator(faults={"gpt-4o": "reset"})
    call = Call(request(stream=stream))
    with pytest.raises(ConnectionResetError):
        await begin(simulator, call)
    assert call.sent.status is None
    assert (simulator.calls[0].status, simulator.calls[0].dropped) == (None, True)
    assert not simulator.calls[0].disconnected


@pytest.mark.parametrize(("fault", "bodies"), [("hang", 0), ("stall:3", 3), ("stall:0", 0)])
async def test_silence_lasts_until_the_caller_leaves(fault: str, bodies: int) -> None:
    simulator = Simulator(faults={"gpt-4o": fault})
    call = Call(request(stream=True))
    task = begin(simulator, call)
    await call.until_bodies(bodies)
    done, _ = await asyncio.wait([task], timeout=0.05)
    assert not done
    assert len(call.sent.bodies) == bodies
    assert (call.sent.status is None) is (fault == "hang")
    call.leave()
    async with asyncio.timeout(5):
        await task
    assert simulator.calls[0].disconnected


@pytest.mark.parametrize("events", [0, 1, 5])
async def test_a_stream_can_die_after_some_events(events: int) -> None:
    simulator = Simulator(faults={"gpt-4o": f"cut:{events}"})
    whole = await post(Simulator(), PATH, chat(stream=True))
    call = Call(request(stream=True))
    with pytest.raises(ConnectionResetError):
        await begin(simulator, call)
    assert [json.loads(e[6:])["choices"] for e in call.sent.events] == [
        chunk["choices"] for chunk in whole.data[:events]
    ]
    assert not call.sent.ended


async def test_a_plain_body_can_die_half_way() -> None:
    call = Call(request())
    with pytest.raises(ConnectionResetError):
        await begin(Simulator(faults={"gpt-4o": "cut:1"}), call)
    assert 0 < len(call.sent.body) < int(call.sent.headers["content-length"])


async def test_a_stream_can_end_without_its_terminator() -> None:
    sent = await faulty("no_done", stream=True)
    assert sent.ended
    assert b"[DONE]" not in sent.body
    assert sent.data[-1]["choices"][0]["finish_reason"] == "stop"
    assert (await faulty("no_done")).json["object"] == "chat.completion"
    body = {"model": "gpt-4o", "input": "x", "stream": True}
    sent = await post(Simulator(faults={"*": "no_done"}), "/v1/responses", body)
    assert sent.data[-1]["type"] == "response.output_item.done"


async def test_one_event_can_be_malformed() -> None:
    sent = await faulty("malformed", stream=True)
    whole = await post(Simulator(), PATH, chat(stream=True))
    bad = [event for event in sent.events if event.startswith(b'data: {"id": "broken"')]
    assert len(bad) == 1
    assert len(sent.events) == len(whole.events) + 1
    with pytest.raises(json.JSONDecodeError):
        json.loads(bad[0][6:])
    plain = await faulty("malformed")
    assert int(plain.headers["content-length"]) == len(plain.body)
    with pytest.raises(json.JSONDecodeError):
        json.loads(plain.body)


class Clock:
    """Sleeps that take no time and are written down."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        if seconds:
            self.slept.append(seconds)
        await asyncio.sleep(0)


async def test_it_is_as_slow_as_it_is_told_to_be() -> None:
    clock = Clock()
    simulator = Simulator(latency=2, first_token=3, tokens_per_second=4, sleep=clock.sleep)
    streamed = await post(simulator, PATH, chat(stream=True, max_tokens=5))
    assert streamed.ended
    assert clock.slept == [2, 3, *[0.25] * 5]
    clock.slept.clear()
    await post(simulator, PATH, chat(max_tokens=5))
    assert clock.slept == [2, 1.25]


async def test_the_first_token_alone_can_be_slow() -> None:
    clock = Clock()
    simulator = Simulator(faults={"gpt-4o": "slow_first_token:1.5"}, sleep=clock.sleep)
    await post(simulator, PATH, chat(stream=True))
    assert clock.slept == [1.5]
    await post(simulator, PATH, chat())
    assert clock.slept == [1.5, 1.5]


async def test_a_caller_who_leaves_mid_stream_stops_it() -> None:
    simulator = Simulator(tokens_per_second=1000, length=(5000, 5000))
    call = Call(request(stream=True))
    task = begin(simulator, call)
    await call.until_bodies(3)
    call.leave()
    async with asyncio.timeout(5):
        await task
    assert simulator.calls[0].disconnected
    assert simulator.calls[0].events < 5000
    assert not call.sent.ended


async def test_a_caller_who_leaves_before_the_head_stops_it() -> None:
    simulator = Simulator(latency=60)
    call = Call(request())
    task = begin(simulator, call)
    await asyncio.sleep(0.01)
    call.leave()
    async with asyncio.timeout(5):
        await task
    assert (simulator.calls[0].disconnected, call.sent.status) == (True, None)


async def test_a_caller_who_leaves_during_the_body_is_noticed() -> None:
    simulator = Simulator()

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    await simulator(scope("POST", PATH), receive, Call().send)
    assert simulator.calls[0].disconnected


async def test_a_server_that_says_the_caller_is_gone_by_an_oserror_is_understood() -> None:
    simulator = Simulator()

    async def send(message: Any) -> None:
        raise OSError("gone")

    await simulator(scope("POST", PATH, *headers_of(None)), Call(request()).receive, send)
    assert simulator.calls[0].disconnected


async def test_cancelling_it_counts_as_leaving_and_leaves_no_task() -> None:
    simulator = Simulator(faults={"gpt-4o": "hang"})
    task = begin(simulator, Call(request()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert simulator.calls[0].disconnected
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "oops",
        "200",
        "600",
        "cut",
        "cut:",
        "cut:x",
        "cut:1.5",
        "html:3",
        "hang:",
        "once:",
        "cut:-1",
    ],
)
def test_a_fault_there_is_not_is_answered_with_those_there_are(text: str) -> None:
    with pytest.raises(ConfigurationError, match="error_event_first"):
        Simulator(faults={"gpt-4o": text})


def test_a_fault_is_read_from_its_name() -> None:
    assert Fault.parse("once:cut:3") == Fault("cut", 3.0, once=True)
    assert Fault.parse("slow_first_token:0.5") == Fault("slow_first_token", 0.5)
    assert Simulator(faults={"m": Fault("hang")})
