"""The estimator against scikit-learn's, from the same start, iteration by iteration."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as SklearnMixture

from elbokit import GaussianMixture

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")
INIT_PARAMS = ("kmeans", "k-means++", "random", "random_from_data")
ARRAYS = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def overlapping_clusters(n_samples=120, n_features=3, n_clusters=4, seed=0):
    rng = np.random.default_rng(seed)
    return np.vstack(
        [
            rng.normal(size=(n_samples, n_features)) @ rng.normal(size=(n_features, n_features))
            + 4 * rng.normal(size=n_features)
            for _ in range(n_clusters)
        ]
    )


def fit_both(X, **parameters):
    return GaussianMixture(**parameters).fit(X), SklearnMixture(**parameters).fit(X)


def assert_same_model(ours, theirs, rtol):
    for name in ARRAYS:
        expected = getattr(theirs, name)
        # Entries near zero (off-diagonals) are judged on the array's scale.
        atol = rtol * np.abs(expected).max()
        assert_allclose(getattr(ours, name), expected, rtol=rtol, atol=atol, err_msg=name)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.converged_ == theirs.converged_


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_every_iteration_from_a_given_start(covariance_type):
    X = overlapping_clusters()
    parameters = {
        "n_components": 4,
        "covariance_type": covariance_type,
        "means_init": X[[3, 150, 250, 400]],
        "random_state": 0,
        "max_iter": 1,
        "tol": 0.0,
        "warm_start": True,  # one more iteration at each call
    }
    ours, theirs = GaussianMixture(**parameters), SklearnMixture(**parameters)
    for _ in range(20):
        assert_same_model(ours.fit(X), theirs.fit(X), rtol=1e-9)
        assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, rel=1e-11)
    # The same without a stop.
    parameters |= {"max_iter": 20, "warm_start": False}
    ours, theirs = fit_both(X, **parameters)
    assert_same_model(ours, theirs, rtol=1e-9)
    assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=1e-11)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("init_params", INIT_PARAMS)
def test_same_random_state_same_fit(covariance_type, init_params):
    X = overlapping_clusters(seed=1)
    # 'k-means++' and 'random_from_data' start from variances of reg_covar alone, which
    # scikit-learn computes as a difference of squares; 1e-6 of variance loses ten digits.
    rtol = 1e-5 if init_params in ("k-means++", "random_from_data") else 1e-8
    for max_iter in (0, 1, 7, 20):
        ours, theirs = fit_both(
            X,
            n_components=4,
            covariance_type=covariance_type,
            init_params=init_params,
            random_state=5,
            max_iter=max_iter,
            tol=0.0,
        )
        assert_same_model(ours, theirs, rtol=rtol)
        assert_allclose(ours.lower_bound_, theirs.lower_bound_, rtol=rtol)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_convergence_on_iris(covariance_type):
    X = load_iris().data
    ours, theirs = fit_both(
        X, n_components=3, covariance_type=covariance_type, random_state=0, tol=1e-5
    )
    assert_same_model(ours, theirs, rtol=1e-7)
    assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=1e-10)
    assert_array_equal(ours.predict(X), theirs.predict(X))
    assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-9)
    assert_allclose(ours.score_samples(X), theirs.score_samples(X), rtol=1e-9)
    for criterion in ("score", "bic", "aic"):
        expected = getattr(theirs, criterion)(X)
        assert getattr(ours, criterion)(X) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("given", ["weights_init", "means_init", "precisions_init", "all"])
def test_given_starting_parameters(covariance_type, given):
    X = overlapping_clusters(seed=2)
    source = SklearnMixture(4, covariance_type=covariance_type, random_state=9, max_iter=3).fit(X)
    available = {
        "weights_init": source.weights_,
        "means_init": source.means_,
        "precisions_init": source.precisions_,
    }
    chosen = available if given == "all" else {given: available[given]}
    ours, theirs = fit_both(
        X, n_components=4, covariance_type=covariance_type, random_state=0, max_iter=4, **chosen
    )
    assert_same_model(ours, theirs, rtol=1e-9)


@pytest.mark.parametrize("init_params", ["k-means++", "random"])
def test_n_init_keeps_the_same_best_run(init_params):
    X = overlapping_clusters(seed=3)
    parameters = {"n_components": 4, "init_params": init_params, "max_iter": 5, "tol": 0.0}
    rng = np.random.RandomState(2)
    bounds = [GaussianMixture(random_state=rng, **parameters).fit(X).lower_bound_ for _ in range(5)]
    assert np.argmax(bounds) > 0  # a later run wins, and by far more than rounding
    assert np.diff(np.sort(bounds))[-1] > 1e-4
    ours, theirs = fit_both(X, n_init=5, random_state=2, **parameters)
    assert ours.lower_bound_ == max(bounds)
    assert_same_model(ours, theirs, rtol=1e-5)
    assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=1e-5)


def test_n_init_draws_from_one_stream():
    X = overlapping_clusters(seed=3)
    ours, theirs = np.random.RandomState(4), np.random.RandomState(4)
    for estimator, rng in ((GaussianMixture, ours), (SklearnMixture, theirs)):
        estimator(3, n_init=3, random_state=rng, init_params="k-means++").fit(X)
    assert_array_equal(ours.random_sample(3), theirs.random_sample(3))


def test_warm_start_follows_the_same_path():
    X = overlapping_clusters(seed=4)
    parameters = {"n_components": 4, "random_state": 0, "max_iter": 2, "tol": 1e-6}
    ours = GaussianMixture(warm_start=True, **parameters)
    theirs = SklearnMixture(warm_start=True, **parameters)
    for _ in range(4):
        ours.fit(X)
        theirs.fit(X)
        assert_same_model(ours, theirs, rtol=1e-9)
        assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=1e-11)
    straight = GaussianMixture(**{**parameters, "max_iter": 8, "tol": 0.0}).fit(X)
    assert_array_equal(ours.means_, straight.means_)


def test_warm_start_converges_in_one_more_iteration():
    X = overlapping_clusters(seed=5)
    ours = GaussianMixture(2, random_state=0, warm_start=True, tol=1e-2).fit(X)
    assert ours.converged_
    bound = ours.lower_bound_
    ours.fit(X)
    assert ours.n_iter_ == 1
    assert bound <= ours.lower_bound_ < bound + 1e-2


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_float32_is_as_near_the_truth_as_scikit_learn(covariance_type):
    X = np.random.default_rng(6).normal(size=(600, 3)) * [1.0, 0.5, 2.0]
    X[200:] += [2.0, 2.0, 0.0]
    X[400:] += [0.0, 2.0, 5.0]
    X = X.astype(np.float32)
    source = SklearnMixture(3, covariance_type=covariance_type, random_state=9, max_iter=3).fit(X)
    parameters = {
        "n_components": 3,
        "covariance_type": covariance_type,
        "weights_init": source.weights_,
        "means_init": source.means_,
        "precisions_init": source.precisions_,
        "max_iter": 20,
        "tol": 0.0,
    }
    ours, theirs = fit_both(X, **parameters)
    truth = SklearnMixture(**parameters).fit(X.astype(np.float64))
    for name in ARRAYS:
        assert getattr(ours, name).dtype == np.float32
        expected = getattr(truth, name)
        scale = np.abs(expected).max()
        error = np.abs(getattr(ours, name) - expected).max() / scale
        peer_error = np.abs(getattr(theirs, name) - expected).max() / scale
        assert error <= peer_error + 1e-6, name
    assert_allclose(ours.lower_bounds_, truth.lower_bounds_, rtol=1e-6)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_sample_draws_scikit_learns_stream(covariance_type):
    X = overlapping_clusters(seed=7)
    ours, theirs = fit_both(X, n_components=3, covariance_type=covariance_type, random_state=0)
    drawn, labels = ours.sample(50)
    expected, expected_labels = theirs.sample(50)
    assert_array_equal(labels, expected_labels)
    assert_allclose(drawn, expected, rtol=1e-7, atol=1e-7)
    assert drawn.dtype == np.float64
    assert labels.dtype == np.int64


def test_warns_as_scikit_learn():
    X = overlapping_clusters(seed=8)
    messages = []
    for estimator in (GaussianMixture, SklearnMixture):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            estimator(4, random_state=0, max_iter=1).fit(X)
            estimator(4, random_state=0, max_iter=0).fit(X)  # asked for: no warning
        messages.append([(w.category, str(w.message)) for w in caught])
    assert messages[0] == messages[1]
    assert messages[0][0][0] is ConvergenceWarning


@pytest.mark.parametrize("verbose", [1, 2])
def test_prints_as_scikit_learn(verbose, capsys):
    X = overlapping_clusters(seed=9)
    outputs = []
    for estimator in (GaussianMixture, SklearnMixture):
        estimator(3, n_init=2, random_state=0, verbose=verbose, verbose_interval=2, max_iter=6).fit(
            X
        )
        outputs.append(capsys.readouterr().out)
    # Times differ; the rest does not.
    ours, theirs = ([word for word in text.split() if "." not in word] for text in outputs)
    assert ours == theirs
