"""The C++ extension: what small losses ask of torch, without Python in between.

It has torch's headers, so it is built against the torch that is there; everything else of elbokit
serves every version. ``cpp/extension``.
"""

from __future__ import annotations

import os
import re
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from elbokit import _core

__all__ = ["attach", "extension_is_loaded", "load_extension", "without_extension"]

_SOURCES = Path(_core.__file__).parent / "torch" / "extension"

_module: Any = None

# ``attach(found, by_hand, options, multiples_serve, *operands)``, as of `plain_track`: the outputs,
# with a node of autograd; or None where hooks of saved tensors want to see what is saved.
attach: Callable[..., Any] | None = None


def extension_is_loaded() -> bool:
    """Whether `load_extension` has been called with success."""
    return _module is not None


def load_extension(*, verbose: bool = False) -> None:
    """Take losses of small batches past Python, by a C++ extension for the torch that is installed.

    Half of the time of a loss of, say, 128 × 784 is that of Python and of torch's functions for
    it. The extension does the same in torch's own C++. It is built at the first call, in some 20
    seconds, and kept for later ones: once for each version of torch, in torch's folder of
    extensions (``TORCH_EXTENSIONS_DIR``). It concerns losses on the CPU that are given no weights
    or masks; results are the same, bit for bit.

    Parameters
    ----------
    verbose : bool, default=False
        Print what the compiler is told.

    Raises
    ------
    RuntimeError
        It cannot be built: that takes a C++ compiler, ninja and setuptools. Everything works
        without it, too.

    See Also
    --------
    torch.utils.cpp_extension.load : what builds it.
    """
    global _module
    if _module is None:
        _module = _built(verbose)
    _use(True)


def _built(verbose: bool) -> Any:
    name = re.sub(r"\W", "_", f"elbokit_{version('elbokit')}_torch_{torch.__version__}")
    try:
        from torch.utils import cpp_extension

        with _ninja_on_path():
            return cpp_extension.load(
                name,
                [str(_SOURCES / "extension.cpp")],
                extra_cflags=["-O2", "-fvisibility=hidden"],
                verbose=verbose,
            )
    except (ImportError, OSError, RuntimeError) as error:
        raise RuntimeError(
            f"the C++ extension cannot be built against torch {torch.__version__}; it takes a C++ "
            f"compiler, ninja and setuptools (pip install ninja setuptools). {error}"
        ) from error


@contextmanager
def _ninja_on_path() -> Iterator[None]:
    """Let ninja be found beside this Python, whether or not its environment is activated."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([before, sysconfig.get_path("scripts")])
    try:
        yield
    finally:
        os.environ["PATH"] = before


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
