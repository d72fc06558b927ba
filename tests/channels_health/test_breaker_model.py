"""The breaker against a few lines that say what is expected of it, through any calls whatever."""

from __future__ import annotations

from math import inf
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from asgi_llm_gateway.channels.health.breaker import Breaker
from asgi_llm_gateway.channels.health.rules import HealthRules


class AgainstASimpleModel(RuleBasedStateMachine):
    """The same calls on a Breaker and on a few lines that say what is expected of it."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = HealthRules(failures=3, jitter=0, success_below=0, longest_asked=30)
        self.real = Breaker(self.numbers, Random(0))
        self.now = 1000.0
        self.calls: list[tuple[float, int]] = []
        self.state, self.until, self.since = "closed", -inf, -inf
        self.bad = self.times = self.probe = self.first = 0
        self.lease = -inf

    def _set(self, state: str, until: float = -inf) -> None:
        self.state, self.until, self.since, self.probe = state, until, self.now, 0

    def _admits(self) -> bool:
        return (
            self.state == "closed"
            or (self.state == "open" and self.now >= self.until)
            or (self.state == "half_open" and (not self.probe or self.now >= self.lease))
        )

    def _open(self) -> None:
        if self.state == "closed" and self.now - self.since > self.numbers.calm:
            self.times = 0
        lasts = min(20.0, 2.0 * 2**self.times)
        self.times += 1
        self._set("open", self.now + lasts)

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.9, 2.0, 9.9, 10.0, 25.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def a_call_begins(self) -> None:
        if not self._admits():
            return
        number, _ = self.real.begun(self.now)
        if self.state == "closed":
            assert number == 0
        else:
            assert number > 0
            if self.state == "open":
                self._set("half_open", self.until)
                self.first = number
            self.probe, self.lease = number, self.now + 10
        self.calls.append((self.now, number))

    @rule(which=st.integers(0, 50))
    def a_call_goes_well(self, which: int) -> None:
        if not self.calls:
            return
        began, number = self.calls.pop(which % len(self.calls))
        self.real.succeeded(self.now, began=began, probe=number, slow=False)
        if self.state == "closed" and began >= self.since:
            self.bad = 0
        elif self.state == "half_open" and number and number >= self.first:
            self.bad = 0
            self._set("closed")

    @rule(which=st.integers(0, 50), asked=st.sampled_from([None, 0.0, 0.5, 12.0, 99.0]))
    def a_call_fails(self, which: int, asked: float | None) -> None:
        if not self.calls:
            return
        began, number = self.calls.pop(which % len(self.calls))
        self.real.failed(self.now, began=began, probe=number, reason="x", cooldown=asked)
        if self.state in ("out", "disabled"):
            return
        if asked:
            until = self.now + min(asked, 30)
            if self.state == "open" and self.until > self.now:
                self.until = max(self.until, until)
            else:
                self._set("open", until)
        elif self.state == "half_open" and number and number == self.probe:
            self._open()
        elif self.state == "closed" and began >= self.since:
            self.bad += 1
            if self.bad >= 3:
                self._open()

    @rule(which=st.integers(0, 50))
    def a_caller_leaves(self, which: int) -> None:
        if not self.calls:
            return
        _, number = self.calls.pop(which % len(self.calls))
        self.real.given_back(number)
        if number and number == self.probe:
            self.probe = 0

    @rule()
    def it_is_taken_out(self) -> None:
        self.real.out(self.now, "x")
        if self.state not in ("out", "disabled"):
            self._set("out")

    @rule()
    def it_is_disabled(self) -> None:
        self.real.disable(self.now, "x")
        if self.state != "disabled":
            self._set("disabled")

    @rule(by_hand=st.booleans())
    def it_is_restored(self, by_hand: bool) -> None:
        self.real.restore(self.now, "x", by_hand=by_hand)
        if self.state == "disabled" and not by_hand:
            return
        self.times = 0
        if self.state != "closed":
            self.bad = 0
            self._set("closed")

    @invariant()
    def they_agree(self) -> None:
        assert self.real.state == self.state
        assert self.real.admits(self.now) == self._admits()
        if self.state == "open":
            assert self.real.until == self.until
        assert (self.real.retry_at(self.now) is None) == self._admits()


TestAgainstASimpleModel = AgainstASimpleModel.TestCase
TestAgainstASimpleModel.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
