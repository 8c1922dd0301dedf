"""Bad input: what it raises, and that a failed fit changes nothing."""

from __future__ import annotations

import re

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.datasets import make_blobs

from elbokit import GaussianMixture

X = make_blobs(n_samples=30, centers=2, n_features=2, random_state=0)[0]
NAN = np.where(np.arange(30)[:, None] == 4, np.nan, X)
INF = np.where(np.arange(30)[:, None] == 4, np.inf, X)


def weight(row, value):
    weights = np.ones(30)
    weights[row] = value
    return weights


# arguments, data, sample_weight, exception, text that the message must have
CASES = [
    ({"n_components": 0}, X, None, ValueError, "'n_components'"),
    ({"n_components": 1.5}, X, None, ValueError, "'n_components'"),
    ({}, [["x", "y"]] * 30, None, ValueError, "`X`: could not convert string to float: 'x'"),
    ({}, {"a": 1.0}, None, TypeError, "`X`: float() argument must be"),
    ({}, None, None, ValueError, "`X`: Expected 2D array"),
    ({}, [], None, ValueError, "`X`: Expected 2D array"),
    ({"means_init": [["x", "y"]] * 2}, X, None, ValueError, "`means_init`: could not convert"),
    ({}, X, ["x"] * 30, ValueError, "`sample_weight`: could not convert string"),
    ({}, X, "x", TypeError, "sample_weight is a str, expected an array of shape (30,)"),
    ({}, X, (w for w in X), TypeError, "sample_weight is a generator, expected an array"),
    ({}, X, sparse.csr_array(np.ones((1, 30))), TypeError, "sample_weight is a csr_array"),
    ({}, X, weight(7, np.nan), ValueError, "sample_weight contains NaN, first for sample 7"),
    ({}, X, weight(8, np.inf), ValueError, "sample_weight contains infinity, first for sample 8"),
    ({}, X, np.eye(30)[3], ValueError, "n_samples = 1 (of 30 rows those of weight zero do not"),
    ({"n_components": True}, X, None, ValueError, "[1, inf). Got True instead"),
    ({"n_components": 31}, X, None, ValueError, "n_components = 31, n_samples = 30"),
    ({"n_components": 30}, X, weight(3, 0.0), ValueError, "n_components = 30, n_samples = 29"),
    ({"covariance_type": "circular"}, X, None, ValueError, "'covariance_type'"),
    ({"init_params": "zeros"}, X, None, ValueError, "'init_params'"),
    ({"tol": -1e-3}, X, None, ValueError, "'tol'"),
    ({"reg_covar": -1.0}, X, None, ValueError, "'reg_covar'"),
    ({"reg_covar": "small"}, X, None, ValueError, "'reg_covar'"),
    ({"max_iter": -1}, X, None, ValueError, "'max_iter'"),
    ({"n_init": 0}, X, None, ValueError, "'n_init'"),
    ({"warm_start": "yes"}, X, None, ValueError, "'warm_start'"),
    ({"verbose": -1}, X, None, ValueError, "'verbose'"),
    ({"verbose_interval": 0}, X, None, ValueError, "'verbose_interval'"),
    ({"random_state": "seed"}, X, None, ValueError, "'random_state'"),
    ({"weights_init": 0.5}, X, None, ValueError, "'weights_init'"),
    ({"weights_init": [0.5, 0.4, 0.1]}, X, None, ValueError, "weights_init"),
    ({"weights_init": [0.6, 0.6]}, X, None, ValueError, "sum(weights) = 1.20000 (weights_init)"),
    ({"weights_init": [1.5, -0.5]}, X, None, ValueError, "max value -0.50000, min value 1.50000"),
    ({"weights_init": [np.nan, 1.0]}, X, None, ValueError, "weights_init contains NaN"),
    ({"means_init": np.zeros((2, 3))}, X, None, ValueError, "(2, 2), but got (2, 3) (means_init)"),
    ({"means_init": [[np.inf, 0], [0, 0]]}, X, None, ValueError, "means_init contains infinity"),
    ({"precisions_init": np.eye(2)}, X, None, ValueError, "(2, 2) (precisions_init)"),
    (
        {"precisions_init": [np.eye(2), [[1.0, 2.0], [2.0, 1.0]]]},
        X,
        None,
        ValueError,
        "component 1 is not (precisions_init)",
    ),
    (
        {"precisions_init": [[[1.0, 0.5], [0.0, 1.0]], np.eye(2)]},
        X,
        None,
        ValueError,
        "component 0 is not (precisions_init)",
    ),
    (
        {"precisions_init": -np.eye(2), "covariance_type": "tied"},
        X,
        None,
        ValueError,
        "'tied precision' should be symmetric, positive-definite",
    ),
    (
        {"precisions_init": [1.0, 0.0], "covariance_type": "spherical"},
        X,
        None,
        ValueError,
        "'spherical precision' should be positive, but got the minimum 0.0",
    ),
    (
        {"precisions_init": [[1.0, 1.0], [1.0, -2.0]], "covariance_type": "diag"},
        X,
        None,
        ValueError,
        "'diag precision' should be positive, but got the minimum -2.0",
    ),
    ({}, NAN, None, ValueError, "Input X contains NaN"),
    ({}, INF, None, ValueError, "Input X contains infinity, first in row 4, column 0, expected"),
    ({}, np.ma.masked_greater(X, 0), None, ValueError, "X is an array with masked entries"),
    ({}, X[:, 0], None, ValueError, "Expected 2D array, got 1D array"),
    ({}, X[None], None, ValueError, "dim 3"),
    ({}, X[:0], None, ValueError, "0 sample(s)"),
    ({}, X[:1], None, ValueError, "minimum of 2 is required"),
    ({}, X[:, :0], None, ValueError, "0 feature(s)"),
    ({}, X + 1j, None, ValueError, "Complex data not supported"),
    ({}, [["a", "b"], ["c", "d"]], None, ValueError, "could not convert string to float"),
    ({}, np.array([[object(), 1], [2, 3]], dtype=object), None, TypeError, "float"),
    ({}, sparse.csr_matrix(X), None, TypeError, "Sparse data was passed"),
    ({}, X, np.ones(29), ValueError, "sample_weight has shape (29,), expected (30,)"),
    ({}, X, np.ones((30, 1)), ValueError, "sample_weight has shape (30, 1), expected (30,)"),
    ({}, X, 2.0, ValueError, "sample_weight has shape (), expected (30,)"),
    (
        {},
        X,
        weight(7, -1.0),
        ValueError,
        "sample_weight must be non-negative, got -1.0 for sample 7",
    ),
    ({}, X, np.zeros(30), ValueError, "sample_weight must have a positive sum"),
    ({}, X, weight(7, np.nan), ValueError, "sample_weight contains NaN"),
    ({}, X, weight(7, np.inf), ValueError, "sample_weight contains infinity"),
    ({"warm_start": True, "n_components": 3}, X, None, ValueError, "warm_start=True continues"),
    ({"warm_start": True}, X[:, :1], None, ValueError, "warm_start=True continues"),
    (
        {"warm_start": True, "covariance_type": "diag"},
        X,
        None,
        ValueError,
        "warm_start=True continues",
    ),
]


