"""A progress bar over the iterations of a run."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any

from elbokit._progress import close_bar, new_bar
from elbokit.mixture._convergence import ConvergenceMonitor

__all__ = ["BarMonitor", "new_monitor"]


def new_monitor(
    tol: float,
    verbose: int | str,
    verbose_interval: int,
    lower_bound: float,
    *,
    max_iter: int,
    n_init: int,
) -> ConvergenceMonitor:
    """Make the monitor that `verbose` asks for, for one run of `n_init`."""
    if isinstance(verbose, str):
        return BarMonitor(tol, lower_bound, max_iter=max_iter, n_init=n_init)
    return ConvergenceMonitor(tol, verbose, verbose_interval, lower_bound)


class BarMonitor(ConvergenceMonitor):
    """Show the iterations of one run as a bar, with the bound and its change behind it.

    Parameters
    ----------
    tol : float
        See :class:`ConvergenceMonitor`.
    lower_bound : float, default=-inf
        Bound before the first iteration.
    max_iter : int
        Length of the bar.
    n_init : int, default=1
        Number of runs, for the bar's title.

    Raises
    ------
    ImportError
        By :meth:`begin`, if tqdm is not installed.
    """

    def __init__(
        self, tol: float, lower_bound: float = -math.inf, *, max_iter: int, n_init: int = 1
    ) -> None:
        super().__init__(tol, 1, 1, lower_bound)
        self.max_iter = max_iter
        self.n_init = n_init
        self._bar: Any = None

    def begin(self, init: int) -> None:
        """Draw the bar of initialisation number `init`."""
        title = "EM" if self.n_init == 1 else f"EM {init + 1}/{self.n_init}"
        self._bar = new_bar(
            "verbose='bar'", total=self.max_iter, desc=title, unit="it", dynamic_ncols=True
        )

    def progress(self, n_iter: int, change: float, lower_bound: float | None = None) -> None:
        """Move the bar, which draws itself if the last time was long enough ago."""
        self._bar.set_postfix_str(_postfix(lower_bound, change), refresh=False)
        self._bar.update(n_iter - self._bar.n)

    def end(self) -> None:
        """Show how the run ended; a run that converged early fills its bar."""
        if self.converged:
            self._bar.total = self._bar.n
        outcome = "converged" if self.converged else "did not converge"
        # A start that another run had has no iterations of its own to show.
        shown = self._bar.postfix or _postfix(self.lower_bound, math.inf)
        self._bar.set_postfix_str(f"{shown}, {outcome}", refresh=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the bar; that of a run which failed is wiped off."""
        if self._bar is not None:
            close_bar(self._bar, failed=kind is not None)


def _postfix(lower_bound: float | None, change: float) -> str:
    """Write the bound and its change; the first iteration has none."""
    parts = [] if lower_bound is None else [f"bound={lower_bound:.6g}"]
    if math.isfinite(change):
        parts.append(f"change={change:.1e}")
    return ", ".join(parts)
