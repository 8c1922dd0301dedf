"""partial_fit: stepwise EM with the documented schedule."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.base import clone

from elbokit import GaussianMixture, ops
from elbokit.mixture._parameters import GmmParameters
from elbokit.mixture._stepwise import (
    RunningStatistics,
    blend,
    implied_statistics,
    recentre,
)
from elbokit.mixture._update import m_step
from gmm_starts import COVARIANCE_TYPES, clusters, unit_factors

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

ARRAYS = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")


def given(X: np.ndarray, k: int, covariance_type: str) -> dict[str, Any]:
    return {
        "n_components": k,
        "covariance_type": covariance_type,
        "weights_init": np.full(k, 1 / k),
        "means_init": X[:k].astype(np.float64),
        "precisions_init": unit_factors(covariance_type, k, X.shape[1]),
    }


def assert_same(a: GaussianMixture, b: GaussianMixture, tolerance: float) -> None:
    for name in ARRAYS:
        got, want = getattr(a, name), getattr(b, name)
        assert_allclose(got, want, rtol=tolerance, atol=tolerance, err_msg=name)
    assert_allclose(a.lower_bound_, b.lower_bound_, rtol=tolerance)


def moments(X: np.ndarray, r: np.ndarray, centers: np.ndarray, covariance_type: str) -> tuple:
    """The definition, with an array of all differences; r are the shares of the rows."""
    z = X[:, None] - centers
    first = np.einsum("nk,nki->ki", r, z)
    second = {
        "full": lambda: np.einsum("nk,nki,nkj->kij", r, z, z),
        "tied": lambda: np.einsum("nk,nki,nkj->ij", r, z, z),
        "diag": lambda: np.einsum("nk,nki->ki", r, z**2),
        "spherical": lambda: np.einsum("nk,nki->k", r, z**2),
    }[covariance_type]()
    return r.sum(axis=0), first, second


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_moments_about_other_centers(rng, covariance_type):
    X, r = rng.normal(size=(40, 3)), rng.dirichlet(np.ones(4), size=40) / 40
    before, after = rng.normal(size=(2, 4, 3))
    old = RunningStatistics(*moments(X, r, before, covariance_type), before)
    new = recentre(old, after, covariance_type)
    for got, want in zip(new[:3], moments(X, r, after, covariance_type), strict=True):
        assert_allclose(got, want, atol=1e-14)
    assert new.centers is after


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_moments_stay_accurate_far_from_the_origin(rng, covariance_type):
    # About a mean that moves by its own rounding at 1e8 the moments keep their digits.
    X, r = rng.normal(size=(40, 3)), np.full((40, 1), 1 / 40)
    mean = X.mean(axis=0, keepdims=True)
    statistics = RunningStatistics(*moments(X, r, mean, covariance_type), mean + 1e8)
    for _ in range(100):
        moved = statistics.centers + rng.normal(size=(1, 3))
        statistics = recentre(statistics, moved, covariance_type)
    statistics = recentre(statistics, mean + 1e8, covariance_type)
    want = moments(X, r, mean, covariance_type)
    for got, expected in zip(statistics[:3], want, strict=True):
        assert_allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_implied_statistics_give_the_parameters_back(rng, covariance_type):
    X = clusters(rng, 300, 3, 3)
    gm = GaussianMixture(3, covariance_type=covariance_type, random_state=0, reg_covar=0.1).fit(X)
    p = GmmParameters(gm.weights_, gm.means_, gm.covariances_, gm.precisions_cholesky_)
    s = implied_statistics(p, covariance_type, 0.1)
    statistics = ops.GmmStatistics(*s[:3], 0.0)
    again, _ = m_step(statistics, p, covariance_type, reg_covar=0.1, threshold=1e-14)
    for got, want in zip(again, p, strict=True):
        assert_allclose(got, want, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_a_batch_that_counts_alone_is_one_iteration_of_em(rng, covariance_type, dtype):
    X = clusters(rng, 501, 3, 3).astype(dtype)
    options = given(X, 3, covariance_type)
    stepwise = GaussianMixture(learning_offset=0.0, **options).partial_fit(X)  # gamma_1 = 1
    batch = GaussianMixture(max_iter=1, tol=0.0, **options).fit(X)
    assert_same(stepwise, batch, 1e-12 if dtype == np.float64 else 1e-6)
    assert stepwise.means_.dtype == dtype
    assert stepwise.converged_ is False
    assert stepwise.n_iter_ == len(stepwise.lower_bounds_) == 1
    assert (stepwise.n_batches_seen_, stepwise.n_samples_seen_) == (1, 501)


def about_origin(
    counts: np.ndarray, second: np.ndarray, means: np.ndarray, covariance_type: str, reg: float
) -> np.ndarray:
    """Covariances from second moments about the origin."""
    if covariance_type == "diag":
        return second / counts[:, None] - means**2 + reg
    if covariance_type == "spherical":
        return (second / counts - (means**2).sum(axis=1)) / means.shape[1] + reg
    outer = means[:, :, None] * means[:, None]
    if covariance_type == "full":
        return second / counts[:, None, None] - outer + reg * np.eye(means.shape[1])
    return second - np.einsum("k,kij->ij", counts, outer) + reg * np.eye(means.shape[1])


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_the_schedule(rng, covariance_type):
    """All steps against the definition, with moments about the origin in a plain loop."""
    X = clusters(rng, 400, 2, 2) / 4.0
    k, decay, offset, reg = 2, 0.6, 3.0, 1e-3
    options = given(X, k, covariance_type) | {"reg_covar": reg}
    gm = GaussianMixture(learning_decay=decay, learning_offset=offset, **options)
    origin = np.zeros((k, 2))
    start = GmmParameters(
        options["weights_init"],
        options["means_init"],
        options["precisions_init"],
        options["precisions_init"],
    )
    implied = implied_statistics(start, covariance_type, reg)
    running = recentre(implied, origin, covariance_type)[:3]
    factors, weights, means, bound = start[3], start[0], start[1], None
    for t, batch in enumerate(np.array_split(X, 8), start=1):
        gm.partial_fit(batch)
        log_prob, r = ops.gmm_estep(batch, weights, means, factors, covariance_type)
        gamma = (t + offset) ** -decay
        new = moments(batch, r / len(batch), origin, covariance_type)
        running = tuple((1 - gamma) * a + gamma * b for a, b in zip(running, new, strict=True))
        level = log_prob.mean()
        bound = level if bound is None else (1 - gamma) * bound + gamma * level
        counts, first, second = running
        weights, means = counts, first / counts[:, None]
        covariances = about_origin(counts, second, means, covariance_type, reg)
        assert_allclose(gm.weights_, weights, rtol=1e-11)
        assert_allclose(gm.means_, means, rtol=1e-11, atol=1e-11)
        assert_allclose(gm.covariances_, covariances, rtol=1e-10, atol=1e-10)
        assert_allclose(gm.lower_bound_, bound, rtol=1e-11)
        factors = gm.precisions_cholesky_
    assert (gm.n_batches_seen_, gm.n_samples_seen_) == (8, 400)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_a_stream_comes_to_the_solution_of_all_rows(rng, covariance_type):
    X = clusters(rng, 6_000, 3, 3, spread=4.0)
    batch = GaussianMixture(3, covariance_type=covariance_type, random_state=0, tol=1e-8)
    batch.set_params(max_iter=500).fit(X)
    stream = GaussianMixture(3, covariance_type=covariance_type, random_state=0)
    for _ in range(8):
        for rows in np.array_split(X[rng.permutation(len(X))], 30):
            stream.partial_fit(rows)
    # A standard error of a mean is near 0.02 here; the bound is quadratic in such.
    assert stream.score(X) == pytest.approx(batch.score(X), abs=5e-4)
    order, theirs = (np.lexsort(gm.means_.T) for gm in (stream, batch))
    error = np.sqrt(1.0 / (6_000 * batch.weights_.min()))
    assert np.abs(stream.means_[order] - batch.means_[theirs]).max() < 3 * error
    assert np.abs(stream.weights_[order] - batch.weights_[theirs]).max() < 0.02


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_integer_weights_are_repeated_rows(rng, covariance_type, dtype):
    X = clusters(rng, 300, 2, 2).astype(dtype)
    counts = rng.integers(0, 4, 300)
    options = given(X, 2, covariance_type)
    weighted, repeated = GaussianMixture(**options), GaussianMixture(**options)
    for rows in np.array_split(np.arange(300), 3):
        weighted.partial_fit(X[rows], sample_weight=1e5 * counts[rows])
        repeated.partial_fit(np.repeat(X[rows], counts[rows], axis=0))
    assert_same(weighted, repeated, 1e-12 if dtype == np.float64 else 1e-5)
    assert weighted.n_samples_seen_ == np.count_nonzero(counts)
    assert repeated.n_samples_seen_ == counts.sum()


@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
def test_the_first_batch_starts_as_fit_does(rng, init_params):
    X = clusters(rng, 200, 2, 2)
    options = {"init_params": init_params, "random_state": 3, "learning_offset": 0.0}
    stepwise = GaussianMixture(2, **options).partial_fit(X)
    assert_same(stepwise, GaussianMixture(2, max_iter=1, tol=0.0, **options).fit(X), 1e-12)


def test_it_goes_on_from_a_fit(rng):
    X = clusters(rng, 500, 2, 2)
    gm = GaussianMixture(2, random_state=0, learning_offset=4.0, learning_decay=1.0).fit(X)
    fitted = copy.deepcopy(gm)
    gm.partial_fit(X)
    # The fit has 4 / 5 of the weight; its own rows change nothing but what was not converged.
    p = GmmParameters(*(getattr(fitted, f"{name}_") for name in GmmParameters._fields))
    statistics = ops.gmm_statistics(X, p.weights, p.means, p.precisions_cholesky)
    new = RunningStatistics(*(a / 500 for a in statistics[:3]), p.means)
    s = blend(implied_statistics(p, "full", gm.reg_covar), new, 0.2)
    want, _ = m_step(
        ops.GmmStatistics(*s[:3], 0.0), p, "full", reg_covar=gm.reg_covar, threshold=1e-15
    )
    assert_allclose(gm.means_, want.means, rtol=1e-12)
    assert_allclose(gm.covariances_, want.covariances, rtol=1e-12)
    bound = 0.8 * fitted.lower_bound_ + 0.2 * statistics.log_likelihood / 500
    assert gm.lower_bound_ == pytest.approx(bound, rel=1e-12)
    assert gm.n_batches_seen_ == 1
    # A fit forgets the stream.
    gm.fit(X)
    assert_same(gm, fitted, 0.0)
    assert not hasattr(gm, "n_batches_seen_")
    assert not hasattr(gm, "n_samples_seen_")


def test_a_pickle_goes_on_where_it_was(rng):
    parts = np.array_split(clusters(rng, 400, 2, 2).astype(np.float32), 4)
    gm = GaussianMixture(2, random_state=0).partial_fit(parts[0]).partial_fit(parts[1])
    again = pickle.loads(pickle.dumps(gm))
    for rows in parts[2:]:
        assert_same(gm.partial_fit(rows), again.partial_fit(rows), 0.0)
    assert again.n_batches_seen_ == 4
    assert not hasattr(clone(gm), "weights_")


def test_means_that_were_set_anew_count(rng):
    parts = np.array_split(clusters(rng, 400, 2, 2), 4)
    gm = GaussianMixture(2, random_state=0, learning_decay=1.0, learning_offset=0.0)
    gm.partial_fit(parts[0]).partial_fit(parts[1])
    kept = gm._running
    gm.means_ = gm.means_ + 0.5
    moved = gm.means_
    gm.partial_fit(parts[2])
    # The E-step is under these means; what was averaged stays the average that it was.
    statistics = ops.gmm_statistics(parts[2], gm.weights_, moved, gm.precisions_cholesky_)
    assert statistics.counts.sum() == pytest.approx(100)
    first = kept.first + kept.counts[:, None] * kept.centers
    assert gm._running.counts.sum() == pytest.approx(1.0)
    total = (gm._running.first + gm._running.counts[:, None] * gm._running.centers).sum(axis=0)
    assert_allclose(total, (2 / 3) * first.sum(axis=0) + parts[2].mean(axis=0) / 3, rtol=1e-12)


def test_float32_that_has_to_be_widened(rng):
    X = rng.normal(size=(2_000, 2)).astype(np.float32)
    X[:, 1] = X[:, 0] + np.float32(1e-4) * X[:, 1]
    options = {"random_state": 0, "reg_covar": 1e-12, "learning_offset": 0.0}
    narrow, exact = GaussianMixture(1, **options), GaussianMixture(1, **options)
    for rows in np.array_split(X, 3):
        narrow.partial_fit(rows)
        exact.partial_fit(rows.astype(np.float64))
    assert exact.precisions_cholesky_.max() > 5e3
    assert_allclose(narrow.precisions_cholesky_, exact.precisions_cholesky_, rtol=1e-6)


def test_batches_smaller_than_the_model(rng):
    X = clusters(rng, 60, 2, 3)
    gm = GaussianMixture(3, random_state=0).partial_fit(X)
    for row in X[:10]:
        gm.partial_fit(row[None])
    assert np.isfinite(gm.means_).all()
    assert gm.n_samples_seen_ == 70
    gm = GaussianMixture(**given(X, 3, "full")).partial_fit(X[:1])
    assert gm.n_batches_seen_ == 1


GOOD = clusters(np.random.default_rng(1), 60, 2, 2)
BAD = [
    ({}, GOOD[:, :1], None, "X has 1 features, but GaussianMixture is expecting 2"),
    ({}, np.where(np.arange(60)[:, None] == 3, np.nan, GOOD), None, "contains NaN"),
    ({}, GOOD, np.ones(59), "sample_weight has shape (59,)"),
    ({}, GOOD, -np.ones(60), "sample_weight must be non-negative"),
    ({"learning_decay": 0.5}, GOOD, None, "'learning_decay'"),
    ({"learning_decay": 1.5}, GOOD, None, "'learning_decay'"),
    ({"learning_offset": -1.0}, GOOD, None, "'learning_offset'"),
    ({"n_components": 3}, GOOD, None, "partial_fit continues from means of shape (2, 2)"),
    ({"covariance_type": "tied"}, GOOD, None, "partial_fit continues from means of shape (2, 2)"),
    ({}, 1e200 * GOOD, None, "no component explains any sample"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("options", "X", "weight", "text"), BAD)
def test_errors_leave_it_as_it_was(options, X, weight, text, stream):
    gm = GaussianMixture(2, random_state=0)
    gm = gm.partial_fit(GOOD) if stream else gm.fit(GOOD)
    gm.set_params(**options)
    before = {name: id(value) for name, value in vars(gm).items()}
    with pytest.raises(ValueError) as raised:
        gm.partial_fit(X, sample_weight=weight)
    assert text in str(raised.value)
    assert {name: id(value) for name, value in vars(gm).items()} == before


def test_rows_without_density_are_no_rows():
    lost = np.where(np.arange(60)[:, None] < 50, GOOD, 1e200)
    gm, want = (GaussianMixture(2, random_state=0).fit(GOOD) for _ in range(2))
    gm.partial_fit(lost).partial_fit(GOOD)
    want.partial_fit(GOOD[:50]).partial_fit(GOOD)
    for name in ARRAYS:
        assert_allclose(getattr(gm, name), getattr(want, name), rtol=1e-12)
    assert np.isfinite(gm.lower_bound_)


def test_a_first_batch_that_is_too_small():
    gm = GaussianMixture(5)
    with pytest.raises(ValueError, match="first batch but got n_components = 5, n_samples = 4"):
        gm.partial_fit(GOOD[:4])
    assert set(vars(gm)) == set(vars(GaussianMixture(5)))


def test_an_interrupt_leaves_it_as_it_was(monkeypatch):
    gm = GaussianMixture(2, random_state=0).partial_fit(GOOD)
    before = {name: id(value) for name, value in vars(gm).items()}
    store = GaussianMixture._store

    def interrupted(self: GaussianMixture, *arguments: Any) -> None:
        store(self, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(GaussianMixture, "_store", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gm.partial_fit(GOOD)
    assert {name: id(value) for name, value in vars(gm).items()} == before
