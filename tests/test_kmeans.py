"""k-means against scikit-learn's from the same draws, and against its own definition."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.exceptions import ConvergenceWarning

import elbokit
from elbokit import _core, ops
from elbokit._kmeans import solve_kmeans
from strided import LAYOUTS, with_layout

SHAPES = [  # n_samples, n_features, n_clusters
    (2, 1, 1),
    (2, 1, 2),
    (50, 1, 3),
    (333, 2, 4),
    (63, 3, 5),
    (65, 4, 2),
    (1025, 5, 7),
    (400, 7, 1),
    (2049, 16, 8),
    (777, 17, 9),
    (5003, 33, 13),
    (3001, 70, 40),
    (20_011, 8, 6),
]


def clusters(n, d, k, seed=0, spread=2.0):
    """Overlapping clusters: many iterations, and rows on every side of a bound."""
    rng = np.random.default_rng([n, d, k, seed])
    return rng.normal(size=(n, d)) + spread * rng.normal(size=(k, d))[rng.integers(0, k, n)]


def fit_both(X, k, seed, sample_weight=None, **options):
    ours, theirs = np.random.RandomState(seed), np.random.RandomState(seed)
    result = ops.kmeans(X, k, sample_weight=sample_weight, random_state=ours, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        peer = KMeans(k, n_init=1, random_state=theirs, **options).fit(X, None, sample_weight)
    assert ours.random_sample() == theirs.random_sample()  # no draw more, none less
    return result, peer


def assert_same_clusters(result, peer, rtol=1e-9):
    assert_array_equal(result.labels, peer.labels_)
    scale = np.abs(peer.cluster_centers_).max()
    assert_allclose(result.centers, peer.cluster_centers_, rtol=rtol, atol=rtol * scale)
    assert result.inertia == pytest.approx(peer.inertia_, rel=rtol, abs=1e-20)
    assert result.n_iter == peer.n_iter_


@pytest.mark.parametrize("shape", SHAPES)
def test_scikit_learns_result(shape, cpu_level):
    n, d, k = shape
    for seed in range(3):
        assert_same_clusters(*fit_both(clusters(n, d, k, seed), k, seed))


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("weighted", [False, True])
def test_scikit_learns_result_for_many_seeds(offset, weighted):
    rng = np.random.default_rng(1)
    for seed in range(60):
        n, d, k = rng.integers(200, 600), rng.integers(1, 12), rng.integers(2, 12)
        X = clusters(n, d, k, seed, spread=rng.uniform(0, 4)) + offset
        weight = rng.uniform(size=n) if weighted else None
        result, peer = fit_both(X, int(k), seed, weight)
        assert_same_clusters(result, peer, rtol=1e-9 if offset == 0 else 1e-8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_float32_is_a_solution_as_good(shape, offset, cpu_level):
    """Rounding may turn a draw; what counts is that centers are means and labels are nearest."""
    n, d, k = shape
    X = (clusters(n, d, k) + offset).astype(np.float32)
    result = ops.kmeans(X, k, random_state=0)
    assert result.centers.dtype == np.float32
    exact = X.astype(np.float64)
    distance = ((exact[:, None] - result.centers.astype(np.float64)) ** 2).sum(axis=2)
    own = distance[np.arange(n), result.labels]
    # The centers come back rounded to float32.
    rounding = 4 * np.spacing(np.float32(np.abs(X).max())) * np.sqrt(d * distance.max())
    assert (own <= distance.min(axis=1) + rounding + 1e-5 * own).all()
    assert result.inertia == pytest.approx(own.sum(), rel=1e-5, abs=n * rounding)
    scale = np.abs(exact - exact.mean(axis=0)).max()
    for label in range(k):
        mean = exact[result.labels == label].mean(axis=0)
        # Converged within the tolerance.
        assert_allclose(result.centers[label], mean, atol=0.05 * scale + 1e-7 * offset)
    again = ops.kmeans(X, k, random_state=0, max_iter=1000, tol=0)
    for label in range(k):
        mean = exact[again.labels == label].mean(axis=0)
        assert_allclose(again.centers[label], mean, rtol=2e-7, atol=2e-6 * scale)


def test_float32_follows_scikit_learn_where_rounding_decides_nothing():
    same = 0
    for seed in range(20):
        X = clusters(150, 3, 4, seed).astype(np.float32)
        result, peer = fit_both(X, 4, seed)
        same += np.array_equal(result.labels, peer.labels_)
        if np.array_equal(result.labels, peer.labels_):
            assert result.inertia == pytest.approx(peer.inertia_, rel=1e-5)
    assert same >= 18


@pytest.mark.parametrize("shape", [(1, 1, 1), (40, 2, 3), (200, 3, 5), (1000, 20, 12)])
@pytest.mark.parametrize("weighted", [False, True])
def test_seeds_are_scikit_learns(shape, weighted, cpu_level):
    n, d, k = shape
    X = clusters(n, d, k)
    weight = np.random.default_rng(0).uniform(size=n) if weighted else None
    for seed in range(10):
        seeds = solve_kmeans(
            X[None],
            k,
            np.random.RandomState(seed),
            sample_weight=None if weight is None else weight[None],
            max_iter=0,
        )[0].seeds
        _, expected = kmeans_plusplus(X, k, sample_weight=weight, random_state=seed)
        assert_array_equal(seeds[0], expected)


def test_rows_that_bounds_spare_are_as_if_computed(cpu_level):
    """Lloyd's iterations written out, with every distance computed, take the same path."""
    for n, d, k in [(3000, 2, 6), (2000, 9, 11), (1500, 30, 4)]:
        X = clusters(n, d, k, spread=0.5)
        for seed in range(3):
            seeds = solve_kmeans(X[None], k, np.random.RandomState(seed), max_iter=0)[0].seeds[0]
            centers, labels, n_iter = X[seeds], np.full(n, -1), 0
            while True:
                nearest = ((X[:, None] - centers) ** 2).sum(axis=2).argmin(axis=1)
                n_iter += 1
                if np.array_equal(nearest, labels):
                    break
                labels = nearest
                centers = np.array([X[labels == c].mean(axis=0) for c in range(k)])
            result = ops.kmeans(X, k, random_state=seed, tol=0, max_iter=500)
            assert n_iter > 5
            assert result.n_iter == n_iter
            assert_array_equal(result.labels, labels)


