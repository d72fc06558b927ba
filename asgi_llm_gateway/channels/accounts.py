"""A channel's keys as accounts at its provider: who is asked about them, and where."""

from __future__ import annotations

from ..errors import ConfigurationError, Headers
from ..keys.accounts import KeyAccounts
from ..keys.pool import ManagedPool
from ..keys.probes import Asks, ListsModels, Probe, billing_of, probe_named
from .live import LiveChannel


def accounts_of(channel: LiveChannel) -> KeyAccounts | None:
    """What the sweep and `llm-gateway keys balance` ask about a channel's keys.

    None where there is nothing to ask: `billing = "none"`, no keys (a provider that needs none, or
    callers bring their own), or a pool of the user's own that keeps no balances. Raises
    ConfigurationError, naming the channel, for billing there is not.
    """
    config, pool = channel.config, channel.pool
    if config.billing == "none" or not config.keys or not isinstance(pool, ManagedPool):
        return None

    def sign(secret: str) -> Headers:
        return list(channel.sign(secret))

    try:
        probe, validity = _probes(channel)
    except ConfigurationError as problem:
        raise ConfigurationError(f"channel {channel.name!r}: {problem.message}") from problem
    return KeyAccounts(
        pool,
        probe,
        channel.upstream,
        validity=validity,
        sign=sign,
        credentials=channel.credentials,
        name=channel.name,
    )


def _probes(channel: LiveChannel) -> tuple[Probe | None, Probe | None]:
    """What is asked first, and what is asked when that cannot tell."""
    config = channel.config
    if callable(config.billing):
        return Asks(config.billing), None
    origin, target = channel.url("/models", "model")
    host = f"{origin.scheme}://{origin.netloc}"
    api = host + target.partition("?")[0].removesuffix("/models")
    name = config.billing or billing_of(channel.provider.name, api)
    probe = probe_named(name, api, config.billing_urls)
    if isinstance(probe, ListsModels):
        # A moved page stands; else the page where the channel lists models, its query included.
        return None, probe if config.billing_urls else ListsModels(host + target)
    return probe, ListsModels(host + target)
