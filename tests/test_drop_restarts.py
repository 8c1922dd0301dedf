"""Restarts that are given up: the stated rule, played again from the bounds of runs alone."""

from __future__ import annotations

import math
import pickle
import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from elbokit import GaussianMixture, ops
from elbokit.mixture import _estimator_starts
from elbokit.mixture._parameters import GmmParameters
from elbokit.mixture._restarts import same_mixture
from gmm_starts import COVARIANCE_TYPES
from test_mixture_restarts import assert_same_bits


def data(rng, n=300, d=3, dtype=np.float64):
    return (rng.standard_normal((n, d)) + 2 * rng.integers(0, 5, (n, d))).astype(dtype)


def fit(X, sample_weight=None, **options):
    options = {"init_params": "random_from_data", "random_state": 3} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianMixture(6, **options).fit(X, None, sample_weight)


def runs_alone(X, n_init, **options):
    """Fit from each start alone: a shared RandomState draws as one fit's restarts do."""
    state = np.random.RandomState(3)
    return [fit(X, **(options | {"random_state": state})) for _ in range(n_init)]


def rule(traces, drop, max_iter):
    """Return after how many iterations each run is dropped, or None, from distinct bounds."""
    left, dropped = list(range(len(traces))), dict.fromkeys(range(len(traces)))
    done = 2
    while done < max_iter:
        number = drop if isinstance(drop, int) else math.floor(drop * len(left))
        for _ in range(min(number, len(left) - 1)):
            worst = min(left, key=lambda i: (traces[i][done - 1], -i))
            left.remove(worst)
            dropped[worst] = done
        done *= 2
    return [dropped[i] for i in range(len(traces))]


@pytest.mark.parametrize("drop", [0.5, 0.2, 0.9, 1, 3, 100])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_the_rule(covariance_type, drop, rng):
    """With tol=0 no run converges, and none counts as equal to another."""
    X = data(rng)
    options = {"covariance_type": covariance_type, "tol": 0.0, "max_iter": 20}
    traces = [gm.lower_bounds_ for gm in runs_alone(X, 11, **options)]
    want = rule(traces, drop, 20)
    gm = fit(X, n_init=11, drop_restarts=drop, **options)
    assert_array_equal(gm.restarts_["dropped"], [at is not None for at in want])
    assert_array_equal(gm.restarts_["n_iter"], [at or 20 for at in want])
    ended = [trace[(at or 20) - 1] for trace, at in zip(traces, want, strict=True)]
    assert_array_equal(gm.restarts_["lower_bound"], ended)
    # The kept run is, bit for bit, the one that went through alone.
    best = max((i for i, at in enumerate(want) if at is None), key=lambda i: traces[i][-1])
    assert gm.lower_bounds_ == traces[best]
    assert len(gm.lower_bounds_) == 20


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_kept_run_has_the_bits_of_the_run_alone(dtype, rng):
    """Stages continue where they were; weights and convergence too."""
    X, weight = data(rng, dtype=dtype), rng.uniform(0.5, 2.0, 300)
    options = {"n_init": 8, "tol": 1e-4, "max_iter": 200}
    plain = fit(X, weight, **options)
    # The winner is the best from the second iteration on when few are dropped at a time.
    dropping = fit(X, weight, drop_restarts=1, **options)
    assert dropping.restarts_["dropped"].any()
    assert not dropping.restarts_["dropped"].all()
    kept = ~dropping.restarts_["dropped"]
    assert_array_equal(dropping.restarts_[kept], plain.restarts_[kept])
    assert dropping.lower_bound_ == dropping.restarts_["lower_bound"][kept].max()
    if kept[np.argmax(plain.restarts_["lower_bound"])]:
        assert_same_bits(dropping, plain)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_kmeans_starts_compete_by_inertia(covariance_type, weighted, rng, monkeypatch):
    """After two of Lloyd's iterations; those that go on get the bits that they get alone."""
    X, n_init = data(rng), 9
    weight = rng.uniform(0.5, 2.0, len(X)) if weighted else None
    options = {"covariance_type": covariance_type, "tol": 0.0, "max_iter": 12}
    options["init_params"] = "kmeans"
    short, whole = np.random.RandomState(3), np.random.RandomState(3)
    shortened = {"sample_weight": weight, "random_state": short, "max_iter": 2}
    inertia = [ops.kmeans(X, 6, **shortened).inertia for _ in range(n_init)]
    traces = [
        fit(X, weight, **(options | {"random_state": whole})).lower_bounds_ for _ in range(n_init)
    ]
    kept = np.sort(np.argsort(inertia)[:6])
    later = rule([traces[i] for i in kept], 3, 12)
    want = np.zeros(n_init, int)
    want[kept] = [at or 12 for at in later]
    for at_once in (1 << 20, 600):  # side by side, and two at a time
        monkeypatch.setattr(_estimator_starts, "_ROWS_AT_ONCE", at_once)
        gm = fit(X, weight, n_init=n_init, drop_restarts=3, **options)
        assert_array_equal(gm.restarts_["n_iter"], want)
        assert_array_equal(gm.restarts_["dropped"], want < 12)
        assert_array_equal(gm.restarts_["lower_bound"][want == 0], -math.inf)
        assert gm.lower_bounds_ == max((traces[i] for i in np.flatnonzero(want == 12)), key=last)


