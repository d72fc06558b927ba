"""Which store: the URL of `[state] store`, taken apart.

    memory://
    redis://[user:password@]host[:6379][/db]             rediss:// the same over TLS
    unix://[user:password@]/path/of/socket[?db=0]
    redis+cluster://[user:password@]host[:6379],host…    rediss+cluster://
    redis+sentinel://[user:password@]host[:26379],host…/service[/db]    rediss+sentinel://

User, password, path and options may be percent-encoded; what of `/ ? # @ : %` stands in a password
must be. Options (`?name=value&…`): `timeout` and `connect_timeout` in seconds; with TLS `ca_file`,
`cert_file`, `key_file`, `verify=no` (any certificate) and `check_hostname=no`; with sentinel
`sentinel_user` and `sentinel_password`, for sentinels that ask for one of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any, Literal, NoReturn
from urllib.parse import unquote

from ..errors import ConfigurationError

__all__ = ["Kind", "StoreURL"]

Kind = Literal["memory", "server", "unix", "cluster", "sentinel"]

_SCHEMES: Mapping[str, tuple[Kind, bool]] = {
    "memory": ("memory", False),
    "redis": ("server", False),
    "rediss": ("server", True),
    "unix": ("unix", False),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
}
_EXAMPLES: Mapping[Kind, str] = {
    "memory": "memory://",
    "server": "redis://:PASSWORD@HOST:6379/0",
    "unix": "unix:///run/redis.sock?db=0",
    "cluster": "redis+cluster://HOST1:6379,HOST2:6379",
    "sentinel": "redis+sentinel://HOST1:26379,HOST2:26379/SERVICE/0",
}
_ENCODE = "in a password write / ? # @ : % as %2F %3F %23 %40 %3A %25"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreURL:
    """A store's address and how to log in; passwords are kept out of repr() and str()."""

    kind: Kind
    tls: bool = False
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    """Of the socket, for unix."""
    service: str = ""
    """The master's name, for sentinel."""
    user: str = ""
    password: str = field(default="", repr=False)
    db: int = 0
    timeout: float | None = None
    connect_timeout: float | None = None
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    verify: bool = True
    check_hostname: bool = True
    sentinel_user: str = ""
    sentinel_password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, url: str) -> StoreURL:
        """Take a URL apart; ConfigurationError with one line that says what to write instead."""
        scheme, found, rest = url.partition("://")
        known = _SCHEMES.get(scheme.lower())
        if not found or known is None:
            _refuse("the URL must begin with " + ", ".join(f"{name}://" for name in _SCHEMES))
        kind, tls = known
        return cls(kind=kind, tls=tls, **_Parts(kind, tls, rest).read())

    def __str__(self) -> str:
        """The address alone: no user, password or options; fit for a log."""
        scheme = next(name for name, what in _SCHEMES.items() if what == (self.kind, self.tls))
        hosts = ",".join(_host_port(host, port) for host, port in self.hosts)
        if self.kind in {"memory", "cluster"}:
            return f"{scheme}://{hosts}"
        if self.kind == "unix":
            return f"{scheme}://{self.path}?db={self.db}"
        service = f"/{self.service}" if self.kind == "sentinel" else ""
        return f"{scheme}://{hosts}{service}/{self.db}"


