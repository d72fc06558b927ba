"""Any failures of any channels in any order: a call goes the way it should, and no further.

What is told of a call (its attempts) is gone through by a second, plain account of the rules, which
says at each step who may be asked, and at the end whether nobody was left.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asgi_llm_gateway import Channel, Failover, Relay
from asgi_llm_gateway.channels.health.rules import HealthRules
from asgi_llm_gateway.channels.retrying import Backoff
from asgi_llm_gateway.errors import ConnectFailed, ConnectionLost, UpstreamTimeout
from tests.upstreams import (
    DONE,
    FakeUpstream,
    Reply,
    ask,
    channel_to,
    chunk,
    guarded_by,
    left_open,
    sse,
)

MODELS = ("m", "n", "o")
GOOD = "good"
KEY = {"403": 403, "429": 429, "429 for 20 s": 429, "429 for 0 s": 429}
HERE = {"500": 500, "503": 503, "reset": 502}
ELSEWHERE = {"unreachable": 502, "silent": 504, "web page": 502}
CALLERS = {"too long": 400, "against policy": 400, "wrong": 400}
STATUS = {"401": 401, **KEY, **HERE, **ELSEWHERE, **CALLERS}
KINDS = (GOOD, GOOD, *STATUS)
NO_HEALTH = HealthRules(failures=0, success_below=0.0)
REPLIES = {
    "401": Reply.error(401),
    "403": Reply.error(403),
    "429": Reply.error(429),
    "429 for 20 s": Reply.json({"error": {"message": "no"}}, 429, [(b"retry-after", b"20")]),
    "429 for 0 s": Reply.json({"error": {"message": "no"}}, 429, [(b"retry-after", b"0")]),
    "500": Reply.error(500),
    "503": Reply.error(503),
    "reset": Reply.fails(ConnectionLost("reset")),
    "unreachable": Reply.fails(ConnectFailed("refused")),
    "silent": Reply.fails(UpstreamTimeout("late", phase="first_byte")),
    "web page": Reply(200, [(b"content-type", b"text/html")], [b"<h1>"]),
    "too long": Reply.error(400, code="context_length_exceeded"),
    "against policy": Reply.error(400, code="content_policy_violation"),
    "wrong": Reply.error(400, code="bad"),
}


def reply_of(kind: str, text: str, *, stream: bool) -> Reply:
    if kind != GOOD:
        return REPLIES[kind]
    if not stream:
        return Reply.chat(text)
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    return Reply.stream(sse(chunk(text), chunk(finish="stop", usage=usage)), DONE)


@dataclass
class Rules:
    """The account: what is known of the channels, and how far one call has come."""

    channels: dict[str, Channel]
    failover: Failover
    dead: set[tuple[str, str]] = field(default_factory=set)
    resting: set[tuple[str, str]] = field(default_factory=set)

    def begin(self) -> None:
        self.asked: list[str] = []
        self.queue: list[str] | None = None
        self.take_up("m")

    def take_up(self, model: str) -> None:
        self.asked.append(model)
        self.counted = 0
        self.tried: dict[str, set[str]] = {name: set() for name in self.channels}
        self.once_more: dict[str, str] = {}
        self.stumbled: set[str] = set()
        self.spent = {n for n, c in self.channels.items() if model not in c.models}

    def untried(self, name: str) -> set[str]:
        keys = {key for key in self.channels[name].keys if isinstance(key, str)}
        gone = {key for channel, key in self.dead | self.resting if channel == name}
        return keys - gone - self.tried[name]

    def open(self) -> list[str]:
        """The channels that may be asked."""
        if self.counted >= self.failover.max_attempts:
            return []
        names = [n for n in self.channels if n not in self.spent]
        return [n for n in names if self.untried(n) or n in self.once_more]

    def next_model(self) -> str | None:
        if self.queue is None:
            self.queue = list(self.failover.fallback_models.get(self.asked[-1], ()))
        while self.queue:
            model = self.queue.pop(0)
            served = any(model in channel.models for channel in self.channels.values())
            if served and model not in self.asked:
                return model
        return None

    def attempted(self, name: str, key: str, model: str) -> None:
        """One more attempt: was it the right one?"""
        while model != self.asked[-1]:
            assert not self.open(), f"{self.open()} could still be asked for {self.asked[-1]}"
            following = self.next_model()
            assert following is not None, f"{model} is nobody's fallback here"
            self.take_up(following)
        may = self.open()
        assert name in may, f"{name} was asked, {may} could be"
        best = max(self.channels[n].priority for n in may)
        assert self.channels[name].priority == best
        if self.tried[name]:
            fresh = [n for n in may if self.channels[n].priority == best and not self.tried[n]]
            assert not fresh, f"{fresh} had not failed yet"
        untried = self.untried(name)
        assert key in untried or (not untried and self.once_more.get(name) == key)
        self.once_more.pop(name, None)

    def learn(self, name: str, key: str, kind: str) -> bool:
        """What a failure means; whether the call may go on."""
        self.tried[name].add(key)
        if kind == "401":
            self.dead.add((name, key))
            return True
        self.counted += 1
        if kind in KEY:
            if kind != "429 for 0 s":
                self.resting.add((name, key))
        elif kind in HERE and name not in self.stumbled:
            self.stumbled.add(name)
            self.once_more[name] = key
        elif kind in HERE or kind in ELSEWHERE:
            self.spent.add(name)
        else:
            lists = {
                "too long": self.failover.context_fallbacks,
                "against policy": self.failover.content_fallbacks,
            }
            self.queue = list(lists.get(kind, {}).get(self.asked[-1], ()))
            self.counted = self.failover.max_attempts
            return bool(self.queue)
        return True

    def exhausted(self) -> bool:
        while not self.open():
            following = self.next_model()
            if following is None:
                return True
            self.take_up(following)
        return False


LISTS = st.dictionaries(
    st.sampled_from(MODELS), st.lists(st.sampled_from(MODELS), max_size=4), max_size=3
)


@st.composite
def worlds(draw: Any) -> tuple[dict[str, dict[str, Any]], Failover]:
    """Channels' settings by name, and rules."""
    channels = {}
    for name in "abcd"[: draw(st.integers(1, 4))]:
        others = draw(st.sets(st.sampled_from(MODELS)))
        channels[name] = {
            "priority": draw(st.integers(0, 2)),
            "key_limits": {"wait": 0},
            "models": sorted(others | {"m"} if name == "a" else others or {"m"}),
            "keys": [f"sk-{name}-{n}111111" for n in range(draw(st.integers(1, 4)))],
        }
    rules = Failover(
        max_attempts=draw(st.integers(1, 6)),
        backoff=Backoff(first=0),
        retry_budget=1.0,
        fallback_models=draw(LISTS),
        context_fallbacks=draw(LISTS),
        content_fallbacks=draw(LISTS),
        health=NO_HEALTH,
    )
    return channels, rules


