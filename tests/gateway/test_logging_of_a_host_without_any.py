"""A host that sets up no logging still sees what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HOST = """
import asyncio
from asgi_llm_gateway import Channel, Gateway
from tests.asgi import call

gateway = Gateway([Channel(name="main", provider="openai", keys=["env:NOT_SET_ANYWHERE"],
                           models=["*"])])
print(asyncio.run(call(gateway, "GET", "/v1/models")).status)
"""


@pytest.mark.parametrize("level", ["", "import logging; logging.disable(logging.CRITICAL)"])
def test_why_it_cannot_start_is_on_its_error_output(level: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", level + HOST],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "503\n"
    reason = "the environment variable NOT_SET_ANYWHERE is not set; set it"
    assert (reason in done.stderr) == (not level)
