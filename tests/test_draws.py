"""Draws of missing entries and from conditionals: their distribution, and where they come from."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import missing_oracle as oracle
from elbokit import GaussianMixture
from elbokit.mixture._conditional import ConditionalMixtures
from gmm_starts import COVARIANCE_TYPES, clusters

types = pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
N_DRAWS = 40_000


def fit(covariance_type: str, dtype: type = np.float64) -> tuple:
    """A fitted mixture of correlated features that overlap, and its data."""
    rng = np.random.default_rng(0)
    X = clusters(rng, 250, 4, 3) / 4 + rng.normal(size=(250, 4))
    X = (X @ (np.eye(4) + 0.4 * rng.normal(size=(4, 4)))).astype(dtype)
    gm = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(X)
    return gm, X


def assert_drawn_from(draws: np.ndarray, one: GaussianMixture) -> None:
    """Compare moments, and the shares of the components that scores tell, with the mixture's."""
    w, m = one.weights_, one.means_
    sigma = oracle.matrices(one.covariances_, one.covariance_type, *m.shape)
    mean = w @ m
    covariance = np.einsum("k,kij->ij", w, sigma) + np.einsum("k,ki,kj->ij", w, m - mean, m - mean)
    scale = np.sqrt(np.diag(covariance))
    room = 6 / np.sqrt(len(draws))
    assert_allclose((draws.mean(axis=0) - mean) / scale, 0, atol=room)
    assert_allclose((np.cov(draws.T) - covariance) / np.outer(scale, scale), 0, atol=2 * room)
    assert_allclose(one.predict_proba(draws).mean(axis=0), w, atol=room)
    direct, _ = one.set_params(random_state=5).sample(len(draws))
    spread = one.score_samples(direct).std()
    assert_allclose(one.score(draws), one.score(direct), atol=2 * room * spread)


@types
@pytest.mark.parametrize("holes", [[1], [0, 2], [0, 1, 3], [0, 1, 2, 3]])
def test_drawn_entries_follow_the_conditional(covariance_type, holes) -> None:
    gm, X = fit(covariance_type)
    given = np.setdiff1d(np.arange(4), holes)
    one = gm.conditional(X[7, given], given=given) if len(given) else gm
    row = X[7].copy()
    row[holes] = np.nan
    # Beside rows of other patterns, and complete ones.
    rows = np.vstack([np.tile(row, (N_DRAWS, 1)), np.where(np.eye(4) > 0, np.nan, X[:4]), X[:2]])
    filled = gm.impute(rows, draw=True, random_state=1)
    assert_array_equal(filled[~np.isnan(rows)], rows[~np.isnan(rows)])
    assert np.isfinite(filled).all()
    assert_drawn_from(filled[:N_DRAWS, holes], one)


@types
def test_one_sample_of_each_conditional(covariance_type) -> None:
    gm, X = fit(covariance_type)
    given, rest = [3, 1], [0, 2]
    parts = gm.conditional(np.tile(X[7, given], (N_DRAWS, 1)), given=given)
    assert isinstance(parts, ConditionalMixtures)
    assert parts.covariance_type == covariance_type
    draws, y = parts.sample(1)
    one = gm.conditional(X[7, given], given=given)
    assert_drawn_from(draws, one)
    for k in range(3):  # given the component, too
        sigma = oracle.matrices(one.covariances_, covariance_type, *one.means_.shape)[k]
        away = draws[y == k] - one.means_[k]
        room = 8 / np.sqrt(len(away))
        assert_allclose(np.cov(away.T), sigma, atol=room * np.diag(sigma).max())
    assert parts.features.tolist() == rest


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_where_draws_come_from(dtype) -> None:
    gm, X = fit("full", dtype)
    holes = np.random.default_rng(3).random(X.shape) < 0.3
    given = np.where(holes, np.array(np.nan, dtype), X)

    def drawn(**options) -> np.ndarray:
        filled = gm.impute(given, draw=True, **options)
        assert filled.dtype == dtype
        return filled

    assert_array_equal(drawn(random_state=1), drawn(random_state=1))
    assert_array_equal(drawn(), drawn(random_state=0))  # the estimator's
    assert (drawn(random_state=1) != drawn(random_state=2))[holes].all()
    source = np.random.RandomState(4)
    assert (drawn(random_state=source) != drawn(random_state=source))[holes].all()
    # Each row its own noise, whatever its pattern.
    away = (drawn() - gm.impute(given))[holes]
    assert len(np.unique(away)) == len(away)
    parts = gm.conditional(X[:, [0, 1]], given=[0, 1])
    first, y = parts.sample(2)
    assert first.dtype == dtype
    assert_array_equal(first, parts.sample(2)[0])
    assert first.shape == (len(X), 2)
    assert y.shape == (len(X),)


def test_conditionals_of_one_random_state_draw_on() -> None:
    gm, X = fit("full")
    gm.set_params(random_state=np.random.RandomState(0))
    draws = [gm.conditional(row, given=[0, 1, 2]).sample()[0][0, 0] for row in X[[5, 5, 5], :3]]
    assert len(set(draws)) == 3


def test_bad_draw() -> None:
    gm, X = fit("diag")
    with pytest.raises(TypeError, match="draw has type str, expected bool"):
        gm.impute(X, draw="yes")
