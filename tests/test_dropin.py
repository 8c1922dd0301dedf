"""What scikit-learn's users do around an estimator: conversion, routing, copies, frames."""

from __future__ import annotations

import copy
import io
import pickle

import joblib
import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone, is_outlier_detector
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture
from sklearn.mixture import GaussianMixture as SklearnMixture
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr

from elbokit import GaussianMixture

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")
OWN = {"history_", "restarts_"}  # attributes that scikit-learn's class has not
ANSWERS = ("predict", "predict_proba", "score_samples", "score", "bic", "aic")


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    return rng.normal(size=(90, 3)) + 3 * rng.integers(0, 3, size=(90, 1))


def assert_equal_state(a, b):
    """What both classes have is equal bit for bit, types included."""
    shared = SklearnMixture().get_params()
    values = [[(name, e.get_params()[name]) for name in shared] for e in (a, b)]
    assert str(values[0]) == str(values[1])
    fitted = {name for name in vars(a) if name.endswith("_")} - OWN
    assert fitted == {name for name in vars(b) if name.endswith("_")} - OWN
    for name in fitted:
        ours, theirs = getattr(a, name), getattr(b, name)
        assert type(ours) is type(theirs), name
        if isinstance(ours, np.ndarray):
            assert ours.dtype == theirs.dtype
        assert_array_equal(ours, theirs, err_msg=name)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_from_scikit_learn_and_back(X, covariance_type, dtype):
    parameters = {"covariance_type": covariance_type, "random_state": 0, "means_init": X[:3]}
    gm = SklearnMixture(3, **parameters).fit(X.astype(dtype))
    ours = GaussianMixture.from_sklearn(gm)
    assert type(ours) is GaussianMixture
    assert_equal_state(gm, ours)
    back = ours.to_sklearn()
    assert type(back) is SklearnMixture
    assert_equal_state(gm, back)
    tolerance = 1e-10 if dtype == np.float64 else 1e-3  # float32: what scikit-learn loses
    for method in ANSWERS:
        expected = getattr(gm, method)(X.astype(dtype))
        assert_array_equal(getattr(back, method)(X.astype(dtype)), expected)
        assert_allclose(
            getattr(ours, method)(X.astype(dtype)), expected, rtol=tolerance, atol=tolerance
        )
    if dtype == np.float64:  # scikit-learn's float32 covariances can be too rough to draw from
        assert_array_equal(ours.sample(5)[0], gm.sample(5)[0])


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_to_scikit_learn_and_back(X, covariance_type, dtype):
    ours = GaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(X.astype(dtype))
    theirs = ours.to_sklearn()
    assert_equal_state(ours, theirs)
    assert_equal_state(ours, GaussianMixture.from_sklearn(theirs))
    tolerance = 1e-10 if dtype == np.float64 else 1e-3
    for method in ANSWERS:
        answer = getattr(theirs, method)(X.astype(dtype))
        assert_allclose(getattr(ours, method)(X.astype(dtype)), answer, tolerance, tolerance)


def test_a_bar_becomes_lines(X, capsys):
    theirs = GaussianMixture(2, verbose="bar").to_sklearn()
    assert theirs.verbose == 1
    theirs.fit(X)
    assert "Initialization 0" in capsys.readouterr().out


def test_conversion_without_a_fit_and_with_names(X):
    pd = pytest.importorskip("pandas")
    gm = SklearnMixture(4, tol=1e-5, weights_init=[0.1, 0.2, 0.3, 0.4], warm_start=True)
    assert_equal_state(gm, GaussianMixture.from_sklearn(gm))
    assert_equal_state(gm, GaussianMixture.from_sklearn(gm).to_sklearn())
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    named = GaussianMixture.from_sklearn(SklearnMixture(2, random_state=0).fit(frame))
    assert_array_equal(named.feature_names_in_, ["a", "b", "c"])
    assert_array_equal(named.to_sklearn().feature_names_in_, ["a", "b", "c"])


def test_conversion_shares_nothing(X):
    gm = SklearnMixture(2, random_state=np.random.RandomState(3), means_init=X[:2].copy()).fit(X)
    ours = GaussianMixture.from_sklearn(gm)
    for a, b in [(gm, ours), (ours, ours.to_sklearn())]:
        for name in ("means_", "covariances_", "means_init"):
            assert not np.shares_memory(getattr(a, name), getattr(b, name))
        assert a.lower_bounds_ is not b.lower_bounds_
        assert a.random_state is not b.random_state
    assert_array_equal(ours.random_state.uniform(size=3), gm.random_state.uniform(size=3))


