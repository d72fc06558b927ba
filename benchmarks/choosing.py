"""One choice among 1 000 channels of 100 keys each, by every strategy, in microseconds.

    .venv/bin/python -m benchmarks.choosing

A choice is what a call needs before it can be sent: the candidates, a channel, and a key of it. The
columns: all may be used; a tenth and half are ill; two were tried in this call before; and a
preference (affinity). The least of several runs counts: the others were disturbed.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from time import perf_counter
from typing import Any

from asgi_llm_gateway import Channel
from asgi_llm_gateway.channels.choosing import STRATEGIES, Candidates, Strategy
from asgi_llm_gateway.channels.index import ChannelTable
from asgi_llm_gateway.channels.live import LiveChannel
from asgi_llm_gateway.channels.surroundings import Surroundings

CHANNELS, KEYS = 1000, 100
ROUNDS, REPEATS = 200, 60
LIMIT = 20.0


def table() -> ChannelTable:
    rng = Random(1)
    nowhere: Any = None
    channels = []
    for number in range(CHANNELS):
        config = Channel(
            name=f"channel-{number}",
            base_url="https://provider.test/v1",
            models=["*"],
            weight=1 + number % 7,
            keys=[f"sk-{number:04}-{key:04}" for key in range(KEYS)],
            cost=number % 5,
        )
        channel = LiveChannel(config, nowhere, Surroundings(environ={}))
        channel.stats.in_flight = rng.randrange(20)
        channel.stats.latency = rng.random()
        channels.append(channel)
    return ChannelTable(channels, {})


def measured(
    channels: ChannelTable,
    choose: Strategy,
    *,
    ill: int = 0,
    tried: int = 0,
    prefer: bool = False,
) -> float:
    rng = Random(2)
    out = {c.name for c in rng.sample(channels.channels, ill * CHANNELS // 100)}
    admits: Callable[[LiveChannel], bool] | None = (lambda c: c.name not in out) if ill else None
    best = float("inf")
    for _ in range(REPEATS):
        spent = 0.0
        for number in range(ROUNDS):
            name = f"user-{number}" if prefer else None
            begun = perf_counter()
            tiers = channels.tiers("gpt-4o", "chat", None)
            candidates = Candidates(tiers, rng, choose=choose, admits=admits, prefer=name)
            spent += perf_counter() - begun
            for _ in range(tried):
                failed = candidates.channel()
                assert failed is not None
                candidates.failed(failed, "a key")
            begun = perf_counter()
            channel = candidates.channel()
            assert channel is not None
            key = channel.pool.take_now()  # type: ignore[attr-defined]
            spent += perf_counter() - begun
            channel.pool.report(key, "ok")
        best = min(best, spent / ROUNDS * 1e6)
    return best


def main() -> None:
    channels = table()
    cases: dict[str, dict[str, Any]] = {
        "all": {},
        "10% ill": {"ill": 10},
        "50% ill": {"ill": 50},
        "2 tried": {"tried": 2},
        "10% ill, 2 tried": {"ill": 10, "tried": 2},
        "preferred": {"prefer": True},
        "preferred, 10% ill": {"prefer": True, "ill": 10},
        "90% ill": {"ill": 90},
    }
    print(f"{'us a choice':16}" + "".join(f"{name:>20}" for name in cases))
    over = []
    for name, strategy in STRATEGIES.items():
        found = {case: measured(channels, strategy, **how) for case, how in cases.items()}
        print(f"{name:16}" + "".join(f"{us:20.1f}" for us in found.values()), flush=True)
        over += [f"{name}, {case}" for case, us in found.items() if us > LIMIT]
    print(f"over {LIMIT:g} us: " + ("; ".join(over) or "none"))


if __name__ == "__main__":
    main()
