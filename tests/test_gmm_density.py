"""Densities and labels without the responsibilities: against the oracle, and what they store."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.datasets import make_blobs

from elbokit import GaussianMixture, _core, ops, reference
from strided import LAYOUTS, with_layout

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")
SHAPES = [(1, 1, 1), (3, 2, 1), (17, 5, 3), (65, 17, 7), (129, 70, 2), (2055, 3, 17)]
RELATIVE = {np.float32: 1e-6, np.float64: 1e-13}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def random_mixture(
    rng: np.random.Generator, covariance_type: str, k: int, d: int, batch: tuple[int, ...] = ()
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    diagonal = rng.uniform(0.7, 1.4, (*batch, k, d))
    upper = np.triu(rng.normal(size=(*batch, k, d, d)), 1) * 0.3 / np.sqrt(d)
    full = upper + diagonal[..., None] * np.eye(d)
    factor = {
        "full": full,
        "tied": full[..., 0, :, :],
        "diag": diagonal,
        "spherical": diagonal[..., 0],
    }
    weights = rng.dirichlet(np.ones(k), size=batch)
    return weights, rng.normal(size=(*batch, k, d)) / np.sqrt(d), factor[covariance_type]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize(("n", "d", "k"), SHAPES)
def test_log_prob_against_the_reference(
    cpu_level: str, covariance_type: str, n: int, d: int, k: int, dtype: type
) -> None:
    rng = np.random.default_rng(n + d + k)
    weights, means, factor = random_mixture(rng, covariance_type, k, d)
    X = rng.normal(size=(n, d)).astype(dtype)
    log_prob = ops.gmm_log_prob(X, weights, means, factor, covariance_type)
    density = reference.gmm_log_density(X, means, factor, covariance_type)
    exact = logsumexp(density, b=weights, axis=1)
    assert log_prob.dtype == dtype
    assert log_prob.shape == (n,)
    np.testing.assert_allclose(log_prob, exact, rtol=0, atol=RELATIVE[dtype] * np.abs(exact).max())
    same = ops.gmm_estep(X, weights, means, factor, covariance_type)[0]
    np.testing.assert_array_equal(log_prob, same)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_log_prob_of_any_layout(layout: str, rng: np.random.Generator) -> None:
    mixture = random_mixture(rng, "full", 3, 5)
    X = rng.normal(size=(70, 5))
    laid_out = with_layout(X, layout)
    np.testing.assert_array_equal(
        ops.gmm_log_prob(laid_out, *mixture), ops.gmm_log_prob(X, *mixture)
    )


def test_log_prob_of_batches_and_of_tensors(rng: np.random.Generator) -> None:
    mixture = random_mixture(rng, "diag", 3, 2, batch=(2, 1))
    X = rng.normal(size=(4, 30, 2))
    log_prob = ops.gmm_log_prob(X, *mixture, "diag")
    assert log_prob.shape == (2, 4, 30)
    one = tuple(array[1, 0] for array in mixture)
    np.testing.assert_array_equal(log_prob[1, 3], ops.gmm_log_prob(X[3], *one, "diag"))
    torch = pytest.importorskip("torch")
    tensor = ops.gmm_log_prob(torch.from_numpy(X), *map(torch.from_numpy, mixture), "diag")
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), log_prob)


def test_log_prob_of_a_component_without_weight_and_of_a_row_out_of_reach() -> None:
    X = np.array([[0.0], [1e200]])
    log_prob = ops.gmm_log_prob(X, [0.0, 1.0], [[0.0], [1.0]], [1.0, 1.0], "spherical")
    np.testing.assert_allclose(log_prob, [-0.5 - 0.5 * np.log(2 * np.pi), -np.inf], rtol=1e-15)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"X": np.zeros((3, 2), int) > 0}, TypeError, "`X` has dtype bool, expected float32"),
        ({"X": np.array([[0.0, 0], [np.nan, 0]])}, ValueError, "`X` has NaN or infinity in row 1"),
        ({"means": np.zeros((3, 2))}, ValueError, r"`means` has shape \(3, 2\), expected"),
        ({"covariance_type": "round"}, ValueError, "`covariance_type` is 'round', expected"),
    ],
)
def test_bad_input(change: dict, error: type[Exception], message: str) -> None:
    good = {"X": np.zeros((4, 2)), "weights": [0.5, 0.5], "means": np.zeros((2, 2))}
    factor = {"precisions_cholesky": np.ones((2, 2)), "covariance_type": "diag"}
    with pytest.raises(error, match=message):
        ops.gmm_log_prob(**good | factor | change)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize(("n", "d", "k"), SHAPES)
def test_labels_are_the_first_of_the_largest_responsibilities(
    cpu_level: str, covariance_type: str, n: int, d: int, k: int, dtype: type
) -> None:
    rng = np.random.default_rng(n + d + k)
    mixture = random_mixture(rng, covariance_type, k, d)
    mixture[1][k // 2] = mixture[1][0]  # ties, wherever the factors are equal too
    mixture[0][k // 2] = mixture[0][0]
    if covariance_type != "tied":
        mixture[2][k // 2] = mixture[2][0]
    X = rng.normal(size=(1, n, d)).astype(dtype)
    labels, log_prob = np.full((1, n), -1), np.empty((1, n), dtype)
    responsibilities = np.empty((1, n, k), dtype)
    parameters = tuple(np.array(array[None]) for array in mixture)
    _core.gmm_estep(X, *parameters, covariance_type, log_prob, responsibilities, labels)
    np.testing.assert_array_equal(labels, responsibilities.argmax(axis=2))
    if k > 1:
        assert not (labels == k // 2).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_predict_is_the_argmax_of_predict_proba(covariance_type: str, dtype: type) -> None:
    X = make_blobs(5003, centers=6, n_features=3, cluster_std=3.0, random_state=0)[0].astype(dtype)
    gm = GaussianMixture(6, covariance_type=covariance_type, max_iter=3, random_state=0).fit(X)
    labels = gm.predict(X)
    assert labels.dtype == np.intp
    np.testing.assert_array_equal(labels, gm.predict_proba(X).argmax(axis=1))


def test_rows_that_overflow_float32() -> None:
    X = np.array([[0.0], [1.0], [10.0], [11.0]], np.float32)
    gm = GaussianMixture(2, covariance_type="spherical", random_state=0).fit(X)
    far = np.array([[0.0], [-1e25], [11.0], [1e25]], np.float32)
    np.testing.assert_array_equal(gm.predict(far), gm.predict_proba(far).argmax(axis=1))
    log_prob = gm.score_samples(far)
    assert np.isneginf(log_prob[[1, 3]]).all()  # -1e50 is beyond float32
    assert np.isfinite(log_prob[[0, 2]]).all()
    # float64 holds it.
    exact = gm.score_samples(far.astype(np.float64))
    wide = GaussianMixture(2, covariance_type="spherical", random_state=0).fit(X.astype(float))
    np.testing.assert_allclose(exact, wide.score_samples(far.astype(np.float64)), rtol=1e-5)
    lost = np.full((20_000, 1), 1e200)
    assert np.isneginf(wide.score_samples(lost)).all()
    lost[:19_990] = 5.0
    with pytest.raises(ValueError, match="row 19990 of X is so far from every component"):
        wide.predict(lost)


# What a call touches of the memory beside its data and its result.
MEMORY = """
import sys, threading, time
import numpy as np
from elbokit import GaussianMixture, ops

