"""Fits to chunks of rows are those to the array of all rows."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from elbokit import GaussianMixture
from elbokit.mixture import _chunked_fit, _statistics
from elbokit.mixture._chunks import Chunk, into_blocks
from elbokit.mixture._reservoir import Reservoir
from gmm_starts import COVARIANCE_TYPES, clusters

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

ARRAYS = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")
INIT_PARAMS = ("kmeans", "k-means++", "random", "random_from_data")


class Chunks:
    """Made anew at every pass, and of no type that has a length."""

    def __init__(self, *passes: Any) -> None:
        self.passes = passes
        self.n_passes = 0

    def __iter__(self) -> Iterator[Any]:
        self.n_passes += 1
        return iter(list(self.passes[min(self.n_passes, len(self.passes)) - 1]))


def cut(X: np.ndarray, *sizes: int) -> list[np.ndarray]:
    """Cut rows into chunks of these sizes, and the rest."""
    return np.split(X, np.cumsum(sizes))


def assert_same_fit(a: GaussianMixture, b: GaussianMixture, tolerance: float) -> None:
    assert a.n_iter_ == b.n_iter_
    assert a.converged_ == b.converged_
    for name in ARRAYS:
        got, want = getattr(a, name), getattr(b, name)
        assert got.dtype == want.dtype
        scale = np.abs(want).max()
        assert_allclose(got, want, rtol=tolerance, atol=tolerance * scale, err_msg=name)
    assert_allclose(a.lower_bounds_, b.lower_bounds_, rtol=tolerance)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_iterates_are_those_of_one_array(rng, covariance_type, dtype, weighted):
    X = clusters(rng, 14_013, 3, 3, spread=1.0).astype(dtype)
    weight = rng.integers(0, 4, len(X)) if weighted else None
    # Both large and small chunks, one row, and none.
    sizes = (5_000, 1, 0, 17, 3_000, 4_099)
    options = {"covariance_type": covariance_type, "random_state": 1, "tol": 0.0, "max_iter": 12}
    whole = GaussianMixture(3, **options).fit(X, sample_weight=weight)
    chunked = GaussianMixture(3, **options).fit(
        Chunks(cut(X, *sizes)), sample_weight=None if weight is None else cut(weight, *sizes)
    )
    assert_same_fit(chunked, whole, 1e-12 if dtype == np.float64 else 1e-5)
    assert chunked.n_features_in_ == 3
    # Weights may be one array as well.
    if weighted:
        again = GaussianMixture(3, **options).fit(cut(X, *sizes), sample_weight=weight)
        assert_same_fit(again, chunked, 0.0)


@pytest.mark.parametrize("init_params", INIT_PARAMS)
def test_starts_and_restarts_are_those_of_one_array(rng, init_params):
    X = clusters(rng, 900, 2, 3, spread=2.0)
    options = {"init_params": init_params, "random_state": 0, "n_init": 3, "reg_covar": 1e-3}
    chunked = GaussianMixture(3, **options).fit(np.array_split(X, 4))
    assert_same_fit(chunked, GaussianMixture(3, **options).fit(X), 1e-11)


def test_one_pass_per_iteration(rng):
    X = clusters(rng, 500, 2, 2)
    data = Chunks(np.array_split(X, 3))
    gm = GaussianMixture(2, tol=0.0, max_iter=7, random_state=0).fit(data)
    assert gm.n_iter_ == 7
    assert data.n_passes == 8  # and one for the start


def test_given_parameters_and_warm_start(rng):
    X = clusters(rng, 600, 2, 2)
    options = {
        "weights_init": [0.5, 0.5],
        "means_init": X[:2],
        "precisions_init": np.tile(np.eye(2), (2, 1, 1)),
        "warm_start": True,
        "max_iter": 2,
        "tol": 0.0,
    }
    whole, chunked = (GaussianMixture(2, **options) for _ in range(2))
    for _ in range(3):
        assert_same_fit(chunked.fit(np.array_split(X, 3)), whole.fit(X), 1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_and_huge_weights(rng, dtype):
    X = clusters(rng, 300, 2, 2).astype(dtype)
    weight = rng.uniform(0.1, 1.0, 300)
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    options = {"random_state": 0, "max_iter": 5, "tol": 0.0, "init_params": "random_from_data"}
    plain = GaussianMixture(2, **options).fit(X)
    equal = GaussianMixture(2, **options).fit(np.array_split(X, 4), sample_weight=np.full(300, 0.3))
    assert_same_fit(equal, plain, tolerance)  # the draws, too, are those without weights
    options["init_params"] = "kmeans"
    weighted = GaussianMixture(2, **options).fit(X, sample_weight=weight)
    for size in (1e-300, 1e305):
        huge = GaussianMixture(2, **options).fit(
            np.array_split(X, 4), sample_weight=np.array_split(size * weight, 4)
        )
        assert_same_fit(huge, weighted, tolerance)


def test_float32_that_has_to_be_widened(rng, monkeypatch):
    monkeypatch.setattr(_statistics, "_WIDE_ROWS", 700)
    X = rng.normal(size=(9_000, 2)).astype(np.float32)
    X[:, 1] = X[:, 0] + np.float32(1e-4) * X[:, 1]
    options = {"random_state": 0, "max_iter": 3, "tol": 0.0, "reg_covar": 1e-10}
    whole = GaussianMixture(2, **options).fit(X)
    chunked = GaussianMixture(2, **options).fit(cut(X, 5_000, 100))
    assert whole.precisions_cholesky_.max() > 5e3  # more than sums in float32 may give
    # Both are float64's results, rounded to float32.
    assert_same_fit(chunked, whole, 1e-6)


def test_chunks_of_other_kinds(rng):
    torch = pytest.importorskip("torch")
    pd = pytest.importorskip("pandas")
    X = clusters(rng, 400, 2, 2)
    options = {"random_state": 0, "max_iter": 5, "tol": 0.0}
    want = GaussianMixture(2, **options).fit(X)
    parts = np.array_split(X, 4)
    rows = torch.utils.data.TensorDataset(torch.from_numpy(X))
    loader = torch.utils.data.DataLoader(rows, batch_size=64)
    frames = [pd.DataFrame(part, columns=["a", "b"]) for part in parts]
    fortran = [np.asfortranarray(part) for part in parts]
    swapped = [part.astype(">f8") for part in parts]
    lists = Chunks([part.tolist() for part in parts])
    for data in (tuple(parts), loader, frames, fortran, swapped, lists):
        assert_same_fit(GaussianMixture(2, **options).fit(data), want, 1e-12)
    gm = GaussianMixture(2, **options).fit(frames)
    assert gm.feature_names_in_.tolist() == ["a", "b"]
    # One float64 chunk makes all so, as in np.concatenate.
    mixed = [part.astype(np.float32) for part in parts[:3]] + parts[3:]
    gm = GaussianMixture(2, **options).fit(mixed)
    assert_same_fit(gm, GaussianMixture(2, **options).fit(np.concatenate(mixed)), 1e-12)


def test_chunks_in_another_order_at_each_pass(rng):
    X = clusters(rng, 20_000, 2, 2)
    parts = np.array_split(X, 3)
    options = {"random_state": 0, "max_iter": 5, "tol": 0.0}
    want = GaussianMixture(2, **options).fit(X)
    gm = GaussianMixture(2, **options).fit(Chunks(parts, parts[::-1]))
    assert_same_fit(gm, want, 1e-12)


def test_memmap_is_read_in_place(rng, tmp_path):
    X = clusters(rng, 500, 2, 2)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    options = {"random_state": 0, "max_iter": 5, "tol": 0.0}
    want = GaussianMixture(2, **options).fit(X)
    gm = GaussianMixture(2, **options)
    read = gm._validate_data(mapped)
    assert np.shares_memory(read, mapped)
    assert_same_fit(gm.fit(mapped), want, 0.0)
    assert_same_fit(gm.fit(np.array_split(mapped, 3)), want, 1e-12)


def test_results_do_not_depend_on_the_threads(rng, restore_threads):
    from elbokit import set_num_threads

    X = clusters(rng, 30_000, 4, 3)
    fits = []
    for n in (1, 2):
        set_num_threads(n)
        gm = GaussianMixture(3, random_state=0, max_iter=3, tol=0.0)
        fits.append(gm.fit(np.array_split(X, 4)))
    assert_same_fit(*fits, 0.0)


def test_a_start_from_a_sample(rng, monkeypatch):
    monkeypatch.setattr(_chunked_fit, "_START_ROWS", 1_000)
    X = clusters(rng, 10_000, 2, 3, spread=6.0)
    fits = [
        GaussianMixture(3, random_state=seed, tol=1e-9, max_iter=200).fit(np.array_split(X, parts))
        for seed, parts in ((0, 7), (0, 2), (1, 7))
    ]
    # Seeded, and by the rows alone, not by how they are cut.
    assert_allclose(fits[0].lower_bounds_[0], fits[1].lower_bounds_[0], rtol=1e-13)
    assert fits[0].lower_bounds_[0] != fits[2].lower_bounds_[0]
    whole = GaussianMixture(3, random_state=0, tol=1e-9, max_iter=200).fit(X)
    assert_allclose(fits[0].lower_bound_, whole.lower_bound_, rtol=1e-5)


def test_the_sample_is_uniform():
    rng = np.random.RandomState(0)
    kept = np.zeros(40)
    for _ in range(4_000):
        reservoir = Reservoir(10, rng)
        for part in np.split(np.arange(40.0)[:, None], [3, 15, 16]):
            reservoir.offer(part, 2.0 * part[:, 0])
        rows, weight = reservoir.content()
        assert_array_equal(weight, 2.0 * rows[:, 0])
        assert len(np.unique(rows)) == 10
        kept += np.bincount(rows[:, 0].astype(int), minlength=40)
    # Binomial(4000, 1/4): a standard deviation of 27; of 40, none beyond 4.5.
    assert np.abs(kept - 1_000).max() < 123


def test_of_two_rows_each_is_kept_half_the_time():
    rng = np.random.RandomState(0)
    kept = 0
    for _ in range(4_000):
        reservoir = Reservoir(1, rng)
        reservoir.offer(np.array([[0.0], [1.0]]), None)
        kept += int(reservoir.content()[0][0, 0])
    assert abs(kept - 2_000) < 4 * 32  # a standard deviation of 32


def test_blocks_have_the_rows_in_order(rng):
    X = rng.normal(size=(60_000, 1))
    weight = rng.uniform(size=60_000)
    sizes = (1, 1_023, 1_024, 100, 30_000, *[1_001] * 10, 1_023, 1_023, 1)
    pairs = zip(cut(X, *sizes), cut(weight, *sizes), strict=True)
    blocks = [Chunk(b.rows.copy(), b.weight.copy()) for b in into_blocks(Chunk(*p) for p in pairs)]
    assert_array_equal(np.concatenate([block.rows for block in blocks]), X)
    assert_array_equal(np.concatenate([block.weight for block in blocks]), weight)
    assert [len(b.rows) for b in blocks] == [1_024, 1_024, 100, 30_000, 4_096, 4_096, 3_865, 15_795]


def test_a_fit_to_chunks_can_be_pickled(rng):
    X = clusters(rng, 300, 2, 2)
    gm = GaussianMixture(2, random_state=0).fit(np.array_split(X, 3))
    assert_array_equal(pickle.loads(pickle.dumps(gm)).predict(X), gm.predict(X))


def test_verbose(rng, capsys):
    X = clusters(rng, 300, 2, 2)
    options = {"random_state": 0, "verbose": 1, "verbose_interval": 2, "max_iter": 6, "tol": 0.0}
    GaussianMixture(2, **options).fit(X)
    want = capsys.readouterr().out
    GaussianMixture(2, **options).fit(np.array_split(X, 3))
    assert capsys.readouterr().out == want
    assert want.count("Iteration") == 3


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_warnings_of_the_start_name_the_users_line(method):
    X = np.zeros((30, 2))
    X[:3] = 1.0
    data = np.array_split(X, 3) if method == "fit" else X
    with pytest.warns(ConvergenceWarning, match="distinct clusters") as caught:
        getattr(GaussianMixture(3, random_state=0), method)(data)
    assert {warning.filename for warning in caught if "distinct" in str(warning.message)} == {
        __file__
    }
