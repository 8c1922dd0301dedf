"""Many mixtures from their default starts: against a loop of single fits with the same draws."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import sklearn.mixture
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning

import elbokit
from elbokit import GaussianMixture, _core, fit_mixtures, ops
from gmm_starts import COVARIANCE_TYPES

PARAMETERS = ("weights", "means", "covariances", "precisions_cholesky")
INITS = ("kmeans", "k-means++", "random", "random_from_data")
SIZES = [40, 3, 517, 64, 1025, 9]


def groups(rng, sizes, d, dtype=np.float64):
    """Three overlapping clusters in each group of rows, at places of their own."""
    X = [
        rng.standard_normal((n, d)) + 3 * rng.integers(0, 3, (n, 1)) + b
        for b, n in enumerate(sizes)
    ]
    offsets = np.cumsum([0, *sizes])
    return np.concatenate(X).astype(dtype), offsets


def loop(estimator, X, offsets, weight, seed, k=3, **options):
    """Fit one estimator after the other; they share one RandomState."""
    state = np.random.RandomState(seed)
    fits = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for begin, end in itertools.pairwise(offsets):
            arguments = () if weight is None else (None, weight[begin:end])
            fits.append(estimator(k, random_state=state, **options).fit(X[begin:end], *arguments))
    return fits


def assert_same_fits(fit, fits, rtol):
    for name in PARAMETERS:
        want = np.stack([getattr(each, name + "_") for each in fits])
        assert_allclose(getattr(fit, name), want, rtol, rtol * np.abs(want).max(), err_msg=name)
    assert_allclose(fit.lower_bound, [each.lower_bound_ for each in fits], rtol=rtol)
    assert_array_equal(fit.n_iter, [each.n_iter_ for each in fits])
    assert_array_equal(fit.converged, [each.converged_ for each in fits])
    assert_array_equal(fit.status, 0)


def assert_same_bits(got, want):
    for name, a, b in zip(got._fields, got, want, strict=True):
        assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("init_params", INITS)
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_a_loop_of_estimators(covariance_type, init_params, weighted, rng):
    X, offsets = groups(rng, SIZES, 2)
    options = {"covariance_type": covariance_type, "init_params": init_params, "reg_covar": 1e-2}
    weight = None
    if weighted:
        weight = rng.uniform(0.1, 2.0, len(X))
        weight[50:500:7] = 0.0  # no rows: not even for the draws
        weight[offsets[3] : offsets[4]] = 0.7  # all equal: as none
    fit = fit_mixtures(X, 3, offsets=offsets, sample_weight=weight, random_state=5, **options)
    assert_same_fits(fit, loop(GaussianMixture, X, offsets, weight, 5, **options), rtol=1e-10)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_a_loop_over_scikit_learn(cpu_level, covariance_type, rng):
    X, offsets = groups(rng, [200] * 12, 3)
    options = {"covariance_type": covariance_type}
    fit = fit_mixtures(X.reshape(12, 200, 3), 3, random_state=1, **options)
    fits = loop(sklearn.mixture.GaussianMixture, X, offsets, None, 1, **options)
    assert_same_fits(fit, fits, rtol=1e-7)


def test_float32(rng):
    X, offsets = groups(rng, SIZES, 2, np.float32)
    fit = fit_mixtures(X, 3, offsets=offsets, random_state=0, reg_covar=1e-2)
    fits = loop(GaussianMixture, X, offsets, None, 0, reg_covar=1e-2)
    for name in PARAMETERS:
        got, want = getattr(fit, name), np.stack([getattr(each, name + "_") for each in fits])
        assert got.dtype == np.float64
        assert_array_equal(got.astype(np.float32), want, err_msg=name)


@pytest.mark.parametrize("init_params", INITS)
def test_threads_and_layout_change_no_bit(init_params, restore_threads, rng):
    X, offsets = groups(rng, [150] * 40, 3)
    options = {"random_state": 3, "init_params": init_params, "covariance_type": "tied"}

    def fit(threads, X, **more):
        _core.set_num_threads(threads)
        return fit_mixtures(X, 3, **options, **more)

    one = fit(1, X, offsets=offsets)
    assert_same_bits(fit(4, X, offsets=offsets), one)
    batch = fit(3, np.asfortranarray(X.reshape(5, 8, 150, 3)))
    assert batch.means.shape == (5, 8, 3, 3)
    for name, got, want in zip(one._fields, batch, one, strict=True):
        assert_array_equal(got.reshape(want.shape), want, err_msg=name)


def test_a_single_mixture_is_the_estimator(rng):
    X, offsets = groups(rng, [300], 2)
    fit = fit_mixtures(X, 3, random_state=0)
    (estimator,) = loop(GaussianMixture, X, offsets, None, 0)
    assert_array_equal(fit.means, estimator.means_)
    assert (fit.lower_bound, fit.n_iter) == (estimator.lower_bound_, estimator.n_iter_)
    assert fit.status is ops.FitStatus.OK


def test_torch_comes_back(rng):
    X, offsets = groups(rng, [30, 40], 2)
    fit = fit_mixtures(torch.from_numpy(X), 2, offsets=offsets, random_state=0)
    assert all(isinstance(a, torch.Tensor) for a in fit)
    assert_array_equal(fit.means, fit_mixtures(X, 2, offsets=offsets, random_state=0).means)


@pytest.mark.parametrize("init_params", INITS)
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_a_failure_leaves_the_others_alone(covariance_type, init_params, rng):
    """A constant data set has no variance; a huge one overflows. Their neighbours do not care."""
    good, _ = groups(rng, [50], 2)
    # EM can start from single rows, each in a world of its own: nothing overflows.
    overflows = init_params != "random_from_data"
    constant, huge = np.ones((50, 2)), good * (1e200 if overflows else 1.0)
    X = np.stack([good, constant, good + 1, huge, good + 2])
    options = {"covariance_type": covariance_type, "init_params": init_params, "reg_covar": 0.0}
    if init_params in ("k-means++", "random_from_data"):
        options["reg_covar"] = 1e-2  # one sample has no variance either
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # duplicates
        fit = fit_mixtures(X, 2, random_state=0, **options)
    singular = ops.FitStatus.SINGULAR_COVARIANCE if options["reg_covar"] == 0.0 else 0
    assert fit.status[1] == singular
    assert fit.status[3] == (ops.FitStatus.OVERFLOW if overflows else ops.FitStatus.OK)
    assert_array_equal(fit.status[[0, 2, 4]], ops.FitStatus.OK)
    failed = fit.status != 0
    for name in (*PARAMETERS, "lower_bound"):
        by_mixture = getattr(fit, name).reshape(5, -1)
        assert np.isnan(by_mixture[failed]).all()
        assert np.isfinite(by_mixture[~failed]).all()
    if init_params in ("kmeans", "k-means++"):  # the draws do not depend on the data
        X[1], X[3] = good, good
        unspoilt = fit_mixtures(X, 2, random_state=0, **options)
        assert_array_equal(fit.means[[0, 2, 4]], unspoilt.means[[0, 2, 4]])


def test_a_single_failure_raises():
    with (
        pytest.warns(ConvergenceWarning, match=r"clusters \(1\).*\(2\) in 1 of 1 mixtures"),
        pytest.raises(ops.SingularCovarianceError, match="component 0"),
    ):
        fit_mixtures(np.ones((20, 2)), 2, reg_covar=0.0)


def test_duplicates_warn_once_for_all(rng):
    X = np.stack([rng.standard_normal((20, 2)), np.ones((20, 2)), np.ones((20, 2))])
    with pytest.warns(ConvergenceWarning, match="in 2 of 3 mixtures, first in mixture 1") as caught:
        fit_mixtures(X, 2, random_state=0)
    assert len(caught) == 1
    assert caught[0].filename == __file__


GOOD = np.random.default_rng(0).standard_normal((3, 10, 2))
FLAT = GOOD.reshape(30, 2)
NAN = GOOD.copy()
NAN[1, 4, 0] = np.nan


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"X": GOOD.astype(complex)}, TypeError, "`X` has dtype complex128"),
        ({"X": GOOD[0, 0]}, ValueError, "`X` has shape"),
        ({"X": GOOD[:, :, :0]}, ValueError, "`X` has shape"),
        ({"X": NAN}, ValueError, "`X` has NaN or infinity in row 1, 4"),
        ({"X": NAN, "init_params": "random"}, ValueError, "`X` has NaN or infinity in row 1, 4"),
        ({"X": NAN, "init_params": "k-means++"}, ValueError, "`X` has NaN or infinity in row 1, 4"),
        (
            {"X": NAN.reshape(30, 2), "offsets": [0, 10, 30]},
            ValueError,
            "`X` has NaN or infinity in row 14,",
        ),
        (
            {"X": NAN.reshape(30, 2), "offsets": [0, 14, 15, 30]},
            ValueError,
            "`X` has NaN or infinity in row 14,",
        ),
        ({"n_components": 2.0}, TypeError, "`n_components` is 2.0, expected an int"),
        ({"n_components": True}, TypeError, "`n_components`"),
        ({"n_components": 0}, ValueError, "`n_components` is 0, expected at least 1"),
        ({"n_init": 0}, ValueError, "`n_init` is 0, expected at least 1"),
        ({"n_init": 1.0}, TypeError, "`n_init` is 1.0, expected an int"),
        ({"n_components": 11}, ValueError, "at most 10, the number of samples of the largest"),
        (
            {"X": FLAT, "offsets": [0, 9, 20, 30], "n_components": 12},
            ValueError,
            "`n_components` is 12, expected at most 11, the number of samples of the largest",
        ),
        ({"X": FLAT, "n_components": 31}, ValueError, "at most 30, the number of samples$"),
        ({"covariance_type": "round"}, ValueError, "`covariance_type` is 'round', expected one of"),
        ({"init_params": "kmean"}, ValueError, "`init_params` is 'kmean', expected one of"),
        ({"init_params": None}, ValueError, "`init_params` is None"),
        ({"tol": -1.0}, ValueError, "`tol`"),
        ({"max_iter": 1.5}, TypeError, "`max_iter`"),
        ({"reg_covar": np.inf}, ValueError, "`reg_covar`"),
        ({"random_state": "seed"}, TypeError, "`random_state`"),
        ({"random_state": -1}, ValueError, "`random_state`"),
        ({"offsets": [0, 30]}, ValueError, "expected \\(n_rows, n_features\\) with `offsets`"),
        ({"X": FLAT, "offsets": [0, 20]}, ValueError, "`offsets` run from 0 to 20"),
        ({"X": FLAT, "offsets": [0.0, 30.0]}, TypeError, "`offsets` has dtype float64"),
        ({"sample_weight": np.ones(9)}, ValueError, "`sample_weight` has shape"),
        ({"sample_weight": -np.ones((3, 10))}, ValueError, "`sample_weight` has the value -1"),
        (
            {"sample_weight": np.repeat([[1.0], [0.0], [1.0]], 10, axis=1)},
            ValueError,
            "`sample_weight` is zero for all samples of mixture 1",
        ),
        (
            {"sample_weight": np.eye(3, 10)},
            ValueError,
            "`n_components` is 2, expected at most 1, the number of samples of the largest",
        ),
    ],
)
def test_errors_name_the_argument(change, error, match):
    arguments = {"X": GOOD, "n_components": 2, "random_state": 0} | change
    with pytest.raises(error, match=match):
        fit_mixtures(**arguments)


def assert_the_others_are_as_alone(fit, fitted, X, k, offsets, weight):
    """The data sets that are `fitted` are so as without the others."""
    kept = np.repeat(fitted, np.diff(offsets))
    alone = fit_mixtures(
        X[kept],
        k,
        offsets=np.cumsum([0, *np.diff(offsets)[fitted]]),
        sample_weight=None if weight is None else weight[kept],
        random_state=0,
    )
    for name, got, want in zip(fit._fields, fit, alone, strict=True):
        assert len(got) == len(fitted)
        assert_array_equal(got[fitted], want, err_msg=name)


@pytest.mark.parametrize("weighted", [False, True])
def test_too_few_samples(weighted, rng):
    """Such a data set leaves the others alone; a row of weight zero is none."""
    sizes = [2, 40, 1, 30, 5, 2]
    X, offsets = groups(rng, sizes, 2)
    weight = rng.uniform(0.5, 1.0, len(X)) if weighted else None
    if weight is not None:
        weight[offsets[4] : offsets[4] + 3] = 0.0
    lengths = np.diff(offsets) if weight is None else np.add.reduceat(weight > 0, offsets[:-1])
    enough = lengths >= 3
    assert enough.sum() == (2 if weighted else 3)
    fit = fit_mixtures(X, 3, offsets=offsets, sample_weight=weight, random_state=0)
    assert_array_equal(fit.status[enough], ops.FitStatus.OK)
    assert_array_equal(fit.status[~enough], ops.FitStatus.TOO_FEW_SAMPLES)
    assert_the_others_are_as_alone(fit, enough, X, 3, offsets, weight)
    for name in (*PARAMETERS, "lower_bound"):
        assert np.isnan(getattr(fit, name)[~enough]).all()
    assert not fit.converged[~enough].any()
    assert_array_equal(fit.n_iter[~enough], 0)


@pytest.mark.parametrize("weighted", [False, True])
def test_data_sets_without_rows(weighted, rng):
    """As with too few: the others are as without it, whether rows are lacking or weights."""
    X, offsets = groups(rng, [0, 40, 0, 0, 30, 20, 25, 0], 2)
    weight = rng.uniform(0.5, 1.0, len(X)) if weighted else None
    there = np.diff(offsets) > 0
    if weight is not None:
        weight[offsets[5] : offsets[6]] = 0.0
        there[5] = False
    fit = fit_mixtures(X, 2, offsets=offsets, sample_weight=weight, random_state=0)
    assert_array_equal(fit.status[~there], ops.FitStatus.TOO_FEW_SAMPLES)
    assert_the_others_are_as_alone(fit, there, X, 2, offsets, weight)
    assert np.isnan(fit.means[~there]).all()


def test_errors_number_the_rows_as_given(rng):
    X, weight = rng.standard_normal((60, 2)), np.repeat([0.0, 1.0, 1.0], 20)
    X[47] = np.nan
    with pytest.raises(ValueError, match="`X` has NaN or infinity in row 47"):
        fit_mixtures(X, 2, offsets=[0, 20, 20, 40, 60], sample_weight=weight, random_state=0)
    weight[51] = np.inf
    with pytest.raises(ValueError, match="`sample_weight` has NaN or infinity in row 51"):
        fit_mixtures(X, 2, offsets=[0, 20, 20, 40, 60], sample_weight=weight, random_state=0)
    with pytest.raises(ValueError, match="`sample_weight` is zero for all samples of mixture 0"):
        fit_mixtures(X, 2, offsets=[0, 20, 60], sample_weight=np.zeros(60), random_state=0)


def test_integers_and_booleans(rng):
    X, there = rng.integers(0, 50, (60, 2)), rng.random(60) > 0.3
    options = {"offsets": [0, 30, 60], "random_state": 0}
    fit = fit_mixtures(X, 2, sample_weight=there, **options)
    same = fit_mixtures(X.astype(float), 2, sample_weight=there.astype(float), **options)
    assert_array_equal(fit.means, same.means)


def test_the_warning_numbers_the_mixtures_as_given():
    X = np.repeat([[0.0], [1.0], [5.0]], [1, 4, 4], axis=0)
    with pytest.warns(ConvergenceWarning, match="1 of 1 mixtures, first in mixture 1"):
        fit_mixtures(X[:5], 2, offsets=[0, 1, 5], random_state=0)
    with pytest.warns(ConvergenceWarning, match="1 of 1 mixtures, first in mixture 2"):
        fit_mixtures(X[:5], 2, offsets=[0, 0, 1, 5], random_state=0)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_n_init_keeps_the_best_run(covariance_type, rng):
    X, offsets = groups(rng, [60] * 25, 2)
    options = {"offsets": offsets, "covariance_type": covariance_type, "init_params": "random"}
    state = np.random.RandomState(4)
    runs = [fit_mixtures(X, 3, random_state=state, **options) for _ in range(4)]
    best = np.argmax([run.lower_bound for run in runs], axis=0)
    assert len(set(best)) > 2
    fit = fit_mixtures(X, 3, n_init=4, random_state=np.random.RandomState(4), **options)
    for i, name in enumerate(fit._fields):
        assert_array_equal(fit[i], [runs[b][i][m] for m, b in enumerate(best)], err_msg=name)


def test_n_init_passes_over_failed_runs():
    """A run is singular where it leaves three equal rows to themselves."""
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.standard_normal((40, 1)), np.full((3, 1), 2.5)])
    state, options = np.random.RandomState(0), {"offsets": [0, len(X)], "reg_covar": 0.0}
    runs = [fit_mixtures(X, 3, random_state=state, **options) for _ in range(8)]
    failed = [run.status[0] == ops.FitStatus.SINGULAR_COVARIANCE for run in runs]
    assert 0 < sum(failed) < 8
    fit = fit_mixtures(X, 3, n_init=8, random_state=0, **options)
    assert fit.status[0] == ops.FitStatus.OK
    assert fit.lower_bound[0] == max(
        run.lower_bound[0] for run, bad in zip(runs, failed, strict=True) if not bad
    )


def test_it_is_exported():
    assert elbokit.fit_mixtures is elbokit.mixture.fit_mixtures
    assert "fit_mixtures" in dir(elbokit)


def test_no_data_set():
    with pytest.raises(ValueError, match=r"`X` has shape \(0, 5, 2\), expected at least one"):
        fit_mixtures(np.empty((0, 5, 2)), 2)


def test_integer_weights_are_copies(rng):
    X, weight = rng.standard_normal((40, 2)), rng.integers(0, 4, size=40)
    fit = fit_mixtures(X, 2, sample_weight=weight, random_state=0)
    assert_array_equal(
        fit.means, fit_mixtures(X, 2, sample_weight=weight.tolist(), random_state=0).means
    )
