"""Missing values integrated out: densities, statistics and fits against row-by-row oracles."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning

import missing_oracle as oracle
from elbokit import GaussianMixture, _core
from elbokit._types import GmmStatistics
from elbokit.mixture import _missing
from elbokit.mixture._missing import group_by_pattern, statistics_of_groups
from elbokit.mixture._parameters import (
    GmmParameters,
    covariances_from_cholesky,
    precisions_from_cholesky,
)
from gmm_starts import COVARIANCE_TYPES, clusters
from missing_oracle import with_holes

ARRAYS = ("weights_", "means_", "covariances_", "precisions_cholesky_")
types = pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)


def parameters(rng: np.random.Generator, k: int, d: int, covariance_type: str) -> GmmParameters:
    """A mixture without any symmetry."""
    shape = {"full": (k, d, d), "tied": (d, d), "diag": (k, d), "spherical": (k,)}[covariance_type]
    if covariance_type in ("full", "tied"):
        factors = np.triu(0.5 * rng.normal(size=shape), 1) + np.eye(d) * rng.uniform(0.5, 2, d)
    else:
        factors = rng.uniform(0.5, 2.0, shape)
    covariances = covariances_from_cholesky(factors, covariance_type)
    means = 1.5 * rng.normal(size=(k, d))
    return GmmParameters(rng.dirichlet(np.full(k, 5.0)), means, covariances, factors)


def fitted(p: GmmParameters, covariance_type: str, dtype: type = np.float64) -> GaussianMixture:
    """An estimator with given parameters."""
    k, d = p.means.shape
    gm = GaussianMixture(
        k,
        covariance_type=covariance_type,
        missing="integrate",
        weights_init=p.weights,
        means_init=p.means,
        precisions_init=precisions_from_cholesky(p.precisions_cholesky, covariance_type),
        max_iter=0,
    )
    return gm.fit(np.zeros((max(k, 2), d), dtype))


def dense(p: GmmParameters, covariance_type: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same with a covariance matrix for each component."""
    sigma = oracle.matrices(p.covariances, covariance_type, *p.means.shape)
    return p.weights, p.means, sigma


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@types
@pytest.mark.parametrize(("d", "k"), [(1, 1), (2, 3), (7, 3), (19, 2)])
def test_density_and_statistics_are_the_oracles(d, k, covariance_type, dtype) -> None:
    rng = np.random.default_rng(d)
    n = 41
    p = parameters(rng, k, d, covariance_type)
    X = with_holes(rng, (2.0 * rng.normal(size=(n, d))).astype(dtype))
    gm, reference = fitted(p, covariance_type, dtype), dense(p, covariance_type)
    rtol = 2e-5 if dtype == np.float32 else 1e-10
    log_prob, shares = oracle.posterior(X.astype(np.float64), *reference)
    assert gm.score_samples(X).dtype == gm.predict_proba(X).dtype == dtype
    assert_allclose(gm.score_samples(X), log_prob, rtol=rtol, atol=rtol)
    assert_allclose(gm.predict_proba(X), shares, atol=rtol)
    assert gm.score_samples(X)[1] == 0.0
    assert_array_equal(gm.predict(X), shares.argmax(axis=1))
    assert gm.score(X) == pytest.approx(log_prob.mean(), rel=rtol, abs=rtol)
    free = gm._n_parameters()
    assert gm.bic(X) == pytest.approx(-2 * log_prob.sum() + free * np.log(n), rel=rtol)
    assert gm.aic(X) == pytest.approx(-2 * log_prob.sum() + free * 2, rel=rtol)

    for weight in (None, rng.integers(1, 64, n) / 64.0):
        counts, first, second, bound = oracle.statistics(X.astype(np.float64), *reference, weight)
        expected = counts, first, oracle.in_shape(second, covariance_type), bound
        for wide in (False, True):
            groups = group_by_pattern(X, k, covariance_type, weight)
            got = statistics_of_groups(groups, p, covariance_type, wide)
            near = 1e-10 if wide else rtol
            for name, ours, truth in zip(GmmStatistics._fields, got, expected, strict=True):
                scale = np.abs(truth).max()
                assert_allclose(ours, truth, rtol=0, atol=near * scale, err_msg=name)


