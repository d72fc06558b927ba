"""A caller may leave at any moment: the provider is let go, the parts settle, nobody is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.asgi import PHASES, STARLETTE, Driver, Phase, Style, call
from tests.composition.provider import Provider, stream_events
from tests.composition.stacks import (
    HEADERS,
    Kind,
    Order,
    Stack,
    chat,
    each_kind,
    each_order,
    each_style,
    stack,
    streaming,
    upload,
)
from tests.upstreams import ALWAYS

PHASES_OF_A_CALL = [
    (phase, streamed)
    for phase in PHASES
    for streamed in (True, False)
    if streamed or not isinstance(phase, int)  # a plain answer has one message
]


def provider_for(phase: Phase | int, *, streamed: bool) -> Provider:
    """One that keeps the call open at the moment the caller is to leave."""
    if phase == "before first byte":
        return Provider(silent="before head")
    if isinstance(phase, int):
        return streaming(stream_events()[:4], silent="after pieces")
    return streaming(stream_events()) if streamed else Provider()


async def look(built: Stack, phase: Phase | int, answer: Any, before: set[Any]) -> None:
    """What must be so after a caller left in this phase."""
    await built.provider.until_closed()
    assert answer.left
    if phase in ("before body", "during body"):
        assert built.provider.asked == []
        assert answer.status is None
    if built.ledger.taken:  # else the part outside it had already let the call go
        seen = built.ledger.only()
        assert seen["outcome"] == ("ok" if phase == "after the end" else "client_left")
        assert all(seen["ended"])
    else:
        assert phase in ("before body", "during body")
    await asyncio.sleep(0)
    left = {task for task in asyncio.all_tasks() - before if task.get_name() not in ALWAYS}
    assert left == set(), "nothing is left running"


@pytest.mark.usefixtures("quick")
@each_kind
@each_order
@each_style
@pytest.mark.parametrize(("phase", "streamed"), PHASES_OF_A_CALL)
async def test_leaving_in_any_phase_gives_everything_back(
    kind: Kind, order: Order, style: Style, phase: Phase | int, streamed: bool
) -> None:
    built = stack(kind, order, provider_for(phase, streamed=streamed))
    before = asyncio.all_tasks()
    body = chat(stream=streamed)
    answer = await call(
        built.app,
        "POST",
        built.path,
        headers=HEADERS,
        body=[body[:20], body[20:]],
        style=style,
        leave_after=phase,
        may_write=STARLETTE,
        timeout=3.0,
    )
    await look(built, phase, answer, before)


@each_kind
@each_style
async def test_at_the_real_pace_the_provider_is_let_go_within_a_second(
    kind: Kind, style: Style
) -> None:
    built = stack(kind, "settling outside", streaming(stream_events()[:4], silent="after pieces"))
    driver = Driver(
        built.app,
        "POST",
        built.path,
        headers=HEADERS,
        body=chat(stream=True),
        style=style,
        may_write=STARLETTE,
        timeout=3.0,
    )
    async with driver.open() as stream:
        await anext(stream)
        stream.leave()
        await built.provider.until_closed()
    assert built.ledger.only()["outcome"] == "client_left"


@pytest.mark.usefixtures("quick")
@each_kind
@each_order
@each_style
@pytest.mark.parametrize("pieces_heard", [1, 3, 6])
async def test_leaving_while_events_flow_is_noticed_at_the_next_chance(
    kind: Kind, order: Order, style: Style, pieces_heard: int
) -> None:
    endless = [*stream_events()[:4], *stream_events()[2:4] * 5000]
    built = stack(kind, order, streaming(endless))
    answer = await call(
        built.app,
        "POST",
        built.path,
        headers=HEADERS,
        body=chat(stream=True),
        style=style,
        leave_after=pieces_heard,
        may_write=STARLETTE,
        timeout=5.0,
    )
    assert not answer.ended
    await built.provider.until_closed()
    assert built.ledger.only()["outcome"] == "client_left"


@pytest.mark.usefixtures("quick")
@each_kind
@each_order
@each_style
@pytest.mark.parametrize("phase", ["before body", "during body", "before first byte"])
async def test_leaving_an_upload_gives_everything_back(
    kind: Kind, order: Order, style: Style, phase: Phase
) -> None:
    built = stack(kind, order, provider_for(phase, streamed=False))
    before = asyncio.all_tasks()
    body = upload()
    answer = await call(
        built.app,
        "POST",
        built.base + "/audio/transcriptions",
        headers={"content-type": "multipart/form-data; boundary=b0"},
        body=[body[:9_000], body[9_000:20_000], body[20_000:]],
        style=style,
        leave_after=phase,
        may_write=STARLETTE,
        timeout=3.0,
    )
    await look(built, phase, answer, before)


@pytest.mark.usefixtures("quick")
@each_kind
@each_order
@each_style
async def test_leaving_while_the_relay_tries_one_channel_after_another(
    kind: Kind, order: Order, style: Style
) -> None:
    from asgi_llm_gateway.errors import ConnectFailed

    class Refusing(Provider):
        async def send(self, request: Any) -> Any:
            await asyncio.sleep(0.02)
            self.asked.append(b"")
            raise ConnectFailed("nobody listens")

    built = stack(kind, order, Refusing())
    answer = await call(
        built.app,
        "POST",
        built.path,
        headers=HEADERS,
        body=chat(),
        style=style,
        leave_after="before first byte",
        may_write=STARLETTE,
        timeout=3.0,
    )
    assert answer.left
    assert built.ledger.only()["outcome"] in ("client_left", "failed")


@pytest.mark.usefixtures("quick")
@each_kind
@each_style
async def test_leaving_an_upload_the_provider_does_not_take_gives_everything_back(
    kind: Kind, style: Style
) -> None:
    class Lazy(Provider):
        """Its connection is open, and it reads nothing of the body."""

        async def send(self, request: Any) -> Any:
            self.count(1)
            try:
                await asyncio.Event().wait()
            finally:
                self.count(-1)

    provider = Lazy()
    built = stack(kind, "settling outside", provider)
    body = upload()
    driver = Driver(
        built.app,
        "POST",
        built.base + "/audio/transcriptions",
        headers={"content-type": "multipart/form-data; boundary=b0"},
        body=[body[:9_000], body[9_000:]],
        style=style,
        may_write=STARLETTE,
        timeout=1.0,
    )
    async with driver.open() as stream:
        await provider.until(lambda: provider.open > 0)
        stream.leave()
    assert built.ledger.only()["outcome"] == "client_left"