def test_without_iterations_the_last_start_that_goes_on_is_kept(rng):
    """As without dropping: there is no bound to compare."""
    X = data(rng)
    gm = fit(X, n_init=6, init_params="kmeans", max_iter=0, drop_restarts=0.5)
    kept = np.flatnonzero(~gm.restarts_["dropped"])
    assert len(kept) == 3
    state = np.random.RandomState(3)
    starts = [fit(X, init_params="kmeans", max_iter=0, random_state=state).means_ for _ in range(6)]
    assert_array_equal(gm.means_, starts[kept[-1]])


def last(trace):
    return trace[-1]


def test_draws_after_the_fit_are_those_without_dropping(rng):
    """Starts that are given up have drawn all the same."""
    X = data(rng)
    states = []
    for drop in (None, 0.5):
        state = np.random.RandomState(3)
        fit(X, n_init=5, init_params="kmeans", random_state=state, drop_restarts=drop)
        states.append(state.random_sample())
    assert states[0] == states[1]


def test_values_that_are_too_large_for_inertia(rng):
    with pytest.raises(ValueError, match="overflow"):
        fit(1e200 * data(rng), n_init=4, init_params="kmeans", drop_restarts=0.5)


def test_duplicates_warn_for_each_start_that_goes_on(rng):
    X = np.repeat(rng.standard_normal((2, 3)), 10, axis=0)
    with pytest.warns(ConvergenceWarning, match=r"distinct clusters \(2\)") as caught:
        GaussianMixture(4, n_init=4, random_state=0, drop_restarts=0.5).fit(X)
    assert [w.filename for w in caught] == [__file__] * 2


def test_without_dropping_the_summary_is_of_whole_runs(rng):
    X = data(rng)
    alone = runs_alone(X, 4, max_iter=30)
    gm = fit(X, n_init=4, max_iter=30)
    want = [(a.lower_bound_, a.n_iter_, a.converged_, False, False) for a in alone]
    assert gm.restarts_.tolist() == want
    assert gm.drop_restarts is None
    assert fit(X, n_init=1).restarts_.shape == (1,)
    assert (
        fit(X, n_init=3, max_iter=0).restarts_.tolist() == [(-math.inf, 0, False, False, False)] * 3
    )
    assert_array_equal(pickle.loads(pickle.dumps(gm)).restarts_, gm.restarts_)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_runs_at_one_point_are_given_up(covariance_type, rng):
    """From equal starts, the first goes on alone: the fit is that of one run."""
    X = data(rng)
    means = X[:6]
    options = {"covariance_type": covariance_type, "means_init": means, "init_params": "kmeans"}
    options |= {"weights_init": np.full(6, 1 / 6), "precisions_init": ones(covariance_type, 3)}
    gm = fit(X, n_init=5, drop_restarts=0.01, **options)  # the share alone drops none of 5
    assert gm.n_iter_ > 2
    assert gm.restarts_["dropped"].tolist() == [False] + [True] * 4
    assert gm.restarts_["n_iter"][1:].tolist() == [2] * 4
    assert_same_bits(gm, fit(X, **options))


