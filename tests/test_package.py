"""What a user meets first: imports, versions, types."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import elbokit


def run(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True
    ).stdout


def test_import_loads_neither_torch_nor_scikit_learn() -> None:
    heavy = "('torch', 'sklearn', 'scipy', 'matplotlib', 'pandas')"
    assert (
        run("-c", f"import elbokit, sys; print([m for m in {heavy} if m in sys.modules])") == "[]\n"
    )


def test_show_versions() -> None:
    text = run("-m", "elbokit")
    words = "compiler", "CPU levels", "CPU level", "threads", "CUDA", "numpy", "scikit-learn"
    for word in (*words, "torch", "extension"):
        assert f"\n{word} " in text
    assert text.split()[:2] == ["elbokit", elbokit.__version__]


def test_version_has_one_home() -> None:
    assert elbokit.__version__ == importlib.metadata.version("elbokit")


def test_every_public_name_resolves() -> None:
    for name in elbokit.__all__:
        if name == "torch":
            pytest.importorskip("torch")
        if name == "plot":
            pytest.importorskip("matplotlib")
        assert getattr(elbokit, name) is not None
    assert set(elbokit.__all__) <= set(dir(elbokit))
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        elbokit.nonsense  # noqa: B018


def test_typed() -> None:
    package = Path(elbokit.__file__).parent
    assert (package / "py.typed").exists()
    assert (package / "_core.pyi").exists()


def test_the_stub_lists_what_the_module_has() -> None:
    from elbokit import _core

    stub = (Path(elbokit.__file__).parent / "_core.pyi").read_text()
    public = [name for name in dir(_core) if not name.startswith("_")]
    forms = "def {}(", "\n{}:", "\nclass {}:"
    missing = [name for name in public if not any(form.format(name) in stub for form in forms)]
    assert not missing


def test_a_star_leaves_torch_alone() -> None:
    names: dict[str, object] = {"torch": "the user's"}
    exec("from elbokit import *", names)
    assert names["torch"] == "the user's"
    assert "GaussianMixture" in names
