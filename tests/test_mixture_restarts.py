"""Restarts side by side: the results of one run after the other."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from elbokit import GaussianMixture, _core, ops
from elbokit.mixture import _estimator_starts
from gmm_starts import COVARIANCE_TYPES

ARRAYS = ("weights_", "means_", "covariances_", "precisions_cholesky_", "precisions_")
NUMBERS = ("lower_bound_", "n_iter_", "converged_", "lower_bounds_")


def data(rng, n=400, d=3, dtype=np.float64):
    return (rng.standard_normal((n, d)) + 2 * rng.integers(0, 4, (n, 1))).astype(dtype)


def fit(X, sample_weight=None, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianMixture(4, random_state=3, **options).fit(X, None, sample_weight)


def assert_same_bits(got, want):
    for name in ARRAYS:
        assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)
    for name in NUMBERS:
        assert getattr(got, name) == getattr(want, name), name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_together_and_one_by_one(covariance_type, init_params, dtype, rng, capsys):
    """What prints its progress runs one by one."""
    X, weight = data(rng, dtype=dtype), rng.uniform(0.5, 2.0, 400)
    options = {"covariance_type": covariance_type, "init_params": init_params, "n_init": 6}
    for sample_weight in (None, weight):
        together = fit(X, sample_weight, **options)
        assert_same_bits(fit(X, sample_weight, verbose=1, **options), together)
    assert capsys.readouterr().out.count("Initialization 5") == 2


@pytest.mark.parametrize("init_params", ["kmeans", "random"])
def test_starts_in_parts_and_threads_change_no_bit(init_params, rng, restore_threads, monkeypatch):
    X = data(rng, n=3000)
    options = {"n_init": 7, "init_params": init_params}
    _core.set_num_threads(1)
    together = fit(X, **options)
    _core.set_num_threads(4)
    assert_same_bits(fit(X, **options), together)
    monkeypatch.setattr(_estimator_starts, "_ROWS_AT_ONCE", 9000)  # 3, 3 and 1
    assert_same_bits(fit(X, **options), together)


def test_one_call_of_the_core(rng, monkeypatch):
    """All restarts go down at once, and share the rows."""
    calls = []
    run = _core.gmm_fit

    def spy(X, *arguments):
        calls.append((X.shape, X.strides[0]))
        return run(X, *arguments)

    monkeypatch.setattr(_core, "gmm_fit", spy)
    fit(data(rng), n_init=5, init_params="random_from_data")
    assert calls == [((5, 400, 3), 0)]


def one_by_one_error(X, **options):
    with pytest.raises(ValueError) as caught:
        fit(X, verbose=1, **options)
    return caught.value


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("init_params", ["kmeans", "random"])
def test_the_error_is_that_of_the_first_failing_run(init_params, covariance_type, rng):
    """Copies of few points: EM, or the start already, ends on a point without variance."""
    X = np.repeat(rng.standard_normal((6, 2)), 20, axis=0)
    if covariance_type == "tied":
        X[:, 1] = 0.0
    options = {
        "covariance_type": covariance_type,
        "init_params": init_params,
        "reg_covar": 0.0,
        "n_init": 8,
        "max_iter": 200,
        "tol": 0.0,
    }
    want = one_by_one_error(X, **options)
    assert type(want) is ops.SingularCovarianceError
    with pytest.raises(ops.SingularCovarianceError) as caught:
        fit(X, **options)
    assert str(caught.value) == str(want)


def test_max_iter_0_keeps_the_last_start(rng):
    """As one by one: without an iteration there is no bound to compare."""
    X = data(rng)
    assert_same_bits(fit(X, n_init=3, max_iter=0), fit(X, n_init=3, max_iter=0, verbose=1))


def test_duplicates_warn_for_each_start(rng):
    X = np.repeat(rng.standard_normal((2, 3)), 10, axis=0)
    with pytest.warns(ConvergenceWarning, match=r"distinct clusters \(2\)") as caught:
        GaussianMixture(4, n_init=3, random_state=0).fit(X)
    assert [w.filename for w in caught] == [__file__] * 3


def test_a_plain_array_forgets_names():
    """The short way around scikit-learn's validation leaves what the long one does."""
    pandas = pytest.importorskip("pandas")
    X = np.random.default_rng(0).standard_normal((50, 2))
    estimator = GaussianMixture(2, random_state=0).fit(pandas.DataFrame(X, columns=["a", "b"]))
    assert list(estimator.feature_names_in_) == ["a", "b"]
    named = estimator.means_
    estimator.fit(X)
    assert not hasattr(estimator, "feature_names_in_")
    assert estimator.n_features_in_ == 2
    assert_array_equal(estimator.means_, named)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_plain_arrays_are_checked(value, dtype, rng):
    X = data(rng, dtype=dtype)
    X[7, 1] = value
    with pytest.raises(ValueError, match=r"Input X contains (NaN|infinity)"):
        fit(X)


def test_a_sum_that_overflows_is_no_infinity():
    X = (
        np.full((40, 2), 3e38, dtype=np.float32)
        * np.linspace(0.5, 1, 40, dtype=np.float32)[:, None]
    )
    with pytest.raises(ValueError, match="overflow"):  # of the squares: not "contains infinity"
        fit(X)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_warm_start_writes_over_nothing(dtype, rng):
    """EM runs in place: on a copy of the last solution, which someone may hold."""
    X = data(rng, dtype=dtype)
    estimator = fit(X, warm_start=True, max_iter=2, tol=0.0)
    kept = [getattr(estimator, name) for name in ARRAYS]
    before = [array.copy() for array in kept]
    with pytest.warns(ConvergenceWarning):
        estimator.fit(X)
    assert not np.array_equal(estimator.means_, before[1])
    for array, copy in zip(kept, before, strict=True):
        assert_array_equal(array, copy)
