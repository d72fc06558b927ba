"""What `asgi_llm_gateway` exports is exactly what it says, and costs nothing until it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import asgi_llm_gateway

MODULE = Path(asgi_llm_gateway.__file__)


def imported_for_typing() -> list[str]:
    """The names below `if TYPE_CHECKING:`."""
    tree = ast.parse(MODULE.read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return [
        alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]


def test_all_is_sorted_and_exactly_the_names_there_are() -> None:
    names = asgi_llm_gateway.__all__
    assert names == sorted(names)
    assert sorted(imported_for_typing()) == names
    assert sorted(asgi_llm_gateway._HOMES) == names


@pytest.mark.parametrize("name", asgi_llm_gateway.__all__)
def test_each_name_is_there_and_called_by_its_own_name(name: str) -> None:
    value = getattr(asgi_llm_gateway, name)
    assert value.__name__ == name
    assert value.__doc__
    assert name in dir(asgi_llm_gateway)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nope'"):
        asgi_llm_gateway.nope  # noqa: B018


def test_importing_the_package_loads_none_of_it() -> None:
    code = (
        "import sys; import asgi_llm_gateway; "
        "print([n for n in sys.modules if n.startswith('asgi_llm_gateway.')], "
        "[n for n in ('starlette', 'httpx', 'httptools', 'msgspec') if n in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=MODULE.parents[1],
    )
    assert shown.stdout.split() == ["[]", "[]"]
