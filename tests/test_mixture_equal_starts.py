"""Starts that are the same mixture, in another order: one run of EM serves them all."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.mixture
from numpy.testing import assert_allclose, assert_array_equal

from elbokit import GaussianMixture
from elbokit._types import FitStatus
from elbokit.mixture import _array_fit, _driven_fit
from elbokit.mixture._equal_starts import first_of_equals
from elbokit.mixture._initialization import as_batch
from elbokit.mixture._parameters import GmmParameters
from gmm_starts import COVARIANCE_TYPES


def mixture(rng, covariance_type, k=3, d=2):
    shape = {"full": (k, d, d), "tied": (d, d), "diag": (k, d), "spherical": (k,)}[covariance_type]
    covariances = rng.uniform(1, 2, shape)
    return GmmParameters(
        rng.dirichlet(np.ones(k)), rng.standard_normal((k, d)), covariances, 1 / covariances
    )


def reordered(parameters, order, covariance_type):
    tied = covariance_type == "tied"
    return GmmParameters(*(a if i > 1 and tied else a[order] for i, a in enumerate(parameters)))


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_equal_but_for_the_order(covariance_type, rng):
    a, b = mixture(rng, covariance_type), mixture(rng, covariance_type)
    again = reordered(a, [2, 0, 1], covariance_type)
    moved = a._replace(means=np.nextafter(a.means, 9))  # of the same weights
    other = a._replace(covariances=a.covariances[..., ::-1] * 1.5)
    starts = as_batch([a, b, again, moved, b, reordered(b, [1, 0, 2], covariance_type), other])
    assert_array_equal(first_of_equals(starts, covariance_type), [0, 1, 0, 3, 1, 1, 6])
    starts.status[4:6] = FitStatus.SINGULAR_COVARIANCE
    assert_array_equal(first_of_equals(starts, covariance_type), [0, 1, 0, 3, 4, 5, 6])


def blobs(rng, n=300, dtype=np.float64):
    centers = np.array([[0, 0], [20, 0], [0, 20], [20, 21]])
    return (centers[rng.integers(4, size=n)] + rng.standard_normal((n, 2))).astype(dtype)


@pytest.fixture
def run_from(monkeypatch):
    """How many starts each call of EM was given."""
    sizes: list[int] = []
    run_em, last_step = _array_fit.run_em, _driven_fit.last_step

    def counted(problems, starts, *args, **kwargs):
        sizes.append(len(starts.status))
        return run_em(problems, starts, *args, **kwargs)

    def counted_step(*args):
        sizes.append(1)
        return last_step(*args)

    monkeypatch.setattr(_array_fit, "run_em", counted)
    monkeypatch.setattr(_driven_fit, "last_step", counted_step)
    return sizes


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("verbose", [0, 1])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_each_restart_has_its_end(covariance_type, verbose, dtype, rng, run_from):
    X = blobs(rng, dtype=dtype)
    gm = GaussianMixture(
        4, covariance_type=covariance_type, n_init=12, random_state=0, verbose=verbose
    ).fit(X)
    # What prints its progress has every run, to show it.
    assert sum(run_from) == 12 if verbose else 1 <= sum(run_from) < 12
    # One by one, from the same draws.
    draws = np.random.RandomState(0)
    alone = [
        GaussianMixture(4, covariance_type=covariance_type, random_state=draws).fit(X)
        for _ in range(12)
    ]
    bounds = [each.lower_bound_ for each in alone]
    rtol = 1e-12 if dtype == np.float64 else 1e-6
    assert_allclose(gm.restarts_["lower_bound"], bounds, rtol=rtol)
    if dtype == np.float64:
        assert_array_equal(gm.restarts_["n_iter"], [each.n_iter_ for each in alone])
    assert gm.lower_bound_ == pytest.approx(max(bounds), rel=rtol)


def test_without_an_iteration_the_last_start_is_kept(rng):
    options = {"n_init": 5, "random_state": 1, "max_iter": 0, "weights_init": np.full(4, 0.25)}
    X = blobs(rng)
    theirs = sklearn.mixture.GaussianMixture(4, **options).fit(X)
    for verbose in (0, 1):
        ours = GaussianMixture(4, verbose=verbose, **options).fit(X)
        assert_allclose(ours.means_, theirs.means_)


def test_given_parameters_leave_one_start(rng, run_from):
    means = np.array([[0.0, 0], [20, 0], [0, 20], [20, 20]])
    given = {
        "weights_init": np.full(4, 0.25),
        "means_init": means,
        "precisions_init": np.ones((4, 2)),
    }
    gm = GaussianMixture(4, covariance_type="diag", n_init=5, **given).fit(blobs(rng))
    assert run_from == [1]
    assert len(gm.restarts_) == 5
    assert len(np.unique(gm.restarts_)) == 1


def test_chunks_and_missing_values(rng, run_from):
    X = blobs(rng)
    GaussianMixture(4, n_init=6, random_state=0).fit([X[:100], X[100:]])
    assert len(run_from) < 6
    run_from.clear()
    X[::7, 0] = np.nan
    GaussianMixture(4, n_init=6, random_state=0, missing="integrate").fit(X)
    assert len(run_from) < 6
