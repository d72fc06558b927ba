"""Who is ill: one breaker for each channel and each model on a channel that failed lately.

What is well has no entry, so that a gateway whose providers all work pays a look into an empty
dictionary. Loop-free: one Health may serve several event loops.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from random import Random

from ..error_class import ErrorClass
from .entries import ORDINARY, Entries, Probe
from .events import Change, HealthEvent, HealthState, Name, Record, log, tell_log
from .rules import HealthRules
from .sharing import Sharing

Clock = Callable[[], float]
Hook = Callable[[HealthEvent], None]


class Health:
    """What every call asks before it goes to a channel and reports to afterwards.

        if health.admits(channel, model):
            probe = health.begun(channel, model)    # None: another call is the probe just now
            ...                                     # a probe is `claimed` first
            health.ended(channel, model, verdict=None, seconds=0.4, probe=probe)

    While `quiet` is true all of this may be left out, but for the report of a failure. `clock` is
    monotonic, `wall` tells unix time for events. `limit` bounds the entries: callers choose the
    names of models. A hook that raises is logged and harms no call.
    """

    def __init__(
        self,
        rules: HealthRules | None = None,
        *,
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
        rng: Random | None = None,
        shared: Sharing | None = None,
        on_change: Iterable[Hook] = (),
        limit: int = 1024,
    ) -> None:
        self.rules = rules or HealthRules()
        self.on_change: list[Hook] = list(on_change)
        self._clock = clock
        self._wall = wall
        self._shared = shared
        self._ill = Entries(self.rules, rng or Random(), limit)  # noqa: S311 - guards nothing
        self._entries = self._ill.all
        self._watches_speed = self.rules.slow_call > 0
        if shared is not None:
            shared.bind(self)

    @property
    def quiet(self) -> bool:
        """Nothing is ill, and nobody needs to hear of calls that go well."""
        return not self._entries and not self._watches_speed

    def admits(self, channel: str, model: str) -> bool:
        """Whether the channel may be asked for this model now."""
        entries = self._entries
        if not entries:
            return True
        whole, part = entries.get((channel, None)), entries.get((channel, model))
        if whole is None and part is None:
            return True
        now = self._clock()
        return (whole is None or whole.admits(now)) and (part is None or part.admits(now))

    def begun(self, channel: str, model: str) -> Probe | None:
        """A call goes there; what is returned belongs into `ended`.

        None when it must not go: between `admits` and now another call became the probe. One that
        is a probe must be `claimed` too, where several processes share their health.
        """
        both = self._ill.both(channel, model) if self._entries else ()
        if not both:
            return ORDINARY
        now = self._clock()
        if not all(breaker.admits(now) for _, breaker, _ in both):
            return None
        whole = part = 0
        for name, breaker, _ in both:
            number, change = breaker.begun(now)
            if name[1] is None:
                whole = number
            else:
                part = number
            self._tell(name, change)
        return Probe(whole, part) if whole or part else ORDINARY

    async def claimed(self, channel: str, model: str, probe: Probe) -> bool:
        """Whether no other process has such a probe under way: else the call must not go, and its
        probe has been given back. Only a probe waits for the store."""
        shared = self._shared
        if shared is None or probe is ORDINARY:
            return True
        for name, breaker, number in self._ill.both(channel, model, probe):
            if number and not await shared.claim(name, self.rules.probe_lease):
                self.given_back(channel, model, probe)
                breaker.outdone(self._clock())
                return False
        return True

    def answered(self, channel: str, model: str, probe: Probe) -> None:
        """The first event of a call's answer is there, which may go on for minutes.

        Only a probe needs it: it has told what it was sent for. `ended` follows all the same.
        """
        if probe is ORDINARY:
            return
        now = self._clock()
        for name, breaker, number in self._ill.both(channel, model, probe):
            self._tell(name, breaker.answered(now, number))

    def ended(
        self,
        channel: str,
        model: str,
        *,
        verdict: ErrorClass | None,
        seconds: float,
        first: float | None = None,
        cooldown: float | None = None,
        probe: Probe = ORDINARY,
    ) -> None:
        """A call is over: well (`verdict` None) or not.

        `seconds` is how long ago it began, `first` how long its first event took, `cooldown` for
        how long the provider asked to be left alone.
        """
        self._release(channel, model, probe)
        if verdict is None:
            if self._entries or self._watches_speed:
                self._went_well(channel, model, seconds, first, probe)
        elif verdict.health == "none" or verdict.scope == "key":
            self.given_back(channel, model, probe)
        else:
            self._went_wrong(channel, model, verdict, seconds, cooldown, probe)

    def given_back(self, channel: str, model: str, probe: Probe) -> None:
        """A call ended without saying anything of the provider: its caller left, say."""
        if probe is ORDINARY:
            return
        self._release(channel, model, probe)
        for _, breaker, number in self._ill.both(channel, model, probe):
            breaker.given_back(number)

    def retry_at(self, channel: str, model: str) -> float | None:
        """The clock's time at which it may be asked again: None for now, infinity for when a
        test or a hand brings it back."""
        now = self._clock()
        times = [breaker.retry_at(now) for _, breaker, _ in self._ill.both(channel, model)]
        return max((when for when in times if when is not None), default=None)

    def disable(self, channel: str, reason: str = "disabled by hand") -> None:
        """Take a channel out by hand; nothing but `enable` brings it back."""
        change = self._ill.entry((channel, None)).disable(self._clock(), reason)
        self._tell((channel, None), change, by_hand=True)

    def enable(self, channel: str, reason: str = "enabled by hand") -> None:
        """Bring a channel back, and every model on it, whatever took them out."""
        self._restore(channel, reason, by_hand=True)

    def forget(self, channel: str, reason: str) -> None:
        """Hold nothing against a channel any more but what a hand did: it is gone or another."""
        self._restore(channel, reason, by_hand=False)

    def _restore(self, channel: str, reason: str, *, by_hand: bool) -> None:
        now = self._clock()
        for name, breaker in self._ill.of(channel):
            change = breaker.restore(now, reason, by_hand=by_hand)
            self._tell(name, change, by_hand=by_hand)
            if breaker.state != "disabled":
                self._entries.pop(name, None)

    def tested(self, channel: str, *, verdict: ErrorClass | None, seconds: float) -> None:
        """A test call is over. One that went well brings back what was not disabled by hand: the
        channel, and the models on it that are out. A slow or failed one counts as the rules say.
        """
        now = self._clock()
        slow = self.rules.slow_test
        if verdict is not None:
            whole = replace(verdict, scope="channel") if verdict.scope == "model" else verdict
            self.ended(channel, "", verdict=whole, seconds=seconds)
        elif slow and seconds > slow:
            change = self._ill.entry((channel, None)).out(now, f"a test call took {seconds:.1f} s")
            self._tell((channel, None), change)
        else:
            for name, breaker in self._ill.of(channel):
                if name[1] is None or breaker.state == "out":
                    change = breaker.restore(now, "a test call went well", by_hand=False)
                    self._tell(name, change)
            self._ill.tidy(now)

    def states(self) -> list[HealthState]:
        """Everything that is not simply well."""
        return self._ill.states(self._clock(), self._wall())

    def record(self, name: Name) -> Record | None:
        """How this entry is now; None when there is nothing to tell of it."""
        breaker = self._entries.get(name)
        return Record("closed", "well") if breaker is None else breaker.record(self._clock())

    def names(self) -> list[Name]:
        """Every entry that cannot be asked, for a store that has lost its memory."""
        ill = list(self._entries.items())
        return [name for name, breaker in ill if breaker.state not in ("closed", "half_open")]

    def adopt(self, name: Name, record: Record) -> None:
        """What another process found; the longest opening counts, and a hand above everything."""
        now = self._clock()
        breaker = self._entries.get(name)
        restores = record.condition == "closed" or (
            record.by_hand and record.condition != "disabled"
        )
        if breaker is not None and restores:
            change = breaker.restore(now, record.reason, by_hand=record.by_hand)
            self._tell(name, change, shared=True)
        if record.condition != "closed":
            breaker = self._ill.entry(name)
            if record.condition == "disabled":
                change = breaker.disable(now, record.reason)
            elif record.condition == "out":
                change = breaker.out(now, record.reason)
            else:
                change = breaker.open_until(now, now + record.left, record.reason)
            self._tell(name, change, shared=True)
        self._ill.tidy(now)

    def _release(self, channel: str, model: str, probe: Probe) -> None:
        if self._shared is not None and probe is not ORDINARY:
            for name, _, number in self._ill.both(channel, model, probe):
                if number:
                    self._shared.release(name)

    def _went_well(
        self, channel: str, model: str, seconds: float, first: float | None, probe: Probe
    ) -> None:
        now = self._clock()
        took = seconds if first is None else first
        slow = self._watches_speed and took >= self.rules.slow_call
        if slow:
            self._ill.entry((channel, model))
        for name, breaker, number in self._ill.both(channel, model, probe):
            change = breaker.succeeded(now, began=now - seconds, probe=number, slow=slow)
            self._tell(name, change)
        self._ill.tidy(now)

    def _went_wrong(
        self,
        channel: str,
        model: str,
        verdict: ErrorClass,
        seconds: float,
        cooldown: float | None,
        probe: Probe,
    ) -> None:
        now = self._clock()
        began = now - seconds
        guilty: Name = (channel, None if verdict.scope == "channel" else model)
        for name, breaker, number in self._ill.both(channel, model, probe):
            if name == guilty:
                continue
            if name[1] is None:  # a channel whose model fails was reached: as a channel it works
                change = breaker.succeeded(now, began=began, probe=number, slow=False)
                self._tell(name, change)
            else:
                breaker.given_back(number)
        breaker = self._ill.entry(guilty)
        if verdict.health == "remove":
            change = breaker.out(now, verdict.name)
        else:
            number = probe.channel if guilty[1] is None else probe.model
            change = breaker.failed(
                now, began=began, probe=number, reason=verdict.name, cooldown=cooldown
            )
        self._tell(guilty, change)

    def _tell(
        self, name: Name, change: Change | None, *, by_hand: bool = False, shared: bool = False
    ) -> None:
        if change is None:
            return
        now, wall = self._clock(), self._wall()
        until = None if change.until is None else wall + change.until - now
        event = HealthEvent(*name, change.old, change.new, change.reason, until, wall)
        if self._shared is not None and not shared and change.new != "half_open":
            self._shared.note(name, by_hand=by_hand)
        tell_log(event)
        for hook in self.on_change:
            try:
                hook(event)
            except Exception:  # supervisor: a hook is the host's; the call it came in goes on
                log.exception("a hook for changes of health failed")
