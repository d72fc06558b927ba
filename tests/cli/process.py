"""The command as a process of its own: started, waited for, ended."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

_PATIENCE = 30.0
"""Seconds; only to end a test that hangs."""


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's own, without what would change the command."""
    ours = re.compile(r"LLM_GATEWAY_|INITIAL_ROOT_TOKEN|.*_API_KEY$")
    kept = {name: value for name, value in os.environ.items() if not ours.match(name)}
    return {**kept, "PYTHONWARNINGS": "error", **more}


def run(
    *arguments: str, cwd: Path | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "asgi_llm_gateway", *arguments],
        cwd=cwd,
        env=environment(environ),
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )


class Served:
    """A command that serves: its base URL and its log."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process, self._log = process, log
        assert process.stdout is not None
        self.line = process.stdout.readline().strip()
        found = re.search(r"http://\S+/v1", self.line)
        assert found, f"no start-up line but {self.line!r}; {self.log}"
        self.base_url = found[0]

    @property
    def log(self) -> str:
        return self._log.read_text()

    def until_logged(self, text: str, times: int = 1) -> None:
        deadline = time.monotonic() + _PATIENCE
        while self.log.count(text) < times:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.log}"
            time.sleep(0.02)

    def call(
        self, token: str | None = None, model: str = "gpt-4o", **more: object
    ) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}
        headers = {"authorization": f"Bearer {token}"} if token else {}
        url = f"{self.base_url}/chat/completions"
        return httpx.post(url, json=body, headers=headers, timeout=_PATIENCE)

    def stop(self, signal: int) -> int:
        """Send the signal, and wait for the exit code."""
        self.process.send_signal(signal)
        return self.process.wait(_PATIENCE)


@contextmanager
def serving(*arguments: str, cwd: Path, **environ: str) -> Iterator[Served]:
    """Start a command that serves, and see to it that it ends."""
    log = cwd / "stderr.txt"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "asgi_llm_gateway", *arguments],
            cwd=cwd,
            env=environment(environ),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    with process:
        try:
            yield Served(process, log)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