def ones(covariance_type, d, k=6):
    eye = np.eye(d)
    return {
        "full": np.stack([eye] * k),
        "tied": eye,
        "diag": np.ones((k, d)),
        "spherical": np.ones(k),
    }[covariance_type]


def mixture(gm):
    arrays = gm.weights_, gm.means_, gm.covariances_, gm.precisions_cholesky_
    return GmmParameters(*(a.copy() for a in arrays))


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_same_mixture(covariance_type, rng):
    """In any order of the components; off by 1e-3 of a standard deviation it is another one."""
    X = data(rng) * [1e-3, 1.0, 1e5]  # the scale of a feature does not matter
    a = mixture(fit(X, covariance_type=covariance_type, reg_covar=1e-12))
    order = rng.permutation(6)
    shuffled = [array[order] if len(array) == 6 else array for array in a]
    b = GmmParameters(*shuffled)
    assert same_mixture(a, b, covariance_type)
    assert same_mixture(b, a, covariance_type)
    near, far = b.means.copy(), b.means.copy()
    spread = np.sqrt(smallest_variance(b.covariances, covariance_type))
    near[2] += 1e-5 * spread
    assert same_mixture(a, b._replace(means=near), covariance_type)
    far[2] += 1e-3 * spread
    assert not same_mixture(a, b._replace(means=far), covariance_type)
    weights = b.weights + 1e-3 * np.array([1, -1, 0, 0, 0, 0])
    assert not same_mixture(a, b._replace(weights=weights), covariance_type)
    wider = b._replace(covariances=b.covariances * 1.001)
    assert not same_mixture(a, wider, covariance_type)
    doubled = b.means.copy()
    doubled[3] = doubled[2]  # two of them at one of the other's
    assert not same_mixture(a, b._replace(means=doubled), covariance_type)


def test_two_equal_components_are_not_one_of_them(rng):
    """Each has a partner, but both have the same one."""
    means = rng.standard_normal((6, 3))
    shape = np.full(6, 1 / 6), np.ones((6, 3)), np.ones((6, 3))
    b = GmmParameters(shape[0], means, *shape[1:])
    doubled = means.copy()
    doubled[3] = doubled[2]
    assert same_mixture(b, b, "diag")
    assert not same_mixture(b._replace(means=doubled), b, "diag")


def smallest_variance(covariances, covariance_type):
    if covariance_type in ("full", "tied"):
        matrices = covariances.reshape(-1, 3, 3)
        return np.stack([np.diag(m) for m in matrices]).min(axis=0)
    return covariances.reshape(6, -1).min(axis=0)


def test_the_error_of_a_run_is_raised(rng):
    X = np.repeat(rng.standard_normal((9, 2)), 20, axis=0)
    before = GaussianMixture(2, random_state=0).fit(X)
    state = dict(vars(before))
    before.set_params(n_components=6, reg_covar=0.0, n_init=9, drop_restarts=0.5, max_iter=300)
    before.set_params(tol=0.0, init_params="random")
    with pytest.raises(ops.SingularCovarianceError):
        before.fit(X)
    for name in ("means_", "restarts_"):
        assert getattr(before, name) is state[name]


def test_progress_and_one_iteration(rng, capsys):
    X = data(rng)
    options = {"n_init": 8, "drop_restarts": 0.5, "tol": 0.0}
    quiet = fit(X, max_iter=9, **options)
    assert capsys.readouterr().out == ""
    assert_same_bits(fit(X, max_iter=9, verbose=2, **options), quiet)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[1] for line in lines] == [f" {n} of 8 runs left" for n in (4, 2, 1)]
    assert not fit(X, max_iter=1, **options).restarts_["dropped"].any()


@pytest.mark.parametrize("value", [0, 0.0, 1.0, -0.5, 1.5, -2, "half", np.nan])
def test_bad_values(value, rng):
    with pytest.raises(ValueError, match=r"'drop_restarts' parameter of GaussianMixture must be"):
        fit(data(rng), n_init=3, drop_restarts=value)


def test_it_is_a_parameter_like_others():
    gm = GaussianMixture(2, drop_restarts=0.25)
    assert clone(gm).drop_restarts == 0.25
    assert "drop_restarts=0.25" in repr(gm)
