"""What a fit to missing values refuses, and what it leaves behind then."""

from __future__ import annotations

import numpy as np
import pytest

from elbokit import GaussianMixture
from elbokit._types import SingularCovarianceError
from gmm_starts import clusters
from missing_oracle import with_holes


def test_errors_name_row_and_column() -> None:
    X = np.arange(24.0).reshape(8, 3)
    holes = X.copy()
    holes[5, 2] = holes[6, 0] = np.nan
    gm = GaussianMixture(2, random_state=0)
    with pytest.raises(ValueError, match=r"X contains NaN, first in row 5, column 2\..*integrate"):
        gm.fit(holes)
    assert not hasattr(gm, "n_features_in_")
    gm.fit(X)
    for method in ("predict", "predict_proba", "score_samples", "score", "bic", "aic"):
        with pytest.raises(ValueError, match=r"X contains NaN, first in row 5, column 2\."):
            getattr(gm, method)(holes)
    endless = holes.copy()
    endless[1, 1] = np.inf
    for missing in ("error", "integrate"):
        with pytest.raises(ValueError, match="infinity"):
            GaussianMixture(missing=missing).fit(endless)
    with pytest.raises(ValueError, match="'missing' parameter of GaussianMixture must be"):
        GaussianMixture(missing="ignore").fit(X)


def test_errors_name_the_feature() -> None:
    pandas = pytest.importorskip("pandas")
    X = np.arange(24.0).reshape(8, 3)
    X[:, 1] = np.nan
    gm = GaussianMixture(missing="integrate")
    with pytest.raises(ValueError, match="no observed value in column 1: "):
        gm.fit(X)
    frame = pandas.DataFrame(X, columns=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"no observed value in column 1 \('b'\)"):
        gm.fit(frame)
    with pytest.raises(ValueError, match=r"first in row 0, column 1 \('b'\)"):
        GaussianMixture().fit(frame)
    # A feature whose only values have no weight is not observed either.
    X[0, 1] = 3.0
    with pytest.raises(ValueError, match="no observed value in column 1"):
        gm.fit(X, sample_weight=np.arange(8.0))
    assert not hasattr(gm, "means_")


def test_a_fit_that_fails_leaves_the_estimator_as_it_was() -> None:
    rng = np.random.default_rng(13)
    X = with_holes(rng, clusters(rng, 50, 3, 2))
    gm = GaussianMixture(missing="integrate", reg_covar=0.0).fit(X)
    before = dict(vars(gm))
    constant = X.copy()
    constant[:, 2] = np.where(np.isnan(X[:, 2]), np.nan, 3.0)
    with pytest.raises(SingularCovarianceError, match="component 0"):
        gm.fit(constant)
    assert all(vars(gm)[name] is value for name, value in before.items())
