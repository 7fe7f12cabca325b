"""Pages that point into the code point at something."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_places_in_the_code_exist(page: Path) -> None:
    """Every `path.py:name` is a definition of that file; every image and page that is linked is there."""
    text = page.read_text()
    for path, name in re.findall(r"`([\w/]+\.py):(\w+)`", text):
        source = (ROOT / path).read_text()
        assert re.search(rf"^(class {name}|\s*def {name}|{name}\b.*=)", source, re.MULTILINE), f"{path}:{name}"
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target


def test_the_method_page_names_every_equation() -> None:
    text = (ROOT / "docs/method.md").read_text()
    assert all(f"equation ({number})" in text for number in ("1a", "1b", "2", "3", "4", "5", "6"))