@pytest.mark.parametrize("max_iter", [1, 2, 3])
@pytest.mark.parametrize("tol", [0.0, 1e-2])
def test_stops_as_scikit_learn(max_iter, tol):
    X = clusters(500, 4, 5, spread=0.5)
    for seed in range(5):
        assert_same_clusters(*fit_both(X, 5, seed, max_iter=max_iter, tol=tol))
        assert_same_clusters(*fit_both(X, 5, seed, tol=tol))


def from_seeds(X, seeds, weight, max_iter):
    """Labels, centers and iterations from given seeds: the uniforms that lead to them."""
    k, (n, d) = len(seeds), X.shape
    uniforms = [(weight[: seeds[0]].sum() + weight[seeds[0]] / 2) / weight.sum()]
    for c in range(1, k):
        distance = ((X[:, None] - X[seeds[:c]]) ** 2).sum(axis=2).min(axis=1) * weight
        uniforms.append((distance[: seeds[c]].sum() + distance[seeds[c]] / 2) / distance.sum())
    found, labels = np.empty((1, k), np.int64), np.empty((1, n), np.int32)
    centers, n_iter = np.empty((1, k, d)), np.empty(1, np.int64)
    _core.kmeans(
        X[None],
        None,
        weight[None].astype(X.dtype),
        k,
        1,
        max_iter,
        0.0,
        False,
        np.array([uniforms]),
        found,
        labels,
        centers,
        None,
        n_iter,
    )
    assert_array_equal(found[0], seeds)
    return labels[0], centers[0], n_iter[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scale", [1, 1000])  # of distances against their squares
def test_an_emptied_cluster_goes_to_the_farthest_row(dtype, weighted, scale, cpu_level):
    # The middle cluster starts with -1 and 1; then its neighbours' means come nearer to both.
    rng = np.random.default_rng(0)
    left, right = -1.3 - 0.04 * rng.uniform(size=20), 1.26 + 0.2 * rng.uniform(size=20) ** 4
    X = np.r_[-3.5, left, -1, 1, right, 1.5][:, None].astype(dtype)
    X = (scale * np.c_[X, 0.01 * rng.normal(size=X.shape)]).astype(dtype)
    seeds = [0, 22, len(X) - 1]
    weight = rng.uniform(0.9, 1.1, size=len(X)) if weighted else np.ones(len(X))
    _, centers, _ = from_seeds(X, seeds, weight, max_iter=1)
    distance = ((X[:, None] - centers) ** 2).sum(axis=2)
    assert 1 not in distance.argmin(axis=1)  # emptied
    for max_iter in (2, 3, 300):
        labels, centers, n_iter = from_seeds(X, seeds, weight, max_iter)
        peer = KMeans(3, init=X[seeds], n_init=1, tol=0, max_iter=max_iter)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            peer.fit(X, None, weight)
        assert_array_equal(labels, peer.labels_)
        rtol = 1e-12 if dtype == np.float64 else 1e-5
        assert_allclose(centers, peer.cluster_centers_, rtol=rtol, atol=rtol * scale)
        if dtype == np.float64:  # in float32 rounding may move scikit-learn's centers once more
            assert n_iter == peer.n_iter_
        assert len(np.unique(labels)) == 3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 1e4, 0.1])