def state(estimator):
    return {name: value for name, value in vars(estimator).items() if name.endswith("_")}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[4][:30]}")
def test_bad_input(case):
    arguments, data, sample_weight, exception, text = case
    gm = GaussianMixture(2, random_state=0).fit(X)
    before, proba = state(gm), gm.predict_proba(X)
    gm.set_params(**arguments)
    with pytest.raises(exception, match=re.escape(text)):
        gm.fit(data, sample_weight=sample_weight)
    with pytest.raises(exception, match=re.escape(text)):
        gm.fit_predict(data, sample_weight=sample_weight)
    after = state(gm)
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)
    gm.set_params(n_components=2, covariance_type="full")
    assert_array_equal(gm.predict_proba(X), proba)


def test_warm_start_with_another_number_of_components():
    # One shared covariance has the same shape for any number of components.
    gm = GaussianMixture(2, covariance_type="tied", warm_start=True, random_state=0).fit(X)
    with pytest.raises(ValueError, match=r"warm_start=True continues from means of shape \(2, 2\)"):
        gm.set_params(n_components=3).fit(X)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score_samples", "score", "aic"])
@pytest.mark.parametrize(
    ("data", "text"),
    [
        (NAN, "Input X contains NaN"),
        (INF, "Input X contains infinity, first in row 4, column 0, expected"),
        (X[:, :1], "X has 1 features, but GaussianMixture is expecting 2 features"),
        (X[0], "Expected 2D array"),
        (X[:0], "0 sample(s)"),
    ],
)
def test_bad_input_of_a_fitted_model(method, data, text):
    gm = GaussianMixture(2, random_state=0).fit(X)
    with pytest.raises(ValueError, match=re.escape(text)):
        getattr(gm, method)(data)


