"""What must hold in rounded arithmetic: offsets, empty components, a rising bound, symmetry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_blobs
from sklearn.mixture import GaussianMixture as SklearnMixture

from elbokit import GaussianMixture, reference

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")
ARRAYS = ("weights_", "means_", "covariances_")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def precisions(covariance_type, n_components, n_features):
    """Return unit precisions in the shape of `covariance_type`."""
    return {
        "full": np.tile(np.eye(n_features), (n_components, 1, 1)),
        "tied": np.eye(n_features),
        "diag": np.ones((n_components, n_features)),
        "spherical": np.ones(n_components),
    }[covariance_type]


def test_two_distant_points_in_float32():
    X = np.array([[9999.0], [0.0]], dtype=np.float32)
    gm = GaussianMixture(2, covariance_type="spherical", random_state=0).fit(X)
    assert_array_equal(np.sort(gm.means_, axis=0), [[0.0], [9999.0]])
    assert_allclose(gm.covariances_, 1e-6, rtol=1e-6)
    assert_array_equal(gm.weights_, 0.5)
    assert_array_equal(gm.predict(X), np.argmax(gm.means_ == X.T, axis=0))


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_float32_far_from_the_origin(covariance_type, offset):
    X = make_blobs(300, centers=[[0, 0], [2, 3], [4, 0]], cluster_std=1.0, random_state=0)[0]
    X = (X + offset).astype(np.float32)
    start = {
        "weights_init": np.full(3, 1 / 3),
        "means_init": np.array([[0.0, 0.0], [2.0, 3.0], [4.0, 0.0]]) + offset,
        "precisions_init": precisions(covariance_type, 3, 2),
    }
    parameters = {"n_components": 3, "covariance_type": covariance_type, "max_iter": 20, "tol": 0.0}
    gm = GaussianMixture(**parameters, **start).fit(X)
    # The truth: the same (rounded) data in float64, moved back to where nothing cancels.
    start["means_init"] -= offset
    centred = X.astype(np.float64) - offset
    truth = SklearnMixture(**parameters, **start).fit(centred)
    assert_allclose(gm.predict_proba(X), truth.predict_proba(centred), atol=1e-5)
    total = truth.score_samples(centred).sum()
    assert gm.score_samples(X).sum(dtype=float) == pytest.approx(total, rel=1e-6)
    assert gm.lower_bound_ == pytest.approx(truth.lower_bound_, rel=1e-6)
    assert_allclose(gm.covariances_, truth.covariances_, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
def test_float32_far_from_the_origin_from_every_start(covariance_type, init_params):
    X = make_blobs(300, centers=[[0, 0], [6, 8], [9, -3]], cluster_std=1.0, random_state=0)[0]
    X = (X + 1e4).astype(np.float32)
    parameters = {
        "n_components": 3,
        "covariance_type": covariance_type,
        "init_params": init_params,
        "random_state": 0,
        "max_iter": 5,
        "tol": 0.0,
    }
    gm = GaussianMixture(**parameters).fit(X)
    truth = SklearnMixture(**parameters).fit(X.astype(np.float64))  # of the same, rounded, rows
    assert gm.means_.dtype == np.float32
    assert_allclose(gm.means_, truth.means_, rtol=1e-7)  # rounded once: 1e-3 of a deviation
    assert_allclose(gm.weights_, truth.weights_, atol=1e-5)
    assert_allclose(gm.covariances_, truth.covariances_, rtol=1e-4, atol=1e-5)
    assert gm.lower_bound_ == pytest.approx(truth.lower_bound_, abs=1e-5)
    exact = truth.predict_proba(X.astype(np.float64))
    assert_allclose(gm.predict_proba(X), exact, atol=1e-4)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_errors_do_not_pile_up_over_a_million_rows(covariance_type):
    n = 1_000_000
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0, 0.0], [2.0, -1.0, 1.0], [-1.0, 2.0, 2.0]])
    X = rng.standard_normal((n, 3), dtype=np.float32)
    X += (centres[rng.integers(0, 3, n)] + 50.0).astype(np.float32)
    parameters = {
        "n_components": 3,
        "covariance_type": covariance_type,
        "weights_init": np.full(3, 1 / 3),
        "means_init": centres + 50.0,
        "precisions_init": precisions(covariance_type, 3, 3),
        "max_iter": 3,
        "tol": 0.0,
    }
    gm = GaussianMixture(**parameters).fit(X)
    truth = GaussianMixture(**parameters).fit(X.astype(np.float64))
    plain = np.add.accumulate(X[:, 0])[-1] / n  # what summing up in float32 comes to
    assert abs(plain - X[:, 0].mean(dtype=np.float64)) > 1e-2
    assert_allclose(gm.weights_, truth.weights_, atol=1e-7)
    assert_allclose(gm.means_, truth.means_, rtol=1e-7)
    assert_allclose(gm.covariances_, truth.covariances_, rtol=1e-6, atol=1e-6)
    assert gm.lower_bound_ == pytest.approx(truth.lower_bound_, rel=1e-7)
    assert gm.score(X) == pytest.approx(truth.score(X.astype(np.float64)), rel=1e-7)


def scaled_fits(covariance_type, init_params, scale):
    """Fit rows of that scale, and what they are as numbers of about 1, in float64."""
    X = make_blobs(300, centers=3, n_features=3, random_state=0)[0]
    X = (X * scale).astype(np.float32)
    parameters = {
        "n_components": 3,
        "covariance_type": covariance_type,
        "init_params": init_params,
        "random_state": 0,
        "max_iter": 10,
        "tol": 0.0,
        "reg_covar": 0.0,
    }
    unit = X.astype(np.float64) / scale
    truth = GaussianMixture(**parameters).fit(unit)
    return X, unit, truth, GaussianMixture(**parameters)


# 1e-19: squares are below the normal numbers; 1e18: their sums overflow.
@pytest.mark.parametrize("scale", [1e-19, 1e-18, 1e-15, 1e15, 1e18])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_float32_of_any_scale(covariance_type, scale):
    # The sums of k-means do not reach 1e18.
    init_params = "random" if scale == 1e18 else "kmeans"
    X, unit, truth, gm = scaled_fits(covariance_type, init_params, scale)
    gm.fit(X)
    tolerance = {"rtol": 1e-5, "atol": 1e-5}
    assert_allclose(gm.weights_, truth.weights_, **tolerance)
    assert_allclose(gm.means_.astype(float) / scale, truth.means_, **tolerance)
    assert_allclose(gm.covariances_.astype(float) / scale**2, truth.covariances_, **tolerance)
    shift = 3 * np.log(scale)
    assert gm.lower_bound_ + shift == pytest.approx(truth.lower_bound_, rel=1e-6)
    assert_array_equal(gm.predict(X), truth.predict(unit))
    assert_allclose(gm.score_samples(X) + shift, truth.score_samples(unit), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("init_params", ["kmeans", "random"])
@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (1e-40, "variances so small that precisions_ would reach"),
        (1e-25, "variances so small that precisions_ would reach"),
        (1e-20, "variances so small that precisions_ would reach"),
        (1e25, "overflow|variances so large that covariances_ would reach"),
    ],
)
def test_a_scale_that_float32_cannot_hold_is_an_error(covariance_type, init_params, scale, message):
    X, _, _, gm = scaled_fits(covariance_type, init_params, scale)
    with pytest.raises(ValueError, match=message) as error:
        gm.fit(X)
    assert "`X` has " in str(error.value)
    assert "scale the data" in str(error.value)
    assert not hasattr(gm, "means_")
    gm.fit(X.astype(np.float64))  # which holds it
    # The default regularisation is larger than any of these variances.
    if scale < 1.0:
        assert_allclose(gm.set_params(reg_covar=1e-6).fit(X).covariances_.max(), 1e-6, rtol=1e-6)


def test_rows_that_are_not_aligned():
    X = make_blobs(60, centers=2, random_state=0)[0].astype(np.float32)
    memory = np.zeros(X.nbytes + 1, np.uint8)
    shifted = memory[1:].view(np.float32).reshape(X.shape)
    shifted[...] = X
    assert not shifted.flags.aligned
    gm, expected = (GaussianMixture(2, random_state=0).fit(rows) for rows in (shifted, X))
    assert_array_equal(gm.means_, expected.means_)


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_float32_is_no_reason_to_fail(covariance_type):
    # A component that spans clusters 1e4 deviations apart has a condition number of 1e8.
    rng = np.random.default_rng(0)
    centres = np.outer(np.arange(4.0), [1e4, -1e4, 5e3])
    X = (rng.normal(size=(50, 4, 3)) + centres).reshape(-1, 3).astype(np.float32)
    parameters = {
        "n_components": 4,
        "covariance_type": covariance_type,
        "init_params": "random",
        "random_state": 1,
        "max_iter": 3,
        "tol": 0.0,
    }
    gm = GaussianMixture(**parameters).fit(X)
    truth = SklearnMixture(**parameters).fit(X.astype(np.float64))
    assert_allclose(gm.lower_bound_, truth.lower_bound_, atol=0.02)


def test_changed_attributes_count():
    X = make_blobs(50, centers=2, random_state=0)[0].astype(np.float32)
    gm = GaussianMixture(2, random_state=0).fit(X)
    gm.means_ = gm.means_[::-1].copy()
    expected = reference.gmm_estep(X, gm.weights_, gm.means_, gm.precisions_cholesky_)[0]
    assert_allclose(gm.score_samples(X), expected, rtol=1e-5)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_emptied_component_stays_with_weight_zero(covariance_type, dtype):
    X = make_blobs(80, centers=2, n_features=2, random_state=0)[0].astype(dtype)
    means = np.vstack([[300.0, -300.0], X[0], X[-1]])  # exp(-300^2) underflows
    kept = precisions(covariance_type, 3, 2)
    rest = kept if covariance_type == "tied" else kept[1:]
    parameters = {"covariance_type": covariance_type, "max_iter": 10, "tol": 0.0}
    gm = GaussianMixture(
        3, weights_init=[0.2, 0.4, 0.4], means_init=means, precisions_init=kept, **parameters
    ).fit(X)
    two = GaussianMixture(
        2, weights_init=[0.5, 0.5], means_init=means[1:], precisions_init=rest, **parameters
    ).fit(X)
    assert gm.weights_[0] == 0.0
    assert_array_equal(gm.means_[0], means[0].astype(dtype))
    rtol = 1e-5 if dtype == np.float32 else 1e-12
    assert_allclose(gm.means_[1:], two.means_, rtol=rtol)
    shared = gm.covariances_ if covariance_type == "tied" else gm.covariances_[1:]
    assert_allclose(shared, two.covariances_, rtol=rtol, atol=rtol)
    if covariance_type != "tied":
        assert_array_equal(gm.covariances_[0], kept[0])  # unit precision, unit covariance
    assert_array_equal(gm.predict_proba(X)[:, 0], 0.0)
    assert_allclose(gm.score_samples(X), two.score_samples(X), rtol=10 * rtol)
    assert 0 not in gm.sample(200)[1]


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weight_zero_from_the_start(covariance_type, first, dtype):
    X = make_blobs(60, centers=2, random_state=1)[0].astype(dtype)
    weights = np.array([0.5, 0.5, 0.5])
    weights[first] = 0.0
    means = X[[0, 10, 20]]
    gm = GaussianMixture(
        3,
        covariance_type=covariance_type,
        weights_init=weights,
        means_init=means,
        random_state=0,
        max_iter=5,
    ).fit(X)
    assert gm.weights_[first] == 0.0
    assert_array_equal(gm.means_[first], means[first])
    assert gm.weights_.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_duplicates_and_a_constant_column(covariance_type, init_params, dtype):
    X = np.repeat([[0.0, 3.3, 1.0], [1.0, 3.3, 5.0], [4.0, 3.3, 2.0]], 7, axis=0).astype(dtype)
    gm = GaussianMixture(
        5, covariance_type=covariance_type, init_params=init_params, random_state=0
    ).fit(X)
    for name in ARRAYS:
        assert np.isfinite(getattr(gm, name)).all(), name
    assert_allclose(gm.means_[:, 1], X[0, 1], rtol=1e-12)
    assert np.isfinite(gm.score(X))
    assert_allclose(gm.predict_proba(X).sum(axis=1), 1.0, rtol=1e-6)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_without_regularisation_a_constant_column_is_an_error(covariance_type, init_params, dtype):
    X = np.repeat([[0.0, 3.3, 1.0], [1.0, 3.3, 5.0], [4.0, 3.3, 2.0]], 7, axis=0).astype(dtype)
    if covariance_type == "spherical":
        X[:] = X[0]  # one variance for all features: none may have any
    gm = GaussianMixture(
        2,
        covariance_type=covariance_type,
        init_params=init_params,
        reg_covar=0.0,
        random_state=0,
    )
    with pytest.raises(ValueError, match=r"increase reg_covar, or scale the input data"):
        gm.fit(X)
    assert not hasattr(gm, "means_")


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=12, deadline=None)
def test_bound_never_falls(covariance_type, seed):
    rng = np.random.default_rng(seed)
    k, d = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    X = rng.normal(size=(60, d)) * rng.uniform(0.1, 10.0, size=d) + rng.normal(size=d) * 100
    # Without regularisation: reg_covar moves the M-step off the maximum.
    gm = GaussianMixture(
        k,
        covariance_type=covariance_type,
        reg_covar=0.0,
        init_params="random",
        random_state=int(rng.integers(2**31)),
        max_iter=40,
        tol=0.0,
    )
    try:
        gm.fit(X)
    except ValueError as error:
        # Without regularisation a component may close in on one sample: no bound to judge.
        assume("ill-defined empirical covariance" not in str(error))
        raise
    bounds = np.array([*gm.lower_bounds_, gm.score(X)])
    rounding = 1e-13 * (1.0 + np.abs(bounds).max())
    assert (np.diff(bounds) >= -rounding).all()


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=8, deadline=None)
def test_invariances(covariance_type, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(40, 2)) + rng.integers(0, 3, size=(40, 1)) * 2.0
    means = X[:3]
    parameters = {"covariance_type": covariance_type, "max_iter": 4, "tol": 0.0}
    start = {
        "weights_init": np.array([0.2, 0.3, 0.5]),
        "precisions_init": precisions(covariance_type, 3, 2),
    }
    base = GaussianMixture(3, means_init=means, **start, **parameters).fit(X)

    shift = rng.normal(size=2) * 10
    moved = GaussianMixture(3, means_init=means + shift, **start, **parameters).fit(X + shift)
    assert_allclose(moved.means_ - shift, base.means_, rtol=1e-9, atol=1e-9)
    assert_allclose(moved.covariances_, base.covariances_, rtol=1e-9, atol=1e-10)

    rows = rng.permutation(40)
    shuffled = GaussianMixture(3, means_init=means, **start, **parameters).fit(X[rows])
    assert_allclose(shuffled.means_, base.means_, rtol=1e-9, atol=1e-10)

    order = rng.permutation(3)
    start["weights_init"] = start["weights_init"][order]
    renamed = GaussianMixture(3, means_init=means[order], **start, **parameters).fit(X)
    assert_allclose(renamed.means_, base.means_[order], rtol=1e-9, atol=1e-10)
    assert_allclose(renamed.weights_, base.weights_[order], rtol=1e-9)
