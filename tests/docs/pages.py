"""README and docs as their tests read them: blocks of code, and tables by their first heading."""

from __future__ import annotations

import re
import tomllib
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
Rows = list[tuple[str, ...]]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def tables(page: Path) -> dict[str, Rows]:
    """The rows of each table of a page, by the first cell of its heading."""
    found: dict[str, Rows] = {}
    kept: Rows = []
    for line in [*page.read_text(encoding="utf-8").splitlines(), ""]:
        if line.startswith("|"):
            kept.append(tuple(cell.strip() for cell in line.strip("|").split("|")))
        elif kept:
            heading, _, *rows = kept
            assert all(len(row) == len(heading) for row in rows), f"{page.name}: {heading}"
            assert heading[0] not in found, f"{page.name} has two tables headed {heading[0]}"
            found[heading[0]] = rows
            kept = []
    return found


def table(heading: str) -> Rows:
    """The one table whose heading begins so, wherever it stands."""
    found = [rows[heading] for page in PAGES if heading in (rows := tables(page))]
    assert len(found) == 1, f"{len(found)} tables are headed {heading}"
    return found[0]


def words(cell: str) -> list[str]:
    """What a cell says in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def word(cell: str) -> str:
    """The one thing it says in backticks."""
    (only,) = words(cell)
    return only


def value(cell: str) -> Any:
    """A default as pages write it: TOML, or none; `inf` and bare words as they stand."""
    text = cell.strip("`")
    if text in ("none", ""):
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def default_of(field: Field[Any]) -> Any:
    """A dataclass field's default, in TOML's kinds; None too where there is none."""
    found = field.default
    if field.default_factory is not MISSING:
        found = field.default_factory()
    return None if found is MISSING else list(found) if isinstance(found, tuple) else found


def defaults(kind: Any) -> dict[str, Any]:
    """The arguments of a dataclass with their defaults."""
    return {field.name: default_of(field) for field in fields(kind) if field.init}


def told_defaults(rows: Rows) -> dict[str, Any]:
    """Names and defaults as a table has them in its first two columns."""
    return {word(name): value(given) for name, given, *_ in rows}
