"""Restarts that end in a singular covariance are passed over, with a warning; not the last one."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from elbokit import GaussianMixture
from elbokit.ops import SingularCovarianceError

N_INIT = 8


def data():
    """A run is singular where it leaves three equal rows to themselves."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.standard_normal((40, 1)), np.full((3, 1), 2.5)])


def incomplete():
    """The same with a second feature, whose entries are missing in some of the other rows."""
    rng = np.random.default_rng(1)
    X = np.column_stack([data(), rng.standard_normal(43)])
    X[40:, 1] = 0.5
    X[3:7, 1] = np.nan
    return X


def estimator(**options):
    return GaussianMixture(3, **{"reg_covar": 0.0, "random_state": 0} | options)


def runs_alone(X, **options):
    """Fit from each start alone: a shared RandomState draws as one fit's restarts do."""
    state, runs = np.random.RandomState(0), []
    for _ in range(N_INIT):
        try:
            runs.append(estimator(**options | {"random_state": state}).fit(X))
        except SingularCovarianceError as error:
            runs.append(error)
    return runs


def assert_same_mixture(a, b):
    """Components may be in another order: equal starts have one run."""
    assert_allclose(a.lower_bound_, b.lower_bound_, rtol=1e-12)
    for name in ("weights_", "means_", "covariances_"):
        values = (np.sort(getattr(gm, name), axis=0) for gm in (a, b))
        assert_allclose(*values, rtol=1e-8, err_msg=name)


def check(X, as_given=lambda X: X, **options):
    single = {name: value for name, value in options.items() if name != "verbose"}
    runs = runs_alone(as_given(X), **single)
    failed = [isinstance(run, SingularCovarianceError) for run in runs]
    assert 0 < sum(failed) < N_INIT
    with pytest.warns(
        ConvergenceWarning, match=f"^{sum(failed)} of {N_INIT} starts fail"
    ) as record:
        gm = estimator(n_init=N_INIT, **options).fit(as_given(X))
    assert len(record) == 1
    assert str(record[0].message).endswith(str(runs[failed.index(True)]))
    assert record[0].filename == __file__
    best = max(
        (run for run, bad in zip(runs, failed, strict=True) if not bad),
        key=lambda run: run.lower_bound_,
    )
    assert_same_mixture(gm, best)
    assert_array_equal(gm.restarts_["failed"], failed)
    assert not gm.restarts_["dropped"].any()
    ended = [-np.inf if bad else run.lower_bound_ for run, bad in zip(runs, failed, strict=True)]
    assert_allclose(gm.restarts_["lower_bound"], ended, rtol=1e-12)


@pytest.mark.parametrize("verbose", [0, 1, 2, "bar"])
def test_the_best_of_the_others_is_kept(verbose):
    check(data(), verbose=verbose)


def test_chunks():
    check(data(), lambda X: [X[:20], X[20:]])


def test_missing_entries():
    check(incomplete(), missing="integrate")


def test_on_a_gpu(gpu):
    check(data(), lambda X: torch.from_numpy(X).to(gpu))


def test_dropping_does_not_keep_the_failing_ones_alone():
    """Bounds rise fastest on the way to a singularity: these runs win every comparison."""
    X = data()
    with pytest.warns(ConvergenceWarning, match="starts failed"):
        plain = estimator(n_init=N_INIT).fit(X)
    with pytest.warns(ConvergenceWarning, match="1 of 8 starts failed"):
        gm = estimator(n_init=N_INIT, drop_restarts=2).fit(X)
    assert gm.restarts_["dropped"].any()
    assert_same_mixture(gm, plain)
    kept = ~gm.restarts_["dropped"]
    assert_array_equal(gm.restarts_["failed"][kept], plain.restarts_["failed"][kept])
    assert gm.lower_bound_ == gm.restarts_["lower_bound"][kept].max()


@pytest.mark.parametrize("options", [{}, {"verbose": 1}, {"drop_restarts": 0.5}])
def test_all_fail(options):
    gm = estimator(n_init=N_INIT, init_params="random_from_data", **options)
    X = np.repeat([[0.0], [5.0], [9.0]], 4, axis=0)
    before = vars(gm).copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SingularCovarianceError, match="component 0"):
            gm.fit(X)
    assert vars(gm) == before


def test_one_start_raises():
    with pytest.raises(SingularCovarianceError):
        estimator(random_state=0).fit(data())


def test_other_failures_are_not_passed_over():
    with pytest.raises(ValueError, match="overflow"):
        estimator(n_init=3).fit(1e200 * data())
