"""k-means and label moments on the GPU against those of the CPU, and against definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from elbokit import _gpu_kmeans, ops
from elbokit._kmeans import draws_of, solve_kmeans
from gpu import SCHEDULES, emulation

Array = npt.NDArray[Any]

# Rows around a warp, half a tile and a tile; features that fill one tile and that do not, in whole
# packs and not; clusters around those whose distances or labels are handled at once; one; all rows.
SHAPES = [  # n_samples, n_features, n_clusters
    (1, 1, 1),
    (2, 1, 2),
    (31, 2, 3),
    (33, 3, 4),
    (256, 16, 8),
    (257, 3, 9),
    (511, 33, 4),
    (512, 4, 7),
    (513, 2, 1),
    (600, 129, 5),
    (1025, 24, 17),
    (2049, 5, 3),
    (300, 2, 66),
]


def clusters(n: int, d: int, k: int, spread: float = 2.0, seed: int = 0) -> Array:
    rng = np.random.default_rng([n, d, k, seed])
    centers = spread * rng.normal(size=(k, d))
    return np.asarray(rng.normal(size=(n, d)) + centers[rng.integers(0, k, n)])


def compare(
    gpu: torch.device, X: Array, k: int, weight: Array | None = None, **options: Any
) -> Any:
    """Both give the same; options are those of ops.kmeans."""
    ours = ops.kmeans(torch.from_numpy(X).to(gpu), k, sample_weight=weight, **options)
    theirs = ops.kmeans(X, k, sample_weight=weight, **options)
    assert ours.labels.device.type == gpu.type
    assert ours.labels.dtype == torch.int32
    assert_array_equal(ours.labels.cpu(), theirs.labels)
    assert ours.n_iter == theirs.n_iter
    assert ours.centers.cpu().numpy().dtype == theirs.centers.dtype
    rtol = 1e-12 if X.dtype == np.float64 else 1e-5
    assert_allclose(ours.centers.cpu(), theirs.centers, rtol=rtol, atol=rtol)
    assert ours.inertia == pytest.approx(theirs.inertia, rel=1e2 * rtol, abs=1e-9)
    return ours


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_result_of_the_cpu(gpu: torch.device, shape: tuple[int, int, int], dtype: Any) -> None:
    n, d, k = shape
    X = clusters(n, d, k).astype(dtype)
    compare(gpu, X, k, random_state=n)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_as_many_clusters_as_rows(gpu: torch.device, dtype: Any) -> None:
    """Two rows that are nearest to each other are equally good seeds: any order will do."""
    X = clusters(33, 3, 33).astype(dtype)
    result = ops.kmeans(torch.from_numpy(X).to(gpu), 33, random_state=0)
    labels = result.labels.cpu().numpy()
    assert_array_equal(np.sort(labels), np.arange(33))
    assert_allclose(result.centers.cpu().numpy()[labels], X, rtol=1e-6)
    assert result.inertia == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_weights_and_offsets(gpu: torch.device, dtype: Any, offset: float) -> None:
    rng = np.random.default_rng(3)
    for n, d, k in [(300, 3, 4), (1100, 9, 6), (530, 40, 3)]:
        X = (clusters(n, d, k) + offset).astype(dtype)
        weight = rng.integers(0, 3, size=n) * rng.uniform(size=n)
        weight[0] = weight[-1] = 0.0
        for seed in range(3):
            compare(gpu, X, k, weight, random_state=seed)


@pytest.mark.parametrize("max_iter", [1, 2, 300])
@pytest.mark.parametrize("tol", [0.0, 1e-2])
def test_stops_as_on_the_cpu(gpu: torch.device, max_iter: int, tol: float) -> None:
    X = clusters(530, 4, 5, spread=0.5)
    for seed in range(3):
        compare(gpu, X, 5, random_state=seed, max_iter=max_iter, tol=tol)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_fewer_distinct_rows_than_clusters(gpu: torch.device, dtype: Any, weighted: bool) -> None:
    rng = np.random.default_rng(5)
    X = rng.normal(size=(3, 2)).astype(dtype)[np.r_[0, 1, 2, rng.integers(0, 3, 600)]]
    weight = rng.uniform(0.5, 2, size=len(X)) if weighted else None
    result = compare(gpu, X, 6, weight, random_state=0)
    assert len(np.unique(result.labels.cpu())) == 3
    same = compare(gpu, np.full((9, 2), 1e4, dtype), 4, random_state=0)
    assert_array_equal(same.labels.cpu(), 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_emptied_clusters_go_to_the_farthest_rows(gpu: torch.device, dtype: Any) -> None:
    """Lloyd's iterations from seeds whose middle clusters lose all rows."""
    rng = np.random.default_rng(0)
    left, right = -1.3 - 0.04 * rng.uniform(size=20), 1.26 + 0.2 * rng.uniform(size=20) ** 4
    one = np.r_[-3.5, left, -1, 1, right, 1.5]
    groups = [np.c_[one, 0.01 * rng.normal(size=one.shape) + 100 * g] for g in range(3)]
    X = np.concatenate(groups).astype(dtype)
    n = len(one)
    seeds = [g * n + at for g in range(3) for at in (0, 22, n - 1)]
    uniforms = uniforms_for(X.astype(np.float64), seeds)
    emptied = 0
    for max_iter in (1, 2, 3, 300):
        result = _gpu_kmeans.solve(
            torch.from_numpy(X).to(gpu), 9, uniforms, max_iter=max_iter, tol=0.0
        )
        assert result.labels is not None
        assert result.centers is not None
        assert_array_equal(result.seeds.cpu()[0], seeds[0])
        expected, emptied = lloyd(X.astype(np.float64), result.seeds.cpu().numpy(), max_iter)
        assert_array_equal(result.labels.cpu(), expected)
    assert emptied > 0


