"""The estimator's interface: scikit-learn's conventions, inputs, state."""

from __future__ import annotations

import inspect
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture as SklearnMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from elbokit import GaussianMixture, reference

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")
ARRAYS = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")


@pytest.fixture(scope="module")
def X():
    return make_blobs(n_samples=90, centers=3, n_features=2, cluster_std=0.6, random_state=0)[0]


@parametrize_with_checks([GaussianMixture(), GaussianMixture(missing="integrate")])
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


def test_signature_is_scikit_learns():
    ours = inspect.signature(GaussianMixture).parameters
    theirs = inspect.signature(SklearnMixture).parameters
    ours, own = list(ours.values())[: len(theirs)], list(ours.values())[len(theirs) :]
    assert [(p.name, p.kind, p.default) for p in ours] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]
    assert {p.kind for p in own} <= {inspect.Parameter.KEYWORD_ONLY}
    public = {name for name in dir(SklearnMixture) if not name.startswith("_")}
    assert public <= set(dir(GaussianMixture))


def test_attributes_are_scikit_learns(X):
    ours = GaussianMixture(2, random_state=0).fit(X)
    theirs = SklearnMixture(2, random_state=0).fit(X)
    assert {n for n in vars(ours) if n.endswith("_")} == {
        n for n in vars(theirs) if n.endswith("_")
    }


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fitted_attributes_are_consistent(X, covariance_type, dtype):
    gm = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(X.astype(dtype))
    assert {getattr(gm, name).dtype for name in ARRAYS} == {np.dtype(dtype)}
    rtol = 1e-4 if dtype == np.float32 else 1e-10
    if covariance_type in ("full", "tied"):
        product = gm.precisions_ @ gm.covariances_
        assert_allclose(product, np.broadcast_to(np.eye(2), product.shape), atol=rtol)
        factors = gm.precisions_cholesky_
        assert_allclose(factors @ factors.swapaxes(-1, -2), gm.precisions_, rtol=rtol, atol=rtol)
        assert_array_equal(np.tril(factors, -1), 0.0)
    else:
        assert_allclose(gm.precisions_ * gm.covariances_, 1.0, rtol=rtol)
        assert_allclose(gm.precisions_cholesky_**2, gm.precisions_, rtol=rtol)
    assert gm.weights_.sum() == pytest.approx(1.0, abs=1e-6)
    assert gm.score_samples(X.astype(dtype)).dtype == dtype
    assert gm.predict_proba(X.astype(dtype)).dtype == dtype
    assert_allclose(gm.predict_proba(X.astype(dtype)).sum(axis=1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_answers_are_the_references(X, covariance_type):
    gm = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(X)
    log_prob, responsibilities = reference.gmm_estep(
        X, gm.weights_, gm.means_, gm.precisions_cholesky_, covariance_type
    )
    assert_allclose(gm.score_samples(X), log_prob, rtol=1e-12)
    assert_allclose(gm.predict_proba(X), responsibilities, atol=1e-12)
    assert_array_equal(gm.predict(X), responsibilities.argmax(axis=1))
    assert gm.score(X) == pytest.approx(log_prob.mean(), rel=1e-13)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fit_predict_is_fit_then_predict(X):
    for max_iter in (0, 1, 50):
        gm = GaussianMixture(3, random_state=0, max_iter=max_iter, tol=1e-1)
        labels = gm.fit_predict(X)
        assert_array_equal(labels, gm.predict(X))


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_sample_has_the_fitted_distribution(covariance_type):
    rng = np.random.default_rng(0)
    X = np.vstack([rng.normal(size=(60, 2)), rng.normal(size=(40, 2)) * [0.5, 2.0] + [6.0, 0.0]])
    gm = GaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(X)
    n = 20_000
    drawn, labels = gm.sample(n)
    assert drawn.shape == (n, 2)
    shares = np.bincount(labels, minlength=2) / n
    assert_allclose(shares, gm.weights_, atol=5 * np.sqrt(0.25 / n))
    for k in range(2):
        rows = drawn[labels == k]
        covariance = {
            "full": lambda k: gm.covariances_[k],
            "tied": lambda k: gm.covariances_,
            "diag": lambda k: np.diag(gm.covariances_[k]),
            "spherical": lambda k: gm.covariances_[k] * np.eye(2),
        }[covariance_type](k)
        spread = np.sqrt(np.diag(covariance))
        assert_allclose(rows.mean(axis=0), gm.means_[k], atol=5 * spread.max() / np.sqrt(len(rows)))
        tolerance = 5 * np.sqrt(2 / len(rows)) * np.outer(spread, spread)
        assert (np.abs(np.cov(rows.T) - covariance) < tolerance).all()


def test_float32_model_can_sample():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2)).astype(np.float32)
    gm = GaussianMixture(30, random_state=0, max_iter=2, tol=1e3).fit(X)
    assert gm.sample(100)[0].shape == (100, 2)


