"""A provider to try things on: `Simulator` is an ASGI app that speaks OpenAI's dialect."""

from .app import MODELS, Seen, Simulator, simulator_app
from .faults import Fault

__all__ = ["MODELS", "Fault", "Seen", "Simulator", "simulator_app"]
