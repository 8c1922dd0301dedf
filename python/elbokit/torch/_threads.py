"""The losses run on torch's own threads.

A loss stands between torch's operators, whose threads wait actively for the next one for a while:
threads of ours would have to share the cores with them, and to be woken.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

from elbokit import _core

__all__ = ["share_threads"]


def share_threads() -> bool:
    """Let the losses run on the OpenMP threads that torch brings; return whether that could be.

    Of a torch that brings none (another platform, a distribution's build) nothing is taken.
    """
    if not hasattr(os, "RTLD_NOLOAD"):
        return False
    for path in sorted((Path(torch.__file__).parent / "lib").glob("lib*omp*.so*")):
        try:
            # Only a library that the process has loaded already: torch's, not a second one.
            library = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
            functions = library.GOMP_parallel, library.omp_get_max_threads
        except (OSError, AttributeError):
            continue
        run, size = (ctypes.cast(f, ctypes.c_void_p).value for f in functions)
        if run and size:
            _core.lend_team(run, size)
            return True
    return False
