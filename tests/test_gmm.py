"""The mixture's kernels against the float64 reference."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from elbokit import _core, ops, reference
from strided import LAYOUTS, with_layout

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")
SHAPES = [
    # n, d, k
    (1, 1, 1),
    (2, 1, 3),
    (3, 2, 1),
    (15, 3, 2),
    (16, 4, 4),
    (513, 2, 16),
    (700, 3, 9),
    (17, 5, 3),
    (63, 15, 2),
    (64, 16, 5),
    (65, 17, 7),
    (252, 507, 3),
    (507, 65, 2),
    (450, 96, 7),  # the distances are whole runs of features
    (130, 130, 5),
    (1500, 3, 17),
]
# Relative to the largest value; design: responsibilities 1e-5, log-likelihood 1e-6 in float32.
RESPONSIBILITY = {np.float32: 1e-5, np.float64: 2e-11}
RELATIVE = {np.float32: 1e-5, np.float64: 2e-11}
LIKELIHOOD = {np.float32: 1e-6, np.float64: 1e-13}


def random_factor(rng: np.random.Generator, covariance_type: str, k: int, d: int) -> np.ndarray:
    """A well-conditioned precision factor of the right shape."""
    diagonal = rng.uniform(0.7, 1.4, (k, d))
    upper = np.triu(rng.normal(size=(k, d, d)), 1) * 0.3 / np.sqrt(d)
    full = upper + diagonal[:, :, None] * np.eye(d)
    return {"full": full, "tied": full[0], "diag": diagonal, "spherical": diagonal[:, 0]}[
        covariance_type
    ]


def random_mixture(
    rng: np.random.Generator, covariance_type: str, k: int, d: int, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        rng.dirichlet(np.ones(k)),
        spread * rng.normal(size=(k, d)),
        random_factor(rng, covariance_type, k, d),
    )


def assert_close(got: np.ndarray, exact: np.ndarray, tolerance: float) -> None:
    scale = max(np.abs(exact).max(), 1e-300)
    np.testing.assert_allclose(np.asarray(got) / scale, exact / scale, rtol=0, atol=tolerance)


def check(X: np.ndarray, mixture: tuple, covariance_type: str, weight: np.ndarray | None) -> None:
    dtype = X.dtype.type
    log_prob, r = ops.gmm_estep(X, *mixture, covariance_type)
    exact_log_prob, exact_r = reference.gmm_estep(X, *mixture, covariance_type)
    assert log_prob.dtype == r.dtype == dtype
    assert_close(log_prob, exact_log_prob, LIKELIHOOD[dtype])
    np.testing.assert_allclose(r, exact_r, rtol=0, atol=RESPONSIBILITY[dtype])
    got = ops.gmm_statistics(X, *mixture, covariance_type, weight)
    exact = reference.gmm_statistics(X, *mixture, covariance_type, weight)
    assert_close(got.counts, exact.counts, RELATIVE[dtype])
    assert_close(got.first_moments, exact.first_moments, RELATIVE[dtype])
    assert_close(got.second_moments, exact.second_moments, RELATIVE[dtype])
    assert_close(got.log_likelihood, exact.log_likelihood, LIKELIHOOD[dtype])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize(("n", "d", "k"), SHAPES)
def test_against_reference(
    cpu_level: str, covariance_type: str, n: int, d: int, k: int, dtype: type
) -> None:
    rng = np.random.default_rng(n + d + k)
    mixture = random_mixture(rng, covariance_type, k, d, spread=1 / np.sqrt(d))
    X = rng.normal(size=(n, d)).astype(dtype)
    check(X, mixture, covariance_type, None)
    check(X, mixture, covariance_type, rng.uniform(0, 3, n))


@pytest.mark.parametrize("offset", [1e2, 1e4])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_float32_far_from_the_origin(cpu_level: str, covariance_type: str, offset: float) -> None:
    """Data and means at `offset` standard deviations: differences must not cancel."""
    rng = np.random.default_rng(7)
    d, k = 6, 4
    weights, means, factor = random_mixture(rng, covariance_type, k, d)
    means += offset * rng.choice([-1, 1], d)
    X = (means[rng.integers(k, size=1000)] + rng.normal(size=(1000, d))).astype(np.float32)
    check(X, (weights, means, factor), covariance_type, None)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_float32_pairs_of_clusters_far_apart(cpu_level: str, covariance_type: str) -> None:
    """Two overlapping pairs, 2e4 standard deviations from each other: no common origin is near."""
    rng = np.random.default_rng(8)
    d = 3
    weights, means, factor = random_mixture(rng, covariance_type, 4, d)
    means[:2] += 1e4
    means[2:] -= 1e4
    X = (means[rng.integers(4, size=800)] + rng.normal(size=(800, d))).astype(np.float32)
    check(X, (weights, means, factor), covariance_type, None)


@pytest.mark.parametrize(("dtype", "distance"), [(np.float32, 1e6), (np.float64, 1e9)])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("d", [65, 130])
def test_rows_far_from_every_component_among_many_features(
    cpu_level: str, covariance_type: str, d: int, dtype: type, distance: float
) -> None:
    """There even what the rounding of a squared distance loses is a large number."""
    rng = np.random.default_rng(d)
    mixture = random_mixture(rng, covariance_type, 5, d)
    X = rng.normal(size=(21, d))
    X[::2] += distance * rng.choice([-1, 1], size=(11, d))
    X = X.astype(dtype)
    log_prob, r = ops.gmm_estep(X, *mixture, covariance_type)
    exact_log_prob, _ = reference.gmm_estep(X, *mixture, covariance_type)
    np.testing.assert_allclose(log_prob, exact_log_prob, rtol=1e-6)
    np.testing.assert_allclose(r.sum(axis=1), 1, rtol=1e-6)
    assert ops.gmm_statistics(X, *mixture, covariance_type).counts.sum() == pytest.approx(21)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("empty", [0, 2, 4])
def test_component_of_weight_zero(
    cpu_level: str, covariance_type: str, empty: int, dtype: type, rng: np.random.Generator
) -> None:
    weights, means, factor = random_mixture(rng, covariance_type, 5, 3)
    weights[empty] = 0
    weights /= weights.sum()
    means[empty] = 1e6  # and far away
    X = rng.normal(size=(100, 3)).astype(dtype)
    check(X, (weights, means, factor), covariance_type, None)
    statistics = ops.gmm_statistics(X, weights, means, factor, covariance_type)
    assert statistics.counts[empty] == 0
    assert not statistics.first_moments[empty].any()


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_rows_that_no_component_reaches(cpu_level: str, covariance_type: str) -> None:
    """Where the distance overflows float32, log p is -inf and no NaN spreads."""
    weights, means, factor = random_mixture(np.random.default_rng(0), covariance_type, 2, 2)
    X = np.array([[0, 0], [1e30, 0], [0.5, 0.5]], np.float32)
    log_prob, r = ops.gmm_estep(X, weights, means, factor, covariance_type)
    assert log_prob[1] == -np.inf
    assert not r[1].any()
    assert np.isfinite(log_prob[[0, 2]]).all()
    statistics = ops.gmm_statistics(X, weights, means, factor, covariance_type, [1.0, 0.0, 1.0])
    exact = reference.gmm_statistics(X[[0, 2]], weights, means, factor, covariance_type)
    assert_close(statistics.counts, exact.counts, 1e-6)
    assert_close(statistics.log_likelihood, exact.log_likelihood, 1e-6)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_give_the_same_bits(
    cpu_level: str, layout: str, covariance_type: str, rng: np.random.Generator
) -> None:
    mixture = random_mixture(rng, covariance_type, 3, 7)
    X = rng.normal(size=(700, 7)).astype(np.float32)
    laid_out = with_layout(X, layout)
    for got, exact in zip(
        (
            *ops.gmm_estep(laid_out, *mixture, covariance_type),
            *ops.gmm_statistics(laid_out, *mixture, covariance_type),
        ),
        (
            *ops.gmm_estep(X, *mixture, covariance_type),
            *ops.gmm_statistics(X, *mixture, covariance_type),
        ),
        strict=True,
    ):
        np.testing.assert_array_equal(got, exact)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("batch", [(4,), (2, 3), (0,)])
def test_batch_of_mixtures(covariance_type: str, batch: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    n, d, k = 37, 3, 2
    size = int(np.prod(batch))
    mixtures = [random_mixture(rng, covariance_type, k, d) for _ in range(size)]
    X = rng.normal(size=(*batch, n, d))
    weight = rng.uniform(size=(*batch, n))
    parameters = [
        np.array([m[i] for m in mixtures]).reshape(batch + np.shape(one))
        for i, one in enumerate(random_mixture(rng, covariance_type, k, d))
    ]
    log_prob, r = ops.gmm_estep(X, *parameters, covariance_type)
    got = ops.gmm_statistics(X, *parameters, covariance_type, weight)
    assert log_prob.shape == (*batch, n)
    assert r.shape == (*batch, n, k)
    assert got.log_likelihood.shape == batch
    for i, (index, mixture) in enumerate(zip(np.ndindex(batch), mixtures, strict=True)):
        alone = ops.gmm_statistics(X[index], *mixture, covariance_type, weight[index])
        for one, all_ in zip(alone, got, strict=True):
            np.testing.assert_array_equal(all_[index], one, err_msg=f"mixture {i}")
        np.testing.assert_array_equal(
            log_prob[index], ops.gmm_estep(X[index], *mixture, covariance_type)[0]
        )


def test_parameters_broadcast_over_the_batch(rng: np.random.Generator) -> None:
    mixture = random_mixture(rng, "full", 3, 2)
    X = rng.normal(size=(5, 1, 20, 2))
    stacked = ops.gmm_statistics(X, *mixture)
    assert stacked.counts.shape == (5, 1, 3)
    np.testing.assert_array_equal(
        stacked.counts[3, 0], ops.gmm_statistics(X[3, 0], *mixture).counts
    )


@hypothesis.given(
    st.integers(1, 90),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from(COVARIANCE_TYPES),
    st.sampled_from([np.float32, np.float64]),
    st.integers(0, 2**32 - 1),
)
def test_statistics_properties(
    n: int, d: int, k: int, covariance_type: str, dtype: type, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    mixture = random_mixture(rng, covariance_type, k, d)
    X = rng.normal(size=(n, d)).astype(dtype)
    weight = rng.uniform(0, 2, n).astype(dtype)
    whole = ops.gmm_statistics(X, *mixture, covariance_type, weight)
    tolerance = RELATIVE[dtype]
    # Every row is shared out completely.
    np.testing.assert_allclose(whole.counts.sum(), weight.sum(dtype=np.float64), rtol=tolerance)
    # A union of rows has the sum of the statistics.
    cut = int(rng.integers(0, n + 1))
    parts = [
        ops.gmm_statistics(X[part], *mixture, covariance_type, weight[part])
        for part in (slice(cut), slice(cut, None))
        if len(X[part])
    ]
    for name in whole._fields:
        total = sum(np.asarray(getattr(part, name)) for part in parts)
        assert_close(getattr(whole, name), total, tolerance)
    # Neither the order of the components nor where the origin lies matters.
    order = rng.permutation(k)
    weights, means, factor = mixture
    permuted = ops.gmm_statistics(
        X,
        weights[order],
        means[order],
        factor if covariance_type == "tied" else factor[order],
        covariance_type,
        weight,
    )
    assert_close(permuted.counts, whole.counts[order], tolerance)
    assert_close(permuted.first_moments, whole.first_moments[order], tolerance)
    shift = 2.0 ** rng.integers(0, 3, d)
    moved = ops.gmm_statistics(
        X.astype(np.float64) + shift,
        weights,
        means + shift,
        factor,
        covariance_type,
        weight.astype(np.float64),
    )
    assert_close(moved.second_moments, whole.second_moments, tolerance)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_same_bits_for_any_number_of_threads_and_every_run(
    covariance_type: str, restore_threads: None, rng: np.random.Generator
) -> None:
    mixture = random_mixture(rng, covariance_type, 5, 6)
    X = rng.normal(size=(20_000, 6)).astype(np.float32)
    results = []
    for threads in (1, 2, 3, 2, 7):
        _core.set_num_threads(threads)
        results.append(
            (
                *ops.gmm_statistics(X, *mixture, covariance_type),
                *ops.gmm_estep(X, *mixture, covariance_type),
            )
        )
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_torch_in_torch_out(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    weights, means, factor = random_mixture(rng, "diag", 2, 3)
    X = torch.randn(10, 3)
    log_prob, r = ops.gmm_estep(X, weights, torch.from_numpy(means), factor, "diag")
    assert isinstance(log_prob, torch.Tensor)
    assert r.dtype == torch.float32
    expected = ops.gmm_estep(X.numpy(), weights, means, factor, "diag")[0]
    np.testing.assert_array_equal(log_prob.numpy(), expected)


GOOD = {
    "X": np.zeros((4, 2)),
    "weights": np.array([0.5, 0.5]),
    "means": np.zeros((2, 2)),
    "precisions_cholesky": np.tile(np.eye(2), (2, 1, 1)),
}
NAN_ROW = np.array([[0.0, 1], [2, 3], [4, np.nan], [np.inf, 0]])
BAD = [
    ({"X": np.zeros((0, 2))}, ValueError, r"`X` has shape \(0, 2\)"),
    ({"X": np.zeros((4, 0))}, ValueError, r"`X` has shape \(4, 0\)"),
    ({"X": np.zeros(4)}, ValueError, r"`X` has shape \(4,\)"),
    ({"X": np.zeros((4, 2), int)}, TypeError, "`X` has dtype int64, expected float32 or float64"),
    ({"X": np.zeros((4, 2), object)}, TypeError, "`X` has dtype object"),
    ({"X": NAN_ROW}, ValueError, "`X` has NaN or infinity in row 2"),
    ({"X": NAN_ROW[[0, 3]]}, ValueError, "`X` has NaN or infinity in row 1"),
    ({"X": np.stack([GOOD["X"], NAN_ROW])}, ValueError, "in row 1, 2"),
    ({"X": np.zeros((4, 3))}, ValueError, r"`means` has shape \(2, 2\), expected \(..., 2, 3\)"),
    ({"weights": np.zeros(0)}, ValueError, r"`weights` has shape \(0,\)"),
    ({"weights": np.float64(1)}, ValueError, r"`weights` has shape \(\)"),
    ({"weights": np.array([1.5, -0.5])}, ValueError, "`weights` has minimum -0.5"),
    ({"weights": np.array([0.0, 0.0])}, ValueError, "`weights` .* positive sum"),
    ({"weights": np.array([1, 1])}, TypeError, "`weights` has dtype int64"),
    ({"weights": np.array([0.5, np.nan])}, ValueError, r"`weights` has nan at \(1,\)"),
    ({"means": np.zeros((3, 2))}, ValueError, r"`means` has shape \(3, 2\), expected"),
    ({"means": np.full((2, 2), np.inf)}, ValueError, r"`means` has inf at \(0, 0\)"),
    ({"precisions_cholesky": np.eye(2)}, ValueError, "`precisions_cholesky` has shape"),
    ({"precisions_cholesky": np.ones((2, 2, 2))}, ValueError, "below the diagonal"),
    ({"precisions_cholesky": np.zeros((2, 2, 2))}, ValueError, "diagonal entry 0.0"),
    ({"X": np.ma.array(np.zeros((4, 2)), mask=True)}, TypeError, "`X` is a masked array"),
    ({"X": [[1.0], [2.0, 3.0]]}, ValueError, "`X` is no rectangular array"),
    ({"covariance_type": ["diag"]}, ValueError, r"`covariance_type` is \['diag'\]"),
    ({"covariance_type": "banana"}, ValueError, "`covariance_type` is 'banana'"),
    ({"X": np.zeros((3, 4, 2)), "weights": np.full((2, 2), 0.5)}, ValueError, "do not broadcast"),
    (
        {"sample_weight": np.ones(3)},
        ValueError,
        r"`sample_weight` has shape \(3,\), expected \(4,\)",
    ),
    ({"sample_weight": np.array([1.0, 1, -1, 1])}, ValueError, "`sample_weight` has the value -1"),
    ({"sample_weight": np.array([1, 1, np.nan, 1])}, ValueError, "`sample_weight` .* row 2"),
    ({"sample_weight": np.ones(4, bool)}, TypeError, "`sample_weight` has dtype bool"),
]


def test_nan_in_a_row_of_weight_zero_is_refused_too() -> None:
    with pytest.raises(ValueError, match="`X` has NaN or infinity in row 2"):
        ops.gmm_statistics(**GOOD | {"X": NAN_ROW, "sample_weight": np.array([1.0, 1, 0, 0])})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_no_value_that_is_not_finite_slips_through(
    cpu_level: str, covariance_type: str, order: tuple[int, int], value: float
) -> None:
    """Zeros of a triangle make NaN of infinity in one component, and -inf in the other."""
    X = np.zeros((4, 4))
    X[1, 0] = value
    full = np.stack([np.eye(4), np.triu(np.ones((4, 4)))])[list(order)]
    factor = {"full": full, "tied": full[0], "diag": np.ones((2, 4)), "spherical": np.ones(2)}
    arguments = (np.array([0.5, 0.5]), np.zeros((2, 4)), factor[covariance_type], covariance_type)
    for weight in (None, np.array([1.0, 0.0, 1.0, 1.0])):
        for dtype in (np.float32, np.float64):
            with pytest.raises(ValueError, match="`X` has NaN or infinity in row 1"):
                ops.gmm_statistics(X.astype(dtype), *arguments, weight)
            with pytest.raises(ValueError, match="`X` has NaN or infinity in row 1"):
                ops.gmm_estep(X.astype(dtype), *arguments)


@pytest.mark.parametrize("scale", [1e-300, 1e-44, 1e36, 1e290])
def test_sample_weights_of_any_size(scale: float, rng: np.random.Generator) -> None:
    mixture = random_mixture(rng, "full", 2, 3)
    X = rng.normal(size=(50, 3)).astype(np.float32)
    weight = rng.uniform(1, 2, 50)
    exact = reference.gmm_statistics(X, *mixture, sample_weight=weight)
    got = ops.gmm_statistics(X, *mixture, sample_weight=weight * scale)
    assert_close(got.counts / scale, exact.counts, 1e-6)
    assert_close(got.second_moments / scale, exact.second_moments, 1e-6)
    assert_close(got.log_likelihood / scale, exact.log_likelihood, 1e-6)


def test_what_float32_cannot_hold_is_refused() -> None:
    X = np.array([[1e20], [-1e20]], np.float32)
    with pytest.raises(ValueError, match=r"`X` has values up to 1e\+20: second_moments overflow"):
        ops.gmm_statistics(X, [1.0], [[0.0]], [[1e-20]], "diag")
    with pytest.raises(ValueError, match=r"`means` has the value 1e\+39, which float32"):
        ops.gmm_estep(X, [1.0], [[1e39]], [[1.0]], "diag")
    with pytest.raises(ValueError, match=r"`precisions_cholesky` has the value 1e\+39"):
        ops.gmm_estep(X, [1.0], [[0.0]], [[1e39]], "diag")


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_input(change: dict, error: type[Exception], message: str) -> None:
    arguments = GOOD | change
    with pytest.raises(error, match=message):
        ops.gmm_statistics(**arguments)
    if "sample_weight" not in change:
        with pytest.raises(error, match=message):
            ops.gmm_estep(**arguments)
