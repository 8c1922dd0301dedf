"""Choosing the number of components, and the shape of the covariances, by a criterion."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import InvalidParameterError

from elbokit._arrays import as_numpy
from elbokit._progress import optional_bar
from elbokit.mixture._chunks import refuse_chunks
from elbokit.mixture._criteria import information_criteria
from elbokit.mixture._selection import Candidate, ComponentSelection, SelectionTable
from elbokit.mixture.gaussian_mixture import GaussianMixture

__all__ = ["select_n_components"]

Criterion = Callable[[GaussianMixture, Any], float]

_CRITERIA = ("bic", "aic", "icl")
_TYPES = ("full", "tied", "diag", "spherical")
# Their shape says how many components there are, or they are what is sought.
_FIXED = ("weights_init", "means_init", "precisions_init", "warm_start")


def select_n_components(
    X: Any,
    n_components: int | Iterable[int] = range(1, 21),
    *,
    criterion: str | Criterion = "bic",
    covariance_type: str | Sequence[str] = "full",
    n_init: int = 1,
    sample_weight: npt.ArrayLike | None = None,
    random_state: int | np.random.RandomState | None = None,
    progress: bool = False,
    **parameters: Any,
) -> ComponentSelection:
    """Fit a mixture for each number of components and keep the best by a criterion.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Data.
    n_components : int or iterable of int, default=range(1, 21)
        Numbers of components to try, each once.
    criterion : {'bic', 'aic', 'icl'} or callable, default='bic'
        What is compared; lower is better. 'icl' is the BIC plus twice the entropy of the
        responsibilities: it prefers components that are apart. A callable gets the fitted estimator
        and X, and returns a number; it knows nothing of `sample_weight`.
    covariance_type : {'full', 'tied', 'diag', 'spherical'} or sequence of them, default='full'
        Shapes of covariances to try with each number.
    n_init : int, default=1
        Runs of each fit.
    sample_weight : array-like of shape (n_samples,), default=None
        Non-negative weights. An integer weight equals that many copies of the row: the criteria
        take the sum of the weights for the number of samples.
    random_state : int, RandomState instance or None, default=None
        An int is the seed of each fit. From the others one such seed is drawn.
    progress : bool, default=False
        Whether to show a bar over the fits (needs tqdm: the extra ``[progress]``).
    **parameters
        Further parameters of :class:`GaussianMixture`, but for those that hold a start.

    Returns
    -------
    selection : ComponentSelection
        ``table`` with all fits, ``best_estimator``, ``best_n_components``,
        ``best_covariance_type`` and ``plot()``.

    Raises
    ------
    TypeError
        If an argument has another type, or `parameters` has an unknown name.
    ValueError
        If an argument has a value that is not as described, or every fit fails: then the first
        one's error is raised.
    ImportError
        If `progress` needs tqdm, which is not installed.

    Warns
    -----
    ConvergenceWarning
        If the best fit did not converge; of the others ``table`` tells.
    UserWarning
        If `sample_weight` sums to less than 2, as weights that are ratios may.

    Notes
    -----
    A fit that fails (a singular covariance, fewer samples than components) has infinite criteria
    and its reason in ``table``, and does not stop the others. Beside the data there is never more
    than two fitted mixtures and one block of responsibilities in memory. Of equal candidates the
    first is taken; the numbers run fastest.

    References
    ----------
    Schwarz (1978), Estimating the dimension of a model. Biernacki, Celeux & Govaert (2000),
    Assessing a mixture model for clustering with the integrated completed likelihood.

    Examples
    --------
    >>> import numpy as np
    >>> from elbokit import select_n_components
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((300, 2)) + 8 * rng.integers(0, 3, (300, 1))
    >>> select_n_components(X, range(1, 6), random_state=0).best_n_components
    3
    """
    refuse_chunks(X, "select_n_components")
    numbers = _check_numbers(n_components)
    types = _check_types(covariance_type)
    _check_criterion(criterion)
    _check_parameters(parameters)
    seed = _seed(random_state)
    rows: list[Candidate] = []
    best: GaussianMixture | None = None
    best_row: Candidate | None = None
    first_error: ValueError | None = None
    candidates = [(kind, k) for kind in types for k in numbers]
    with optional_bar(
        progress, "progress=True", total=len(candidates), desc="mixtures", unit="fit"
    ) as bar:
        for kind, k in candidates:
            estimator = GaussianMixture(
                k, covariance_type=kind, n_init=n_init, random_state=seed, **parameters
            )
            try:
                _fit_quietly(estimator, X, sample_weight)
            except InvalidParameterError:
                raise  # no other candidate would do better
            except ValueError as error:
                row = _failed(k, kind, error)
                first_error = first_error or error
            else:
                row = _judged(estimator, X, sample_weight, criterion)
                if best_row is None or row.criterion < best_row.criterion:
                    best, best_row = estimator, row
            rows.append(row)
            if bar is not None:
                bar.set_postfix_str(_standing(best_row), refresh=False)
                bar.update()
    if best is None or best_row is None:
        assert first_error is not None  # there is a candidate
        raise first_error
    _warn_of_ratios(sample_weight)  # that the fits have accepted
    if not best_row.converged and best.max_iter > 0:
        warnings.warn(
            f"the best fit ({best_row.n_components} components, covariance_type="
            f"{best_row.covariance_type!r}) did not converge; increase max_iter or tol",
            ConvergenceWarning,
            stacklevel=2,
        )
    tried = sorted({row.n_components for row in rows})
    if len(tried) > 1 and best_row.n_components == tried[-1]:
        warnings.warn(
            f"the best fit has {tried[-1]} components, the most that were tried, so that more may "
            "be better still: look at the plot, and pass a larger n_components or other "
            "covariance types",
            UserWarning,
            stacklevel=2,
        )
    name = criterion if isinstance(criterion, str) else getattr(criterion, "__name__", "criterion")
    return ComponentSelection(
        name, SelectionTable(rows), best, best_row.n_components, best_row.covariance_type
    )


def _fit_quietly(estimator: GaussianMixture, X: Any, sample_weight: Any) -> None:
    """Fit without warnings of convergence, which the table shows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(X, sample_weight=sample_weight)