def test_statistics_against_numerical_integration() -> None:
    """One row, two of three features missing: expectations under the joint density itself."""
    rng = np.random.default_rng(5)
    p = parameters(rng, 2, 3, "full")
    x, hidden = np.array([[np.nan, 0.7, np.nan]]), [0, 2]
    got = statistics_of_groups(group_by_pattern(x, 2, "full"), p, "full")
    sd = np.sqrt(np.einsum("kii->ki", p.covariances)).max(axis=0)[hidden]
    low, high = p.means[:, hidden].min(axis=0), p.means[:, hidden].max(axis=0)
    nodes, share = np.polynomial.legendre.leggauss(150)
    middle, half = (low + high) / 2, (high - low) / 2 + 9 * sd
    grid = np.meshgrid(*(m + h * nodes for m, h in zip(middle, half, strict=True)), indexing="ij")
    points = np.tile(x[0], (grid[0].size, 1))
    points[:, hidden] = np.stack([axis.ravel() for axis in grid], axis=1)
    volume = np.outer(share, share).ravel() * half.prod()
    joint = np.stack(
        [
            w * multivariate_normal(m, s).pdf(points) * volume
            for w, m, s in zip(p.weights, p.means, p.covariances, strict=True)
        ]
    )
    posterior = joint / joint.sum()
    deviations = points - p.means[:, None]
    first = np.einsum("kn,kni->ki", posterior, deviations)
    second = np.einsum("kn,kni,knj->kij", posterior, deviations, deviations)
    assert got.log_likelihood == pytest.approx(np.log(joint.sum()), abs=1e-10)
    assert_allclose(got.counts, posterior.sum(axis=1), atol=1e-10)
    assert_allclose(got.first_moments, first, atol=1e-9)
    assert_allclose(got.second_moments, second, atol=1e-9)


@types
def test_groups_hold_each_row_once(covariance_type, monkeypatch) -> None:
    """However the patterns are batched, the sums are the same."""
    rng = np.random.default_rng(2)
    X = with_holes(rng, clusters(rng, 400, 5, 2))
    weight = rng.uniform(size=400)
    p = parameters(rng, 2, 5, covariance_type)
    whole = statistics_of_groups(
        group_by_pattern(X, 2, covariance_type, weight), p, covariance_type
    )
    for large, entries in ((4, 1 << 17), (1024, 60), (1, 1)):
        monkeypatch.setattr(_missing, "_LARGE", large)
        monkeypatch.setattr(_missing, "_MATRIX_ENTRIES", entries)
        groups = group_by_pattern(X, 2, covariance_type, weight)
        rows = np.concatenate([group.rows.ravel() for group in groups])
        assert_array_equal(np.sort(rows[rows >= 0]), np.arange(400))
        assert sum(g.rows.size for g in groups) <= 2 * 400
        cut = statistics_of_groups(groups, p, covariance_type)
        for ours, theirs in zip(cut, whole, strict=True):
            assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11)


