"""What `[upstream]` says holds for every channel that does not say otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_llm_gateway.errors import ConfigurationError
from asgi_llm_gateway.settings import read_settings
from asgi_llm_gateway.upstream.contract import Timeouts

SHARED: dict[str, Any] = {"timeouts": {"connect": 2, "total": 9}, "proxy": "http://proxy.test:1"}


def channel_of(upstream: dict[str, Any], **own: Any) -> Any:
    row = {"name": "a", "provider": "custom", "base_url": "http://h", "models": ["*"], **own}
    (channel,) = read_settings({"upstream": upstream, "channels": [row]}, environ={}).channels
    return channel


def test_a_channel_that_says_nothing_has_the_shared_limits_and_proxy() -> None:
    channel = channel_of(SHARED)
    assert channel.timeouts == Timeouts(connect=2, total=9)
    assert channel.proxy == "http://proxy.test:1"


def test_a_channel_replaces_single_limits_and_the_proxy() -> None:
    channel = channel_of(SHARED, timeouts={"total": 30}, proxy="http://own.test:2")
    assert channel.timeouts == Timeouts(connect=2, total=30)
    assert channel.proxy == "http://own.test:2"


def test_an_empty_proxy_is_none() -> None:
    assert channel_of(SHARED, proxy="").proxy is None


def test_a_limit_that_is_none_is_told_by_its_place() -> None:
    with pytest.raises(ConfigurationError, match="settings: upstream: timeouts has 'conect'"):
        channel_of({"timeouts": {"conect": 2}})
    assert channel_of({"timeouts": {"total": False}}).timeouts.total is None
