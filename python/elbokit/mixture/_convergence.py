"""The lower bound over the iterations: when to stop, and what to print."""

from __future__ import annotations

from time import time

__all__ = ["ConvergenceMonitor"]


class ConvergenceMonitor:
    """Record the bound of one EM run, print its progress and tell when it stops rising.

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
    lower_bounds : list of float
        Bound of each iteration.
    converged : bool
        Whether the last change was below `tol`.
    """

    def __init__(
        self, tol: float, verbose: int, verbose_interval: int, lower_bound: float = -float("inf")
    ) -> None:
        self.tol = tol
        self.verbose = int(verbose)
        self.verbose_interval = verbose_interval
        self.lower_bounds: list[float] = []
        self.converged = False
        self._lower_bound = lower_bound
        self._start = self._last = time()

    @property
    def lower_bound(self) -> float:
        """The latest bound."""
        return self._lower_bound

    def begin(self, init: int) -> None:
        """Announce initialisation number `init`."""
        self._start = self._last = time()
        if self.verbose:
            print(f"Initialization {init}")

    def update(self, lower_bound: float) -> bool:
        """Record the bound of one more iteration.

        Parameters
        ----------
        lower_bound : float
            The bound, per sample.

        Returns
        -------
        converged : bool
            Whether to stop.
        """
        change = lower_bound - self._lower_bound
        self._lower_bound = lower_bound
        self.lower_bounds.append(lower_bound)
        self.converged = abs(change) < self.tol
        n_iter = len(self.lower_bounds)
        if self.verbose and n_iter % self.verbose_interval == 0:
            self._print_iteration(n_iter, change)
        return self.converged

    def end(self) -> None:
        """Report the result of the run."""
        outcome = "converged" if self.converged else "did not converge"
        if self.verbose == 1:
            print(f"Initialization {outcome}.")
        elif self.verbose >= 2:
            print(
                f"Initialization {outcome}. time lapse {time() - self._start:.5f}s\t lower bound"
                f" {self._lower_bound:.5f}."
            )

    def _print_iteration(self, n_iter: int, change: float) -> None:
        """Print one line in scikit-learn's wording."""
        if self.verbose == 1:
            print(f"  Iteration {n_iter}")
            return
        now = time()
        print(f"  Iteration {n_iter}\t time lapse {now - self._last:.5f}s\t ll change {change:.5f}")
        self._last = now
