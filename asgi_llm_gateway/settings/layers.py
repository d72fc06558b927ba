"""File, environment and flags laid over each other: each value with the place it was written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final

from .kinds import Kind
from .tables import LISTS, MAPS, TABLES

PREFIX: Final = "LLM_GATEWAY_"


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it was written, and where: `gateway.toml: server.port` or a variable's name."""

    value: Any
    where: str
    kind: Kind


Row = dict[str, Given]


@dataclass(slots=True)
class Layers:
    """What was given for each table; a later layer replaces single values of an earlier one."""

    tables: dict[str, Row] = field(default_factory=lambda: {name: {} for name in TABLES})
    lists: dict[str, list[Row]] = field(default_factory=lambda: {name: [] for name in LISTS})
    maps: dict[str, list[Given]] = field(default_factory=lambda: {name: [] for name in MAPS})
    problems: list[str] = field(default_factory=list)

    def add_document(self, document: Mapping[str, Any], source: str) -> None:
        """The tables of a file or a mapping; whatever is no setting is a problem."""
        for name, content in document.items():
            if name in TABLES:
                self._fill(self.tables[name], TABLES[name][1], content, f"{source}: {name}")
            elif name in LISTS:
                self._add_list(name, content, source)
            elif name in MAPS:
                self.maps[name].append(Given(content, f"{source}: {name}", MAPS[name]))
            else:
                self.problems.append(f"{source}: {_unknown_table(str(name))}")

    def add_environment(self, environ: Mapping[str, str]) -> None:
        """Every LLM_GATEWAY_<TABLE>_<KEY>; of a list, `LLM_GATEWAY_CHANNELS_0_NAME` and so on.

        A variable whose table is none of ours is left alone: Kubernetes writes
        LLM_GATEWAY_SERVICE_HOST and the like into every container beside a service of that name.
        """
        for variable in sorted(environ, key=_by_number):
            text = environ[variable].strip()
            if text and variable.startswith(PREFIX):
                self._add_variable(variable, variable.removeprefix(PREFIX), text)

    def add_flags(self, flags: Mapping[str, Mapping[str, Any]]) -> None:
        """Values of the command line, by table and key."""
        for table, values in flags.items():
            rows = TABLES[table][1]
            for key, value in values.items():
                if value is not None:
                    where = f"--{key.replace('_', '-')}"
                    self.tables[table][key] = Given(value, where, rows[key])

    def _add_list(self, name: str, content: Any, source: str) -> None:
        if not isinstance(content, list | tuple):
            self.problems.append(f"{source}: {name} must be a list of tables: write [[{name}]]")
            return
        for at, item in enumerate(content):
            row: Row = {}
            self.lists[name].append(row)
            self._fill(row, LISTS[name], item, f"{source}: {name}[{at}]")

    def _fill(self, row: Row, kinds: Mapping[str, Kind], content: Any, where: str) -> None:
        if not isinstance(content, Mapping):
            self.problems.append(f"{where} must be a table")
            return
        for key, value in content.items():
            if key in kinds:
                row[key] = Given(value, f"{where}.{key}", kinds[key])
            else:
                self.problems.append(f"{where}.{_unknown(str(key), kinds)}")

    def _add_variable(self, variable: str, rest: str, text: str) -> None:
        for name, key in _tables_of(rest):
            if name in MAPS:
                if not key:
                    value = MAPS[name].from_text(text)
                    self.maps[name].append(Given(value, variable, MAPS[name]))
                return
            row: Row | None
            if name in TABLES:
                row, kinds, setting = self.tables[name], TABLES[name][1], key
            else:
                at, _, setting = key.partition("_")
                row, kinds = self._listed(name, at, variable), LISTS[name]
            if row is None:
                return
            if setting in kinds:
                kind = kinds[setting]
                row[setting] = Given(kind.from_text(text), variable, kind)
            else:
                self.problems.append(f"{variable}: {_unknown(setting, kinds)}")

    def _listed(self, name: str, at: str, variable: str) -> Row | None:
        """The row of a list that a variable is about; one past the last is a new one."""
        rows = self.lists[name]
        if at.isdecimal() and int(at) == len(rows):
            rows.append({})
        if at.isdecimal() and int(at) < len(rows):
            return rows[int(at)]
        self.problems.append(
            f"{variable}: {name} are numbered from 0 without a gap, and there are {len(rows)}"
        )
        return None


def _by_number(variable: str) -> list[tuple[int, str]]:
    """Sorts CHANNELS_2 before CHANNELS_10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in variable.split("_")]


def _tables_of(rest: str) -> Iterator[tuple[str, str]]:
    """The table and key of a variable's name, if its table is one of ours."""
    for name in (*TABLES, *LISTS, *MAPS):
        upper = name.upper()
        if rest == upper and name in MAPS:
            yield name, ""
        elif rest.startswith(f"{upper}_"):
            yield name, rest[len(upper) + 1 :].lower()


def _unknown(key: str, known: Mapping[str, Any]) -> str:
    close = get_close_matches(key, known, 1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
    return f"{key} is not a setting; {hint}"


def _unknown_table(name: str) -> str:
    homes = [table for table, (_, rows) in TABLES.items() if name in rows]
    if homes:
        return f"{name} is a setting of a table; write it below [{homes[0]}]"
    known = (*TABLES, *LISTS, *MAPS)
    close = get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
    return f"{name} is not a table of settings; {hint}"
