"""The lower bound over the iterations: when to stop, and what to print."""

from __future__ import annotations

from time import time
from types import TracebackType

__all__ = ["ConvergenceMonitor"]


class ConvergenceMonitor:
    """Know the bound before and after one EM run, and print its progress.

    Parameters
    ----------
    tol : float
        The run has converged when the bound changes by less than this.
    verbose : int
        0 is silent, 1 prints iterations, 2 adds times and changes.
    verbose_interval : int
        Number of iterations between two lines.
    lower_bound : float, default=-inf
        Bound before the first iteration.

    Attributes
    ----------
    lower_bound : float
        The latest bound known.
    converged : bool
        Whether the last change was below `tol`.
    """

    def __init__(
        self, tol: float, verbose: int, verbose_interval: int, lower_bound: float = -float("inf")
    ) -> None:
        self.tol = tol
        self.verbose = int(verbose)
        self.verbose_interval = verbose_interval
        self.lower_bound = lower_bound
        self.converged = False
        self._start = self._last = time()

    @property
    def progress_interval(self) -> int:
        """Number of iterations between two calls of :meth:`progress`; 0 means none."""
        return int(self.verbose_interval) if self.verbose else 0

    def __enter__(self) -> ConvergenceMonitor:
        """Return the monitor: around a run it cleans up whatever happens."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the lines as they are."""

    def begin(self, init: int) -> None:
        """Announce initialisation number `init`."""
        self._start = self._last = time()
        if self.verbose:
            print(f"Initialization {init}")

    def finish(self, lower_bound: float, converged: bool) -> None:
        """Record the bound and the outcome of the run."""
        self.lower_bound, self.converged = lower_bound, converged

    def end(self) -> None:
        """Report the result of the run."""
        outcome = "converged" if self.converged else "did not converge"
        if self.verbose == 1:
            print(f"Initialization {outcome}.")
        elif self.verbose >= 2:
            print(
                f"Initialization {outcome}. time lapse {time() - self._start:.5f}s\t lower bound"
                f" {self.lower_bound:.5f}."
            )

    def progress(self, n_iter: int, change: float, lower_bound: float | None = None) -> None:
        """Print one line in scikit-learn's wording: iterations done, and the bound's change."""
        if self.verbose == 1:
            print(f"  Iteration {n_iter}")
            return
        now = time()
        print(f"  Iteration {n_iter}\t time lapse {now - self._last:.5f}s\t ll change {change:.5f}")
        self._last = now
