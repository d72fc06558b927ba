"""Which settings file is meant."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from ..errors import ConfigurationError

DEFAULT: Final = "gateway.toml"


def settings_file(named: str | None) -> str | None:
    """The file named, else ./gateway.toml; None where the environment alone describes channels.

    Raises ConfigurationError when there is none of these.
    """
    if named is not None:
        return named
    if Path(DEFAULT).is_file():
        return DEFAULT
    if any(name.startswith("LLM_GATEWAY_CHANNELS_") for name in os.environ):
        return None
    raise ConfigurationError(
        f"there is no {DEFAULT} here: name a settings file, or describe channels in the "
        "environment (LLM_GATEWAY_CHANNELS_0_NAME and so on)"
    )