n, k = 2_000_000, 64
rng = np.random.default_rng(0)
X = np.empty((n, 8), np.float32)
for begin in range(0, n, 10_000):
    X[begin : begin + 10_000] = rng.normal(size=(10_000, 8))
gm = GaussianMixture(
    k,
    covariance_type="diag",
    weights_init=np.full(k, 1 / k),
    means_init=X[:k],
    precisions_init=np.ones((k, 8)),
    max_iter=1,
).fit(X[:1000])
weight = rng.uniform(size=n)


def call(method, rows):
    if method == "weighted":
        return gm.score(rows, sample_weight=weight[: len(rows)])
    return getattr(gm, method)(rows)


def touched():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024


def watch():
    global peak
    while not done.is_set():
        peak = max(peak, touched())
        time.sleep(0.001)


for method in sys.argv[1:]:
    call(method, X[:1000])
    before = peak = touched()
    done = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    result = call(method, X)
    done.set()
    watcher.join()
    print(peak - before - getattr(result, "nbytes", 0) / 2**20)
    del result
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_beside_the_data_and_the_result() -> None:
    # In MiB; the responsibilities would be 488.
    most = {"score_samples": 32, "score": 32, "weighted": 64, "bic": 32, "predict": 32}
    result = subprocess.run(
        [sys.executable, "-c", MEMORY, *most],
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    print(result.stdout)
    for method, beyond in zip(most, result.stdout.split(), strict=True):
        assert float(beyond) < most[method], method