@pytest.mark.parametrize("n_samples", ["3", None, 1.5, True])
def test_sample_of_no_number(n_samples):
    gm = GaussianMixture(2, random_state=0).fit(X)
    with pytest.raises(TypeError, match=f"n_samples is {n_samples!r} of type"):
        gm.sample(n_samples)


@pytest.mark.parametrize("n_samples", [0, -3])
def test_sample_of_no_samples(n_samples):
    gm = GaussianMixture(2, random_state=0).fit(X)
    with pytest.raises(ValueError, match=f"'n_samples': {n_samples} "):
        gm.sample(n_samples)


def singular_start(covariance_type):
    """Two groups; the second one is constant in its second column."""
    data = np.vstack([X, np.column_stack([X[:, 0] + 100, np.full(30, 3.3)])])
    arguments = {
        "weights_init": [0.5, 0.5],
        "means_init": [X.mean(axis=0), data[30:].mean(axis=0)],
        "covariance_type": covariance_type,
        "reg_covar": 0.0,
    }
    unit = {"full": np.tile(np.eye(2), (2, 1, 1)), "diag": np.ones((2, 2))}
    return data, arguments | {"precisions_init": unit[covariance_type]}


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_singular_covariance_names_the_component(covariance_type):
    data, arguments = singular_start(covariance_type)
    gm = GaussianMixture(2, **arguments)
    with pytest.raises(ValueError, match=r"increase reg_covar.*: component 1\."):
        gm.fit(data)
    assert not state(gm)
    gm.set_params(reg_covar=1e-6).fit(data)
    assert gm.converged_


def test_singular_spherical_and_tied():
    distinct = np.array([[0.0, 0.0], [1.0, 5.0], [4.0, 2.0], [9.0, 9.0]])
    gm = GaussianMixture(3, covariance_type="spherical", reg_covar=0.0, means_init=distinct[:3])
    repeated = np.repeat(distinct[:3], 4, axis=0)
    with pytest.raises(ValueError, match=r"increase reg_covar.*: component 0\."):
        gm.set_params(random_state=0).fit(repeated)
    constant = np.column_stack([X, np.full(30, 3.3)])
    with pytest.raises(ValueError, match=r"increase reg_covar.*: the tied covariance\."):
        GaussianMixture(2, covariance_type="tied", reg_covar=0.0, random_state=0).fit(constant)


def test_singular_fit_leaves_the_last_one():
    data, arguments = singular_start("full")
    gm = GaussianMixture(2, random_state=0).fit(X)
    before = state(gm)
    gm.set_params(**arguments)
    with pytest.raises(ValueError, match="component 1"):
        gm.fit(data)
    assert state(gm) == before


def test_no_component_reaches_any_sample():
    gm = GaussianMixture(
        1, weights_init=[1.0], means_init=[[1e200, 0.0]], precisions_init=[np.eye(2)]
    )
    with pytest.raises(ValueError, match=r"no component explains any sample.*means_init"):
        gm.fit(X)
