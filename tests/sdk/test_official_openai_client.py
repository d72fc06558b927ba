"""The official openai client against a served gateway: what it asks for is what it gets.

One scenario (scenario.py) runs under the 3.x client of our own environment, sync and async, with
the provider in the gateway's process and on a socket; and under the last 1.x client in an
environment of its own, which `scripts/venv-openai1` makes (slow).
"""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.sdk import scenario
from tests.sdk.house import WAYS, House, house

ROOT = Path(__file__).resolve().parents[2]
OLD = ROOT / ".venv-openai1/bin/python"
MB = 1024 * 1024

RUNS = [
    *(
        pytest.param(("3.x", mode, way, "uvicorn"), id=f"3.x-{mode}-{way}")
        for mode in scenario.MODES
        for way in WAYS
    ),
    pytest.param(("3.x", "async", "socket", "hypercorn"), id="3.x-async-hypercorn"),
    *(
        pytest.param(("1.x", mode, way, "uvicorn"), id=f"1.x-{mode}-{way}", marks=pytest.mark.slow)
        for mode in scenario.MODES
        for way in WAYS
    ),
]


@pytest.fixture(scope="module")
def old_client() -> None:
    made = subprocess.run(
        [ROOT / "scripts/venv-openai1"], capture_output=True, text=True, timeout=300, check=False
    )
    if made.returncode:
        pytest.skip(f"no environment for openai 1.x: {made.stderr.strip()[-300:]}")


@pytest.fixture(scope="module", params=RUNS)
def facts(request: pytest.FixtureRequest) -> Any:
    """What came of the whole scenario."""
    version, mode, way, server = request.param
    with house(way, server=server) as home:
        if version == "3.x":
            found: Any = asyncio.run(scenario.run(home.base, mode))
        else:
            request.getfixturevalue("old_client")
            command = [OLD, Path(scenario.__file__), home.base, mode]
            ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert ran.returncode == 0, ran.stderr
            found = json.loads(ran.stdout)
    assert found["version"].startswith(version[:2])
    return found


def test_chat_is_the_same_plain_and_streamed(facts: Any) -> None:
    chat = facts["chat"]
    assert len(chat["text"]) > 20
    assert chat["streamed"] == {"text": chat["text"], "finish": "stop", "usage": None}
    assert chat["with_usage"] == {"text": chat["text"], "finish": "stop", "usage": chat["usage"]}
    assert chat["usage"]["prompt_tokens"] == 4


def test_answers_carry_the_request_id_and_who_served_them(facts: Any) -> None:
    assert len(facts["chat"]["request_id"]) == 32
    assert facts["chat"]["headers"] == {
        "x-request-id": "mine-17",
        "x-llm-channel": "main",
        "x-llm-attempts": "1",
    }


def test_a_mapped_model_and_an_alias_reach_the_provider_by_its_own_name(facts: Any) -> None:
    assert (facts["chat"]["mapped"], facts["chat"]["alias"]) == ("gpt-4o-mini", "gpt-4o")
    assert facts["audio"]["mapped"] == facts["audio"]["heard"], "in a form too"


def test_tool_calls_arrive_whole_and_in_pieces(facts: Any) -> None:
    tools = facts["tools"]
    assert (tools["name"], tools["finish"]) == ("look_up", "tool_calls")
    assert tools["arguments"] == tools["streamed"]
    assert set(tools["arguments"]) == {"river"}


def test_embeddings_are_the_same_as_floats_and_packed(facts: Any) -> None:
    numbers = facts["numbers"]
    assert numbers["sizes"] == [1536, 1536]
    assert numbers["furthest"] < 1e-6
    assert numbers["packed"] is True
    assert numbers["tokens"] == 2


def test_moderations_judge(facts: Any) -> None:
    assert facts["numbers"]["violence"] is True


