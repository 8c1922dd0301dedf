"""Whole runs of EM in the core: against the textbook, alone and in batches."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning

import elbokit
from elbokit import GaussianMixture, _core, ops, reference
from gmm_starts import COVARIANCE_TYPES, clusters, ragged, start, unit_factors

PARAMETERS = ("weights", "means", "covariances", "precisions_cholesky")
SIZES = [200, 1, 37, 513, 64, 3, 1437, 100]


def stacked(starts: list[tuple]) -> tuple[np.ndarray, ...]:
    return tuple(np.stack(arrays) for arrays in zip(*starts, strict=True))


def assert_same_bits(fit: ops.GmmFit, expected: ops.GmmFit, at: int | None = None) -> None:
    for name, got, want in zip(fit._fields, fit, expected, strict=True):
        assert_array_equal(got if at is None else got[at], want, err_msg=name)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize(("n", "d", "k"), [(7, 1, 1), (61, 2, 3), (300, 5, 4), (517, 17, 3)])
def test_against_the_textbook(cpu_level, n, d, k, covariance_type, weighted, rng):
    X = clusters(rng, n, d, k)
    arguments = (X, *start(rng, X, k, covariance_type), covariance_type)
    weight = rng.uniform(0.0, 3.0, size=n) if weighted else None
    # From the same start, first without a stop, then with one. Regularised well: a component on
    # few rows of 17 features would only show how ill-conditioned it is.
    for options in ({"max_iter": 12, "tol": 0.0}, {"tol": 1e-3}):
        options |= {"sample_weight": weight, "reg_covar": 0.1}
        fit, exact = ops.gmm_fit(*arguments, **options), reference.gmm_fit(*arguments, **options)
        for name in PARAMETERS:
            want = getattr(exact, name)
            atol = 1e-9 * np.abs(want).max()
            assert_allclose(getattr(fit, name), want, rtol=1e-9, atol=atol, err_msg=name)
        assert fit.lower_bound == pytest.approx(exact.lower_bound, rel=1e-11)
        assert (fit.n_iter, fit.converged) == (exact.n_iter, exact.converged)
        assert fit.status is ops.FitStatus.OK
    assert fit.converged


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_float32_follows_the_same_path(cpu_level, covariance_type, rng):
    X = clusters(rng, 700, 5, 3).astype(np.float32)
    arguments = *start(rng, X, 3, covariance_type), covariance_type
    fit = ops.gmm_fit(X, *arguments, max_iter=12, tol=0.0)
    exact = reference.gmm_fit(X, *arguments, max_iter=12, tol=0.0)
    for name in PARAMETERS:
        want = getattr(exact, name)
        assert getattr(fit, name).dtype == np.float64
        assert_allclose(getattr(fit, name), want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
    assert fit.lower_bound == pytest.approx(exact.lower_bound, rel=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_a_ragged_batch_equals_single_fits(cpu_level, covariance_type, dtype, weighted, rng):
    data, starts = ragged(rng, SIZES, 3, 4, covariance_type)
    rows = np.concatenate(data).astype(dtype)
    offsets = np.cumsum([0, *SIZES])
    # Sizes that float32 could not hold beside each other.
    scale = np.repeat(10.0 ** rng.integers(-60, 60, size=len(SIZES)), SIZES)
    weight = rng.uniform(0.1, 3.0, size=len(rows)) * scale if weighted else None
    batch = ops.gmm_fit(
        rows, *stacked(starts), covariance_type, offsets=offsets, sample_weight=weight
    )
    assert len(set(batch.n_iter)) > 2
    for b in range(len(SIZES)):
        part = slice(offsets[b], offsets[b + 1])
        mine = None if weight is None else weight[part]
        single = ops.gmm_fit(rows[part], *starts[b], covariance_type, sample_weight=mine)
        assert_same_bits(batch, single, b)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_leading_dimensions_broadcast(covariance_type, rng):
    X = clusters(rng, 90, 2, 3)[::-1]
    starts = [[start(rng, X, 3, covariance_type) for _ in range(2)] for _ in range(3)]
    arrays = tuple(np.stack([stacked(row)[i] for row in starts]) for i in range(3))
    batch = ops.gmm_fit(X, *arrays, covariance_type)
    assert batch.means.shape == (3, 2, 3, 2)
    assert batch.lower_bound.shape == batch.converged.shape == batch.status.shape == (3, 2)
    for i in range(3):
        for j in range(2):
            assert_same_bits(batch, ops.gmm_fit(X, *starts[i][j], covariance_type), (i, j))


def test_a_run_of_many_stretches_is_one_run(rng):
    # Some 100 ms, and far from a fixed point to the end; tests of signals cut it every 50 ms.
    X = rng.normal(size=(900, 4))
    given = start(rng, X, 5, "full")
    whole = ops.gmm_fit(X, *given, tol=0.0, max_iter=4000)
    assert whole.n_iter == 4000
    for _ in range(8):
        part = ops.gmm_fit(X, *given, tol=0.0, max_iter=500)
        moved = np.abs(part.means - given[1]).max()
        given = part.weights, part.means, part.precisions_cholesky
    assert moved > 0.0
    for name in (*PARAMETERS, "lower_bound"):
        assert_array_equal(getattr(whole, name), getattr(part, name))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_bit_depends_on_the_threads(restore_threads, dtype, rng):
    # One mixture that is worth threads of its own, and many that share them.
    sizes = [60_000, *rng.integers(1, 900, size=40).tolist()]
    data, starts = ragged(rng, sizes, 4, 5, "full")
    rows, offsets = np.concatenate(data).astype(dtype), np.cumsum([0, *sizes])
    fits = []
    for threads in (1, 2, 3, 8):
        elbokit.set_num_threads(threads)
        fits.append(ops.gmm_fit(rows, *stacked(starts), offsets=offsets, tol=0.0, max_iter=8))
        fits.append(ops.gmm_fit(rows[: sizes[0]], *starts[0], tol=0.0, max_iter=8))
    for fit in fits[2::2]:
        assert_same_bits(fit, fits[0])
    for fit in fits[1::2]:
        assert_same_bits(fits[0], fit, 0)


def test_one_mixture_that_fails_leaves_the_others(rng):
    sizes = [50, 60, 70, 80, 90]
    data, starts = ragged(rng, sizes, 2, 3, "diag")
    data[1][:, 1] = 3.3  # no variance
    starts[3] = (starts[3][0], starts[3][1] + 1e200, starts[3][2])  # out of every row's sight
    data[4] *= 1e200  # distances stay as they are, squares overflow
    starts[4] = (starts[4][0], starts[4][1] * 1e200, starts[4][2] * 1e-200)
    offsets = np.cumsum([0, *sizes])
    options = {"reg_covar": 0.0, "max_iter": 20}
    batch = ops.gmm_fit(np.concatenate(data), *stacked(starts), "diag", offsets=offsets, **options)
    status = ops.FitStatus
    assert_array_equal(
        batch.status,
        [status.OK, status.SINGULAR_COVARIANCE, status.OK, status.NO_COMPONENT, status.OVERFLOW],
    )
    for b in (0, 2):
        assert_same_bits(batch, ops.gmm_fit(data[b], *starts[b], "diag", **options), b)
    for b in (1, 3, 4):
        assert not batch.converged[b]
        for name in (*PARAMETERS, "lower_bound"):
            assert np.isnan(getattr(batch, name)[b]).all(), name
    with pytest.raises(ops.SingularCovarianceError, match=r"increase reg_covar.*: component \d\."):
        ops.gmm_fit(data[1], *starts[1], "diag", **options)
    with pytest.raises(ValueError, match=r"no component explains.*check weights, means and prec"):
        ops.gmm_fit(data[3], *starts[3], "diag", **options)
    with pytest.raises(ValueError, match="`X` has values so large"):
        ops.gmm_fit(data[4], *starts[4], "diag", **options)


def test_the_singular_component_is_the_first():
    X = np.vstack([np.random.default_rng(0).normal(size=(30, 2)), np.full((20, 2), 50.0)])
    arguments = X, np.full(3, 1 / 3), [[0.0, 0], [50, 50], [50, 50]]
    for covariance_type in ("full", "diag", "spherical"):
        factors = unit_factors(covariance_type, 3, 2)
        with pytest.raises(ops.SingularCovarianceError, match="component 1"):
            ops.gmm_fit(*arguments, factors, covariance_type, reg_covar=0.0)
    X[:, 1] = 0.1
    with pytest.raises(ops.SingularCovarianceError, match="the tied covariance"):
        ops.gmm_fit(*arguments, np.eye(2), "tied", reg_covar=0.0)


def test_what_float32_cannot_hold_is_done_in_float64(rng):
    # Second moments of values near 1e30, and precisions of values near 1e-30.
    for size in (1e30, 1e-30):
        X = clusters(rng, 200, 2, 2)
        weights, means, factors = start(rng, X, 2, "diag")
        X = (X * size).astype(np.float32)
        arguments = weights, means * size, factors / (2 * size), "diag"
        fit = ops.gmm_fit(X, *arguments, reg_covar=0.0, max_iter=10, tol=0.0)
        exact = ops.gmm_fit(X.astype(np.float64), *arguments, reg_covar=0.0, max_iter=10, tol=0.0)
        for name in PARAMETERS:
            want = getattr(exact, name)
            assert_allclose(getattr(fit, name), want, rtol=2e-5, atol=2e-5 * np.abs(want).max())


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_what_float32_sums_cannot_resolve_is_done_in_float64(cpu_level, covariance_type, rng):
    # Two columns that differ by 3e-4 of their deviation: a variance of 9e-8, which sums in float32
    # do not know.
    X = rng.normal(size=(5000, 3))
    X[:, 1] = X[:, 0] + 3e-4 * X[:, 1]
    X = X.astype(np.float32)
    arguments = [0.5, 0.5], X[:2], unit_factors(covariance_type, 2, 3), covariance_type
    options = {"reg_covar": 0.0, "max_iter": 3, "tol": 0.0}
    fit = ops.gmm_fit(X, *arguments, **options)
    exact = ops.gmm_fit(X.astype(np.float64), *arguments, **options)
    assert_allclose(fit.precisions_cholesky, exact.precisions_cholesky, rtol=2e-4, atol=1e-3)


@pytest.mark.parametrize("difference", [1e-2, 3e-3, 1e-3])
@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_the_bound_of_correlated_float32_features(cpu_level, covariance_type, difference, rng):
    """It falls by its rounding at most. Two roundings of a moment may be a tenth of a variance."""
    X = rng.normal(size=(3000, 3))
    X[:, 2] = X[:, 0] + difference * (X[:, 2] + 2 * rng.integers(2, size=3000))
    X = X.astype(np.float32)
    options = {"covariance_type": covariance_type, "max_iter": 40, "tol": 0.0, "random_state": 0}
    bounds = []
    for dtype in (np.float32, np.float64):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            bounds.append(GaussianMixture(2, **options).fit(X.astype(dtype)).lower_bounds_)
    assert_allclose(*bounds, rtol=0, atol=1e-5)
    assert min(np.diff(bounds[0])) > -2e-6


def test_an_emptied_component_stays():
    X = np.random.default_rng(1).normal(size=(80, 2))
    means = np.array([[300.0, -300.0], [0.0, 0.5], [0.0, -0.5]])
    for covariance_type in COVARIANCE_TYPES:
        factors = unit_factors(covariance_type, 3, 2) * 0.5
        fit = ops.gmm_fit(X, [0.2, 0.4, 0.4], means, factors, covariance_type)
        assert fit.weights[0] == 0.0
        assert_array_equal(fit.means[0], means[0])
        if covariance_type != "tied":
            assert_allclose(fit.covariances[0], 4.0 * unit_factors(covariance_type, 3, 2)[0])
            assert_array_equal(fit.precisions_cholesky[0], factors[0])


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_without_an_iteration(covariance_type, rng):
    X = clusters(rng, 20, 3, 2)
    weights, means, factors = start(rng, X, 2, covariance_type)
    if covariance_type in ("full", "tied"):
        factors = factors + np.triu(rng.normal(size=factors.shape), 1)
        covariances = np.linalg.inv(factors @ factors.swapaxes(-1, -2))
    else:
        factors = factors * rng.uniform(0.5, 2.0, size=factors.shape)
        covariances = factors**-2.0
    fit = ops.gmm_fit(X, weights, means, factors, covariance_type, max_iter=0)
    assert (fit.n_iter, fit.converged, fit.lower_bound) == (0, False, -np.inf)
    for got, want in zip(fit[:4], (weights, means, covariances, factors), strict=True):
        assert_allclose(got, want, rtol=1e-12, atol=1e-13)
    assert not np.shares_memory(fit.means, means)


def test_arrays_come_back_as_they_came():
    X = torch.tensor([[0.0], [1.0], [9.0], [11.0]])
    arguments = [0.5, 0.5], [[0.0], [9.0]], [1.0, 1.0], "spherical"
    fit = ops.gmm_fit(X, *arguments)
    assert isinstance(fit.means, torch.Tensor)
    assert fit.means.dtype == torch.float64
    batch = ops.gmm_fit(X[None], *arguments)
    assert all(isinstance(value, torch.Tensor) for value in batch)
    assert batch.converged.dtype == torch.bool


def test_after_an_exception_the_last_complete_iteration_is_there(rng):
    X = clusters(rng, 300, 2, 3)
    given = start(rng, X, 3, "full")

    def run(max_iter: int, stop_at: int | None) -> list:
        weights, means, factors = (a[None].copy() for a in given)
        arrays = [weights, means, np.empty_like(factors), factors]

        def progress(n_iter: int, change: float, bound: float) -> None:
            if n_iter == stop_at:
                raise KeyboardInterrupt

        outcome = np.array([-np.inf]), np.zeros((1, 4), np.int64)
        bounds: list[list[float]] = []
        options = 0.0, 1e-6, max_iter, *outcome, bounds, None, progress, 1
        try:
            _core.gmm_fit(X[None], None, None, "full", *arrays, *options)
        except KeyboardInterrupt:
            assert stop_at is not None
        else:
            assert stop_at is None
        assert len(bounds[0]) == 4
        return [*arrays, *outcome, bounds]

    for got, want in zip(run(10, stop_at=4), run(4, stop_at=None), strict=True):
        assert_array_equal(got, want)


GOOD = {
    "X": np.arange(12.0).reshape(6, 2) % 5,
    "weights": np.full((2, 2), 0.5),
    "means": np.arange(8.0).reshape(2, 2, 2),
    "precisions_cholesky": np.ones((2, 2, 2)),
    "covariance_type": "diag",
    "offsets": [0, 3, 6],
}
NAN = np.where(np.arange(12).reshape(6, 2) == 9, np.nan, GOOD["X"])


@pytest.mark.parametrize(
    ("changed", "exception", "text"),
    [
        ({"offsets": [0, 3]}, ValueError, "`offsets` run from 0 to 3, expected from 0 to the 6"),
        ({"offsets": [1, 3, 6]}, ValueError, "`offsets` run from 1 to 6"),
        ({"offsets": [0, 0, 6]}, ValueError, "`offsets` give problem 0 the rows from 0 to 0"),
        ({"offsets": [0, 7, 6]}, ValueError, "`offsets` give problem 1 the rows from 7 to 6"),
        ({"offsets": [0.0, 3, 6]}, TypeError, "`offsets` has dtype float64, expected integers"),
        ({"offsets": [[0, 6]]}, ValueError, "`offsets` has shape (1, 2), expected (n_problems"),
        ({"offsets": [0, 2, 4, 6]}, ValueError, "`X` has (3,), `weights` (2,)"),
        ({"offsets": [0, 6]}, ValueError, "batch dimensions (2,), expected (1,) as by `offsets`"),
        ({"X": GOOD["X"][None]}, ValueError, "`X` has shape (1, 6, 2), expected (n_rows, n_feat"),
        ({"X": NAN}, ValueError, "`X` has NaN or infinity in row 4"),
        ({"X": NAN, "max_iter": 0}, ValueError, "`X` has NaN or infinity in row 4"),
        ({"X": NAN.reshape(2, 3, 2), "offsets": None}, ValueError, "infinity in row 1, 1"),
        ({"tol": -1.0}, ValueError, "`tol` is -1.0, expected a finite value >= 0"),
        ({"tol": np.nan}, ValueError, "`tol` is nan"),
        ({"tol": "small"}, TypeError, "`tol` is 'small', expected a number"),
        ({"max_iter": 1.5}, TypeError, "`max_iter` is 1.5, expected an integer"),
        ({"max_iter": True}, TypeError, "`max_iter` is True, expected an integer"),
        ({"max_iter": -1}, ValueError, "`max_iter` is -1"),
        ({"reg_covar": -1e-6}, ValueError, "`reg_covar` is -1e-06"),
        ({"sample_weight": np.ones(5)}, ValueError, "`sample_weight` has shape (5,), expected (6"),
        ({"sample_weight": np.ones((2, 6))}, ValueError, "`sample_weight` has shape (2, 6)"),
        ({"sample_weight": [1.0, 1, 1, -1, 1, 1]}, ValueError, "`sample_weight` has the value -1"),
        (
            {"sample_weight": [1.0, 1, 1, np.nan, 1, 1]},
            ValueError,
            "`sample_weight` has NaN or inf",
        ),
        ({"sample_weight": [1.0, 1, 1, 0, 0, 0]}, ValueError, "zero for all samples of mixture 1"),
        ({"weights": np.full((2, 2), -0.5)}, ValueError, "`weights` has minimum -0.5"),
        ({"means": np.zeros((2, 3, 2))}, ValueError, "`means` has shape (2, 3, 2)"),
        ({"covariance_type": "round"}, ValueError, "`covariance_type` is 'round'"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_bad_input(changed, exception, text):
    ops.gmm_fit(**GOOD)
    with pytest.raises(exception, match=re.escape(text)):
        ops.gmm_fit(**(GOOD | changed))
