"""The error tables one can begin with, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from .error_class import ErrorRule
from .preset_default import DEFAULT
from .preset_others import NEW_API, ONE_API

PRESETS: Final[Mapping[str, tuple[ErrorRule, ...]]] = MappingProxyType(
    {"default": DEFAULT, "one-api": ONE_API, "new-api": NEW_API}
)