def test_images_are_made_and_edited(facts: Any) -> None:
    png = b"\x89PNG".hex()
    assert (facts["images"]["made"], facts["images"]["edited"]) == (png, png)
    assert facts["images"]["linked"].startswith("https://")


def test_a_large_recording_arrives_whole(facts: Any) -> None:
    size = scenario.FILE_SIZE
    assert facts["audio"]["heard"] == f"The file long.wav holds {size} bytes."
    assert facts["audio"]["text"] == "The file a.wav holds 2 bytes.\n"


def test_speech_comes_whole_and_as_it_is_made(facts: Any) -> None:
    kind, size = facts["audio"]["said"]
    assert kind == "ID3"
    assert size > 4096
    assert facts["audio"]["same"] is True
    assert facts["audio"]["first"] > 0


def test_responses_are_the_same_plain_and_streamed(facts: Any) -> None:
    found = facts["responses"]
    ends = ["response.created", "response.completed"]
    assert found["text"] == found["streamed"]
    assert found["kinds"] == ends
    assert found["helped"] == [*ends, found["text"]]
    assert found["usage"] > 0


def test_legacy_completions_are_the_same_plain_and_streamed(facts: Any) -> None:
    found = facts["completions"]
    assert found["text"] == found["streamed"]
    assert (bool(found["text"]), found["finish"]) == (True, "length")


def test_models_are_listed_and_found_one_by_one(facts: Any) -> None:
    models = facts["models"]
    assert {"gpt-4o", "fast", "ear", "house-model"} <= set(models["list"])
    assert (models["one"], models["mapped"]) == ("gpt-4o", "fast")


def test_files_are_kept_listed_read_and_deleted(facts: Any) -> None:
    files = dict(facts["files"])
    gone = files.pop("gone")
    assert files == {
        "size": 9,
        "listed": True,
        "name": "a.jsonl",
        "content": '{"a": 1}\n',
        "deleted": True,
    }
    assert (gone["class"], gone["status"]) == ("NotFoundError", 404)