def _warn_of_ratios(sample_weight: Any) -> None:
    """Warn where weights cannot be numbers of copies, which the criteria take them for."""
    total = (
        2.0 if sample_weight is None else float(np.sum(as_numpy(sample_weight, "sample_weight")))
    )
    if total < 2.0:
        warnings.warn(
            f"sample_weight sums to {total:g}, which the criteria take for the number of samples; "
            "scale weights that are ratios so that they sum to it",
            UserWarning,
            stacklevel=3,
        )


def _judged(
    estimator: GaussianMixture, X: Any, sample_weight: Any, criterion: str | Criterion
) -> Candidate:
    """Return the row of a fit that succeeded."""
    weight = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    criteria = information_criteria(estimator, X, weight)
    if isinstance(criterion, str):
        value = float(getattr(criteria, criterion))
    else:
        value = _as_criterion(criterion(estimator, X), estimator.n_components)
    return Candidate(
        int(estimator.n_components),
        estimator.covariance_type,
        value,
        *criteria,
        bool(estimator.converged_),
        int(estimator.n_iter_),
        "",
    )


def _failed(n_components: int, covariance_type: str, error: ValueError) -> Candidate:
    """Return the row of a fit that failed."""
    worst = math.inf
    return Candidate(
        n_components, covariance_type, worst, worst, worst, worst, -worst, 0, False, 0, str(error)
    )


def _as_criterion(value: Any, n_components: int) -> float:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"`criterion` returned {value!r} for {n_components} components, expected a number"
        )
    if math.isnan(value):
        raise ValueError(f"`criterion` returned nan for {n_components} components")
    return float(value)


def _standing(best: Candidate | None) -> str:
    """Write the best fit so far."""
    if best is None:
        return "all failed so far"
    return f"best {best.n_components} {best.covariance_type}"


def _seed(random_state: Any) -> int:
    """Return the seed of every fit."""
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def _check_numbers(n_components: Any) -> list[int]:
    if isinstance(n_components, Integral) and not isinstance(n_components, bool):
        n_components = [n_components]
    try:
        given = list(n_components)
    except TypeError:
        raise TypeError(
            f"`n_components` is {n_components!r}, expected an int or an iterable of them"
        ) from None
    if not given:
        raise ValueError("`n_components` is empty, expected at least one number to try")
    for value in given:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"`n_components` has {value!r}, expected ints")
        if value < 1:
            raise ValueError(f"`n_components` has {value}, expected numbers of at least 1")
    _check_once("n_components", given)
    return [int(value) for value in given]


def _check_types(covariance_type: Any) -> list[str]:
    given = [covariance_type] if isinstance(covariance_type, str) else covariance_type
    try:
        given = list(given)
    except TypeError:
        raise TypeError(
            f"`covariance_type` is {covariance_type!r}, expected a string or a sequence of them"
        ) from None
    if not given:
        raise ValueError("`covariance_type` is empty, expected at least one")
    for value in given:
        if not isinstance(value, str) or value not in _TYPES:
            expected = ", ".join(map(repr, _TYPES))
            raise ValueError(f"`covariance_type` has {value!r}, expected some of {expected}")
    _check_once("covariance_type", given)
    return given


def _check_once(name: str, values: list[Any]) -> None:
    twice = next((value for i, value in enumerate(values) if value in values[:i]), None)
    if twice is not None:
        raise ValueError(f"`{name}` has {twice!r} twice, expected each once")


def _check_criterion(criterion: Any) -> None:
    if callable(criterion) or (isinstance(criterion, str) and criterion in _CRITERIA):
        return
    expected = ", ".join(map(repr, _CRITERIA))
    kind = ValueError if isinstance(criterion, str) else TypeError
    raise kind(f"`criterion` is {criterion!r}, expected one of {expected} or a callable")


def _check_parameters(parameters: dict[str, Any]) -> None:
    """Refuse the parameters that stand for one start and one number of components."""
    for name in _FIXED:
        value = parameters.get(name)
        if value is not None and value is not False:
            raise ValueError(
                f"`{name}` was given, but each number of components needs a start of its own"
            )
