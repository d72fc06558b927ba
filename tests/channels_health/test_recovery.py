"""A provider that comes back has traffic again soon, whatever the breaker went through before."""

from __future__ import annotations

from random import Random

import pytest

from asgi_llm_gateway.channels.error_class import ErrorClass
from asgi_llm_gateway.channels.health import ORDINARY, Health, HealthRules, Probe
from asgi_llm_gateway.channels.preset_default import SERVER_ERROR, TOO_SLOW, UNREACHABLE
from tests.channels_health.clocked import Clock

BOUND = 30.0
STEP = 0.05


class Provider:
    """Calls come every `STEP` seconds; those made while it is down fail after `hangs` seconds, and
    every twentieth of them is never heard of again."""

    def __init__(self, verdict: ErrorClass, hangs: float, seed: int) -> None:
        self.clock = Clock(0.0)
        self.rng = Random(seed)
        self.health = Health(HealthRules(), clock=self.clock, rng=Random(seed))
        self.verdict = verdict
        self.hangs = hangs
        self.down = False
        self.under_way: list[tuple[float, float, Probe]] = []
        self.calls: list[tuple[float, bool]] = []

    def run(self, until: float) -> None:
        while self.clock.now < until:
            self.clock.now += STEP
            self._end_what_is_due()
            if self.health.admits("a", "m"):
                probe = self.health.begun("a", "m")
                assert probe is not None
                self._call(probe)

    def _call(self, probe: Probe) -> None:
        now = self.clock.now
        self.calls.append((now, not self.down))
        if not self.down:
            self.health.ended("a", "m", verdict=None, seconds=0.0, probe=probe)
        elif self.rng.random() > 0.05:
            self.under_way.append((now + self.hangs, now, probe))

    def _end_what_is_due(self) -> None:
        now = self.clock.now
        due = [call for call in self.under_way if call[0] <= now]
        self.under_way = [call for call in self.under_way if call[0] > now]
        for _, began, probe in due:
            self.health.ended("a", "m", verdict=self.verdict, seconds=now - began, probe=probe)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("verdict", "hangs"),
    [(SERVER_ERROR, 0.0), (UNREACHABLE, 3.0), (TOO_SLOW, 60.0), (TOO_SLOW, 15.0)],
    ids=["errors", "no connection", "silent for a minute", "silent for 15 s"],
)
def test_a_flapping_provider_has_traffic_again_within_30_s(
    verdict: ErrorClass, hangs: float, seed: int
) -> None:
    provider = Provider(verdict, hangs, seed)
    back = 0.0
    for _ in range(4):  # it never stays up for long: openings go on growing to their longest
        provider.down = True
        provider.run(back + 100)
        provider.down = False
        back = provider.clock.now
        provider.run(back + 40)
        good = [at for at, well in provider.calls if well and at > back]
        assert good, "no call went through"
        assert good[0] - back <= BOUND
        # Once back it is back: from 30 s on every call goes through.
        settled = [at for at in good if at > back + BOUND]
        assert len(settled) >= 0.9 * (40 - BOUND) / STEP
        back += 40


def test_while_it_is_down_hardly_any_call_goes_there() -> None:
    provider = Provider(SERVER_ERROR, 0.0, 1)
    provider.down = True
    provider.run(60)
    assert 5 <= len(provider.calls) <= 14


def test_a_provider_that_fails_only_now_and_then_is_never_left_alone() -> None:
    clock, rng = Clock(0.0), Random(7)
    health = Health(clock=clock, rng=Random(7))
    for _ in range(20_000):
        clock.now += 0.01
        assert health.admits("a", "m")
        verdict = SERVER_ERROR if rng.random() < 0.02 else None
        health.ended("a", "m", verdict=verdict, seconds=0.0, probe=ORDINARY)