ERRORS = {
    "400": ("BadRequestError", 400, None),
    "403": ("InternalServerError", 503, "no_healthy_channel"),
    "404": ("NotFoundError", 404, "model_not_found"),
    "409": ("ConflictError", 409, None),
    "422": ("UnprocessableEntityError", 422, None),
    "429": ("RateLimitError", 429, "rate_limit_exceeded"),
    "500": ("InternalServerError", 500, None),
    "503": ("InternalServerError", 503, None),
    "html": ("InternalServerError", 502, "bad_upstream_answer"),
    "reset": ("InternalServerError", 502, "upstream_connection_lost"),
    "stranger": ("AuthenticationError", 401, "invalid_api_key"),
    "bound": ("PermissionDeniedError", 403, "model_not_allowed"),
    "nobody's": ("NotFoundError", 404, "model_not_found"),
    "no messages": ("BadRequestError", 400, "invalid_request"),
    "dead key": ("InternalServerError", 503, "no_healthy_channel"),
    "impatient client": ("APITimeoutError", None, None),
    "impatient gateway": ("InternalServerError", 504, "upstream_timeout"),
    "cut file": ("APIConnectionError", None, None),
    "passed through": ("NotFoundError", 404, None),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_raised_as_the_clients_own_class(facts: Any, name: str) -> None:
    found = facts["errors"][name]
    assert (found["class"], found["status"], found["code"]) == ERRORS[name]
    if found["status"]:
        assert len(found["request_id"]) == 32


def test_errors_say_what_is_wrong_and_when_to_come_again(facts: Any) -> None:
    errors = facts["errors"]
    assert "nobody-serves-it" in errors["nobody's"]["message"]
    assert "'default'" in errors["nobody's"]["message"]
    assert errors["429"]["retry_after"] == "7"
    assert int(errors["dead key"]["retry_after"]) > 0
    assert not [error for error in errors.values() if "sk-" in error["message"]]


def test_a_stream_cut_midway_raises_after_what_came(facts: Any) -> None:
    cut = facts["cut"]
    assert "".join(cut["texts"])
    assert (cut["error"]["class"], cut["error"]["code"]) == ("APIError", "upstream_connection_lost")


def test_a_cut_response_ends_in_an_error_event(facts: Any) -> None:
    kinds = facts["cut"]["kinds"]
    assert (kinds[0], kinds[-1]) == ("response.created", "error")


def test_an_error_before_the_first_event_is_an_error_status(facts: Any) -> None:
    found = facts["cut"]["before the first"]
    assert (found["class"], found["status"]) == ("InternalServerError", 502)


@pytest.fixture(scope="module", params=WAYS)
def home(request: pytest.FixtureRequest) -> Iterator[House]:
    with house(request.param) as found:
        yield found


class Suspicious(io.BytesIO):
    """A file that is read on only when the provider has seen what was read before."""

    def __init__(self, home: House, size: int) -> None:
        super().__init__(bytes(size))
        self._home = home
        self.seen_at_half = 0

    def read(self, size: int | None = -1) -> bytes:
        half = len(self.getbuffer()) // 2
        if self.tell() >= half and not self.seen_at_half:
            deadline = time.monotonic() + 10
            while self._arrived() < half - MB and time.monotonic() < deadline:
                time.sleep(0.01)
            self.seen_at_half = self._arrived()
        return super().read(size)

    def _arrived(self) -> int:
        calls = [seen.size for seen in self._home.simulator.calls if "audio" in seen.endpoint]
        return calls[-1] if calls else 0


@pytest.mark.parametrize("model", ["whisper-1", "ear"])
def test_an_upload_is_with_the_provider_before_it_is_over(home: House, model: str) -> None:
    home.simulator.calls.clear()
    sound = Suspicious(home, 8 * MB)
    with scenario.client_of(home.base, "sync") as client:
        heard = client.audio.transcriptions.create(model=model, file=("long.wav", sound))
    assert heard.text == f"The file long.wav holds {8 * MB} bytes."
    assert sound.seen_at_half >= 3 * MB


def test_a_client_that_leaves_a_stream_ends_the_providers_call(home: House) -> None:
    home.simulator.calls.clear()
    asked: Any = {"model": "tts-stall", "voice": "alloy", "input": "rivers run to the sea"}
    with scenario.client_of(home.base, "sync") as client:
        with client.audio.speech.with_streaming_response.create(**asked) as answer:
            next(answer.iter_bytes(100))
        deadline = time.monotonic() + 5
        while not home.simulator.calls[-1].disconnected and time.monotonic() < deadline:
            time.sleep(0.01)
    assert home.simulator.calls[-1].disconnected


def test_the_provider_sees_the_gateways_key_and_nothing_of_the_callers(home: House) -> None:
    home.simulator.calls.clear()
    with scenario.client_of(home.base, "sync") as client:
        client.models.list()
        client.chat.completions.create(model="gpt-4o", messages=scenario.MESSAGES)
    [seen] = home.simulator.calls
    assert seen.key == "sk-of-the-gateway"
    names = {name for name, _ in seen.headers}
    assert not {name for name in names if name.startswith((b"x-stainless", b"openai-"))}
    assert b"sk-alice" not in b"".join(value for _, value in seen.headers)


def test_many_clients_are_served_at_once(home: House) -> None:
    async def ask() -> list[str]:
        async with scenario.client_of(home.base, "async") as client:

            async def one(number: int) -> str:
                message: Any = [{"role": "user", "content": f"echo: {number}"}]
                answer = await client.chat.completions.create(model="gpt-4o", messages=message)
                return str(answer.choices[0].message.content)

            return await asyncio.gather(*map(one, range(40)))

    assert asyncio.run(ask()) == [str(number) for number in range(40)]


def test_the_client_is_of_the_3_line() -> None:
    assert openai.__version__.startswith("3.")
