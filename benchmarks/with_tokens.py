"""The relay behind access tokens, 10,000 of them. UP is the provider's base URL."""

from asgi_llm_gateway.auth import TokenAuthMiddleware
from benchmarks.relay_alone import app as relay

_tokens = {f"sk-{number:05d}": {"name": f"caller-{number}"} for number in range(10_000)}
app = TokenAuthMiddleware(relay, access_tokens={**_tokens, "sk-bench": {"name": "bench"}})
