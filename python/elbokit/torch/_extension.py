"""The C++ extension: what small losses ask of torch, without Python in between.

It has torch's headers, so it serves the version that it was built against: the one that was there
when elbokit was installed, or when `load_extension` was called. Everything else of elbokit serves
every version. ``cpp/extension``.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from elbokit import _core
from elbokit.torch._extension_build import file_name

__all__ = ["attach", "extension_is_loaded", "load_built", "load_extension", "without_extension"]

_SOURCES = Path(_core.__file__).parent / "torch" / "extension"

_module: Any = None

# ``attach(found, by_hand, options, *operands)``, as of `plain_track`: the outputs,
# with a node of autograd; or None where hooks of saved tensors want to see what is saved.
attach: Callable[..., Any] | None = None


def extension_is_loaded() -> bool:
    """Whether losses of small batches go past Python, by the C++ extension."""
    return attach is not None


def load_extension(*, verbose: bool = False) -> None:
    """Take losses of small batches past Python, by a C++ extension for the torch that is installed.

    Half of the time of a loss of, say, 128 × 784 is that of Python and of torch's functions for
    it. The extension does the same in torch's own C++. Where torch was there when elbokit was
    installed, the extension was built with it, and `elbokit.torch` has loaded it. For another
    torch it is built at the first call of this function, in some 20 seconds, and kept: later
    programs load it when they import `elbokit.torch`, until torch or elbokit is another. It
    concerns losses on the CPU, of operands of one dtype, float32 or float64, that lie one behind
    the other in memory; results are the same, bit for bit.

    Parameters
    ----------
    verbose : bool, default=False
        Print what the compiler is told.

    Raises
    ------
    RuntimeError
        It cannot be built, which takes a C++ compiler, ninja and setuptools, or kept. Everything
        works without it, too.

    Notes
    -----
    It is kept in the folder ``ELBOKIT_CACHE_DIR``, by default ``~/.cache/elbokit``
    (``XDG_CACHE_HOME``). With ``ELBOKIT_TORCH_EXTENSION=0`` in the environment, the import loads
    none.

    See Also
    --------
    torch.utils.cpp_extension.load : what builds it.
    """
    global _module
    if _module is None:
        try:
            module, _ = _load()
            _module = module or _build(_kept_at(), verbose)
        except (ImportError, OSError, RuntimeError) as error:
            raise RuntimeError(
                f"the C++ extension cannot be built against torch {torch.__version__}; it takes a "
                f"C++ compiler, ninja and setuptools (pip install ninja setuptools). {error}"
            ) from error
    _use(True)


def load_built() -> None:
    """Load the extension if it has been built for this torch."""
    global _module
    if os.environ.get("ELBOKIT_TORCH_EXTENSION") == "0":
        return
    try:
        _module, errors = _load()
    except (OSError, RuntimeError):  # there is no home, or it cannot be read
        return
    if errors:
        warnings.warn(
            f"elbokit.torch goes without its C++ extension ({'; '.join(errors)}); "
            "elbokit.torch.load_extension() builds it anew",
            RuntimeWarning,
            stacklevel=2,
        )
    _use(_module is not None)


def _load() -> tuple[Any, list[str]]:
    """Return the module that is built already, or what is wrong with the files that there are."""
    errors = []
    for place in (_installed_at, _kept_at):
        path = place()
        if path.exists():
            try:
                return _import(path), []
            except ImportError as error:
                errors.append(f"{path} cannot be loaded: {error}")
    return None, errors


def _installed_at() -> Path:
    """Return the file that the installation leaves, where this torch was there."""
    return _SOURCES / file_name(_SOURCES)


def _kept_at() -> Path:
    """Return the file that `load_extension` leaves."""
    named = os.environ.get("ELBOKIT_CACHE_DIR")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named or Path(cache, "elbokit"), file_name(_SOURCES))


def _build(path: Path, verbose: bool) -> Any:
    command = [sys.executable, "-c", f"from {file_name.__module__} import main; main()"]
    command += [str(_SOURCES), "--into", str(path.parent), *(["--verbose"] if verbose else [])]
    without = {**os.environ, "ELBOKIT_TORCH_EXTENSION": "0"}
    run = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=without)
    if run.returncode != 0:
        raise RuntimeError(run.stderr.strip())
    return _import(path)


def _import(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.name.partition(".")[0], path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _use(wanted: bool) -> None:
    global attach
    _core.set_torch_table(_module.table if wanted else None)
    attach = _module.attach if wanted else None


@contextmanager
def without_extension() -> Iterator[None]:
    """Leave the extension aside, to compare."""
    loaded = attach is not None
    if loaded:
        _use(False)
    try:
        yield
    finally:
        if loaded:
            _use(True)
