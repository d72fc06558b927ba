"""The state machine of one channel, or of one model on it. Pure: every call brings the time.

    closed ──failures──▶ open ──its time is over──▶ half_open ──a good probe──▶ closed
                          ▲                             │
                          └────────a bad probe──────────┘

Beside this, from anywhere: out (by a removing error, a slow test, or instead of open when only
tests bring back) and disabled (by hand), which nothing but a hand undoes.

Calls that began before the last change say nothing of how things are now: a hundred calls that hung
through an outage fail when it is over, and must not open the breaker again.
"""

from __future__ import annotations

from collections import deque
from math import inf
from random import Random
from typing import Final

from .events import Change, Condition, Record
from .rules import HealthRules

_NOTABLE: Final = 1.0
"""Seconds by which an opening must grow to be told again."""
_LOOK_AGAIN: Final = 1.0
"""Seconds; by then another process has told what became of its probe, or goes on probing."""


class Window:
    """How the last calls went."""

    __slots__ = ("_bad", "_calls", "_rules", "_slow")

    def __init__(self, rules: HealthRules) -> None:
        self._rules = rules
        self._calls: deque[tuple[float, bool, bool]] = deque()
        self._bad = 0
        self._slow = 0

    def add(self, now: float, *, bad: bool, slow: bool) -> None:
        """One call that ended now."""
        self._calls.append((now, bad, slow))
        self._bad += bad
        self._slow += slow
        while len(self._calls) > self._rules.window_calls:
            self._drop()
        self._expire(now)

    def fault(self) -> str | None:
        """What is wrong with the calls of the window, if anything."""
        rules, calls = self._rules, len(self._calls)
        if not calls or calls < rules.least_calls:
            return None
        if calls - self._bad < rules.success_below * calls:
            return f"{self._bad} of the last {calls} calls failed"
        if rules.slow_call and self._slow > rules.slow_above * calls:
            return f"{self._slow} of the last {calls} calls took {rules.slow_call:g} s or longer"
        return None

    def spotless(self, now: float) -> bool:
        """Whether no call of the window failed or was slow."""
        self._expire(now)
        return not (self._bad or self._slow)

    def clear(self) -> None:
        """Forget every call."""
        self._calls.clear()
        self._bad = self._slow = 0

    def _expire(self, now: float) -> None:
        oldest = now - self._rules.window_seconds
        while self._calls and self._calls[0][0] < oldest:
            self._drop()

    def _drop(self) -> None:
        _, bad, slow = self._calls.popleft()
        self._bad -= bad
        self._slow -= slow