def uniforms_for(X: Array, seeds: list[int]) -> Array:
    """Draws of which every candidate is the seed that is wanted."""
    uniforms = [(seeds[0] + 0.5) / len(X)]
    trials = (draws_of(len(seeds)) - 1) // (len(seeds) - 1)
    for c in range(1, len(seeds)):
        distance = ((X[:, None] - X[seeds[:c]]) ** 2).sum(axis=2).min(axis=1)
        at = (distance[: seeds[c]].sum() + distance[seeds[c]] / 2) / distance.sum()
        uniforms += [at] * trials
    return np.array(uniforms)


def lloyd(X: Array, seeds: Array, max_iter: int) -> tuple[Array, int]:
    """Return the labels by the definition, and how many clusters were found empty."""
    centers, labels, emptied = X[seeds], np.full(len(X), -1), 0
    for _ in range(max_iter):
        distance = ((X[:, None] - centers) ** 2).sum(axis=2)
        nearest = distance.argmin(axis=1)
        if np.array_equal(nearest, labels):
            return labels, emptied
        labels = nearest
        counts = np.bincount(labels, minlength=len(seeds)).astype(np.float64)
        sums = np.zeros_like(centers)
        np.add.at(sums, labels, X)
        far = np.argsort(-distance[np.arange(len(X)), labels], kind="stable")
        for place, k in enumerate(np.flatnonzero(counts == 0)):
            emptied += 1
            row = far[place]
            sums[labels[row]] -= X[row]
            counts[labels[row]] -= 1
            sums[k], counts[k] = X[row], 1
        centers = sums / counts[:, None]
    return ((X[:, None] - centers) ** 2).sum(axis=2).argmin(axis=1), emptied


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n_features", [3, 8, 40])
def test_narrow_rows_are_computed_in_float32(
    gpu: torch.device, dtype: torch.dtype, n_features: int
) -> None:
    X = torch.from_numpy(clusters(600, n_features, 4)).to(dtype)
    ours = ops.kmeans(X.to(gpu), 4, random_state=0)
    theirs = ops.kmeans(X.float().numpy(), 4, random_state=0)
    assert_array_equal(ours.labels.cpu(), theirs.labels)
    assert ours.centers.dtype == torch.float32
    assert_allclose(ours.centers.cpu(), theirs.centers, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_seeds_of_the_cpu(gpu: torch.device, weighted: bool) -> None:
    for n, d, k in [(1, 1, 1), (40, 2, 3), (1100, 3, 12), (530, 20, 8)]:
        X = clusters(n, d, k)
        weight = np.random.default_rng(0).uniform(size=n) if weighted else None
        given = None if weight is None else torch.from_numpy(weight).to(gpu)
        for seed in range(3):
            ours, finite = _gpu_kmeans.kmeans_seeds(
                torch.from_numpy(X).to(gpu), k, np.random.RandomState(seed), given
            )
            theirs, _ = solve_kmeans(
                X[None],
                k,
                np.random.RandomState(seed),
                sample_weight=None if weight is None else weight[None],
                max_iter=0,
            )
            assert finite
            assert_array_equal(ours.cpu(), theirs.seeds[0])


def test_draws_at_the_ends(gpu: torch.device) -> None:
    """A draw of 0 takes the first row; one of almost 1 the last that weighs anything."""
    X = clusters(1100, 2, 3)
    rows = torch.from_numpy(X).to(gpu)
    for draw, first in ((0.0, 0), (np.nextafter(1.0, 0.0), 1099)):
        seeds = _gpu_kmeans.solve(rows, 2, np.full(draws_of(2), draw), max_iter=0).seeds
        assert seeds[0] == first
        assert 0 <= int(seeds[1]) < 1100
    weight = torch.ones(1100, dtype=torch.float64, device=gpu)
    weight[:600] = 0
    seeds = _gpu_kmeans.solve(rows, 1, np.zeros(1), sample_weight=weight, max_iter=0).seeds
    assert seeds[0] == 600


def test_schedules_give_the_same_bits() -> None:
    rng = np.random.default_rng(1)
    for n, d, k, dtype in [(1100, 33, 5, np.float32), (530, 3, 20, np.float64)]:
        X = torch.from_numpy(clusters(n, d, k, spread=0.7).astype(dtype))
        X[: n // 2] = X[0]  # empty clusters too
        weight = torch.from_numpy(rng.uniform(size=n).astype(dtype))
        results = []
        for schedule in SCHEDULES:
            with emulation(schedule):
                found = _gpu_kmeans.solve(
                    X,
                    k,
                    np.random.RandomState(0).random_sample(draws_of(k)),
                    sample_weight=weight,
                    max_iter=4,
                    tol=0.0,
                    inertia=True,
                )
                scatter = _gpu_kmeans.label_moments(X, found.labels, X[:k], d < 10, weight)
                results.append([*found[:4], *scatter])
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                assert a is not None
                assert b is not None
                assert torch.equal(a, b)


def test_more_blocks_than_tiles_and_fewer(gpu: torch.device) -> None:
    if gpu.type == "cuda":
        pytest.skip("a GPU has as many multiprocessors as it has")
    X = clusters(6000, 3, 4).astype(np.float32)
    for multiprocessors in (1, 40):
        with emulation(5, multiprocessors):
            compare(gpu, X, 4, random_state=0)


def test_batches_and_offsets(gpu: torch.device) -> None:
    X = np.stack([clusters(300, 4, 5, seed=seed) for seed in range(4)]).reshape(2, 2, 300, 4)
    weight = np.random.default_rng(0).uniform(size=300)
    tensor = torch.from_numpy(X).to(gpu)
    ours = ops.kmeans(tensor, 5, sample_weight=weight, random_state=0)
    theirs = ops.kmeans(X, 5, sample_weight=weight, random_state=0)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert_allclose(a.cpu() if isinstance(a, torch.Tensor) else a, b, rtol=1e-11, atol=1e-12)
    offsets = [0, 5, 600, 664]
    flat = X.reshape(-1, 4)[:664]
    ours = ops.kmeans(torch.from_numpy(flat).to(gpu), 4, random_state=7, offsets=offsets)
    theirs = ops.kmeans(flat, 4, random_state=7, offsets=offsets)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert_allclose(a.cpu() if isinstance(a, torch.Tensor) else a, b, rtol=1e-11, atol=1e-12)
    there = torch.tensor(offsets, device=gpu)
    again = ops.kmeans(torch.from_numpy(flat).to(gpu), 4, random_state=7, offsets=there)
    assert torch.equal(again.labels, ours.labels)


def test_layouts(gpu: torch.device) -> None:
    X = clusters(300, 8, 3).astype(np.float32)
    expected = ops.kmeans(X, 3, random_state=0)
    tensor = torch.from_numpy(X).to(gpu)
    wide = torch.zeros((600, 11), device=gpu)
    wide[::2, 2:10] = tensor
    for view in (tensor.T.contiguous().T, wide[::2, 2:10], tensor[:, None].expand(300, 2, 8)[:, 1]):
        result = ops.kmeans(view, 3, random_state=0)
        assert_array_equal(result.labels.cpu(), expected.labels)
        assert_allclose(result.centers.cpu(), expected.centers, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_not_finite_is_named(gpu: torch.device, dtype: Any) -> None:
    for bad in (np.nan, np.inf):
        X = clusters(600, 3, 2).astype(dtype)
        X[520, 1] = bad
        with pytest.raises(ValueError, match="`X` has NaN or infinity in row 520"):
            ops.kmeans(torch.from_numpy(X).to(gpu), 2)
    huge = np.array([[0.0], [1.0]], dtype) * np.finfo(dtype).max
    with pytest.raises(ValueError, match=r"squared distances overflow torch\.float"):
        ops.kmeans(torch.from_numpy(huge).to(gpu), 2)


def test_errors_of_arguments(gpu: torch.device) -> None:
    X = torch.zeros((5, 2), device=gpu)
    with pytest.raises(ValueError, match="`n_clusters` is 6, expected at most 5"):
        ops.kmeans(X, 6)
    with pytest.raises(ValueError, match=r"`X` has shape \(5,\)"):
        ops.kmeans(X[:, 0], 1)
    with pytest.raises(TypeError, match=r"`X` has dtype torch\.int32"):
        ops.kmeans(X.int(), 1)
    with pytest.raises(ValueError, match=r"`sample_weight` has shape \(4,\), expected \(5,\)"):
        ops.kmeans(X, 1, sample_weight=X.new_ones(4))
    with pytest.raises(ValueError, match=r"`sample_weight` has the value -1\.0"):
        ops.kmeans(X, 1, sample_weight=np.array([1.0, 1, -1, 1, 1]))
    with pytest.raises(ValueError, match="`sample_weight` has NaN or infinity in row 2"):
        ops.kmeans(X, 1, sample_weight=np.array([1.0, 1, np.nan, 1, 1]))
    with pytest.raises(ValueError, match="`sample_weight` is all zeros"):
        ops.kmeans(X, 1, sample_weight=np.zeros(5))


def test_one_small_read_back_each_iteration(
    gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    plain = _gpu_kmeans._read_back

    def counted(status: torch.Tensor) -> list[float]:
        read.append(status.numel())
        return plain(status)

    monkeypatch.setattr(_gpu_kmeans, "_read_back", counted)
    X = torch.from_numpy(clusters(300, 3, 5, spread=0.5)).to(gpu)
    found = _gpu_kmeans.solve(X, 5, np.random.RandomState(0).random_sample(draws_of(5)))
    assert found.n_iter > 3
    assert read == [4] * (found.n_iter + 1)