def test_fewer_distinct_rows_than_clusters(dtype, offset, cpu_level):
    rng = np.random.default_rng(5)
    distinct = (rng.normal(size=(3, 2)) + offset).astype(dtype)
    X = distinct[np.r_[0, 1, 2, rng.integers(0, 3, 60)]]
    weight = rng.uniform(0.5, 2, size=len(X))
    for sample_weight in (None, weight):
        result = ops.kmeans(X, 6, sample_weight=sample_weight, random_state=0)
        assert len(np.unique(result.labels)) == 3
        assert_allclose(result.centers[result.labels], X, rtol=1e-6)
        assert result.inertia < 1e-9
        assert np.isfinite(result.centers).all()
    same = ops.kmeans(np.full((9, 2), offset, dtype), 4, random_state=0)
    assert_array_equal(same.labels, 0)
    assert_allclose(same.centers, offset, rtol=1e-6)


def test_a_huge_row_leaves_no_trace():
    """A sum that a row of 1e17 joins and leaves keeps the rows that stay."""
    small = np.random.default_rng(6).normal(size=1000)
    X = np.r_[small, 1e17, np.full(9, 1.5e17), 2.2e17][:, None]
    # Seeds at 0 and 2.2e17: the row at 1e17 begins with the small ones, and then the center of
    # the large ones comes nearer.
    tried = 0
    for seed in range(500):
        seeds = solve_kmeans(X[None], 2, np.random.RandomState(seed), max_iter=0)[0].seeds[0]
        if seeds.min() >= 1000 or seeds.max() != len(X) - 1:
            continue
        tried += 1
        result = ops.kmeans(X, 2, random_state=seed, tol=0)
        assert_array_equal(result.labels[:1000], result.labels[0])
        assert_array_equal(result.labels[1000:], 1 - result.labels[0])
        assert result.centers[result.labels[0], 0] == pytest.approx(small.mean(), abs=1e-9)
    assert tried > 3


