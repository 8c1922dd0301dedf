"""Restarts that end in a singular covariance are passed over, with a warning; not the last one."""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from elbokit import GaussianMixture
from elbokit.mixture._em import EmRun, FitInterrupted, Restart
from elbokit.mixture._initialization import as_batch
from elbokit.mixture._parameters import GmmParameters
from elbokit.mixture._restarts import race
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


def test_a_race_goes_on_from_starts_given_up_before():
    """Starts with little inertia are the likelier ones to be singular."""
    X = np.random.default_rng(1).standard_normal((30, 3))
    options = {"reg_covar": 0.0, "random_state": 0, "n_init": 10}
    with pytest.warns(ConvergenceWarning, match="7 of 10 starts failed"):
        plain = GaussianMixture(4, **options).fit(X).restarts_
    with pytest.warns(ConvergenceWarning, match="starts failed"):
        gm = GaussianMixture(4, drop_restarts=0.5, **options).fit(X)
    found = gm.restarts_
    ended = ~found["failed"] & ~found["dropped"]
    assert ended.any()
    assert_array_equal(found["lower_bound"][ended], plain["lower_bound"][ended])
    assert gm.lower_bound_ == found["lower_bound"][ended].max()
    assert not (found["failed"] & ~plain["failed"]).any()


def test_equal_starts_fail_together():
    """Whether a run survives may hang on the order of its components, by rounding."""
    rng = np.random.default_rng(2105)
    rng.integers(1, 4)
    X = rng.standard_normal((int(rng.integers(22, 40)), 3)) * [1, 2, 3]
    rng.random()
    for n in (1, 5, 6, 3):
        rng.choice(n)
    rng.integers(3)
    weight = rng.random(len(X))
    options = {"reg_covar": 0.0, "max_iter": 2, "random_state": 2105, "n_init": 9}
    for given, verbose in ((X, 0), (X, 1), ([X], 0)):
        gm = GaussianMixture(4, verbose=verbose, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            gm.fit(given, sample_weight=weight if given is X else [weight])
        assert_array_equal(np.flatnonzero(gm.restarts_["failed"]), [3, 5, 8])


def test_interrupted_race_with_a_failed_run():
    """What a run had before its last stage is not lost where another one fails in that."""

    def mixture(i):
        return GmmParameters(np.ones(1), np.full((1, 1), i), *np.ones((2, 1, 1, 1)))

    calls = []

    def stage(starts, n_iter, bound):
        calls.append(n_iter)
        runs = [
            EmRun(mixture(mean), len(calls) - mean, [len(calls) - mean] * n_iter, False)
            for mean in starts.parameters.means[:, 0, 0]
        ]
        if len(calls) == 2:
            runs[0] = EmRun.failed(ValueError())
        if len(calls) == 3:
            raise FitInterrupted([*map(Restart, runs)])
        return runs

    starts = as_batch([mixture(float(i)) for i in range(6)])
    with pytest.raises(FitInterrupted) as caught:
        race(stage, starts, 1, "full", tol=0.0, max_iter=100)
    assert calls == [2, 2, 4]
    restarts = caught.value.restarts
    assert [len(each.run.lower_bounds) for each in restarts] == [0, 8, 8, 8, 4, 2]
    assert [each.dropped for each in restarts] == [False] * 4 + [True] * 2
    assert [each.usable for each in restarts] == [False, True, True, True, False, False]


def interrupting(text):
    class Output(io.StringIO):
        def write(self, written):
            if text in written:
                raise KeyboardInterrupt
            return len(written)

    return Output()


@pytest.mark.parametrize(
    ("text", "as_given", "options"),
    [
        ("Iteration 8", lambda X: X, {"drop_restarts": 2, "n_init": 10, "tol": 0.0}),
        ("Initialization converged", lambda X: X, {"n_init": 3}),
        ("Initialization converged", lambda X: [X], {"n_init": 3}),
        ("Initialization converged", lambda X: X, {"n_init": 1}),
    ],
)
def test_interrupted_between_the_runs(text, as_given, options):
    X = np.random.default_rng(1).standard_normal((300, 3))
    gm = GaussianMixture(4, random_state=0, verbose=1, **options)
    with pytest.raises(KeyboardInterrupt), contextlib.redirect_stdout(interrupting(text)):
        gm.fit(as_given(X))
    assert not gm.converged_
    assert gm.n_iter_ == len(gm.lower_bounds_) >= 8


def test_one_start_raises():
    with pytest.raises(SingularCovarianceError):
        estimator(random_state=0).fit(data())


def test_other_failures_are_not_passed_over():
    with pytest.raises(ValueError, match="overflow"):
        estimator(n_init=3).fit(1e200 * data())
