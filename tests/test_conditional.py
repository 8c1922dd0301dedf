"""impute, marginal and conditional against the definitions of the densities."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal
from sklearn.exceptions import NotFittedError

import missing_oracle as oracle
from elbokit import GaussianMixture, MixturePrior
from elbokit.mixture._conditional import ConditionalMixtures
from gmm_starts import COVARIANCE_TYPES, clusters

types = pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def fit(covariance_type: str, dtype: type = np.float64, d: int = 4, **options) -> tuple:
    """A fitted mixture of correlated features, and its data."""
    rng = np.random.default_rng(0)
    X = (clusters(rng, 250, d, 3) @ (np.eye(d) + 0.4 * rng.normal(size=(d, d)))).astype(dtype)
    gm = GaussianMixture(3, covariance_type=covariance_type, random_state=0, **options).fit(X)
    return gm, X


def sigma_of(gm: GaussianMixture) -> np.ndarray:
    covariances = gm._float64("covariances")
    return oracle.matrices(covariances, gm.covariance_type, *gm.means_.shape)


def density(x: np.ndarray, gm: GaussianMixture) -> np.ndarray:
    """Mixture density by its public attributes."""
    each = [
        w * multivariate_normal(m, s).pdf(x)
        for w, m, s in zip(gm.weights_, gm.means_, sigma_of(gm), strict=True)
    ]
    return np.sum(each, axis=0)


@dtypes
@types
@pytest.mark.parametrize("missing", ["error", "integrate"])
def test_impute_is_the_conditional_expectation(covariance_type, dtype, missing) -> None:
    gm, X = fit(covariance_type, dtype, missing=missing)
    rng = np.random.default_rng(1)
    holes = rng.random(X.shape) < 0.4
    holes[0], holes[1], holes[2] = True, False, [True, True, True, False]
    given = np.where(holes, np.array(np.nan, dtype), X)
    before = given.copy()
    filled = gm.impute(given)
    assert filled.dtype == dtype
    assert_array_equal(given, before)
    assert_array_equal(filled[~holes], X[~holes])
    parameters = gm._float64("weights"), gm._float64("means"), sigma_of(gm)
    expected = oracle.impute(given.astype(np.float64), *parameters)
    tolerance = 1e-4 if dtype == np.float32 else 1e-9
    assert_allclose(filled, expected, rtol=tolerance, atol=tolerance)
    assert_allclose(filled[0], gm.weights_ @ gm.means_, rtol=1e-5)
    assert_array_equal(gm.impute(X), X)


@types
def test_marginal_times_conditional_is_the_joint(covariance_type) -> None:
    gm, X = fit(covariance_type)
    joint = gm.score_samples(X)
    for given, rest in (([0], [1, 2, 3]), ([3, 1], [0, 2]), ([2, 0, 3], [1])):
        marginal = gm.marginal(given)
        parts = gm.conditional(X[:, given], given=given)
        assert isinstance(parts, ConditionalMixtures)
        assert_array_equal(parts.features, rest)
        for n in (0, 17, 101):
            one = gm.conditional(X[n, given], given=given)
            assert isinstance(one, GaussianMixture)
            assert one.covariance_type == covariance_type
            log_conditional = one.score_samples(X[n : n + 1, rest])[0]
            log_marginal = marginal.score_samples(X[n : n + 1, given])[0]
            assert log_marginal + log_conditional == pytest.approx(joint[n], rel=1e-10)
            assert_allclose(density(X[n, rest], one), np.exp(log_conditional), rtol=1e-9)
            assert_allclose(parts.weights[n], one.weights_, rtol=1e-12)
            assert_allclose(parts.means[n], one.means_, rtol=1e-12)
            assert_array_equal(parts.covariances, one.covariances_)
            assert_array_equal(parts.precisions_cholesky, one.precisions_cholesky_)
            assert_allclose(one.weights_, marginal.predict_proba(X[n : n + 1, given])[0])


@dtypes
@types
def test_marginal_is_what_missing_values_leave(covariance_type, dtype) -> None:
    gm, X = fit(covariance_type, dtype, missing="integrate")
    chosen = [3, 0]
    marginal = gm.marginal(chosen)
    assert marginal.means_.dtype == dtype
    assert marginal.n_features_in_ == 2
    sparse = X.copy()
    sparse[:, [1, 2]] = np.nan
    tolerance = 1e-5 if dtype == np.float32 else 1e-11
    assert_allclose(marginal.score_samples(X[:, chosen]), gm.score_samples(sparse), rtol=tolerance)
    assert_array_equal(marginal.means_, gm.means_[:, chosen])
    expected = sigma_of(gm)[:, chosen][:, :, chosen]
    assert_allclose(sigma_of(marginal), expected, rtol=tolerance)
    assert (
        marginal.covariances_.shape
        == {
            "full": (3, 2, 2),
            "tied": (2, 2),
            "diag": (3, 2),
            "spherical": (3,),
        }[covariance_type]
    )
    draws, _ = marginal.sample(4000)
    assert_allclose(draws.mean(axis=0), gm.weights_ @ gm.means_[:, chosen], atol=0.3)


def test_all_features_in_another_order() -> None:
    gm, X = fit("full")
    turned = gm.marginal([2, 3, 0, 1])
    assert_allclose(turned.score_samples(X[:, [2, 3, 0, 1]]), gm.score_samples(X), rtol=1e-11)
    assert not np.tril(turned.precisions_cholesky_, -1).any()
    same = gm.marginal(np.arange(4))
    assert_array_equal(same.precisions_cholesky_, gm.precisions_cholesky_)


@types
def test_they_are_estimators(covariance_type) -> None:
    gm, X = fit(covariance_type)
    gm.set_params(means_init=gm.means_, weights_init=gm.weights_)
    gm.set_params(prior=MixturePrior(mean=gm.means_[0]))
    part = pickle.loads(pickle.dumps(gm.marginal([1, 2])))
    assert (part.n_iter_, part.lower_bound_, part.converged_) == (0, -np.inf, gm.converged_)
    assert part.means_init is None
    part.fit(X[:, [1, 2]])
    part = gm.marginal([1, 2]).set_params(warm_start=True)
    for array in (part.means_, part.covariances_, part.precisions_cholesky_):
        assert array.flags.c_contiguous
    assert part.fit(X[:, [1, 2]]).n_iter_ > 0
    gm.marginal([2, 0]).partial_fit(X[:, [2, 0]])
    conditional = gm.conditional(0.3, given=2)
    assert conditional.n_components == 3
    assert conditional.fit(X[:, :3]).n_features_in_ == 3
    assert gm.means_init is gm.means_


def test_names_and_masks() -> None:
    pandas = pytest.importorskip("pandas")
    gm, X = fit("full")
    frame = pandas.DataFrame(X, columns=list("abcd"))
    named = GaussianMixture(3, random_state=0).fit(frame)
    by_name, by_index = named.marginal(["d", "b"]), gm.marginal([3, -3])
    assert by_name.feature_names_in_.tolist() == ["d", "b"]
    assert_array_equal(by_name.means_, by_index.means_)
    assert_array_equal(named.marginal("c").means_, gm.marginal(2).means_)
    assert_array_equal(gm.marginal([False, True, False, True]).means_, gm.means_[:, [1, 3]])
    conditional = named.conditional([0.1, 0.2], given=["d", "b"])
    assert conditional.feature_names_in_.tolist() == ["a", "c"]
    several = named.conditional(frame[["d", "b"]], given=["d", "b"])
    assert several.means.shape == (250, 3, 2)
    with pytest.raises(ValueError, match=r"columns \['b', 'd'\], expected \['d', 'b'\]"):
        named.conditional(frame[["b", "d"]], given=["d", "b"])
    row = frame.iloc[3]
    one = named.conditional(row[["d", "b"]], given=["d", "b"])
    assert_array_equal(one.means_, gm.conditional(X[3, [3, 1]], given=[3, 1]).means_)
    assert_array_equal(
        named.conditional(row.iloc[[3, 1]].set_axis([0, 1]), given=[3, 1]).means_, one.means_
    )
    with pytest.raises(ValueError, match=r"columns \['b', 'd'\], expected \['d', 'b'\]"):
        named.conditional(row[["b", "d"]], given=["d", "b"])
    with pytest.raises(TypeError, match="X_given has type dict, expected an array"):
        named.conditional({"d": 1.0, "b": 2.0}, given=["d", "b"])
    with pytest.raises(ValueError, match="features has 'x', expected some of a, b, c, d"):
        named.marginal(["a", "x"])
    with pytest.raises(ValueError, match=r"'a'.*without feature names"):
        gm.marginal(["a"])


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        ([4], ValueError, "features has 4, expected indices below 4"),
        ([-5], ValueError, "features has -5"),
        ([1, -3], ValueError, "feature 1 more than once"),
        ([], ValueError, "at least one"),
        ([[0, 1]], ValueError, "in one dimension"),
        ([1.5], TypeError, "dtype float64, expected integers, names or a mask"),
        ([True, False], ValueError, r"mask of shape \(2,\), expected \(4,\)"),
        ([False] * 4, ValueError, "without True"),
    ],
)
def test_wrong_choices(features, error, message) -> None:
    gm, _ = fit("diag")
    with pytest.raises(error, match=message):
        gm.marginal(features)
    with pytest.raises(error, match=message.replace("features", "given")):
        gm.conditional([0.0], given=features)


def test_wrong_values() -> None:
    gm, X = fit("full")
    for values in ([0.0], [[0.0]], np.zeros((0, 2)), np.zeros((2, 3))):
        with pytest.raises(ValueError, match=r"X_given has shape .*expected \(2,\) or"):
            gm.conditional(values, given=[0, 1])
    with pytest.raises(ValueError, match=r"NaN, first in row 1, column 0; .*leave it out"):
        gm.conditional([[0.0, 1.0], [np.nan, 1.0]], given=[0, 1])
    with pytest.raises(ValueError, match="infinity"):
        gm.conditional([0.0, np.inf], given=[0, 1])
    with pytest.raises(ValueError, match="given has all 4 features"):
        gm.conditional(X[0], given=[0, 1, 2, 3])
    with pytest.raises(ValueError, match="row 0 of X_given is so far"):
        gm.conditional([1e300, 0.0], given=[0, 1])
    with pytest.raises(ValueError, match="row 2 of X is so far"):  # the second that has a NaN
        gm.impute([[0.0, 1.0, np.nan, 0.0], [0.0] * 4, [1e300, 0.0, np.nan, 0.0]])
    with pytest.raises(ValueError, match="infinity"):
        gm.impute([[0.0, 1.0, np.nan, np.inf]])
    with pytest.raises(ValueError, match="3 features"):
        gm.impute([[0.0, 1.0, np.nan]])


@pytest.mark.parametrize("method", ["impute", "marginal"])
def test_not_fitted(method) -> None:
    with pytest.raises(NotFittedError):
        getattr(GaussianMixture(), method)([[0.0]])
    with pytest.raises(NotFittedError):
        GaussianMixture().conditional([0.0], given=[0])


def test_ill_conditioned_features() -> None:
    """Nearly equal features: one is what the other says, to within their difference."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=500)
    X = np.column_stack([x, x + 1e-5 * rng.normal(size=500), rng.normal(size=500)])
    gm = GaussianMixture(reg_covar=0.0).fit(X)
    sparse = X.copy()
    sparse[:, 1] = np.nan
    assert_allclose(gm.impute(sparse)[:, 1], X[:, 1], atol=1e-4)
    spread = gm.conditional(X[0, [0, 2]], given=[0, 2]).covariances_
    assert spread[0, 0, 0] == pytest.approx(1e-10, rel=0.2)
