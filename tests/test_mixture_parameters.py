"""Parameters set by hand count as fitted ones do, in every form that scikit-learn takes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture as SklearnMixture
from sklearn.utils import check_random_state

from elbokit import GaussianMixture, reference
from elbokit.mixture._parameters import upper_triangular

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")
NEEDED = ("weights_", "means_", "precisions_cholesky_")
X = make_blobs(n_samples=60, centers=3, n_features=3, random_state=0)[0]


def fitted(covariance_type):
    return SklearnMixture(3, covariance_type=covariance_type, random_state=0).fit(X)


def set_by_hand(source, names, convert=np.copy):
    """Return this library's and scikit-learn's estimator with attributes of `source`."""
    pair = []
    for cls in (GaussianMixture, SklearnMixture):
        gm = cls(3, covariance_type=source.covariance_type, random_state=0)
        for name in names:
            setattr(gm, name, convert(getattr(source, name)))
        pair.append(gm)
    return pair


def assert_same_answers(ours, theirs, data=X):
    assert_array_equal(ours.predict(data), theirs.predict(data))
    assert_allclose(ours.predict_proba(data), theirs.predict_proba(data), atol=1e-10)
    assert_allclose(ours.score_samples(data), theirs.score_samples(data), rtol=1e-9)
    for method in ("score", "bic", "aic"):
        assert getattr(ours, method)(data) == pytest.approx(getattr(theirs, method)(data))


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_density_needs_no_covariances(covariance_type):
    ours, theirs = set_by_hand(fitted(covariance_type), NEEDED)
    assert_same_answers(ours, theirs)
    for gm in (ours, theirs):
        with pytest.raises(AttributeError, match="covariances_"):
            gm.sample()
    ours, theirs = set_by_hand(fitted(covariance_type), (*NEEDED, "covariances_"))
    assert_allclose(ours.sample(50)[0], theirs.sample(50)[0])


def test_incomplete_parameters_are_scikit_learns_error():
    for gm in set_by_hand(fitted("full"), ()):
        with pytest.raises(NotFittedError):
            gm.predict(X)
    for gm in set_by_hand(fitted("full"), NEEDED[:2]):
        with pytest.raises(AttributeError, match="precisions_cholesky_"):
            gm.predict(X)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_lists(covariance_type):
    source = fitted(covariance_type)
    _, theirs = set_by_hand(source, (*NEEDED, "covariances_"))
    ours, _ = set_by_hand(source, (*NEEDED, "covariances_"), convert=np.ndarray.tolist)
    assert_same_answers(ours, theirs)
    assert_allclose(ours.sample(50)[0], theirs.sample(50)[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_list_after_fit(dtype):
    data = X.astype(dtype)
    gm = GaussianMixture(2, random_state=0).fit(data)
    gm.weights_ = [0.3, 0.7]
    expected = reference.gmm_estep(data, [0.3, 0.7], gm.means_, gm.precisions_cholesky_)
    assert_allclose(gm.score_samples(data), expected[0], rtol=1e-5)
    assert_allclose(gm.predict_proba(data), expected[1], atol=1e-5)
    assert gm.sample(1000)[1].mean() == pytest.approx(0.7, abs=0.1)
    gm.set_params(warm_start=True).fit(data)
    assert isinstance(gm.weights_, np.ndarray)


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_lower_triangular_factors(covariance_type):
    source = fitted(covariance_type)
    lower = np.linalg.cholesky(np.linalg.inv(source.covariances_))
    assert np.tril(lower, -1).any()
    source.precisions_cholesky_ = lower
    ours, theirs = set_by_hand(source, NEEDED)
    assert_same_answers(ours, theirs)
    assert_same_answers(ours, fitted(covariance_type))
    assert_array_equal(ours.precisions_cholesky_, lower)


@pytest.mark.parametrize("shape", [(4, 4), (3, 4, 4), (2, 1, 1)])
def test_upper_triangular(shape):
    rng = np.random.default_rng(0)
    factors = rng.normal(size=shape) * 10.0 ** rng.integers(-3, 3, size=(*shape[:-1], 1))
    if shape[-1] > 1:
        converted = upper_triangular(factors, "full")
        assert_array_equal(np.tril(converted, -1), 0.0)
        assert (np.einsum("...ii->...i", converted) > 0.0).all()
        product = factors @ factors.swapaxes(-1, -2)
        assert_allclose(converted @ converted.swapaxes(-1, -2), product, rtol=1e-10)
    upper = np.triu(factors)
    assert upper_triangular(upper, "full") is upper
    assert upper_triangular(factors, "diag") is factors


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.tril(np.ones((3, 3))), r"`precisions_cholesky` has shape"),
        (np.ones(3), r"`precisions_cholesky` has shape"),
        (np.full((3, 3, 3), np.nan), r"`precisions_cholesky` has nan"),
        (np.zeros((3, 3, 3)), r"`precisions_cholesky` has the diagonal entry"),
    ],
)
def test_unusable_factors_are_named(value, text):
    gm = GaussianMixture(3, random_state=0).fit(X)
    gm.precisions_cholesky_ = value
    with pytest.raises(ValueError, match=text):
        gm.predict(X)


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.float64])
def test_edits_that_round_to_the_same_count(dtype):
    data = X.astype(np.float32)
    gm = GaussianMixture(3, random_state=0).fit(data)
    gm.means_ = gm.means_.astype(dtype)
    expected = reference.gmm_estep(
        data, gm.weights_, gm.means_.astype(float), gm.precisions_cholesky_
    )
    assert_allclose(gm.score_samples(data), expected[0], rtol=2e-6)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_dtype_of_the_answers_is_scikit_learns(covariance_type):
    for fit_dtype in (np.float32, np.float64):
        for dtype in (np.float32, np.float64):
            pair = [
                cls(2, covariance_type=covariance_type, random_state=0).fit(X.astype(fit_dtype))
                for cls in (GaussianMixture, SklearnMixture)
            ]
            for method in ("score_samples", "predict_proba"):
                ours, theirs = (getattr(gm, method)(X.astype(dtype)) for gm in pair)
                assert ours.dtype == theirs.dtype == np.result_type(fit_dtype, dtype)
            assert_allclose(ours.sum(axis=1), 1.0, rtol=10 * np.finfo(ours.dtype).eps)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_far_away_in_float32(covariance_type):
    gm = GaussianMixture(3, covariance_type=covariance_type, random_state=0)
    gm.fit(X.astype(np.float32))
    far = np.array([[1e25, 0, 0], [0, -1e30, 1e28], X[0], [3e38, -3e38, 3e38]], dtype=np.float32)
    parameters = (getattr(gm, name) for name in NEEDED)
    exact = reference.gmm_estep(far.astype(float), *parameters, covariance_type=covariance_type)
    # Equal distances share: next to them the reference's log-densities have no room for log 3.
    shares = exact[1] / exact[1].sum(axis=1, keepdims=True)
    proba = gm.predict_proba(far)
    assert proba.dtype == np.float32
    assert_allclose(proba, shares, atol=1e-5)
    assert_allclose(proba.sum(axis=1), 1.0, rtol=1e-6)
    assert_array_equal(gm.predict(far), exact[1].argmax(axis=1))
    assert_array_equal(gm.score_samples(far[[0, 1, 3]]), -np.inf)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_too_far_away_in_float64(covariance_type):
    gm = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(X)
    far = X.copy()
    far[4] = 1e200
    far[7] = [1.7e308, -1.7e308, 1.7e308]
    for method in (gm.predict, gm.predict_proba):
        with pytest.raises(ValueError, match=r"row 4 of X is so far from every component"):
            method(far)
    log_prob = gm.score_samples(far)
    assert_array_equal(log_prob[[4, 7]], -np.inf)
    rest = np.delete(np.arange(len(X)), [4, 7])
    assert_array_equal(log_prob[rest], gm.score_samples(X)[rest])
    assert gm.bic(far) == np.inf


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_sample_uses_what_was_fitted(covariance_type):
    gm = GaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(X)
    expected = gm.sample(40)
    gm.set_params(n_components=3)
    for ours, theirs in zip(gm.sample(40), expected, strict=True):
        assert_array_equal(ours, theirs)
    other = "diag" if covariance_type == "full" else "full"
    with pytest.raises(ValueError, match=f"covariances_ has shape .*covariance_type='{other}'"):
        gm.set_params(covariance_type=other).sample()


@pytest.mark.parametrize("random_state", [None, 0])
@pytest.mark.parametrize("n_init", [1, 3])
def test_nothing_is_drawn_where_the_start_is_given(random_state: int | None, n_init: int) -> None:
    """Such a fit takes NumPy's own generator in place of a seeded one, and must leave it alone."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    model = GaussianMixture(
        2,
        n_init=n_init,
        random_state=random_state,
        weights_init=[0.5, 0.5],
        means_init=X[:2],
        precisions_init=np.tile(np.eye(2), (2, 1, 1)),
    )
    # The generator itself, as scikit-learn takes it for None.
    shared = check_random_state(None)
    before = shared.get_state()
    model.fit(X)
    for one, other in zip(before, shared.get_state(), strict=True):
        assert_array_equal(one, other)


def test_defaults_that_were_changed_are_checked() -> None:
    """Values that are the constructor's defaults are known to be well; others are not."""
    X = np.zeros((5, 1))
    for name, value in (("tol", -1.0), ("n_init", 0), ("missing", "drop"), ("verbose", "much")):
        with pytest.raises(ValueError, match=name):
            GaussianMixture(**{name: value}).fit(X)
        with pytest.raises(ValueError, match=name):
            GaussianMixture().set_params(**{name: value}).fit(X)


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_given_precisions_wake_no_other_threads(
    covariance_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads of NumPy's BLAS go on spinning; `first_indefinite` says when."""

    def woken(*_: object) -> None:
        raise AssertionError("numpy.linalg's eigenvalues")

    for name in ("eigh", "eigvalsh", "svd"):
        monkeypatch.setattr(np.linalg, name, woken)
    precisions = np.eye(3) if covariance_type == "tied" else np.stack([np.eye(3)] * 2)
    GaussianMixture(2, covariance_type=covariance_type, precisions_init=precisions).fit(X)
    precisions[..., 0, 0] = -1.0
    with pytest.raises(ValueError, match="should be symmetric, positive-definite"):
        GaussianMixture(2, covariance_type=covariance_type, precisions_init=precisions).fit(X)