def test_a_converted_fit_goes_on(X):
    """The state is enough for a warm start, in either library."""
    gm = SklearnMixture(3, random_state=0, max_iter=3, tol=0.0, warm_start=True)
    with pytest.warns(ConvergenceWarning):
        gm.fit(X)
    ours = GaussianMixture.from_sklearn(gm)
    for estimator in (gm, ours):
        with pytest.warns(ConvergenceWarning):
            estimator.fit(X)
    assert_allclose(ours.means_, gm.means_, rtol=1e-9)


@pytest.mark.parametrize("other", [BayesianGaussianMixture(), StandardScaler(), None, "full"])
def test_other_classes_are_refused(other):
    with pytest.raises(TypeError, match=r"`gm` is a .*, expected a sklearn.mixture.Gauss"):
        GaussianMixture.from_sklearn(other)


def test_to_scikit_learn_refuses_what_it_has_not():
    class Extended(GaussianMixture):
        def __init__(self, n_components=1, *, fuzzy=None):
            super().__init__(n_components)
            self.fuzzy = fuzzy

    assert Extended(2).to_sklearn().n_components == 2
    with pytest.raises(ValueError, match=r"fuzzy is 3, but scikit-learn's .* its default, None"):
        Extended(2, fuzzy=3).to_sklearn()


@pytest.mark.parametrize("criterion", ["bic", "aic", "score"])
def test_weights_of_the_criteria_are_copies(X, criterion):
    counts = np.random.default_rng(0).integers(0, 4, size=len(X))
    gm = GaussianMixture(3, random_state=0).fit(X)
    theirs = getattr(gm.to_sklearn(), criterion)(np.repeat(X, counts, axis=0))
    assert getattr(gm, criterion)(X, sample_weight=counts) == pytest.approx(theirs, rel=1e-10)
    assert getattr(gm, criterion)(X) == pytest.approx(getattr(gm.to_sklearn(), criterion)(X))
    far = np.vstack([X, np.full((1, 3), 1e200)])  # -inf, but it does not count
    weight = np.append(counts, 0)
    assert getattr(gm, criterion)(far, sample_weight=weight) == pytest.approx(theirs, rel=1e-10)
    for bad, message in [(counts[1:], "sample_weight has shape"), (-counts, "non-negative")]:
        with pytest.raises(ValueError, match=message):
            getattr(gm, criterion)(X, sample_weight=bad)


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.mark.usefixtures("routing")
def test_weights_are_routed_through_a_pipeline(X):
    counts = np.random.default_rng(0).integers(1, 4, size=len(X))
    mixture = GaussianMixture(3, random_state=0)
    mixture.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    scaler = StandardScaler().set_fit_request(sample_weight=True)
    pipe = make_pipeline(scaler, mixture).fit(X, sample_weight=counts)
    rows = np.repeat(X, counts, axis=0)
    copies = make_pipeline(StandardScaler(), GaussianMixture(3, random_state=0)).fit(rows)
    assert_allclose(pipe[-1].means_, copies[-1].means_, rtol=1e-7, atol=1e-9)
    assert pipe.score(X, sample_weight=counts) == pytest.approx(copies.score(rows), rel=1e-9)


@pytest.mark.usefixtures("routing")
def test_weights_are_routed_through_a_search(X):
    counts = np.random.default_rng(0).integers(1, 4, size=len(X))
    mixture = GaussianMixture(random_state=0)
    mixture.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    folds = [(np.arange(60), np.arange(60, 90)), (np.arange(30, 90), np.arange(30))]
    search = GridSearchCV(mixture, {"n_components": [1, 2]}, cv=folds)
    search.fit(X, sample_weight=counts)
    for n_components, found in zip((1, 2), search.cv_results_["mean_test_score"], strict=True):
        scores = []
        for train, test in folds:
            gm = GaussianMixture(n_components, random_state=0).fit(
                X[train], sample_weight=counts[train]
            )
            scores.append(gm.score(X[test], sample_weight=counts[test]))
        assert found == pytest.approx(np.mean(scores), rel=1e-12)
    assert_array_equal(
        search.best_estimator_.means_,
        GaussianMixture(**search.best_params_, random_state=0).fit(X, sample_weight=counts).means_,
    )


