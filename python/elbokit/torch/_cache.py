"""The memory of large gradients, which is kept for the next ones."""

from __future__ import annotations

import sys

from elbokit import _core
from elbokit.torch._checks import check_int, check_non_negative

__all__ = ["cache_limit", "empty_cache", "set_cache_limit"]


def cache_limit() -> int:
    """Return how many bytes of freed CPU gradients the losses keep at most; 256 MiB at first."""
    return _core.pool_limit()


def set_cache_limit(n_bytes: int) -> None:
    """Set how many bytes of freed CPU gradients the losses keep for the next ones.

    Fresh memory is cleared page by page when it is first touched, which takes longer than the loss
    that writes it. So the gradients that a loss computes, from 1 MiB on, come from memory that the
    gradients of an earlier step have left. Such a gradient cannot be resized.

    Parameters
    ----------
    n_bytes : int
        The limit; 0 keeps nothing.

    Raises
    ------
    TypeError, ValueError
        `n_bytes` is no int, or negative.
    """
    n_bytes = check_int("n_bytes", n_bytes)
    check_non_negative("n_bytes", n_bytes)
    _core.set_pool_limit(min(n_bytes, sys.maxsize))


def empty_cache() -> None:
    """Free the memory that is kept for gradients to come."""
    limit = _core.pool_limit()
    _core.set_pool_limit(0)
    _core.set_pool_limit(limit)
