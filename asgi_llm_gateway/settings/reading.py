"""From what was written to Settings: every value checked, every problem one line."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ..auth.store import MemoryTokenStore
from ..auth.token import AccessToken
from ..channels.channel import Channel, limits_of
from ..errors import ConfigurationError
from ..keys.sources import resolve
from .layers import Given, Layers, Row
from .tables import TABLES, Settings, UpstreamSettings

ROOT_TOKENS = ("LLM_GATEWAY_ACCESS_TOKEN", "INITIAL_ROOT_TOKEN")
"""Variables that hold one access token, named root; the second is one-api's."""

_MISSING: Final = object()

Source = str | os.PathLike[str] | Mapping[str, Any]


def read_settings(
    given: Source | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Mapping[str, Any]] | None = None,
) -> Settings:
    """Settings from a TOML file (or a mapping like one), the environment and flags.

    A flag goes over the environment, the environment over the file. `env:NAME` may stand for any
    text; relative `file:` paths are looked for beside the settings file. Keys of channels are
    not read here but when the gateway starts. Raises ConfigurationError with one line for each
    problem, which names the file, the setting and the fix.
    """
    environ = os.environ if environ is None else environ
    source = "settings" if isinstance(given, Mapping) else os.fspath(given or "environment")
    document = given if isinstance(given, Mapping) else {} if given is None else _document(source)
    layers = Layers()
    layers.add_document(document, source)
    layers.add_environment(environ)
    layers.add_flags(flags or {})
    folder = None if given is None or isinstance(given, Mapping) else Path(source).parent
    reading = _Reading(layers, source, folder, environ)
    settings = reading.settings()
    if reading.problems:
        raise ConfigurationError("\n".join(reading.problems))
    return settings


def _document(source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(source).read_text(encoding="utf-8-sig"))
    except tomllib.TOMLDecodeError as exc:
        raise ConfigurationError(f"{source}: this is not TOML: {exc}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{source}: this is not UTF-8 text; save it as UTF-8") from exc
    except OSError as exc:
        raise ConfigurationError(f"{source}: cannot be read: {exc.strerror}") from exc