class _Parts:
    """What stands after the scheme, read piece by piece. No message repeats a piece that could be
    part of a password with a mistake in it."""

    def __init__(self, kind: Kind, tls: bool, rest: str) -> None:
        self.kind, self.tls = kind, tls
        if "#" in rest:
            self.refuse(f"it has a # in it; {_ENCODE}")
        rest, _, self.query = rest.partition("?")
        self.authority, slash, path = rest.partition("/")
        self.path = slash + path

    def read(self) -> dict[str, Any]:
        parts = self._options()
        login, _, hosts = self.authority.rpartition("@")
        if login:
            user, colon, password = login.partition(":")
            if not colon:
                self.refuse("user and password are written USER:PASSWORD@, or :PASSWORD@")
            parts["user"], parts["password"] = self._decoded(user), self._decoded(password)
        if self.kind == "memory":
            if self.authority or self.path or parts:
                self.refuse("nothing may follow memory://")
        elif self.kind == "unix":
            if hosts:
                self.refuse("a path has three slashes before it")
            parts["path"] = self._decoded(self.path)
            if len(parts["path"]) < 2 or "\0" in parts["path"]:
                self.refuse("the path of the socket is missing")
        else:
            if self.kind == "server" and "," in hosts:
                self.refuse("several hosts need redis+cluster:// or redis+sentinel://")
            default = 26379 if self.kind == "sentinel" else 6379
            parts["hosts"] = tuple(self._host(host, default) for host in hosts.split(","))
            self._read_path(parts)
        return parts

    def _read_path(self, parts: dict[str, Any]) -> None:
        steps = [step for step in self.path.split("/") if step]
        if self.kind == "sentinel":
            if not steps:
                self.refuse("the service's name is missing")
            parts["service"] = self._decoded(steps.pop(0))
        if self.kind == "cluster" and steps not in ([], ["0"]):
            self.refuse("a cluster has no other database than 0")
        if len(steps) > 1:
            self.refuse(f"too much follows the host; {_ENCODE}")
        if steps:
            parts["db"] = self._db(steps[0])

    def _options(self) -> dict[str, Any]:
        readers = self._readers()
        options: dict[str, Any] = {}
        for pair in self.query.split("&") if self.query else []:
            name, equals, value = pair.partition("=")
            reader = readers.get(name)
            if reader is None or not equals or name in options:
                known = ", ".join(f"{known}=" for known in readers) or "none"
                self.refuse(f"an option is unknown or stands twice; known here: {known}")
            options[name] = reader(self._decoded(value))
        return options

    def _readers(self) -> dict[str, Callable[[str], Any]]:
        """The options that mean something here, and how each is read."""
        readers: dict[str, Callable[[str], Any]] = {}
        if self.kind != "memory":
            readers |= {"timeout": self._seconds, "connect_timeout": self._seconds}
        if self.kind == "unix":
            readers |= {"db": self._db}
        if self.tls:
            readers |= {"ca_file": str, "cert_file": str, "key_file": str}
            readers |= {"verify": self._yes, "check_hostname": self._yes}
        if self.kind == "sentinel":
            readers |= {"sentinel_user": str, "sentinel_password": str}
        return readers

    def _host(self, text: str, default: int) -> tuple[str, int]:
        if text.startswith("["):  # an IPv6 address (RFC 3986, 3.2.2)
            host, bracket, port = text[1:].partition("]")
            colon, port = port[:1], port[1:]
            if not bracket or colon not in {"", ":"} or not _is_ipv6(host):
                self.refuse("an IPv6 address stands in brackets: [::1]:6379")
        else:
            host, _, port = text.partition(":")
            host = self._decoded(host)
            if not host or any(sign.isspace() or sign in "/@:[]%,\0" for sign in host):
                self.refuse(f"a host is missing or has signs that no host has; {_ENCODE}")
        if not port:
            return host, default
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
            self.refuse(f"a port is no number from 1 to 65535; {_ENCODE}")
        return host, int(port)

    def _db(self, text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 9):
            self.refuse("the database is no number")
        return int(text)

    def _seconds(self, text: str) -> float:
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            self.refuse("a timeout is a number of seconds over 0")
        return seconds

    def _yes(self, text: str) -> bool:
        if text not in {"yes", "no"}:
            self.refuse("verify and check_hostname are yes or no")
        return text == "yes"

    def _decoded(self, text: str) -> str:
        try:
            return unquote(text, errors="strict")
        except UnicodeDecodeError:
            self.refuse("what is percent-encoded must be UTF-8")

    def refuse(self, problem: str) -> NoReturn:
        _refuse(f"{problem}; for example {_EXAMPLES[self.kind]}")


def _refuse(problem: str) -> NoReturn:
    raise ConfigurationError(f"[state] store: {problem}")


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
