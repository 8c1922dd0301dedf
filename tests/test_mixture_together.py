"""Restarts on data beyond a cache share the passes over the rows: the bits of runs one by one."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from elbokit import GaussianMixture, _core, ops, reference
from gmm_starts import COVARIANCE_TYPES
from test_mixture_restarts import assert_same_bits

CACHED_BYTES = 1024 * 1024


def rows(rng, n, d, dtype=np.float64):
    X = (rng.standard_normal((n, d)) + 2 * rng.integers(0, 4, (n, 1))).astype(dtype)
    assert X.nbytes > CACHED_BYTES, "else the runs go each by itself"
    return X


def fit(X, sample_weight=None, n_components=4, **options):
    options = {"init_params": "random_from_data", "random_state": 3, "max_iter": 6} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianMixture(n_components, **options).fit(X, None, sample_weight)


def one_by_one(X, sample_weight=None, **options):
    """What prints its progress runs one by one."""
    return fit(X, sample_weight, verbose=1, **options)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_the_bits_of_runs_one_by_one(covariance_type, dtype, rng, restore_threads):
    """They end after different numbers of iterations; more threads than chunks are among these."""
    n = 66_003 if dtype == np.float64 else 132_007
    X, weight = rows(rng, n, 2, dtype), rng.uniform(0.5, 2.0, n)
    for sample_weight in (None, weight):
        options = {"covariance_type": covariance_type, "n_init": 5, "max_iter": 30}
        options["tol"] = 0.02
        want = one_by_one(X, sample_weight, **options)
        for threads in (1, 3, 40):
            _core.set_num_threads(threads)
            got = fit(X, sample_weight, **options)
            assert_same_bits(got, want)
            if covariance_type != "tied":  # whose starts are all alike
                assert len(np.unique(got.restarts_["n_iter"])) > 1
            assert got.restarts_.tolist() == want.restarts_.tolist()


def test_chunks_in_several_parts(rng, restore_threads):
    """Of 16 chunks each is more than one part of 1 MiB."""
    X = rows(rng, 600_011, 4)
    options = {"n_components": 2, "covariance_type": "diag", "n_init": 3, "max_iter": 2}
    want = one_by_one(X, **options)
    for threads in (1, 2):
        _core.set_num_threads(threads)
        assert_same_bits(fit(X, **options), want)
    parameters = want.weights_, want.means_, want.precisions_cholesky_
    got = ops.gmm_statistics(X, *parameters, "diag")
    truth = reference.gmm_statistics(X, *parameters, "diag")
    for value, expected in zip(got, truth, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-6)


def test_rows_that_float32_cannot_resolve(rng):
    """Each iteration of every run is repeated in float64, after the pass that they share."""
    X = rows(rng, 140_003, 2, np.float32)
    X[:, 1] = X[:, 0] + 1e-4 * rng.standard_normal(len(X)).astype(np.float32)
    options = {"n_init": 3, "init_params": "kmeans", "reg_covar": 0.0, "max_iter": 3}
    together = fit(X, **options)
    assert_same_bits(together, one_by_one(X, **options))
    # In float32 alone the narrow direction would be lost.
    wide = fit(X.astype(np.float64), **options)
    np.testing.assert_allclose(together.lower_bound_, wide.lower_bound_, rtol=1e-6)


def test_runs_that_wait_for_room(rng):
    """Sums of 256 features take so much memory that two of the runs have to wait."""
    X = rows(rng, 2048, 256, np.float32)
    options = {"n_components": 4, "n_init": 9, "max_iter": 2, "reg_covar": 1.0}
    assert_same_bits(fit(X, **options), one_by_one(X, **options))


def test_a_singular_run_leaves_the_others_alone(rng):
    """On shared rows one start is singular from the second iteration on, as alone."""
    X = rows(rng, 70_001, 2)
    X[:3] = 1e3
    weights = np.full((3, 2), 0.5)
    means = np.stack([X[100:102], np.array([[1e3, 1e3], [0.0, 0.0]]), X[200:202]])
    start = weights, means, np.ones((3, 2, 2))
    shared = np.broadcast_to(X, (3, *X.shape))
    fits = ops.gmm_fit(shared, *start, "diag", max_iter=4, reg_covar=0.0)
    assert fits.status.tolist() == [0, ops.FitStatus.SINGULAR_COVARIANCE, 0]
    for b in (0, 2):
        alone = ops.gmm_fit(X, *(a[b] for a in start), "diag", max_iter=4, reg_covar=0.0)
        np.testing.assert_array_equal(fits.means[b], alone.means)
        assert fits.lower_bound[b] == alone.lower_bound