class _Reading:
    """One pass over the layers; what is wrong is collected, so that one look shows all of it."""

    def __init__(
        self, layers: Layers, source: str, folder: Path | None, environ: Mapping[str, str]
    ) -> None:
        self._layers = layers
        self._source = source
        self._folder = folder
        self._environ = environ
        self.problems = layers.problems

    def settings(self) -> Settings:
        layers = self._layers
        written = {name: self._row(row) for name, row in layers.tables.items()}
        health = written.pop("health")
        tables = {name: TABLES[name][0](**values) for name, values in written.items()}
        shared = self._shared(tables["upstream"])
        rows = layers.lists["channels"]
        channels = [self._channel(at, row, shared) for at, row in enumerate(rows)]
        tokens = [self._token(at, row) for at, row in enumerate(layers.lists["access_tokens"])]
        self._refuse_twins(rows)
        good_tokens = tuple(token for token in [*tokens, self._root_token()] if token)
        try:
            MemoryTokenStore(good_tokens)
        except ConfigurationError as exc:
            self.problems.append(f"{self._source}: {exc.message}")
        return Settings(
            **tables,
            channels=tuple(channel for channel in channels if channel),
            access_tokens=good_tokens,
            error_rules=tuple(self._row(row) for row in layers.lists["error_rules"]),
            aliases=self._map("aliases"),
            default_models=self._map("default_models"),
            health=health,
            source=self._source,
            folder=None if self._folder is None else str(self._folder),
        )

    def _shared(self, upstream: UpstreamSettings) -> UpstreamSettings:
        try:
            limits_of(_limits(upstream.timeouts), f"{self._source}: upstream")
        except ConfigurationError as exc:
            self.problems.append(exc.message)
            return UpstreamSettings()
        return upstream

    def _refuse_twins(self, rows: list[Row]) -> None:
        seen: set[Any] = set()
        for at, row in enumerate(rows):
            name = row["name"].value if "name" in row else None
            if isinstance(name, str) and name in seen:
                self.problems.append(
                    f"{self._source}: channels[{at}].name: another channel is named {name!r} too; "
                    "rename one"
                )
            seen.add(name if isinstance(name, str) else None)

    def _row(self, row: Row) -> dict[str, Any]:
        """The checked values of one table; those that are wrong are left out."""
        values: dict[str, Any] = {}
        for key, given in row.items():
            before = len(self.problems)
            value = self._value(given)
            if len(self.problems) == before:
                values[key] = tuple(value) if isinstance(value, list) else value
        return values

    def _map(self, name: str) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for given in self._layers.maps[name]:
            before = len(self.problems)
            value = self._value(given)
            if len(self.problems) == before:
                merged.update(value)
        return merged

    def _value(self, given: Given) -> Any:
        value, kind = given.value, given.kind
        if kind.late:
            value = [self._beside(v) for v in value] if isinstance(value, list) else value
        elif isinstance(value, str) and value.startswith("env:"):
            text = self._from_env(value, given.where)
            if text is _MISSING:
                return None
            value = kind.from_text(text)
        elif isinstance(value, list | tuple | Mapping):
            value = self._from_env(value, given.where)
        if kind.accepts(value):
            return value if kind.becomes is None else kind.becomes(value)
        if not self._reported(value):
            self.problems.append(f"{given.where} {kind.refusal(value)}")
        return value

    @staticmethod
    def _reported(value: Any) -> bool:
        """Whether something in it is missing from the environment: that is said already."""
        if not isinstance(value, list | Mapping):
            return value is _MISSING
        items = value.values() if isinstance(value, Mapping) else value
        return any(map(_Reading._reported, items))

    def _from_env(self, value: Any, where: str) -> Any:
        """What `env:NAME` stands for, in lists and tables too; _MISSING, and a problem, when it is
        not set."""
        if isinstance(value, list | tuple):
            return [self._from_env(item, where) for item in value]
        if isinstance(value, Mapping):
            return {key: self._from_env(item, where) for key, item in value.items()}
        if not isinstance(value, str) or not value.startswith("env:"):
            return value
        name = value.removeprefix("env:")
        found = self._environ.get(name, "").strip()
        if not found:
            self.problems.append(f"{where}: the environment variable {name} is not set; set it")
            return _MISSING
        return found

    def _beside(self, value: Any) -> Any:
        """A relative `file:` path as seen from the settings file's folder."""
        if self._folder is None or not isinstance(value, str) or not value.startswith("file:"):
            return value
        return f"file:{self._folder / Path(value.removeprefix('file:')).expanduser()}"

    def _channel(self, at: int, row: Row, shared: UpstreamSettings) -> Channel | None:
        where = f"{self._source}: channels[{at}]"
        before = len(self.problems)
        values = self._row(row)
        if "name" not in row:
            self.problems.append(f'{where} has no name; add one like name = "main"')
        if len(self.problems) > before:
            return None
        values["timeouts"] = _limits({**shared.timeouts, **values.get("timeouts", {})})
        if "model_timeouts" in values:
            values["model_timeouts"] = {
                glob: _limits(limits) for glob, limits in values["model_timeouts"].items()
            }
        values["proxy"] = values.get("proxy", shared.proxy) or None
        try:
            return Channel(**values)
        except ConfigurationError as exc:
            self.problems.append(f"{where}: {exc.message}")
            return None

    def _token(self, at: int, row: Row) -> AccessToken | None:
        where = f"{self._source}: access_tokens[{at}]"
        before = len(self.problems)
        values = self._row(row)
        if "token" in values:
            values["token"] = self._secret(values["token"], row["token"].where)
        if len(self.problems) > before:
            return None
        return self._access_token(None, values, where)

    def _secret(self, written: str, where: str) -> str:
        """An access token's secret, read from its file if it names one."""
        try:
            found = resolve(self._beside(written), self._environ, where=where)
        except ConfigurationError as exc:
            self.problems.append(exc.message)
            return ""
        if len(found) != 1:
            self.problems.append(f"{where} must be one token; there are {len(found)}")
            return ""
        return found[0]

    def _root_token(self) -> AccessToken | None:
        for variable in ROOT_TOKENS:
            if secret := self._environ.get(variable, "").strip():
                return self._access_token(secret, {"name": "root"}, variable)
        return None

    def _access_token(
        self, secret: str | None, fields: Mapping[str, Any], where: str
    ) -> AccessToken | None:
        try:
            return AccessToken.from_mapping(secret, fields)
        except ConfigurationError as exc:
            self.problems.append(f"{where}: {exc.message}")
            return None


def _limits(written: Mapping[str, Any]) -> dict[str, float | None]:
    """Time limits as settings write them: false is none at all, as TOML has no null."""
    return {name: None if seconds is False else seconds for name, seconds in written.items()}