@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_memory_layout_changes_nothing(X, init_params, dtype):
    data = X.astype(dtype)
    read_only = data.copy()
    read_only.flags.writeable = False
    wide = np.zeros((2 * len(data), 5), dtype)
    wide[::2, 1:4:2] = data
    layouts = {
        "fortran": np.asfortranarray(data),
        "read-only": read_only,
        "strided": wide[::2, 1:4:2],
        "negative": data[::-1].copy()[::-1],
        "reversed columns": data[:, ::-1].copy()[:, ::-1],
    }
    if dtype == np.float64:  # scikit-learn widens byte-swapped float32
        layouts["byte-swapped"] = data.astype(data.dtype.newbyteorder())
    expected = GaussianMixture(3, init_params=init_params, random_state=0, tol=1e-1).fit(data)
    for name, layout in layouts.items():
        before = layout.copy()
        gm = GaussianMixture(3, init_params=init_params, random_state=0, tol=1e-1).fit(layout)
        assert_array_equal(gm.means_, expected.means_, err_msg=name)
        assert_array_equal(gm.covariances_, expected.covariances_, err_msg=name)
        assert_array_equal(gm.predict_proba(layout), expected.predict_proba(data), err_msg=name)
        assert_array_equal(layout, before, err_msg=name)


def test_integers_and_lists_become_float64():
    X = [[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]]
    gm = GaussianMixture(2, random_state=0).fit(X)
    assert gm.means_.dtype == np.float64
    assert_allclose(np.sort(gm.means_, axis=0), [[1.0, 2.0], [10.0, 2.0]], atol=1e-12)
    assert_array_equal(gm.predict([[0, 0], [12, 3]]), gm.predict(np.array([[0.0, 0], [12, 3]])))
    # scikit-learn rounds log-densities of integer data down to integers: compare in float.
    floats = np.array(X, dtype=float)
    theirs = SklearnMixture(2, random_state=0).fit(X)
    assert gm.bic(X) == pytest.approx(theirs.bic(floats), rel=1e-9)


def test_pandas_names_are_kept_and_checked(X):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=["width", "height"])
    gm = GaussianMixture(2, random_state=0).fit(frame)
    assert_array_equal(gm.feature_names_in_, ["width", "height"])
    assert_array_equal(gm.means_, GaussianMixture(2, random_state=0).fit(X).means_)
    with pytest.raises(ValueError, match="feature names"):
        gm.predict(frame.rename(columns={"width": "depth"}))


def test_clone_pickle_and_parameters(X):
    gm = GaussianMixture(3, covariance_type="diag", random_state=0, means_init=X[:3]).fit(X)
    copy = pickle.loads(pickle.dumps(gm))
    assert_array_equal(copy.predict_proba(X), gm.predict_proba(X))
    fresh = clone(gm)
    assert not hasattr(fresh, "means_")
    assert_array_equal(fresh.fit(X).means_, gm.means_)
    assert gm.set_params(n_components=2, means_init=None).get_params()["n_components"] == 2
    assert_array_equal(gm.fit(X).means_.shape, (2, 2))


def test_fit_leaves_the_parameters_alone(X):
    means = X[:3].tolist()
    gm = GaussianMixture(3, means_init=means, random_state=0).fit(X)
    assert gm.means_init is means


def test_pipeline_and_grid_search(X):
    search = GridSearchCV(
        make_pipeline(StandardScaler(), GaussianMixture(random_state=0)),
        {"gaussianmixture__n_components": [1, 3]},
        cv=3,
    ).fit(X)
    assert search.best_params_ == {"gaussianmixture__n_components": 3}


def test_score_needs_no_bound_to_fit_the_same_rows(X):
    gm = GaussianMixture(2, random_state=0).fit(X)
    log_prob = gm.score_samples(X)
    weight = np.arange(len(X), dtype=float)
    assert gm.score(X, sample_weight=weight) == pytest.approx(np.average(log_prob, weights=weight))
    assert gm.score(X) == pytest.approx(log_prob.mean())


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score_samples", "score", "bic"])
def test_not_fitted(X, method):
    with pytest.raises(NotFittedError):
        getattr(GaussianMixture(), method)(X)
    with pytest.raises(NotFittedError):
        GaussianMixture().sample()


def test_n_parameters_by_counting():
    X = np.random.default_rng(0).normal(size=(40, 3))
    expected = {"full": 2 * 6, "tied": 6, "diag": 2 * 3, "spherical": 2}
    for covariance_type, free in expected.items():
        gm = GaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(X)
        # aic = -2 log p + 2 (covariances + means + weights - 1)
        n_parameters = (gm.aic(X) + 2 * gm.score_samples(X).sum()) / 2
        assert n_parameters == pytest.approx(free + 2 * 3 + 1)
