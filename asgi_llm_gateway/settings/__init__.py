"""Settings from TOML, environment and flags; read by the gateway and the command line only."""

from .reading import ROOT_TOKENS, Source, read_settings
from .starting import live_channels, require_callers, require_shared_state
from .tables import AuthSettings, FailoverSettings, ServerSettings, Settings

__all__ = [
    "ROOT_TOKENS",
    "AuthSettings",
    "FailoverSettings",
    "ServerSettings",
    "Settings",
    "Source",
    "live_channels",
    "read_settings",
    "require_callers",
    "require_shared_state",
]
