"""Whatever happens in whatever order: no limit is ever exceeded, and no slot is ever lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from asgi_llm_gateway.keys.key import Key
from asgi_llm_gateway.keys.limits import KeyLimits
from asgi_llm_gateway.keys.pool import MemoryKeyPool
from asgi_llm_gateway.wire.usage import Usage

NAMES = ["a", "b"]
TRIED = st.sampled_from([(), (), (), ("a",)])
FINGERPRINTS = {name: Key(name).fingerprint for name in NAMES}


class Pool(RuleBasedStateMachine):
    """A pool of two keys beside what a simple model knows of each."""

    held = Bundle("held")

    @initialize(
        concurrency=st.sampled_from([None, 1, 1, 2]),
        rpm=st.sampled_from([None, 2, 4]),
        rpd=st.sampled_from([None, 9]),
        choose=st.sampled_from(["random", "round_robin", "least_used"]),
        seed=st.integers(0, 9),
    )
    def begin(
        self, concurrency: int | None, rpm: int | None, rpd: int | None, choose: str, seed: int
    ) -> None:
        self.limits = KeyLimits(concurrency=concurrency, rpm=rpm, rpd=rpd)
        self.loop = asyncio.new_event_loop()
        self.now = 1_000_000.5
        self.pool = MemoryKeyPool(
            NAMES,
            choose=choose,
            limits=self.limits,
            rng=Random(seed),
            clock=lambda: self.now,
            wall=lambda: self.now,
        )
        self.holding: Counter[str] = Counter()
        self.requests: dict[str, list[float]] = {name: [] for name in NAMES}
        self.rests = dict.fromkeys(NAMES, 0.0)
        self.out: set[str] = set()
        self.waiting: list[tuple[asyncio.Task[Key | None], tuple[str, ...]]] = []

    def free(self, name: str) -> bool:
        limits, second, day = self.limits, int(self.now), self.now // 86_400
        lately = [at for at in self.requests[name] if int(at) >= second - 60]
        today = [at for at in self.requests[name] if at // 86_400 == day]
        return (
            name not in self.out
            and self.rests[name] <= self.now
            and (limits.concurrency is None or self.holding[name] < limits.concurrency)
            and (limits.rpm is None or len(lately) < limits.rpm)
            and (limits.rpd is None or len(today) < limits.rpd)
        )

    def took(self, key: Key) -> Key:
        assert self.free(key.secret), "a limit was exceeded"
        self.holding[key.secret] += 1
        self.requests[key.secret].append(self.now)
        return key

    def let_run(self) -> Any:
        """What was handed to those who wait, once the loop has had its time."""
        for _ in range(4):
            self.loop.run_until_complete(asyncio.sleep(0))
        done = [task for task, _ in self.waiting if task.done()]
        self.waiting = [one for one in self.waiting if not one[0].done()]
        keys = [task.result() for task in done if not task.cancelled()]
        return multiple(*(self.took(key) for key in keys if key is not None))

    @rule(target=held, tried=TRIED)
    def take(self, tried: tuple[str, ...]) -> Any:
        wanted = [name for name in NAMES if name not in tried and self.free(name)]
        key = self.pool.take_now([FINGERPRINTS[name] for name in tried])
        assert (key is None) == (not wanted), "a slot was lost" if wanted else "from nowhere"
        return multiple() if key is None else self.took(key)

    @precondition(lambda self: len(self.waiting) < 8)
    @rule(target=held, tried=TRIED)
    def wait(self, tried: tuple[str, ...]) -> Any:
        prints = [FINGERPRINTS[name] for name in tried]
        if all(name in self.out or name in tried for name in NAMES):
            return multiple()
        task = self.loop.create_task(self.pool.take(None, prints, wait=1e6))
        self.waiting.append((task, tried))
        return self.let_run()

    @precondition(lambda self: self.waiting)
    @rule(target=held, data=st.data())
    def give_up(self, data: st.DataObject) -> Any:
        data.draw(st.sampled_from(self.waiting))[0].cancel()
        return self.let_run()

    @rule(
        target=held,
        key=consumes(held),
        cooldown=st.sampled_from([0.0, 0.0, 5.0, 90.0]),
        usage=st.sampled_from([None, Usage(input=3)]),
        leaving=st.sampled_from([False, False, True]),
    )
    def report(self, key: Key, cooldown: float, usage: Usage | None, leaving: bool) -> Any:
        name = key.secret
        self.pool.report(key, "ok", usage=usage, cooldown=cooldown)
        self.holding[name] -= 1
        if cooldown:
            self.rests[name] = max(self.rests[name], self.now + cooldown)
        if self.limits.any:
            self.pool.report(key, "ok")  # once too often
        if leaving and self.waiting:  # perhaps the one that was just handed a key
            self.waiting[0][0].cancel()
        return self.let_run()

    @rule(target=held, seconds=st.sampled_from([0.4, 1.0, 7.0, 59.5, 61.0, 50_000.0]))
    def time_passes(self, seconds: float) -> Any:
        self.now += seconds
        self.pool._ring._rung()  # as the loop's timer does
        return self.let_run()

    @rule(target=held, name=st.sampled_from(NAMES))
    def remove(self, name: str) -> Any:
        self.pool.remove_now(Key(name), "dead")
        self.out.add(name)
        return self.let_run()

    @rule(target=held, name=st.sampled_from(NAMES), how=st.sampled_from(["add", "restore"]))
    def bring_back(self, name: str, how: str) -> Any:
        if name in self.out:
            self.rests[name] = 0.0
        if how == "add":
            self.loop.run_until_complete(self.pool.add([name]))
        else:
            self.loop.run_until_complete(self.pool.restore(FINGERPRINTS[name]))
        self.out.discard(name)
        return self.let_run()

    @rule(target=held)
    def reload(self) -> Any:
        pool = MemoryKeyPool(NAMES, limits=self.limits, clock=lambda: self.now)
        pool.adopt(self.pool)
        self.pool = pool
        return self.let_run()

    @invariant()
    def nobody_waits_for_what_is_free(self) -> None:
        for _, tried in getattr(self, "waiting", ()):
            assert not any(self.free(name) for name in NAMES if name not in tried)

    @invariant()
    def the_pool_counts_what_is_held(self) -> None:
        if hasattr(self, "pool"):
            for key in self.pool.keys:
                assert key.in_flight == self.holding[key.secret]

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        for task, _ in self.waiting:
            task.cancel()
        self.let_run()
        self.loop.close()


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