class Guard:
    """Sees to it that each attempt is told of twice."""

    def __init__(self) -> None:
        self.under_way = 0

    async def before(self, attempt: Any) -> None:
        self.under_way += 1

    def after(self, attempt: Any) -> None:
        self.under_way -= 1


@given(worlds(), st.data(), st.integers(0, 9))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_call_goes_the_way_the_rules_say(world: Any, data: Any, seed: int) -> None:
    asyncio.run(_some_calls(*world, data, seed))


async def _some_calls(
    given_channels: dict[str, dict[str, Any]], failover: Failover, data: Any, seed: int
) -> None:
    happened: list[tuple[str, str, str, str]] = []
    stream = False

    def scripted(name: str) -> FakeUpstream:
        def reply(asked: Any) -> Reply:
            kind = data.draw(st.sampled_from(KINDS))
            happened.append((name, asked.key, asked.json["model"], kind))
            return reply_of(kind, f"from {name}", stream=stream)

        return FakeUpstream(reply)

    channels = {n: channel_to(scripted(n), name=n, **how) for n, how in given_channels.items()}
    relay = Relay([*channels.values()], failover=failover, rng=Random(seed))
    rules = Rules(channels, failover)
    guard = Guard()
    async with relay.resources:
        for _ in range(data.draw(st.integers(1, 3))):
            happened.clear()
            stream = data.draw(st.booleans())
            document = {"model": "m", "messages": [{"role": "user"}], "stream": stream}
            answer = await asyncio.wait_for(ask(guarded_by(relay, guard), document), 10)
            _went_right(rules, happened, answer)
            assert not left_open(relay)
            assert guard.under_way == 0
            assert relay.channels is not None
            for channel in relay.channels.channels:
                assert channel.stats.in_flight == 0
                keys = {key.secret for key in await channel.pool.all()}
                gone = {key for name, key in rules.dead if name == channel.name}
                assert keys == set(given_channels[channel.name]["keys"]) - gone


def _went_right(rules: Rules, happened: list[tuple[str, str, str, str]], answer: Any) -> None:
    rules.begin()
    goes_on = True
    for name, key, model, kind in happened:
        assert goes_on, f"another attempt after {kind}"
        rules.attempted(name, key, model)
        goes_on = kind != GOOD and rules.learn(name, key, kind)
    last = happened[-1][3] if happened else None
    if last != GOOD and goes_on:
        assert rules.exhausted(), f"given up although {rules.open()} could be asked"
    _told_right(rules, happened, answer)


def _told_right(rules: Rules, happened: list[tuple[str, str, str, str]], answer: Any) -> None:
    exchange, attempts = answer.exchange, answer.exchange.attempts
    assert [(a.channel, a.model) for a in attempts] == [(h[0], h[2]) for h in happened]
    assert [a.number for a in attempts] == list(range(1, len(attempts) + 1))
    assert len(attempts) <= len(rules.asked) * rules.failover.max_attempts + len(rules.dead)
    good = [h[3] == GOOD for h in happened]
    assert [a.outcome for a in attempts] == ["ok" if ok else "failed" for ok in good]
    assert [a.failure is None for a in attempts] == good
    assert all(a.started <= a.ended for a in attempts)
    if attempts:
        assert answer.header("x-llm-channel") == happened[-1][0]
        assert answer.header("x-llm-attempts") == str(len(attempts))
    if good and good[-1]:
        name, _, model, _ = happened[-1]
        assert answer.status == 200
        assert f"from {name}".encode() in answer.body
        assert answer.header("x-llm-fallback") == (None if model == "m" else model)
        assert exchange.outcome == "ok"
        assert (exchange.usage.total_input, exchange.usage.total_output) == (7, 2)
        return
    assert exchange.usage is None
    assert exchange.outcome in ("refused", "provider_error", "failed")
    assert answer.header("x-llm-fallback") is None
    last = happened[-1][3] if happened else None
    if last in (None, "401", "403"):
        assert answer.status in (429, 503), "the gateway's own keys are no business of a caller's"
    else:
        assert answer.status == STATUS[str(last)]
