"""Features of the estimator used together: chunks, missing values, priors, weights, restarts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from elbokit import GaussianMixture, MixturePrior
from elbokit.mixture._convergence import ConvergenceMonitor
from gmm_starts import COVARIANCE_TYPES, clusters

PENALTIES = {"prior": MixturePrior(mean_precision=0.5), "relative_reg_covar": 1e-3}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def X() -> np.ndarray:
    return clusters(np.random.default_rng(4), 301, 3, 3)


def with_holes(X: np.ndarray) -> np.ndarray:
    holes = X.copy()
    holes[np.random.default_rng(5).random(X.shape) < 0.2] = np.nan
    return holes


def assert_same_fit(got: GaussianMixture, want: GaussianMixture) -> None:
    assert got.n_iter_ == want.n_iter_
    for name in ("weights_", "means_", "covariances_", "lower_bounds_"):
        assert_allclose(getattr(got, name), getattr(want, name), rtol=1e-9, atol=1e-11)
    for ours, theirs in zip(got.history_, want.history_, strict=True):
        assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_chunks_with_a_prior(X: np.ndarray, covariance_type: str, weighted: bool) -> None:
    options = {"covariance_type": covariance_type, "random_state": 0, **PENALTIES}
    weight = np.random.default_rng(6).uniform(0.5, 9.0, len(X)) if weighted else None
    pieces = None if weight is None else np.array_split(weight, 4)
    got = GaussianMixture(3, **options).fit(np.array_split(X, 4), sample_weight=pieces)
    assert_same_fit(got, GaussianMixture(3, **options).fit(X, sample_weight=weight))


@pytest.mark.parametrize("init_params", ["kmeans", "random", "random_from_data", "k-means++"])
def test_integer_weights_of_chunks_are_copies(X: np.ndarray, init_params: str) -> None:
    number = np.random.default_rng(7).integers(1, 4, len(X))
    options = {"init_params": init_params, "random_state": 0}
    weights = np.array_split(number.astype(float), 4)
    got = GaussianMixture(3, **options).fit(np.array_split(X, 4), sample_weight=weights)
    assert_same_fit(got, GaussianMixture(3, **options).fit(np.repeat(X, number, axis=0)))


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_missing_values_with_a_prior(X: np.ndarray, covariance_type: str) -> None:
    options = {"covariance_type": covariance_type, "random_state": 0, "prior": MixturePrior()}
    incomplete = GaussianMixture(3, missing="integrate", reg_covar=0.0, tol=0.0, **options)
    gm = incomplete.fit(with_holes(X))
    assert np.diff(gm.lower_bounds_).min() > -1e-12  # the posterior's objective
    before, after_e, after_m = gm.history_
    assert (after_e - before)[1:].min() > -1e-12
    assert (after_m - after_e).min() > -1e-12
    assert_same_fit(incomplete.fit(X), GaussianMixture(3, reg_covar=0.0, tol=0.0, **options).fit(X))


@pytest.mark.parametrize("kind", ["array", "chunks", "missing"])
def test_every_restart_is_told_of(X: np.ndarray, kind: str) -> None:
    gm = GaussianMixture(4, n_init=3, init_params="random_from_data", random_state=0)
    gm.set_params(missing="integrate" if kind == "missing" else "error")
    gm.fit({"array": X, "chunks": np.array_split(X, 3), "missing": with_holes(X)}[kind])
    assert len(gm.restarts_) == 3
    assert not gm.restarts_["dropped"].any()
    best = gm.restarts_[gm.restarts_["lower_bound"].argmax()]
    assert (best["lower_bound"], best["n_iter"]) == (gm.lower_bound_, gm.n_iter_)


@pytest.mark.parametrize("kind", ["chunks", "missing", "race"])
def test_ctrl_c(X: np.ndarray, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    data: Any = {"chunks": np.array_split(X, 3), "missing": with_holes(X), "race": X}[kind]
    options = {"init_params": "random_from_data", "random_state": 0, "tol": 0.0}
    options["missing"] = "integrate" if kind == "missing" else "error"

    def interrupted(self: Any, n_iter: int, change: float, bound: float) -> None:
        calls.append(n_iter)
        if len(calls) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(ConvergenceMonitor, "progress", interrupted)
    gm = GaussianMixture(3, verbose=1, verbose_interval=1, **options)
    if kind == "race":
        from elbokit.mixture import _array_fit

        run_em = _array_fit.run_em
        stages: list[int] = []

        def third_stage_stops(*args: Any, **more: Any) -> Any:
            stages.append(more["max_iter"])
            runs = run_em(*args, **more)
            if len(stages) == 3:
                from elbokit.mixture._em import FitInterrupted, Restart

                raise FitInterrupted([*map(Restart, runs)])
            return runs

        monkeypatch.setattr(_array_fit, "run_em", third_stage_stops)
        gm.set_params(n_init=6, drop_restarts=2, verbose=0)
        with pytest.raises(KeyboardInterrupt):
            gm.fit(data)
        assert gm.n_iter_ == len(gm.lower_bounds_) == sum(stages) == 8
    else:
        with pytest.raises(KeyboardInterrupt):
            gm.fit(data)
        want = GaussianMixture(3, max_iter=4, **options).fit(data)
        assert_array_equal(gm.means_, want.means_)
        assert gm.n_iter_ == 4
    assert not gm.converged_


@pytest.mark.parametrize(
    ("name", "value"), [("prior", MixturePrior()), ("relative_reg_covar", 0.1)]
)
def test_partial_fit_refuses_what_refers_to_all_data(
    X: np.ndarray, name: str, value: object
) -> None:
    gm = GaussianMixture(2, **{name: value})
    with pytest.raises(ValueError, match=f"{name} is .*, which partial_fit cannot weigh"):
        gm.partial_fit(X)
    assert not hasattr(gm, "weights_")


@pytest.mark.parametrize("missing", ["error", "integrate"])
def test_partial_fit_takes_complete_rows(X: np.ndarray, missing: str) -> None:
    holes = with_holes(X)
    row, column = np.argwhere(np.isnan(holes))[0]
    gm = GaussianMixture(2, missing=missing)
    with pytest.raises(ValueError, match=f"row {row}, column {column}. partial_fit takes complete"):
        gm.partial_fit(holes)


def test_partial_fit_on_tensors(X: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    gm = GaussianMixture(3, random_state=0)
    want = GaussianMixture(3, random_state=0)
    for part in np.array_split(X.astype(np.float32), 3):
        gm.partial_fit(torch.from_numpy(part))
        want.partial_fit(part)
    assert_array_equal(gm.means_, want.means_)
    assert gm.sample(3)[0].dtype == torch.float32


def test_tensors_with_missing_values(X: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    gm = GaussianMixture(2, missing="integrate", random_state=0)
    holes = with_holes(X)
    tensor = torch.from_numpy(holes)
    assert_array_equal(gm.fit(tensor).means_, gm.fit(holes).means_)
    filled = gm.impute(tensor)
    assert isinstance(filled, torch.Tensor)
    assert_array_equal(filled.numpy(), gm.impute(holes))
    assert_array_equal(gm.predict(tensor).numpy(), gm.predict(holes))
    given = torch.tensor([0.5, -1.0], dtype=torch.float64)
    one = gm.conditional(given, given=[0, 2])
    assert_array_equal(one.means_, gm.conditional([0.5, -1.0], given=[0, 2]).means_)
