"""Gaussian mixture fitted by EM, with scikit-learn's interface."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import (
    Interval,
    StrOptions,
    validate_parameter_constraints,
)

from elbokit._arrays import as_float_array, as_numpy
from elbokit._gpu_arrays import on_gpu
from elbokit.mixture._array_fit import ArrayFit
from elbokit.mixture._chunked_fit import fit_chunks
from elbokit.mixture._chunks import are_chunks, refuse_chunks
from elbokit.mixture._conversion import ConversionMixin
from elbokit.mixture._copies import weight_and_copy
from elbokit.mixture._em import EmRun, Restart
from elbokit.mixture._estimator_starts import given_to
from elbokit.mixture._history import fit_history
from elbokit.mixture._inference import FittedGaussianMixture
from elbokit.mixture._interrupts import keep_best, unchanged_on_failure
from elbokit.mixture._library import library_name
from elbokit.mixture._missing_fit import has_missing, incomplete_restarts
from elbokit.mixture._parameters import precisions_from_cholesky, require_representable
from elbokit.mixture._partial import PartialMixin
from elbokit.mixture._penalty import weight_unit
from elbokit.mixture._prior import MixturePrior
from elbokit.mixture._prior_parameters import PriorParametersMixin
from elbokit.mixture._problems import Problems
from elbokit.mixture._restarts import summary
from elbokit.mixture._stepwise import StepwiseEM
from elbokit.mixture._validation import IntegerInterval, is_plain, validate_rows

__all__ = ["GaussianMixture"]


@cache
def _defaults(constructor: Callable[..., None]) -> dict[str, Any]:
    """Return the defaults of a constructor's parameters."""
    return {p.name: p.default for p in inspect.signature(constructor).parameters.values()}


