"""`llm-gateway simulate`."""

from __future__ import annotations

import argparse

from ..errors import ConfigurationError
from ..providers.simulator import MODELS, Simulator
from . import server


def run(given: argparse.Namespace) -> int:
    """Serve a simulated provider until a signal."""
    simulator = Simulator(
        models=given.model or MODELS,
        keys=given.key,
        faults=dict(map(_fault, given.fault)),
        latency=given.latency,
        tokens_per_second=given.tokens_per_second,
    )
    configured = server.config(lambda: simulator, shutdown_timeout=1)
    listener = server.listen(given.host, given.port)
    started = f"llm-gateway: a simulated provider on {server.address(listener)}/v1"
    return server.run_here(configured, listener, started)


def _fault(text: str) -> tuple[str, str]:
    target, equals, fault = text.rpartition("=")
    if not equals or not target:
        raise ConfigurationError(f"--fault is TARGET=FAULT, like gpt-4o=once:503, not {text!r}")
    return target, fault
