"""The Python of README and docs runs as it is printed."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.pages import PAGES, blocks


@pytest.fixture(autouse=True)
def _garbage_collector() -> Iterator[None]:
    """As it was: a page tunes it."""
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


WITH_CODE = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType(page.stem)
    monkeypatch.setitem(sys.modules, page.stem, module)  # hosts read annotations by module name
    names = vars(module)
    given = set(names)
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), names)
    assert names.keys() - given - {"__builtins__"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)\)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
