"""scikit-learn's bundled data: the same data and the same start end at the same bound."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn import datasets
from sklearn.mixture import GaussianMixture as SklearnMixture

from elbokit import GaussianMixture

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")

# Components and reg_covar: digits have constant columns, and features with few values.
DATA = {
    "iris": (datasets.load_iris, 3, 1e-6),
    "wine": (datasets.load_wine, 3, 1e-6),
    "breast_cancer": (datasets.load_breast_cancer, 2, 1e-6),
    "diabetes": (datasets.load_diabetes, 4, 1e-6),
    "digits": (datasets.load_digits, 10, 1e-2),
}


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("name", DATA)
def test_same_bound_as_scikit_learn(name, covariance_type):
    load, n_components, reg_covar = DATA[name]
    X = load(return_X_y=True)[0].astype(np.float64)
    for seed in range(3):
        parameters = {
            "n_components": n_components,
            "covariance_type": covariance_type,
            "reg_covar": reg_covar,
            "random_state": seed,
        }
        ours = GaussianMixture(**parameters).fit(X)
        theirs = SklearnMixture(**parameters).fit(X)
        assert ours.converged_
        assert ours.n_iter_ == theirs.n_iter_
        assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, rel=1e-9)
        assert ours.score(X) == pytest.approx(theirs.score(X), rel=1e-9)
        assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=1e-9)
