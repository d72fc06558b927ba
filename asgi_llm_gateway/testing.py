"""For your own tests: a provider that behaves, or misbehaves as you say, with no network.

    simulator = Simulator(faults={"gpt-4o": "503"})
    gateway = Gateway(channels=[simulated_channel(simulator)])

Every fault a provider has in production is one word: see `Fault`. What the simulator was asked is
in `simulator.calls`.
"""

from __future__ import annotations

from typing import Any

from .channels.channel import Channel
from .providers.simulator import Fault, Seen, Simulator
from .upstream.in_process import InProcessUpstream

__all__ = ["Fault", "Seen", "Simulator", "simulated_channel"]


def simulated_channel(simulator: Simulator, *, name: str = "simulator", **options: Any) -> Channel:
    """A channel whose provider is this simulator, in process; `options` are the Channel's own.

    It serves every model and takes any path unless the options say otherwise.
    """
    defaults: dict[str, Any] = {"models": ["*"], "passthrough": True, "keys": ["sk-simulated"]}
    return Channel(
        name=name,
        provider="simulator",
        upstream=InProcessUpstream(simulator),
        **{**defaults, **options},
    )
