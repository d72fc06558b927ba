"""The relay and nothing else: what one more hop costs. UP is the provider's base URL."""

import os

from asgi_llm_gateway.channels.channel import Channel
from asgi_llm_gateway.relay import Relay

app = Relay(
    [
        Channel(
            name="bench",
            provider="custom",
            base_url=os.environ.get("UP", "http://127.0.0.1:9100") + "/v1",
            keys=["sk-upstream-0123456789abcdef0123456789abcdef"],
            models=["gpt-4o-mini"],
        )
    ]
)
