"""The house's clocks wound up, so that leaving is noticed in milliseconds."""

from __future__ import annotations

import pytest

from asgi_llm_gateway import runtime
from asgi_llm_gateway.relay import watch
from asgi_llm_gateway.runtime import PerLoop, Sweep


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for callers who left every few milliseconds; without it, at the real pace."""
    monkeypatch.setattr(runtime, "_sweeps", PerLoop(lambda: Sweep(0.005)))
    monkeypatch.setattr(watch, "_PATIENCE", 0.005)
