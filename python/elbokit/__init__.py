"""Fast, exact kernels for the evidence lower bound: EM for mixtures and fused VAE losses.

The package imports in a moment: what needs scikit-learn or torch is loaded at its first use.
"""

from __future__ import annotations

import importlib
import os
import re
import warnings
from typing import TYPE_CHECKING, Any

from elbokit import ops
from elbokit._core import get_num_threads, set_num_threads
from elbokit._core import version as __version__
from elbokit._versions import show_versions

if TYPE_CHECKING:
    from elbokit import mixture, reference
    from elbokit import plot as plot
    from elbokit import torch as torch
    from elbokit.mixture import (
        GaussianMixture,
        MixturePrior,
        fit_mixtures,
        select_n_components,
    )

__all__ = [
    "GaussianMixture",
    "MixturePrior",
    "__version__",
    "fit_mixtures",
    "get_num_threads",
    "mixture",
    "ops",
    "reference",
    "select_n_components",
    "set_num_threads",
    "show_versions",
]  # without plot and torch: a star must not import them, nor hide torch itself

_threads = os.environ.get("ELBOKIT_NUM_THREADS")
if _threads and not re.match(r"\s*\+?0*[1-9]", _threads):  # as the core reads it
    warnings.warn(
        f"the environment variable ELBOKIT_NUM_THREADS is {_threads!r}, expected a number of "
        "threads, at least 1; it is ignored",
        stacklevel=2,
    )

_SUBMODULES = {"mixture", "plot", "reference", "torch"}
_HOMES = {
    "GaussianMixture": "elbokit.mixture",
    "MixturePrior": "elbokit.mixture",
    "fit_mixtures": "elbokit.mixture",
    "select_n_components": "elbokit.mixture",
}


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"elbokit.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'elbokit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_SUBMODULES})
