"""Which channels, and which models on them, can be asked at the moment."""

from .book import Health
from .entries import ORDINARY, Probe
from .events import HealthEvent, HealthState
from .rules import HealthRules, health_rules

__all__ = [
    "ORDINARY",
    "Health",
    "HealthEvent",
    "HealthRules",
    "HealthState",
    "Probe",
    "health_rules",
]