def test_more_than_64_features() -> None:
    """Patterns then take more than one word."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(12, 70))
    X[::3, 69], X[1::3, 0] = np.nan, np.nan
    p = parameters(rng, 2, 70, "diag")
    assert sum(len(g.order) for g in group_by_pattern(X, 2, "diag")) == 3
    expected, _ = oracle.posterior(X, *dense(p, "diag"))
    assert_allclose(fitted(p, "diag").score_samples(X), expected, rtol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
@types
def test_complete_data_give_the_plain_fit(covariance_type, init_params, dtype) -> None:
    rng = np.random.default_rng(1)
    X = clusters(rng, 203, 3, 3).astype(dtype)
    options = {
        "covariance_type": covariance_type,
        "init_params": init_params,
        "random_state": 0,
        "n_init": 2,
        "max_iter": 300,
    }
    plain = GaussianMixture(3, **options).fit(X)
    ours = GaussianMixture(3, missing="integrate", **options).fit(X)
    for name in (*ARRAYS, "lower_bounds_"):
        assert_array_equal(getattr(ours, name), getattr(plain, name))


@types
def test_one_iteration_is_the_closed_form(covariance_type) -> None:
    rng = np.random.default_rng(3)
    X = with_holes(rng, clusters(rng, 60, 4, 2))
    p = parameters(rng, 2, 4, covariance_type)
    gm = fitted(p, covariance_type).set_params(max_iter=1, tol=0.0, reg_covar=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        gm.fit(X)
    counts, first, second, log_likelihood = oracle.statistics(X, *dense(p, covariance_type))
    shift = first / counts[:, None]
    central = second - counts[:, None, None] * shift[:, :, None] * shift[:, None, :]
    each = central / counts[:, None, None]
    covariances = {
        "full": each,
        "tied": central.sum(axis=0) / counts.sum(),
        "diag": np.einsum("kii->ki", each),
        "spherical": np.einsum("kii->k", each) / 4,
    }[covariance_type]
    assert_allclose(gm.weights_, counts / 60, rtol=1e-10)
    assert_allclose(gm.means_, p.means + shift, rtol=1e-9, atol=1e-10)
    assert_allclose(gm.covariances_, covariances, rtol=1e-9, atol=1e-10)
    assert gm.lower_bounds_ == [pytest.approx(log_likelihood / 60, rel=1e-10)]


@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
@types
def test_the_bound_never_falls(covariance_type, init_params) -> None:
    rng = np.random.default_rng(4)
    X = with_holes(rng, clusters(rng, 200, 4, 3), 0.4)
    gm = GaussianMixture(
        3,
        covariance_type=covariance_type,
        init_params=init_params,
        missing="integrate",
        tol=1e-6,
        max_iter=60,
        reg_covar=0.0 if init_params in ("kmeans", "random") else 1e-6,
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        gm.fit(X)
    bounds = np.array(gm.lower_bounds_)
    assert len(bounds) > 3
    # reg_covar, where there is one, takes a little of the M-step's maximum.
    slack = 1e-12 if gm.reg_covar == 0.0 else 1e-5
    assert (np.diff(bounds) > -slack * np.abs(bounds[1:])).all()
    assert gm.score(X) > bounds[-1] - 1e-5


def test_one_gaussian_reaches_the_maximum() -> None:
    """A monotone pattern has a closed-form maximum likelihood (Anderson 1957)."""
    rng = np.random.default_rng(6)
    X = rng.multivariate_normal([1.0, -2.0], [[2.0, 1.2], [1.2, 1.5]], size=300)
    X[200:, 1] = np.nan
    gm = GaussianMixture(missing="integrate", tol=1e-13, max_iter=1000, reg_covar=0.0).fit(X)
    both = X[:200]
    slope = np.cov(both.T, bias=True)[0, 1] / both[:, 0].var()
    mean = X[:, 0].mean(), both[:, 1].mean() + slope * (X[:, 0].mean() - both[:, 0].mean())
    residual = both[:, 1].var() - slope**2 * both[:, 0].var()
    variance = X[:, 0].var()
    expected = [
        [variance, slope * variance],
        [slope * variance, residual + slope**2 * variance],
    ]
    assert_allclose(gm.means_[0], mean, rtol=1e-5)
    assert_allclose(gm.covariances_[0], expected, rtol=1e-5)


@pytest.mark.parametrize("init_params", ["kmeans", "random_from_data"])
@types
def test_integer_weights_are_repeated_rows(covariance_type, init_params) -> None:
    rng = np.random.default_rng(7)
    X = with_holes(rng, clusters(rng, 90, 3, 2))
    times = rng.integers(0, 4, 90)
    start = parameters(rng, 2, 3, covariance_type)
    gm = fitted(start, covariance_type).set_params(max_iter=7, tol=0.0, init_params=init_params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        weighted = {name: getattr(gm.fit(X, sample_weight=times), name) for name in ARRAYS}
        bound = gm.lower_bound_
        gm.fit(np.repeat(X, times, axis=0))
    for name, array in weighted.items():
        assert_allclose(array, getattr(gm, name), rtol=1e-9, atol=1e-10, err_msg=name)
    assert gm.lower_bound_ == pytest.approx(bound, rel=1e-10)


@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
@types
def test_start_is_the_plain_one_with_means_filled_in(covariance_type, init_params) -> None:
    """And the variance that this takes away is given back."""
    rng = np.random.default_rng(14)
    X = with_holes(rng, clusters(rng, 80, 3, 2))
    weight = rng.uniform(0.2, 1.0, 80)
    options = {
        "covariance_type": covariance_type,
        "init_params": init_params,
        "max_iter": 0,
        "random_state": 0,
    }
    seen = np.ma.masked_invalid(X)
    mean = np.ma.average(seen, axis=0, weights=weight).data
    variance = np.ma.average((seen - mean) ** 2, axis=0, weights=weight).data
    lost = variance * np.average(np.isnan(X), axis=0, weights=weight)
    if init_params in ("k-means++", "random_from_data"):
        lost[:] = lost.mean()
    plain = GaussianMixture(2, **options).fit(np.where(np.isnan(X), mean, X), sample_weight=weight)
    gm = GaussianMixture(2, missing="integrate", **options).fit(X, sample_weight=weight)
    assert_allclose(gm.weights_, plain.weights_, rtol=1e-12)
    assert_allclose(gm.means_, plain.means_, rtol=1e-9, atol=1e-12)
    wider = oracle.matrices(plain.covariances_, covariance_type, 2, 3) + np.diag(
        np.full(3, lost.mean()) if covariance_type == "spherical" else lost
    )
    ours = oracle.matrices(gm.covariances_, covariance_type, 2, 3)
    assert_allclose(ours, wider, rtol=1e-9, atol=1e-12)
    assert gm.n_iter_ == 0


@types
def test_float32_is_near_float64(covariance_type) -> None:
    rng = np.random.default_rng(8)
    X = with_holes(rng, clusters(rng, 500, 4, 3) + 1e4).astype(np.float32)
    start = parameters(rng, 3, 4, covariance_type)
    start = start._replace(means=start.means + 1e4)
    fits = []
    for data in (X, X.astype(np.float64)):
        gm = fitted(start, covariance_type).set_params(max_iter=20, tol=0.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fits.append(gm.fit(data))
    narrow, wide = fits
    assert narrow.means_.dtype == np.float32
    assert_allclose(narrow.weights_, wide.weights_, atol=1e-5)
    assert_allclose(narrow._float64("means") - 1e4, wide.means_ - 1e4, atol=1e-4)
    assert_allclose(narrow.covariances_, wide.covariances_, rtol=1e-4, atol=1e-4)
    assert narrow.lower_bound_ == pytest.approx(wide.lower_bound_, rel=1e-6)


@types
def test_a_group_that_never_saw_a_feature_keeps_its_variance(covariance_type) -> None:
    """All rows near one center miss feature 1: what stands for them there must have a spread."""
    rng = np.random.default_rng(9)
    X = rng.normal(size=(200, 2))
    X[100:, 0] += 20.0
    X[:100, 1] = np.nan
    gm = GaussianMixture(
        2, covariance_type=covariance_type, missing="integrate", random_state=0
    ).fit(X)
    sigma = oracle.matrices(gm.covariances_, covariance_type, 2, 2)
    assert (sigma[:, 1, 1] > 0.2).all()
    assert_array_equal(gm.predict(X)[:100], gm.predict(X)[0])
    assert gm.predict(X)[0] != gm.predict(X)[-1]


def test_recovers_clusters_under_heavy_loss() -> None:
    rng = np.random.default_rng(10)
    labels = rng.integers(2, size=1000)
    X = np.where(labels[:, None], 2.0, -2.0) + rng.normal(size=(1000, 6))
    X[rng.random(X.shape) < 0.5] = np.nan
    gm = GaussianMixture(2, missing="integrate", random_state=0)
    found = gm.fit_predict(X)
    assert_array_equal(found, gm.predict(X))
    assert max((found == labels).mean(), (found != labels).mean()) > 0.97
    assert_allclose(np.sort(gm.means_, axis=0), [[-2.0] * 6, [2.0] * 6], atol=0.25)


def test_restarts_warm_start_and_output(capsys) -> None:
    rng = np.random.default_rng(11)
    X = with_holes(rng, clusters(rng, 150, 3, 3))
    options = {"missing": "integrate", "init_params": "random_from_data", "max_iter": 500}
    state = np.random.RandomState(0)
    bounds = [
        GaussianMixture(3, random_state=state, **options).fit(X).lower_bound_ for _ in range(3)
    ]
    assert len(set(bounds)) > 1
    best = GaussianMixture(3, random_state=np.random.RandomState(0), n_init=3, **options).fit(X)
    assert best.lower_bound_ == max(bounds)

    gm = GaussianMixture(
        3, missing="integrate", random_state=0, warm_start=True, max_iter=2, tol=0.0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        twice = gm.fit(X).lower_bounds_ + gm.fit(X).lower_bounds_
        once = GaussianMixture(3, missing="integrate", random_state=0, max_iter=4, tol=0.0).fit(X)
    assert_allclose(twice, once.lower_bounds_, rtol=1e-10)

    # The bound before the first iteration is known: nothing changes any more.
    gm.set_params(tol=1e-6, max_iter=1000).fit(X)
    assert gm.n_iter_ > 1
    assert gm.fit(X).n_iter_ == 1

    capsys.readouterr()
    printed = GaussianMixture(
        2, missing="integrate", random_state=0, verbose=2, verbose_interval=1, tol=1e-2
    ).fit(X)
    out = capsys.readouterr().out
    assert out.count("Iteration") == printed.n_iter_
    assert "Initialization converged." in out
    change = printed.lower_bounds_[1] - printed.lower_bounds_[0]
    assert f"ll change {change:.5f}" in out


def test_overflow_of_float32_is_computed_in_float64() -> None:
    rng = np.random.default_rng(12)
    X = (1e19 * rng.normal(size=(80, 3))).astype(np.float32)
    X[::3, 1] = np.nan
    start = {
        "weights_init": [1.0],
        "means_init": 1e3 * X[1:2],
        "precisions_init": [1e-38 * np.eye(3)],
    }
    narrow, wide = (
        GaussianMixture(missing="integrate", **start).fit(data)
        for data in (X, X.astype(np.float64))
    )
    assert narrow.lower_bound_ == pytest.approx(wide.lower_bound_, rel=1e-6)
    assert_allclose(narrow._float64("covariances"), wide.covariances_, rtol=1e-4)


@types
def test_threads_do_not_show(covariance_type) -> None:
    rng = np.random.default_rng(16)
    X = with_holes(rng, clusters(rng, 3000, 12, 3))
    p = parameters(rng, 3, 12, covariance_type)
    groups = group_by_pattern(X, 3, covariance_type)
    before, results = _core.get_num_threads(), []
    try:
        for threads in (1, 3):
            _core.set_num_threads(threads)
            results.append(statistics_of_groups(groups, p, covariance_type))
    finally:
        _core.set_num_threads(before)
    for one, several in zip(*results, strict=True):
        assert_array_equal(one, several)


@types
def test_a_row_that_float32_would_lose(covariance_type) -> None:
    """Its squared distance overflows: that pattern is computed in float64."""
    rng = np.random.default_rng(15)
    X = rng.normal(size=(40, 3)).astype(np.float32)
    X[::3, 1] = X[::4, 2] = np.nan
    X[3, 0] = 3e19
    k = 2
    shape = {"full": (k, 3, 3), "tied": (3, 3), "diag": (k, 3), "spherical": (k,)}
    unit = np.eye(3) if covariance_type in ("full", "tied") else 1.0
    gm = GaussianMixture(
        k,
        missing="integrate",
        covariance_type=covariance_type,
        weights_init=[0.5, 0.5],
        means_init=[[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]],
        precisions_init=np.ones(shape[covariance_type]) * unit,
        max_iter=1,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        narrow = gm.fit(X).lower_bound_
        wide = gm.fit(X.astype(np.float64)).lower_bound_
    assert np.isfinite(narrow)
    assert narrow == pytest.approx(wide, rel=1e-6)
    start = gm.set_params(max_iter=0)
    expected = start.fit(X.astype(np.float64)).predict_proba(X.astype(np.float64))
    assert_allclose(start.fit(X).predict_proba(X), expected, atol=1e-5)
