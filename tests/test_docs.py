"""The code blocks of docs/ run as they stand, and of README those that are whole programs."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_blocks(page, tmp_path, monkeypatch):
    """A page is one program: a block sees what those before it defined."""
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    assert blocks, f"{page.name} has no Python"
    names: dict[str, object] = {}
    for block in blocks:
        # Errors are then reported with the page's own line numbers.
        lines = "\n" * (text.count("\n", 0, block.start()) + 1)
        exec(compile(lines + block[1], str(page), "exec"), names)


def test_there_are_pages():
    assert PAGES


def test_example_of_many_mixtures():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = (b[1] for b in BLOCK.finditer(text) if "import fit_mixtures" in b[1])
    names: dict[str, object] = {}
    exec(block + "\nassert fit.means.shape == (10_000, 3, 2) and fit.converged.all()", names)


@pytest.mark.parametrize("name", ["", "mixture", "ops", "torch", "plot", "reference"])
def test_the_index_has_all_names(name):
    module = importlib.import_module(f"elbokit.{name}".rstrip("."))
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert [n for n in module.__all__ if f"`{n}`" not in text] == []