def test_rows_of_weight_zero_count_for_nothing():
    X = clusters(300, 3, 4)
    weight = np.random.default_rng(0).integers(0, 3, size=300).astype(float)
    result, peer = fit_both(X, 4, 0, weight)
    assert_same_clusters(result, peer)
    for label in range(4):
        rows = result.labels == label
        assert_allclose(
            result.centers[label], np.average(X[rows], axis=0, weights=weight[rows]), rtol=1e-9
        )


@pytest.mark.parametrize("factor", [1e-300, 1e-44, 1e40, 1e300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_only_ratios_of_weights_matter(factor, dtype):
    X = clusters(300, 3, 4).astype(dtype)
    weight = np.random.default_rng(0).uniform(size=300)
    plain = ops.kmeans(X, 4, sample_weight=weight, random_state=0)
    scaled = ops.kmeans(X, 4, sample_weight=factor * weight, random_state=0)
    assert_array_equal(plain.labels, scaled.labels)
    assert scaled.inertia / factor == pytest.approx(plain.inertia, rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_bits_for_any_number_of_threads(dtype, restore_threads):
    for n, d, k in [(30_011, 16, 8), (9001, 2, 20), (4000, 40, 3)]:
        X = clusters(n, d, k, spread=0.7).astype(dtype)
        results = []
        for threads in (1, 2, 5):
            elbokit.set_num_threads(threads)
            results.append(ops.kmeans(X, k, random_state=1))
        for result in results[1:]:
            for a, b in zip(result, results[0], strict=True):
                assert_array_equal(a, b)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n_features", [1, 2, 3, 16, 19])
def test_any_layout(layout, n_features, cpu_level):
    X = clusters(300, n_features, 5).astype(np.float32)
    expected = ops.kmeans(X, 5, random_state=0)
    result = ops.kmeans(with_layout(X, layout), 5, random_state=0)
    for a, b in zip(result, expected, strict=True):
        assert_allclose(a, b, rtol=1e-6)


def test_batch_is_one_after_the_other(restore_threads):
    X = np.stack([clusters(3000, 4, 5, seed) for seed in range(6)]).reshape(2, 3, 3000, 4)
    weight = np.random.default_rng(0).uniform(size=3000)
    rng = np.random.RandomState(0)
    single = [
        ops.kmeans(x, 5, sample_weight=weight, random_state=rng) for x in X.reshape(6, 3000, 4)
    ]
    for threads in (1, 3):
        elbokit.set_num_threads(threads)
        result = ops.kmeans(X, 5, sample_weight=weight, random_state=0)
        assert result.labels.shape == (2, 3, 3000)
        assert result.centers.shape == (2, 3, 5, 4)
        for i, each in enumerate(single):
            for a, b in zip(result, each, strict=True):
                assert_array_equal(a[i // 3, i % 3], b)


def test_ragged_batch_is_one_after_the_other():
    sizes = [5, 200, 63, 3000, 64, 65]
    X = clusters(sum(sizes), 3, 4)
    weight = np.random.default_rng(0).uniform(size=len(X))
    offsets = np.r_[0, np.cumsum(sizes)]
    result = ops.kmeans(X, 4, sample_weight=weight, random_state=7, offsets=offsets)
    assert result.labels.shape == (len(X),)
    rng = np.random.RandomState(7)
    for b, (begin, end) in enumerate(itertools.pairwise(offsets)):
        each = ops.kmeans(X[begin:end], 4, sample_weight=weight[begin:end], random_state=rng)
        assert_array_equal(result.labels[begin:end], each.labels)
        assert_array_equal(result.centers[b], each.centers)
        assert (result.inertia[b], result.n_iter[b]) == (each.inertia, each.n_iter)


def test_arrays_of_torch():
    torch = pytest.importorskip("torch")
    X = clusters(100, 3, 4)
    expected = ops.kmeans(X, 4, random_state=0)
    result = ops.kmeans(torch.from_numpy(X), 4, random_state=0)
    assert isinstance(result.labels, torch.Tensor)
    assert isinstance(result.centers, torch.Tensor)
    assert_array_equal(result.labels.numpy(), expected.labels)
    assert result.inertia == expected.inertia


def test_random_state_none_is_numpys_global_stream():
    X = clusters(100, 3, 4)
    np.random.seed(3)  # noqa: NPY002
    first = ops.kmeans(X, 4)
    np.random.seed(3)  # noqa: NPY002
    with_module = ops.kmeans(X, 4, random_state=np.random)
    assert_array_equal(first.labels, with_module.labels)
    assert_array_equal(first.labels, ops.kmeans(X, 4, random_state=3).labels)


GOOD = np.arange(12.0).reshape(6, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"X": GOOD.astype(np.complex128)}, TypeError, "`X` has dtype complex128"),
        ({"X": GOOD[0]}, ValueError, r"`X` has shape \(2,\)"),
        ({"X": GOOD[:0]}, ValueError, r"`X` has shape \(0, 2\)"),
        ({"X": np.where(GOOD == 4, np.nan, GOOD)}, ValueError, "`X` has NaN or infinity in row 2"),
        ({"X": np.where(GOOD == 4, np.inf, GOOD)}, ValueError, "`X` has NaN or infinity in row 2"),
        ({"X": (1e20 * GOOD).astype(np.float32)}, ValueError, "squared distances overflow float32"),
        ({"n_clusters": 0}, ValueError, "`n_clusters` is 0, expected at least 1"),
        ({"n_clusters": 7}, ValueError, "`n_clusters` is 7, expected at most 6"),
        ({"n_clusters": 2.0}, TypeError, "`n_clusters` is 2.0, expected an int"),
        ({"max_iter": 0}, ValueError, "`max_iter` is 0, expected at least 1"),
        ({"tol": -1.0}, ValueError, "`tol` is -1.0, expected at least 0"),
        ({"tol": np.nan}, ValueError, "`tol` is nan, expected at least 0"),
        ({"tol": "1"}, TypeError, "`tol` is '1', expected a number"),
        ({"random_state": "0"}, TypeError, "`random_state` is '0'"),
        ({"random_state": -1}, ValueError, "`random_state` is -1"),
        ({"sample_weight": np.ones(5)}, ValueError, r"`sample_weight` has shape \(5,\)"),
        ({"sample_weight": -np.ones(6)}, ValueError, "`sample_weight` has the value -1.0"),
        ({"sample_weight": np.zeros(6)}, ValueError, "`sample_weight` is all zeros"),
        ({"sample_weight": np.full(6, np.nan)}, ValueError, "`sample_weight` has NaN"),
        ({"offsets": [0, 3]}, ValueError, "`offsets` run from 0 to 3, expected from 0 to the 6"),
        ({"offsets": [0, 4, 3, 6]}, ValueError, "`offsets` give problem 1 the rows from 4 to 3"),
        ({"offsets": [0.0, 6.0]}, TypeError, "`offsets` has dtype float64"),
        ({"offsets": [0, 1, 6]}, ValueError, "`n_clusters` is 2, expected at most 1"),
        ({"X": GOOD[None], "offsets": [0, 6]}, ValueError, r"`X` has batch dimensions \(1,\)"),
        (
            {"sample_weight": [1, 1, 1, 0, 0, 0.0], "offsets": [0, 3, 6]},
            ValueError,
            "`sample_weight` is all zeros in problem 1",
        ),
    ],
)
def test_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        ops.kmeans(**{"X": GOOD, "n_clusters": 2, "random_state": 0} | arguments)


def test_a_bad_row_of_a_batch_is_named():
    X = np.zeros((2, 3, 4, 2))
    X[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="`X` has NaN or infinity in row 1, 2, 3"):
        ops.kmeans(X, 2, random_state=0)
