"""The C++ extension: what small losses ask of torch, without Python in between.

It has torch's headers, so it is built against the torch that is there; everything else of elbokit
serves every version. ``cpp/extension``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sysconfig
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from elbokit import _core

__all__ = ["attach", "extension_is_loaded", "load_built", "load_extension", "without_extension"]

_SOURCES = Path(_core.__file__).parent / "torch" / "extension"
_FLAGS = ["-O2", "-fvisibility=hidden"]

_module: Any = None

# ``attach(found, by_hand, options, multiples_serve, *operands)``, as of `plain_track`: the outputs,
# with a node of autograd; or None where hooks of saved tensors want to see what is saved.
attach: Callable[..., Any] | None = None


def extension_is_loaded() -> bool:
    """Whether the C++ extension of `load_extension` is loaded."""
    return _module is not None


def load_extension(*, verbose: bool = False) -> None:
    """Take losses of small batches past Python, by a C++ extension for the torch that is installed.

    Half of the time of a loss of, say, 128 × 784 is that of Python and of torch's functions for
    it. The extension does the same in torch's own C++. It is built at the first call, in some 20
    seconds, and kept: later programs load it when they import `elbokit.torch`, until torch or
    elbokit is another. It concerns losses on the CPU that are given no weights or masks; results
    are the same, bit for bit.

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
    (``XDG_CACHE_HOME``). With ``ELBOKIT_TORCH_EXTENSION=0`` in the environment, the import leaves
    it there.

    See Also
    --------
    torch.utils.cpp_extension.load : what builds it.
    """
    global _module
    if _module is None:
        try:
            kept = _kept_at()
            with suppress(ImportError):  # it is not there, or is broken
                _module = _import(kept)
            if _module is None:
                _module = _build(kept, verbose)
        except (ImportError, OSError, RuntimeError) as error:
            raise RuntimeError(
                f"the C++ extension cannot be built against torch {torch.__version__}; it takes a "
                f"C++ compiler, ninja and setuptools (pip install ninja setuptools). {error}"
            ) from error
    _use(True)


def load_built() -> None:
    """Load the extension if an earlier program has built it for this torch."""
    global _module
    if os.environ.get("ELBOKIT_TORCH_EXTENSION") == "0":
        return
    try:
        kept = _kept_at()
        if not kept.exists():
            return
    except (OSError, RuntimeError):  # there is no home, or it cannot be read
        return
    try:
        _module = _import(kept)
    except ImportError as error:
        warnings.warn(
            f"elbokit.torch goes without its C++ extension, which cannot be loaded ({error}): "
            f"delete {kept}, or call elbokit.torch.load_extension() to build it anew",
            RuntimeWarning,
            stacklevel=2,
        )
        return
    _use(True)


def _kept_at() -> Path:
    """Return the file of the extension that these sources and this torch make."""
    named = os.environ.get("ELBOKIT_CACHE_DIR")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(named) if named else Path(cache, "elbokit")
    made_of = [" ".join([torch.__version__, torch.version.git_version, *_FLAGS]).encode()]
    made_of += [source.read_bytes() for source in sorted(_SOURCES.iterdir())]
    digest = hashlib.sha256(b"\0".join(made_of)).hexdigest()[:12]
    name = re.sub(r"\W", "_", f"torch_{torch.__version__}_{digest}")
    return folder / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"


def _import(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.name.partition(".")[0], path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _build(kept: Path, verbose: bool) -> Any:
    from torch.utils import cpp_extension

    kept.parent.mkdir(parents=True, exist_ok=True)
    # In a folder of its own, moved when it is whole: a build that is killed leaves nothing that
    # another would wait for or take.
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder, _ninja_on_path():
        name = kept.name.partition(".")[0]
        module = cpp_extension.load(
            name,
            [str(_SOURCES / "extension.cpp")],
            extra_cflags=_FLAGS,
            build_directory=folder,
            verbose=verbose,
        )
        os.replace(module.__file__, kept)
    return module


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