class GaussianMixture(
    PriorParametersMixin, StepwiseEM, PartialMixin, ConversionMixin, FittedGaussianMixture
):
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
    verbose : int or 'bar', default=0
        1 prints iterations, 2 adds times and changes of the bound. 'bar' draws a progress bar for
        each run, with the bound and its change (needs tqdm: the extra ``[progress]``).
    verbose_interval : int, default=10
        Number of iterations between two lines.
    missing : {'error', 'integrate'}, default='error'
        What NaN in X means: an error, or a missing entry, which is integrated out exactly in
        :meth:`fit` and in all methods that take X.
    prior : MixturePrior, default=None
        Conjugate prior: parameters are then those at the mode of the posterior, and the bound
        is that of the log-likelihood plus the log-density of the prior. None is none.
    relative_reg_covar : float, default=0.0
        This part of each feature's variance over X is added to the covariances' diagonals beside
        `reg_covar` ('spherical': of the mean variance). Scaling a feature scales the result.
    drop_restarts : float, int or None, default=None
        What share (in (0, 1)) or number of the runs that are left is given up after 2, 4, 8, ...
        iterations: those with the lowest bound, and those at the same point as a better one;
        before, after 2 of Lloyd's iterations, k-means starts with the highest inertia. It saves
        most of their time, but one that starts badly might have ended best. None gives up
        none, and so does any value for chunks, rows with NaN and arrays on a GPU, whose runs come
        one after the other. See Notes.
    learning_decay : float, default=0.7
        In (0.5, 1]: how fast :meth:`partial_fit` forgets early batches; see there.
    learning_offset : float, default=10.0
        Makes the first batches of :meth:`partial_fit` count less.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
        Mixing proportions. Arrays are NumPy's, of the dtype of X (float32 or float64).
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
    history_ : FitHistory
        Its bound before and after the E-step and after the M-step of each iteration.
    restarts_ : ndarray of shape (n_init,)
        How each run ended, in fields 'lower_bound', 'n_iter', 'converged', 'dropped' and
        'failed' (a singular covariance; the bound is -inf). After Ctrl-C of those begun.
    n_features_in_ : int
        Number of features seen by :meth:`fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X had names that are all strings.
    n_batches_seen_, n_samples_seen_ : int
        Batches and samples of :meth:`partial_fit` since the start or the last :meth:`fit`; only
        after it. `n_iter_` is then 1 and `converged_` False.

    Notes
    -----
    Each iteration is one pass over X that never stores the responsibilities. A component
    that loses all samples keeps its mean and covariance and gets weight 0; with a prior it
    goes to the prior's mode. A fit that fails leaves the estimator as it was. On Ctrl-C the
    best run so far is kept as its last complete iteration left it, with `converged_` False,
    before KeyboardInterrupt passes on; before the first iteration the estimator stays as it
    was.

    On a GPU the draws and the iterates are the CPU's, to rounding; each iteration reads back six
    numbers, or with a `prior` the statistics, since that M-step is the CPU's. The runs of `n_init`
    come one after the other there, and `drop_restarts` drops none. Missing values need the CPU.

    The `n_init` runs advance together where they share more data than a processor's cache holds:
    a part of X is read once and used by all. The results are those of one run after the other.

    With `drop_restarts` runs compete as in successive halving (Jamieson & Talwalkar, 2016) or in
    the em-EM of Biernacki, Celeux & Govaert (2003). Two runs are at the same point if, in some
    order of the components, means agree to 1e-4 standard deviations, weights and covariances to
    1e-4, and the bounds to `tol`.

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
        "verbose": ["verbose", StrOptions({"bar"})],
        "verbose_interval": [Interval(Integral, 1, None, closed="left")],
        "missing": [StrOptions({"error", "integrate"})],
        "prior": [MixturePrior, None],
        "relative_reg_covar": [Interval(Real, 0.0, None, closed="left")],
        "drop_restarts": [
            Interval(Real, 0.0, 1.0, closed="neither"),
            IntegerInterval(Integral, 1, None, closed="left"),
            None,
        ],
        "learning_decay": [Interval(Real, 0.5, 1.0, closed="right")],
        "learning_offset": [Interval(Real, 0.0, None, closed="left")],
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
        verbose: int | str = 0,
        verbose_interval: int = 10,
        missing: str = "error",
        prior: MixturePrior | None = None,
        relative_reg_covar: float = 0.0,
        drop_restarts: float | None = None,
        learning_decay: float = 0.7,
        learning_offset: float = 10.0,
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
        self.prior = prior
        self.relative_reg_covar = relative_reg_covar
        self.drop_restarts = drop_restarts
        self.learning_decay = learning_decay
        self.learning_offset = learning_offset

    def fit(
        self,
        X: npt.ArrayLike | Iterable[npt.ArrayLike],
        y: object = None,
        sample_weight: npt.ArrayLike | Iterable[npt.ArrayLike] | None = None,
    ) -> GaussianMixture:
        """Estimate the parameters by EM.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or iterable of such chunks
            Data; float32 stays float32, everything else becomes float64. A torch tensor, or an
            array of another library that speaks DLPack, is read in place where its layout allows;
            of tensors float16 and bfloat16 become float32, and gradients do not flow. An array on
            a GPU stays there; what is learned is NumPy's on the CPU all the same. Chunks are
            read once per iteration, so they must come again each time: no generator.
        y : ignored
            Present by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights. An integer weight equals that many copies of the row, in the
            draws of the start too if all are integers (of at most 2**24 copies in all);
            otherwise only the ratios of the weights matter. For chunks also an iterable of each
            chunk's weights.

        Returns
        -------
        self : GaussianMixture
            The fitted estimator.

        Raises
        ------
        ValueError
            If an argument has a wrong shape or value, or a covariance of every run is not
            positive definite; the message names the argument or the component.

        Warns
        -----
        ConvergenceWarning
            If the kept run did not converge within `max_iter` iterations, or if a covariance of
            another run is not positive definite.
        """
        with unchanged_on_failure(self, keep_interrupted=True):
            self._fit(X, sample_weight)
        self._warn_if_not_converged()
        return self

    def fit_predict(
        self, X: npt.ArrayLike, y: object = None, sample_weight: npt.ArrayLike | None = None
    ) -> Any:
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
        refuse_chunks(X, "fit_predict")
        return self.fit(X, y, sample_weight).predict(X)

    def _validate_params(self) -> None:
        """Check what is not the default as scikit-learn does. All of it shows in a tiny fit."""
        defaults = _defaults(type(self).__init__)
        values = {name: getattr(self, name) for name in self._parameter_constraints}
        values = {
            name: value for name, value in values.items() if value is not defaults.get(name, values)
        }
        validate_parameter_constraints(
            self._parameter_constraints, values, caller_name=type(self).__name__
        )

    def _fit(self, X: Any, sample_weight: Any) -> None:
        """Validate, run EM `n_init` times and keep the best run."""
        self._validate_params()
        warm = self.warm_start and hasattr(self, "converged_")
        if are_chunks(X):
            self._library = self._device = None
            fit_chunks(self, X, sample_weight, warm)
            return
        if on_gpu(X):
            from elbokit.mixture._gpu_fit import fit_gpu

            fit_gpu(self, X, sample_weight, warm)
            return
        self._library, self._device = library_name(X), None
        data = self._validate_data(as_numpy(X, "X"))
        weight, copy = weight_and_copy(sample_weight, len(data))
        unit = weight_unit(sample_weight, weight)
        n_rows = len(data)
        if weight is not None and not weight.all():
            # A row of weight zero is no row: it must not take part in the draws either.
            data, weight = data[weight > 0.0], weight[weight > 0.0]
        if len(data) < self.n_components:
            left_out = f" (of {n_rows} rows those of weight zero do not count)"
            raise ValueError(
                "Expected n_samples >= n_components but got n_components = "
                f"{self.n_components}, n_samples = {len(data)}"
                f"{left_out if len(data) < n_rows else ''}"
            )
        rows = as_float_array(data, "X")
        problem = Problems(rows[None])
        if weight is not None:
            problem = Problems(rows[None], weight[None], copy=np.array([copy]))
        given = given_to(self, data.shape[1])
        # Where nothing is drawn NumPy's own generator serves: to seed one is a third of a tiny fit.
        drawn = any(part is None for part in given) or self.drop_restarts is not None
        rng = check_random_state(self.random_state if drawn else None)
        if self.missing == "integrate" and has_missing(rows):
            restarts = incomplete_restarts(self, problem, given, rng, unit, warm)
        else:
            restarts = ArrayFit(self, problem, given, rng, unit).restarts(warm)
        keep_best(restarts, lambda run, every: self._store(run, data.dtype, every))

    def _validate_data(self, X: Any) -> npt.NDArray[Any]:
        """Return scikit-learn's reading of the data, in one pass over them."""
        if is_plain(X) and len(X) >= 2:
            # What validate_data comes to here, without a quarter of a small fit's time.
            if hasattr(self, "feature_names_in_"):
                del self.feature_names_in_
            self.n_features_in_ = X.shape[1]
            return np.asarray(X)
        return validate_rows(self, X, self.missing, ensure_min_samples=2)

    def _store(
        self, run: EmRun, dtype: npt.DTypeLike, restarts: Sequence[Restart] | None = None
    ) -> None:
        """Set the fitted attributes, arrays in the dtype of the data."""
        self._forget_stream()
        weights, means, covariances, factors = run.parameters
        precisions = precisions_from_cholesky(factors, self.covariance_type)
        require_representable(covariances, precisions, dtype)
        self._before_rounding = run.parameters if dtype == np.float32 else None
        self.means_ = means.astype(dtype)
        self.covariances_ = covariances.astype(dtype)
        self.precisions_cholesky_ = factors.astype(dtype)
        self.precisions_ = precisions.astype(dtype)
        self.converged_ = run.converged
        self.n_iter_ = len(run.lower_bounds)
        # As in scikit-learn: without an iteration there is no bound.
        self.lower_bound_ = run.lower_bound if run.lower_bounds else -math.inf
        self.lower_bounds_ = run.lower_bounds
        self.history_ = fit_history(run.lower_bounds, run.after_m)
        self.restarts_ = summary([Restart(run)] if restarts is None else restarts)
        self.weights_ = weights.astype(dtype)  # the last: unchanged_on_failure looks at it

    def _warn_if_not_converged(self) -> None:
        """Warn in scikit-learn's words, unless no iteration was asked for."""
        if not self.converged_ and self.max_iter > 0:
            warnings.warn(
                "Best performing initialization did not converge. Try different init "
                "parameters, or increase max_iter, tol, or check for degenerate data.",
                ConvergenceWarning,
                stacklevel=3,
            )