class Breaker:
    """See the module. Methods that may change the state return the Change, or None."""

    __slots__ = (
        "_failures",
        "_former",
        "_probe",
        "_probe_until",
        "_probes",
        "_rng",
        "_rules",
        "_times",
        "_window",
        "reason",
        "since",
        "state",
        "until",
    )

    def __init__(self, rules: HealthRules, rng: Random) -> None:
        self._rules = rules
        self._rng = rng
        self._window = Window(rules)
        self.state: Condition = "closed"
        self.reason = ""
        self.since = -inf
        """When it last changed."""
        self.until = -inf
        """When an opening ends."""
        self._failures = 0
        self._times = 0
        self._probe = 0
        self._probes = 0
        self._former = 0
        """Probes there had been when it became half-open."""
        self._probe_until = -inf

    def admits(self, now: float) -> bool:
        """Whether a call may be made now."""
        if self.state == "closed":
            return True
        if self.state == "open":
            return now >= self.until
        if self.state == "half_open":
            return not self._probe or now >= self._probe_until
        return False

    def retry_at(self, now: float) -> float | None:
        """When a call may be made: None for now, infinity for when somebody brings it back."""
        if self.admits(now):
            return None
        if self.state == "open":
            return self.until
        return self._probe_until if self.state == "half_open" else inf

    def begun(self, now: float) -> tuple[int, Change | None]:
        """A call that is admitted begins: 0, or its number if it is a probe."""
        if self.state == "closed":
            return 0, None
        change = None
        if self.state == "open":
            change = self._to(now, "half_open", "its time is over")
            self._former = self._probes
        self._probes += 1
        self._probe = self._probes
        self._probe_until = now + self._rules.probe_lease
        return self._probe, change

    def answered(self, now: float, probe: int) -> Change | None:
        """A call's answer began well: reason enough to close, if it is a probe; also one whose
        lease was over, or what takes longer to answer would never come back."""
        if self.state == "half_open" and probe > self._former:
            return self._close(now, "a probe went well")
        return None

    def given_back(self, probe: int) -> None:
        """The call ended without saying anything of the provider; the next one may be the probe."""
        if self._is_probe(probe):
            self._probe = 0

    def outdone(self, now: float) -> None:
        """Another process has a probe under way: here nobody tries for a moment."""
        if self.state == "half_open" and not self._probe:
            self._probes += 1
            self._probe = self._probes
            self._probe_until = now + min(_LOOK_AGAIN, self._rules.probe_lease)

    def succeeded(self, now: float, *, began: float, probe: int, slow: bool) -> Change | None:
        """A call went well."""
        if self.state != "closed":
            return self.answered(now, probe)
        if began < self.since:
            return None
        self._failures = 0
        self._window.add(now, bad=False, slow=slow)
        return self._judge(now, "")

    def failed(
        self, now: float, *, began: float, probe: int, reason: str, cooldown: float | None = None
    ) -> Change | None:
        """A call failed; the provider may have asked to be left alone for `cooldown` seconds."""
        if self.state in ("out", "disabled"):
            return None
        if cooldown:
            until = now + min(cooldown, self._rules.longest_asked)
            return self.open_until(now, until, f"{reason}; it asked for {cooldown:.0f} s")
        if self.state != "closed":
            return self._open(now, reason) if self._is_probe(probe) else None
        if began < self.since:
            return None
        self._failures += 1
        self._window.add(now, bad=True, slow=False)
        return self._judge(now, reason)

    def open_until(self, now: float, until: float, reason: str) -> Change | None:
        """Open until then; a longer opening stays as long as it is."""
        if self.state in ("out", "disabled") or until <= now:
            return None
        already = self.state == "open" and self.until > now
        before = self.until if already else now
        if until <= before:
            return None
        self.until = until
        if already and until - before < _NOTABLE:
            return None
        return self._to(now, "open", reason)

    def out(self, now: float, reason: str) -> Change | None:
        """Out, until a test that goes well or a hand."""
        if self.state in ("out", "disabled"):
            return None
        return self._to(now, "out", reason)

    def disable(self, now: float, reason: str) -> Change | None:
        """By hand."""
        return None if self.state == "disabled" else self._to(now, "disabled", reason)

    def restore(self, now: float, reason: str, *, by_hand: bool) -> Change | None:
        """As good as new; what was disabled by hand comes back by hand only."""
        if self.state == "disabled" and not by_hand:
            return None
        self._times = 0
        return None if self.state == "closed" else self._close(now, reason)

    def record(self, now: float) -> Record | None:
        """How it is, as other processes are told; None while it is half-open, which is no news."""
        if self.state == "half_open":
            return None
        left = max(0.0, self.until - now) if self.state == "open" else 0.0
        return Record(self.state, self.reason, left, self.state == "disabled")

    def well(self, now: float) -> bool:
        """Whether nothing is left to remember."""
        return (
            self.state == "closed"
            and not self._failures
            and (not self._times or now - self.since > self._rules.calm)
            and self._window.spotless(now)
        )

    def _is_probe(self, probe: int) -> bool:
        return self.state == "half_open" and probe != 0 and probe == self._probe

    def _judge(self, now: float, reason: str) -> Change | None:
        limit = self._rules.failures
        if limit and self._failures >= limit:
            return self._open(now, f"{self._failures} failures in a row, the last: {reason}")
        fault = self._window.fault()
        return self._open(now, fault) if fault else None

    def _open(self, now: float, reason: str) -> Change | None:
        if self._rules.recovery == "test":
            return self.out(now, reason)
        if self.state == "closed" and now - self.since > self._rules.calm:
            self._times = 0
        until = now + self._rules.opening(self._times, self._rng)
        self._times += 1
        return self.open_until(now, until, reason)

    def _close(self, now: float, reason: str) -> Change:
        self._failures = 0
        self._window.clear()
        return self._to(now, "closed", reason)

    def _to(self, now: float, new: Condition, reason: str) -> Change:
        old, self.state, self.reason, self.since = self.state, new, reason, now
        self._probe = 0
        return Change(old, new, reason, self.until if new == "open" else None)