def test_a_search_finds_what_it_finds_with_scikit_learn(X):
    grid = {"gaussianmixture__n_components": [1, 3], "gaussianmixture__covariance_type": ["tied"]}
    scores = [
        GridSearchCV(make_pipeline(StandardScaler(), cls(random_state=0)), grid, cv=3)
        .fit(X)
        .cv_results_["mean_test_score"]
        for cls in (GaussianMixture, SklearnMixture)
    ]
    assert_allclose(*scores, rtol=1e-9)
    ours, theirs = (
        cross_val_score(cls(2, random_state=0), X, cv=2)
        for cls in (GaussianMixture, SklearnMixture)
    )
    assert_allclose(ours, theirs, rtol=1e-9)


def through_pickle(gm):
    return pickle.loads(pickle.dumps(gm))


def through_joblib(gm):
    buffer = io.BytesIO()
    joblib.dump(gm, buffer)
    buffer.seek(0)
    return joblib.load(buffer)


@pytest.mark.parametrize("carry", [through_pickle, through_joblib, copy.deepcopy, copy.copy])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_copies_answer_alike(X, carry, dtype):
    # Far from the origin float32 answers need what the fit knew beyond float32.
    data = (X + 1e4).astype(dtype)
    gm = GaussianMixture(3, random_state=0).fit(data)
    again = carry(gm)
    assert_equal_state(gm, again)
    for method in ANSWERS:
        assert_array_equal(getattr(again, method)(data), getattr(gm, method)(data))
    fresh = clone(again)
    assert not [name for name in vars(fresh) if name.endswith("_")]
    assert_array_equal(fresh.fit(data).means_, gm.means_)


def test_what_a_notebook_shows(X):
    gm = GaussianMixture(3, covariance_type="diag")
    assert repr(gm) == repr(SklearnMixture(3, covariance_type="diag"))
    assert "GaussianMixture" in estimator_html_repr(gm)
    assert "fitted" in gm.fit(X)._repr_html_()
    assert not is_outlier_detector(gm)
    ours, theirs = gm.__sklearn_tags__(), SklearnMixture().__sklearn_tags__()
    assert ours.estimator_type == theirs.estimator_type == "density_estimator"
    assert ours.input_tags == theirs.input_tags


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_data_frames(X, library, dtype):
    frames = pytest.importorskip(library)
    data = X.astype(dtype)
    frame = frames.DataFrame({name: data[:, j].copy() for j, name in enumerate("abc")})
    gm = GaussianMixture(3, random_state=0).fit(frame)
    # scikit-learn reads float32 columns of polars as float64.
    assert gm.means_.dtype == SklearnMixture(3, random_state=0).fit(frame).means_.dtype
    data = data.astype(gm.means_.dtype)
    plain = GaussianMixture(3, random_state=0).fit(data)
    assert gm.n_features_in_ == 3
    assert_array_equal(gm.feature_names_in_, ["a", "b", "c"])
    for method in ANSWERS:
        assert_array_equal(getattr(gm, method)(frame), getattr(plain, method)(data))
    with pytest.raises(ValueError, match="feature names should match"):
        gm.predict(frame.rename(**{"columns" if library == "pandas" else "mapping": {"a": "z"}}))
    counts = frames.Series(np.arange(1, len(X) + 1))
    weighted = GaussianMixture(3, random_state=0).fit(frame, sample_weight=counts)
    expected = GaussianMixture(3, random_state=0).fit(data, sample_weight=np.arange(1, len(X) + 1))
    assert_array_equal(weighted.means_, expected.means_)


def test_warnings_have_scikit_learns_text(X):
    repeated = np.repeat(X[:2], 5, axis=0)
    for data, parameters in [(X, {"max_iter": 1}), (repeated, {"reg_covar": 1e-2})]:
        texts = []
        for cls in (GaussianMixture, SklearnMixture):
            with pytest.warns(ConvergenceWarning) as caught:
                cls(3, random_state=0, **parameters).fit(data)
            texts.append({str(w.message) for w in caught if w.category is ConvergenceWarning})
        assert texts[0] == texts[1]
    with pytest.warns(ConvergenceWarning, match="did not converge") as caught:
        GaussianMixture(3, random_state=0, max_iter=1).fit(X)
    assert caught[0].filename == __file__
