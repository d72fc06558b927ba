"""Every async test of this room runs on asyncio's own loop and on uvloop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from asgi_llm_gateway.upstream import DirectUpstream


def pytest_asyncio_loop_factories(config, item) -> Mapping[str, Callable]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def upstream() -> AsyncIterator[DirectUpstream]:
    """A DirectUpstream with its own defaults, closed in the end."""
    made = DirectUpstream()
    yield made
    await made.aclose()
