"""The bound after each half step, against the free energy from the responsibilities."""

from __future__ import annotations

import numpy as np
import pytest

from elbokit import GaussianMixture
from elbokit.mixture import FitHistory
from gmm_starts import COVARIANCE_TYPES, clusters, start
from mixture_bounds import free_energy, log_density, responsibilities, some_prior

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def fit(X, given, covariance_type, max_iter, **options):
    weights, means, factors = given
    precisions = factors if factors.ndim < 2 or covariance_type == "diag" else factors @ factors
    return GaussianMixture(
        len(weights),
        covariance_type=covariance_type,
        weights_init=weights,
        means_init=means,
        precisions_init=precisions,
        tol=0.0,
        max_iter=max_iter,
        **options,
    )


def parameters(gm):
    """In float64, as the fit left them."""
    return tuple(gm._float64(name) for name in ("weights", "means", "covariances"))


@pytest.mark.parametrize("reg_covar", [0.0, 0.3])
@pytest.mark.parametrize("with_prior", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_history_is_the_free_energy(rng, covariance_type, dtype, with_prior, reg_covar):
    k, d, n_iter = 3, 3, 5
    X = clusters(rng, 83, d, k, spread=1.5).astype(dtype)
    weight = rng.uniform(0.2, 1.8, size=83)
    prior = some_prior(covariance_type, k, d) if with_prior else None
    given = start(rng, X.astype(np.float64), k, covariance_type)
    options = {"reg_covar": reg_covar, "prior": prior}
    history = (
        fit(X, given, covariance_type, n_iter, **options).fit(X, sample_weight=weight).history_
    )
    assert isinstance(history, FitHistory)

    def bound(q, theta):
        value = free_energy(X, q, weight, *theta, covariance_type)
        if prior is not None:
            value += log_density(prior, theta[0] / theta[0].sum(), *theta[1:], covariance_type)
        return value / weight.sum()

    unit = fit(X, given, covariance_type, 0, **options).fit(X, sample_weight=weight)
    theta, q = parameters(unit), None
    tolerance = 1e-10 if dtype == np.float64 else 2e-6
    for t in range(n_iter):
        if q is None:
            assert np.isnan(history.before[t])
        else:
            assert history.before[t] == pytest.approx(bound(q, theta), rel=tolerance)
        q = responsibilities(X, *theta, covariance_type)
        assert history.after_e[t] == pytest.approx(bound(q, theta), rel=tolerance)
        following = fit(X, given, covariance_type, t + 1, **options).fit(X, sample_weight=weight)
        theta = parameters(following)
        assert history.after_m[t] == pytest.approx(bound(q, theta), rel=tolerance)


@pytest.mark.parametrize("with_prior", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_every_half_step_raises_the_bound(rng, covariance_type, dtype, with_prior):
    X = clusters(rng, 400, 4, 4, spread=1.5).astype(dtype)
    prior = some_prior(covariance_type, 4, 4) if with_prior else None
    gm = GaussianMixture(
        4,
        covariance_type=covariance_type,
        random_state=0,
        reg_covar=0.0,
        tol=0.0,
        max_iter=60,
        prior=prior,
    ).fit(X)
    before, after_e, after_m = gm.history_
    assert all(a.shape == (gm.n_iter_,) and a.dtype == np.float64 for a in gm.history_)
    np.testing.assert_array_equal(after_e, gm.lower_bounds_)
    np.testing.assert_array_equal(before[1:], after_m[:-1])
    # An M-step is exact for its sums; the E-step's log-likelihood is that of the rows' type.
    assert (after_m - after_e).min() >= -1e-12
    assert (after_e - before)[1:].min() >= (-1e-12 if dtype == np.float64 else -1e-6)
    assert (after_m - after_e).max() > 1e-4
    assert (after_e - before)[1:].max() > 1e-5


def test_reg_covar_moves_the_m_step_from_the_maximum():
    X = np.concatenate([np.linspace(-1, 1, 50), np.linspace(9, 11, 50)])[:, None]
    gm = GaussianMixture(2, reg_covar=2.0, random_state=0, tol=0.0, max_iter=5)
    history = gm.fit(X).history_
    assert (history.after_m < history.after_e).any()


def test_an_empty_component_takes_no_part(rng):
    X = rng.normal(size=(60, 2))
    given = (np.array([0.5, 0.0, 0.5]), np.array([[0.0, 1], [1e3, 0], [0, -1]]))
    for covariance_type in COVARIANCE_TYPES:
        factors = start(rng, X, 3, covariance_type)[2]
        three = fit(X, (*given, factors), covariance_type, 4).fit(X).history_
        some = factors if covariance_type == "tied" else factors[::2]
        two = fit(X, (given[0][::2], given[1][::2], some), covariance_type, 4).fit(X).history_
        for a, b in zip(three, two, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


def test_the_kept_run_has_the_history(rng):
    X = clusters(rng, 200, 2, 4)
    gm = GaussianMixture(4, n_init=3, init_params="random", random_state=2).fit(X)
    assert gm.history_.after_e[-1] == gm.lower_bound_
    assert len(gm.history_.after_m) == gm.n_iter_
    none = GaussianMixture(2, max_iter=0).fit(X)
    assert [len(part) for part in none.history_] == [0, 0, 0]


@pytest.mark.parametrize("verbose", [0, 1])
def test_a_warm_start_goes_on(rng, verbose, capsys):
    X = clusters(rng, 200, 2, 3)
    gm = GaussianMixture(3, warm_start=True, max_iter=2, tol=0.0, verbose=verbose).fit(X)
    last = gm.history_.after_m[-1]
    gm.fit(X)
    assert np.isnan(gm.history_.before[0])
    assert gm.history_.after_e[0] >= last
