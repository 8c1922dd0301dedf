"""Ctrl-C leaves the last complete iteration; every other failure, and one before it, nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from elbokit import GaussianMixture
from elbokit.mixture._convergence import ConvergenceMonitor
from elbokit.mixture._em import EmRun, FitInterrupted, Restart
from elbokit.mixture._interrupts import keep_best, unchanged_on_failure
from gmm_starts import COVARIANCE_TYPES, clusters

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

FITTED = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")


@pytest.fixture
def X(rng: np.random.Generator) -> np.ndarray:
    return clusters(rng, 700, 3, 3, spread=1.0)


def assert_same(a: GaussianMixture, b: GaussianMixture) -> None:
    for name in FITTED:
        assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert a.lower_bounds_ == b.lower_bounds_
    assert a.n_iter_ == b.n_iter_
    assert a.lower_bound_ == b.lower_bound_


class Stops:
    """Chunks of which one raises in one of the passes (the first one is the start's)."""

    def __init__(self, X: np.ndarray, at_pass: int, error: type[BaseException]) -> None:
        self.chunks, self.at_pass, self.error = np.array_split(X, 5), at_pass, error
        self.passes = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        self.passes += 1
        for index, chunk in enumerate(self.chunks):
            if self.passes == self.at_pass and index == 3:
                raise self.error
            yield chunk


def stop_printing_at(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException], at_call: int
) -> None:
    calls: list[int] = []

    def interrupted(self: Any, n_iter: int, change: float, bound: float) -> None:
        calls.append(n_iter)
        if len(calls) == at_call:
            raise error

    monkeypatch.setattr(ConvergenceMonitor, "progress", interrupted)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_array(monkeypatch, X, covariance_type, dtype):
    X = X.astype(dtype)
    options = {"covariance_type": covariance_type, "random_state": 0, "tol": 0.0}
    want = GaussianMixture(3, max_iter=4, **options).fit(X)
    stop_printing_at(monkeypatch, KeyboardInterrupt, 4)
    gm = GaussianMixture(3, max_iter=100, verbose=1, verbose_interval=1, **options)
    with pytest.raises(KeyboardInterrupt) as raised:
        gm.fit(X)
    assert raised.type is KeyboardInterrupt
    assert_same(gm, want)
    assert gm.converged_ is False
    assert gm.n_features_in_ == 3
    assert_array_equal(gm.predict(X), want.predict(X))


def test_of_several_runs_the_best_so_far(monkeypatch, X):
    options = {"init_params": "random_from_data", "random_state": 4, "tol": 0.0, "max_iter": 5}
    want = GaussianMixture(3, n_init=2, **options).fit(X)
    stop_printing_at(monkeypatch, KeyboardInterrupt, 11)  # the third run's first iteration
    gm = GaussianMixture(3, n_init=9, verbose=1, verbose_interval=1, **options)
    with pytest.raises(KeyboardInterrupt):
        gm.fit(X)
    assert_same(gm, want)


def test_a_warm_start_keeps_what_it_added(monkeypatch, X):
    options = {"random_state": 0, "tol": 0.0, "warm_start": True}
    want = GaussianMixture(3, max_iter=2, **options).fit(X)
    gm = GaussianMixture(3, max_iter=2, **options).fit(X)
    want.set_params(max_iter=3).fit(X)
    stop_printing_at(monkeypatch, KeyboardInterrupt, 3)
    with pytest.raises(KeyboardInterrupt):
        gm.set_params(max_iter=50, verbose=1, verbose_interval=1).fit(X)
    assert_same(gm, want)


@pytest.mark.parametrize("at_pass", [2, 5])
def test_chunks(X, at_pass):
    options = {"random_state": 0, "tol": 0.0}
    gm = GaussianMixture(3, **options)
    with pytest.raises(KeyboardInterrupt) as raised:
        gm.fit(Stops(X, at_pass, KeyboardInterrupt))
    assert raised.type is KeyboardInterrupt
    if at_pass == 2:  # in the first iteration
        assert not hasattr(gm, "weights_")
        assert not hasattr(gm, "n_features_in_")
    else:
        assert_same(gm, GaussianMixture(3, max_iter=3, **options).fit(np.array_split(X, 5)))
        assert gm.converged_ is False


@pytest.mark.parametrize("at_pass", [1, 2])
def test_before_the_first_iteration_nothing_changes(X, at_pass):
    gm = GaussianMixture(3, random_state=0).fit(X[:, :2])
    before = dict(vars(gm))
    with pytest.raises(KeyboardInterrupt):
        gm.fit(Stops(X, at_pass, KeyboardInterrupt))
    assert {name: id(value) for name, value in vars(gm).items()} == {
        name: id(value) for name, value in before.items()
    }


@pytest.mark.parametrize("chunks", [False, True])
def test_other_errors_leave_it_as_it_was(monkeypatch, X, chunks):
    gm = GaussianMixture(3, random_state=0, tol=0.0).fit(X[:, :2])
    before = dict(vars(gm))
    stop_printing_at(monkeypatch, OSError, 3)
    gm.verbose = before["verbose"] = 0 if chunks else 1
    gm.verbose_interval = before["verbose_interval"] = 1
    with pytest.raises(OSError):
        gm.fit(Stops(X, 5, OSError) if chunks else X)
    assert {name: id(value) for name, value in vars(gm).items()} == {
        name: id(value) for name, value in before.items()
    }


def test_the_unfinished_run_counts_if_it_is_better():
    def run(bound: float) -> EmRun:
        return EmRun(None, bound, [bound], True)  # type: ignore[arg-type]

    def runs(unfinished: list[EmRun]) -> Iterator[Restart]:
        yield Restart(run(-2.0))
        raise FitInterrupted([*map(Restart, unfinished)])

    for unfinished, best in (([], -2.0), ([run(-3.0)], -2.0), ([run(-3.0), run(-1.0)], -1.0)):
        stored: list[EmRun] = []
        with pytest.raises(KeyboardInterrupt):
            keep_best(runs(unfinished), lambda best, every, to=stored: to.append(best))
        assert [kept.lower_bound for kept in stored] == [best]
        assert stored[0].converged is False


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("keep", [False, True])
def test_only_an_interrupt_keeps_what_was_stored(X, error, keep):
    gm = GaussianMixture(3, random_state=0).fit(X)
    before = gm.means_

    @unchanged_on_failure(gm, keep_interrupted=keep)
    def stores_and_fails() -> None:
        gm.weights_, gm.means_ = gm.weights_.copy(), before + 1.0
        raise error

    with pytest.raises(error):
        stores_and_fails()
    assert (gm.means_ is not before) == (keep and error is KeyboardInterrupt)
