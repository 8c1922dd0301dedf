"""Gaussian mixture fitted by EM, with scikit-learn's interface."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import (
    Interval,
    StrOptions,
    validate_parameter_constraints,
)

from elbokit._arrays import as_float_array
from elbokit.mixture._convergence import ConvergenceMonitor
from elbokit.mixture._em import EmRun, run_em
from elbokit.mixture._inference import FittedGaussianMixture
from elbokit.mixture._initialization import (
    Starts,
    as_starts,
    concatenate_starts,
    starting_parameters,
    warn_of_few_clusters,
)
from elbokit.mixture._missing_fit import has_missing, incomplete_runs, validate_rows
from elbokit.mixture._parameters import (
    GmmParameters,
    covariance_shape,
    precisions_from_cholesky,
)
from elbokit.mixture._partial import PartialMixin
from elbokit.mixture._problems import Problems
from elbokit.mixture._validation import (
    GivenParameters,
    IntegerInterval,
    check_given,
    check_sample_weight,
    is_plain,
)

__all__ = ["GaussianMixture"]

# Rows whose starts are sought side by side: k-means takes some 12 bytes for each.
_ROWS_AT_ONCE = 1 << 20


class GaussianMixture(PartialMixin, FittedGaussianMixture):
    """Mixture of Gaussians, fitted by expectation-maximisation.

    Parameters, attributes, methods and random draws are those of
    :class:`sklearn.mixture.GaussianMixture`: from one ``random_state`` both follow one
    trajectory. Samples may have weights.

    Parameters
    ----------
    n_components : int, default=1
        Number of components.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}, default='full'
        One general covariance per component, one for all, a diagonal per component, or
        one variance per component.
    tol : float, default=1e-3
        EM stops when the bound per sample changes by less than this.
    reg_covar : float, default=1e-6
        Added to the diagonal of the covariances to keep them positive definite.
    max_iter : int, default=100
        Largest number of iterations of one run.
    n_init : int, default=1
        Number of runs from different starts; the one with the highest bound is kept.
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data'}, default='kmeans'
        How samples are assigned to components before the first iteration.
    weights_init : array-like of shape (n_components,), default=None
        Starting weights, instead of those from `init_params`.
    means_init : array-like of shape (n_components, n_features), default=None
        Starting means.
    precisions_init : array-like, default=None
        Starting precisions: (n_components, n_features, n_features) for 'full',
        (n_features, n_features) for 'tied', (n_components, n_features) for 'diag',
        (n_components,) for 'spherical'.
    random_state : int, RandomState instance or None, default=None
        Seed of the starts and of :meth:`sample`.
    warm_start : bool, default=False
        Start from the last fit's solution; `n_init` is then ignored.
    verbose : int, default=0
        1 prints iterations, 2 adds times and changes of the bound.
    verbose_interval : int, default=10
        Number of iterations between two lines.
    missing : {'error', 'integrate'}, default='error'
        What NaN in X means: an error, or a missing entry, which is integrated out exactly in
        :meth:`fit` and in all methods that take X.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
        Mixing proportions. Arrays have the dtype of X (float32 or float64).
    means_ : ndarray of shape (n_components, n_features)
        Component means.
    covariances_, precisions_, precisions_cholesky_ : ndarray
        Covariances, their inverses and the inverses' upper triangular factors, in the
        shapes of `precisions_init`.
    converged_ : bool
        Whether the kept run reached `tol`.
    n_iter_ : int
        Iterations of the kept run.
    lower_bound_ : float
        Its last bound per sample: the E-step's, before the last M-step.
    lower_bounds_ : list of float
        Its bound of each iteration.
    n_features_in_ : int
        Number of features seen by :meth:`fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X had names that are all strings.

    Notes
    -----
    Each iteration is one pass over X that never stores the responsibilities. A component
    that loses all samples keeps its mean and covariance and gets weight 0. A fit that
    fails leaves the estimator as it was.

    Examples
    --------
    >>> import numpy as np
    >>> from elbokit import GaussianMixture
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> gm = GaussianMixture(n_components=2, random_state=0).fit(X)
    >>> gm.means_
    array([[10.,  2.],
           [ 1.,  2.]])
    >>> gm.predict([[0, 0], [12, 3]])
    array([1, 0])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [IntegerInterval(Integral, 1, None, closed="left")],
        "covariance_type": [StrOptions({"full", "tied", "diag", "spherical"})],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "reg_covar": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "init_params": [StrOptions({"kmeans", "random", "random_from_data", "k-means++"})],
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "precisions_init": ["array-like", None],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [Interval(Integral, 1, None, closed="left")],
        "missing": [StrOptions({"error", "integrate"})],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: npt.ArrayLike | None = None,
        means_init: npt.ArrayLike | None = None,
        precisions_init: npt.ArrayLike | None = None,
        random_state: int | np.random.RandomState | None = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        missing: str = "error",
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.missing = missing

    def fit(
        self, X: npt.ArrayLike, y: object = None, sample_weight: npt.ArrayLike | None = None
    ) -> GaussianMixture:
        """Estimate the parameters by EM.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data; float32 stays float32, everything else becomes float64.
        y : ignored
            Present by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights. An integer weight equals that many copies of the row.

        Returns
        -------
        self : GaussianMixture
            The fitted estimator.

        Raises
        ------
        ValueError
            If an argument has a wrong shape or value, or a covariance is not positive
            definite; the message names the argument or the component.

        Warns
        -----
        ConvergenceWarning
            If the kept run did not converge within `max_iter` iterations.
        """
        with _unchanged_on_failure(self):
            self._fit(X, sample_weight)
        self._warn_if_not_converged()
        return self

    def fit_predict(
        self, X: npt.ArrayLike, y: object = None, sample_weight: npt.ArrayLike | None = None
    ) -> npt.NDArray[np.intp]:
        """Fit the mixture and predict the component of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data.
        y : ignored
            Present by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            See :meth:`fit`.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            The labels that :meth:`predict` gives after :meth:`fit`.

        Raises
        ------
        ValueError
            See :meth:`fit`.
        """
        return self.fit(X, y, sample_weight).predict(X)

    def _validate_params(self) -> None:
        """Check the parameters as scikit-learn does, without reading a signature each time."""
        values = {name: getattr(self, name) for name in self._parameter_constraints}
        validate_parameter_constraints(
            self._parameter_constraints, values, caller_name=type(self).__name__
        )

    def _fit(self, X: npt.ArrayLike, sample_weight: npt.ArrayLike | None) -> None:
        """Validate, run EM `n_init` times and keep the best run."""
        self._validate_params()
        warm = self.warm_start and hasattr(self, "converged_")
        data = self._validate_data(X)
        weight = check_sample_weight(sample_weight, len(data))
        if weight is not None and not weight.all():
            # A row of weight zero is no row: it must not take part in the draws either.
            data, weight = data[weight > 0.0], weight[weight > 0.0]
        if len(data) < self.n_components:
            raise ValueError(
                "Expected n_samples >= n_components but got n_components = "
                f"{self.n_components}, n_samples = {len(data)}"
            )
        given = check_given(
            self.weights_init,
            self.means_init,
            self.precisions_init,
            self.covariance_type,
            self.n_components,
            data.shape[1],
        )
        rows = as_float_array(data, "X")
        problem = Problems(rows[None], None if weight is None else weight[None])
        rng = check_random_state(self.random_state)
        incomplete = self.missing == "integrate" and has_missing(data)
        runs = (
            incomplete_runs(self, problem, given, rng, warm)
            if incomplete
            else self._runs(problem, given, rng, warm)
        )
        best = None
        for run in runs:
            if best is None or best.lower_bound == -math.inf or run.lower_bound > best.lower_bound:
                best = run
        assert best is not None  # n_init >= 1
        self._store(best, data.dtype)

    def _validate_data(self, X: Any) -> npt.NDArray[Any]:
        """Return scikit-learn's reading of the data, in one pass over them."""
        if is_plain(X) and len(X) >= 2:
            # What validate_data comes to here, without a quarter of a small fit's time.
            if hasattr(self, "feature_names_in_"):
                del self.feature_names_in_
            self.n_features_in_ = X.shape[1]
            return np.asarray(X)
        return validate_rows(self, X, ensure_min_samples=2)

    def _runs(
        self, problem: Problems, given: GivenParameters, rng: np.random.RandomState, warm: bool
    ) -> Iterator[EmRun]:
        """Run EM from every start: all at once, or one by one where each has something to print."""
        if not self.verbose and not warm and self.n_init > 1:
            restarts = problem.repeat(self.n_init)
            yield from self._run_em(restarts, self._starts(restarts, given, rng))
            return
        for init in range(1 if warm else self.n_init):
            bound = self.lower_bound_ if warm else -math.inf
            monitor = ConvergenceMonitor(self.tol, self.verbose, self.verbose_interval, bound)
            monitor.begin(init)
            starts = self._last_solution(problem) if warm else self._starts(problem, given, rng)
            (run,) = self._run_em(problem, starts, monitor)
            monitor.finish(run.lower_bound, run.converged)
            if self.max_iter > 0:
                monitor.end()
            yield run

    def _starts(
        self, problems: Problems, given: GivenParameters, rng: np.random.RandomState
    ) -> Starts:
        """Return the starting parameters of each problem."""
        # Side by side while that is no more memory than one large problem takes.
        at_once = max(1, _ROWS_AT_ONCE // problems.X.shape[1])
        parts = []
        for first in range(0, problems.size, at_once):
            part = starting_parameters(
                problems.part(slice(first, first + at_once)),
                given,
                self.n_components,
                self.init_params,
                self.covariance_type,
                self.reg_covar,
                rng,
            )
            warn_of_few_clusters(part, self.n_components, stacklevel=5)
            parts.append(part)
        return parts[0] if len(parts) == 1 else concatenate_starts(parts)

    def _run_em(
        self, problems: Problems, starts: Starts, monitor: ConvergenceMonitor | None = None
    ) -> list[EmRun]:
        """Run EM from each start."""
        return run_em(
            problems,
            starts,
            self.covariance_type,
            tol=self.tol,
            reg_covar=self.reg_covar,
            max_iter=self.max_iter,
            monitor=monitor,
        )

    def _last_solution(self, problem: Problems) -> Starts:
        """Return the fitted parameters, for a warm start."""
        weights, means, factors = self._density_parameters()
        covariances = self._float64("covariances")
        n_features = problem.X.shape[2]
        shape = covariance_shape(self.covariance_type, self.n_components, n_features)
        if means.shape != (self.n_components, n_features) or covariances.shape != shape:
            raise ValueError(
                f"warm_start=True continues from means of shape {means.shape} and covariances of "
                f"shape {covariances.shape}, but n_components, covariance_type and X ask for "
                f"{(self.n_components, n_features)} and {shape}; set warm_start=False to start "
                "anew"
            )
        return as_starts(GmmParameters(weights, means, covariances, factors))

    def _store(self, run: EmRun, dtype: npt.DTypeLike) -> None:
        """Set the fitted attributes, arrays in the dtype of the data."""
        weights, means, covariances, factors = run.parameters
        self._before_rounding = run.parameters if dtype == np.float32 else None
        self.weights_ = weights.astype(dtype)
        self.means_ = means.astype(dtype)
        self.covariances_ = covariances.astype(dtype)
        self.precisions_cholesky_ = factors.astype(dtype)
        self.precisions_ = precisions_from_cholesky(factors, self.covariance_type).astype(dtype)
        self.converged_ = run.converged
        self.n_iter_ = len(run.lower_bounds)
        # As in scikit-learn: without an iteration there is no bound.
        self.lower_bound_ = run.lower_bound if run.lower_bounds else -math.inf
        self.lower_bounds_ = run.lower_bounds

    def _warn_if_not_converged(self) -> None:
        """Warn in scikit-learn's words, unless no iteration was asked for."""
        if not self.converged_ and self.max_iter > 0:
            warnings.warn(
                "Best performing initialization did not converge. Try different init "
                "parameters, or increase max_iter, tol, or check for degenerate data.",
                ConvergenceWarning,
                stacklevel=3,
            )


@contextmanager
def _unchanged_on_failure(estimator: BaseEstimator) -> Iterator[None]:
    """Give an estimator its attributes back if the block raises, also on Ctrl-C."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise
