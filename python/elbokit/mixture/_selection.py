"""The result of choosing the number of components: a table, the winner, a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from elbokit.mixture.gaussian_mixture import GaussianMixture

__all__ = ["Candidate", "ComponentSelection", "SelectionTable"]


class Candidate(NamedTuple):
    """One fitted mixture of the comparison.

    Attributes
    ----------
    n_components : int
        Number of components.
    covariance_type : str
        Shape of the covariances.
    criterion : float
        What was compared; lower is better, inf if the fit failed.
    bic, aic, icl : float
        Information criteria; inf if the fit failed.
    log_likelihood : float
        Of all samples; -inf if the fit failed.
    n_parameters : int
        Number of free parameters; 0 if the fit failed.
    converged : bool
        Whether EM reached `tol`.
    n_iter : int
        Its iterations.
    error : str
        Why the fit failed, or the empty string.
    """

    n_components: int
    covariance_type: str
    criterion: float
    bic: float
    aic: float
    icl: float
    log_likelihood: float
    n_parameters: int
    converged: bool
    n_iter: int
    error: str


class SelectionTable(tuple[Candidate, ...]):
    """Rows of the comparison, in the order of the fits; prints as a table."""

    __slots__ = ()

    def to_frame(self) -> Any:
        """Return the table as a pandas DataFrame, one row per candidate.

        Returns
        -------
        frame : pandas.DataFrame
            Its columns are the fields of :class:`Candidate`.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_frame needs pandas: pip install pandas") from error
        return pd.DataFrame(list(self), columns=list(Candidate._fields))

    def __repr__(self) -> str:
        """Return the table with aligned columns; the best row has a star."""
        fitted = [row for row in self if not row.error]
        best = min(fitted, key=lambda row: row.criterion, default=None)
        names = [name for name in Candidate._fields if name != "error"]
        # Named criteria have a column of their own.
        if all(row.criterion in (row.bic, row.aic, row.icl) for row in self):
            names.remove("criterion")
        lines = [["", *names]]
        for row in self:
            cells = [_cell(getattr(row, name)) for name in names]
            lines.append(["*" if row is best else "", *cells])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        notes = ["", *(f"  failed: {row.error}" if row.error else "" for row in self)]
        return "\n".join(
            ("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) + note).rstrip()
            for line, note in zip(lines, notes, strict=True)
        )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if math.isfinite(value) else f"{value}"
    return str(value)


@dataclass(frozen=True)
class ComponentSelection:
    """What :func:`elbokit.select_n_components` found.

    Attributes
    ----------
    criterion : str
        Name of the criterion.
    table : SelectionTable of Candidate
        One row per fit. Prints as a table; ``table.to_frame()`` is a pandas DataFrame.
    best_estimator : GaussianMixture
        The fitted mixture with the lowest criterion.
    best_n_components : int
        Its number of components.
    best_covariance_type : str
        Its shape of covariances.
    """

    criterion: str
    table: SelectionTable
    best_estimator: GaussianMixture = field(repr=False)
    best_n_components: int
    best_covariance_type: str

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the criterion over the number of components, a line per covariance type.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Where to draw; None makes a new figure.

        Returns
        -------
        ax : matplotlib.axes.Axes
            The axes; ``ax.figure`` is the figure.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        from elbokit.plot import criterion_curves

        return criterion_curves(self, ax=ax)

    def __str__(self) -> str:
        """Return the table and the choice."""
        return (
            f"{self.table!r}\nlowest {self.criterion}: {self.best_n_components} components, "
            f"covariance_type={self.best_covariance_type!r}"
        )
