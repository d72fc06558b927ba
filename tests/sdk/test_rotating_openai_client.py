"""The official openai client changes keys by itself, with no gateway: 3.x and 1.x, sync and async.

The 1.x client runs in an environment of its own, which `scripts/venv-openai1` makes (slow).
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from asgi_llm_gateway.keys.key import Key
from asgi_llm_gateway.providers.simulator import Simulator
from tests.sdk import rotating
from tests.sdk.rotating import BUSY, DEAD, GOOD, SPARE
from tests.served import served

ROOT = Path(__file__).resolve().parents[2]
OLD = ROOT / ".venv-openai1/bin/python"
RUNS = [
    ("3.x", "sync", "own"),
    ("3.x", "async", "own"),
    ("3.x", "sync", "httpx"),
    ("3.x", "async", "httpx"),
    ("3.x", "async", "direct"),
    pytest.param(("1.x", "sync", "own"), marks=pytest.mark.slow),
    pytest.param(("1.x", "async", "own"), marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=RUNS, ids="-".join)
def ran(request: pytest.FixtureRequest) -> Any:
    """What came of the script, and the keys the provider was shown."""
    version, mode, kind = request.param
    simulator = Simulator(faults={DEAD: "401", BUSY: "429:60", "gpt-once": "once:500"})
    with served(simulator) as base:
        if version == "3.x":
            facts: Any = asyncio.run(rotating.Script(base, mode, kind).run())
        else:
            facts = _in_the_old_environment(base, mode, kind)
    assert facts["version"].startswith(version[:2])
    return facts, [seen.key for seen in simulator.calls]


def _in_the_old_environment(base: str, mode: str, kind: str) -> Any:
    made = subprocess.run(
        [ROOT / "scripts/venv-openai1"], capture_output=True, text=True, timeout=300, check=False
    )
    if made.returncode:
        pytest.skip(f"no environment for openai 1.x: {made.stderr.strip()[-300:]}")
    command = [OLD, Path(rotating.__file__), base, mode, kind, sysconfig.get_path("platlib")]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=environ
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_call_is_answered_by_a_key_that_works(ran: Any) -> None:
    facts, shown = ran
    assert len(facts["answers"]) == 6
    assert len(set(facts["answers"])) == 1
    assert len(facts["answers"][0]) > 20
    first = Counter(shown[:8])
    assert (first[DEAD], first[BUSY], first[GOOD] + first[SPARE]) == (1, 1, 6)
    assert min(first[GOOD], first[SPARE]) >= 2


def test_the_placeholder_key_of_the_client_never_leaves(ran: Any) -> None:
    _, shown = ran
    assert set(shown) == {DEAD, BUSY, GOOD, SPARE}


def test_the_dead_key_is_out_of_the_pool_and_the_busy_one_is_not(ran: Any) -> None:
    facts, _ = ran
    assert facts["left"] == [Key(secret).fingerprint for secret in (BUSY, GOOD, SPARE)]


def test_a_stream_holds_its_key_to_the_end(ran: Any) -> None:
    facts, _ = ran
    assert facts["streamed"] == {"text": facts["answers"][0], "during": 1}
    assert facts["in flight"] == 0


def test_the_clients_own_retries_go_on_with_the_pool(ran: Any) -> None:
    facts, shown = ran
    assert len(facts["retried"]) > 20
    assert set(shown[9:11]) == {GOOD, SPARE}


def test_errors_are_the_clients_own(ran: Any) -> None:
    facts, _ = ran
    assert facts["busy"]["class"] == "RateLimitError"
    assert facts["dead"]["class"] == "AuthenticationError"


def test_an_empty_pool_says_so(ran: Any) -> None:
    """3.x hands on what is not its library's own; 1.x wraps it as a failed connection."""
    facts, _ = ran
    told = facts["none left"]
    if facts["version"].startswith("3."):
        assert (told["class"], told["text"]) == ("Unavailable", "the pool has no key left; add one")
    else:
        assert (told["class"], told["cause"]) == ("APIConnectionError", "Unavailable")
