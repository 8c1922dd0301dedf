"""Choosing the number of components, against a loop over scikit-learn and NumPy's formulas."""

from __future__ import annotations

import builtins
import math
import pickle
import warnings
from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as SklearnMixture

import elbokit
from elbokit import GaussianMixture, select_n_components
from elbokit.mixture import _criteria
from gmm_starts import COVARIANCE_TYPES

NUMBERS = range(1, 7)
pytestmark = pytest.mark.filterwarnings("ignore:the best fit has")  # few are tried, mostly


@pytest.fixture
def X(rng) -> np.ndarray:
    """Three groups of 50 rows, of which two touch."""
    groups = [rng.standard_normal((50, 2)) + at for at in ((0, 0), (3, 0), (0, 9))]
    return np.concatenate(groups)


def named(values, name):
    return [getattr(row, name) for row in values]


def entropy_by_numpy(gm, X):
    r = gm.predict_proba(X).astype(np.float64)
    r = r[r > 0]
    return -np.sum(r * np.log(r))


@pytest.mark.parametrize("n_init", [1, 3])
def test_criteria_are_those_of_a_loop_over_scikit_learn(X, n_init):
    selection = select_n_components(
        X, NUMBERS, covariance_type=COVARIANCE_TYPES, n_init=n_init, random_state=4, tol=1e-4
    )
    pairs = list(product(COVARIANCE_TYPES, NUMBERS))
    assert [(row.covariance_type, row.n_components) for row in selection.table] == pairs
    for row, (kind, k) in zip(selection.table, pairs, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            peer = SklearnMixture(
                k, covariance_type=kind, n_init=n_init, random_state=4, tol=1e-4
            ).fit(X)
        assert_allclose(row.bic, peer.bic(X), rtol=1e-9)
        assert_allclose(row.aic, peer.aic(X), rtol=1e-9)
        assert_allclose(row.icl, peer.bic(X) + 2 * entropy_by_numpy(peer, X), rtol=1e-9)
        assert_allclose(row.log_likelihood, peer.score(X) * len(X), rtol=1e-9)
        assert (row.n_parameters, row.n_iter) == (peer._n_parameters(), peer.n_iter_)
        assert row.converged == peer.converged_
        assert row.error == ""


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("at_once", [7, 1 << 19])
def test_criteria_are_the_estimators_own(X, dtype, at_once, monkeypatch):
    """Also where the rows are cut into parts; the last part is shorter."""
    monkeypatch.setattr(_criteria, "_AT_ONCE", at_once)
    X = X.astype(dtype)
    selection = select_n_components(X, [3], random_state=0)
    (row,) = selection.table
    best = selection.best_estimator
    assert best.means_.dtype == dtype
    assert_allclose([row.bic, row.aic], [best.bic(X), best.aic(X)], rtol=1e-12)
    exact = best.bic(X) + 2 * entropy_by_numpy(best, X)
    assert_allclose(row.icl, exact, rtol=1e-12 if dtype == np.float64 else 1e-6)


def test_one_e_step_per_fit(X, monkeypatch):
    calls = []
    estep = GaussianMixture._estep
    monkeypatch.setattr(
        GaussianMixture, "_estep", lambda self, X: calls.append(len(X)) or estep(self, X)
    )
    select_n_components(X, [2, 3, 4], random_state=0)
    assert calls == [150, 150, 150]


def test_the_largest_that_was_tried_is_told_of(X):
    with pytest.warns(UserWarning, match="the best fit has 2 components, the most that were tried"):
        select_n_components(X, [1, 2], random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        select_n_components(X, [3], random_state=0)
        select_n_components(X, NUMBERS, random_state=0)


@pytest.mark.parametrize("criterion", ["bic", "aic", "icl"])
def test_the_lowest_wins(X, criterion):
    selection = select_n_components(
        X, NUMBERS, criterion=criterion, covariance_type=("diag", "spherical"), random_state=0
    )
    values = named(selection.table, criterion)
    assert named(selection.table, "criterion") == values
    best = selection.table[int(np.argmin(values))]
    assert selection.best_n_components == best.n_components
    assert selection.best_covariance_type == best.covariance_type
    assert selection.best_estimator.n_components == best.n_components
    assert selection.best_estimator.covariance_type == best.covariance_type
    assert getattr(selection.best_estimator, "bic")(X) == pytest.approx(best.bic, rel=1e-12)  # noqa: B009
    assert selection.criterion == criterion


def test_icl_prefers_components_that_are_apart(rng):
    """Two groups that share one center and differ in width: the BIC sees two, the ICL one."""
    X = np.concatenate([rng.standard_normal((300, 2)), 2.5 * rng.standard_normal((300, 2))])
    chosen = {
        name: select_n_components(X, range(1, 4), criterion=name, random_state=0).best_n_components
        for name in ("bic", "icl")
    }
    assert chosen == {"bic": 2, "icl": 1}


def test_callable(X, rng):
    held_out = rng.standard_normal((40, 2))
    seen = []

    def surprise(gm, data):
        seen.append(data)
        return -gm.score(held_out)

    selection = select_n_components(X, [1, 2, 3], criterion=surprise, random_state=1)
    assert all(data is X for data in seen)
    assert selection.criterion == "surprise"
    for row in selection.table:
        gm = GaussianMixture(row.n_components, random_state=1).fit(X)
        assert row.criterion == -gm.score(held_out)
    lines = repr(selection.table).splitlines()
    assert lines[0].split()[:3] == ["n_components", "covariance_type", "criterion"]


def test_of_equal_candidates_the_first_is_taken(X):
    selection = select_n_components(X, [4, 2, 3], criterion=lambda gm, X: 1.0, random_state=0)
    assert selection.best_n_components == 4


def test_random_state(X):
    options = {"init_params": "random", "max_iter": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        by_int = [select_n_components(X, NUMBERS, random_state=3, **options) for _ in range(2)]
        by_state = [
            select_n_components(X, NUMBERS, random_state=np.random.RandomState(3), **options)
            for _ in range(2)
        ]
        other = select_n_components(X, NUMBERS, random_state=5, **options)
        alone = select_n_components(X, [5], random_state=3, **options)
    assert by_int[0].table == by_int[1].table
    assert by_state[0].table == by_state[1].table
    assert by_int[0].table != other.table
    # What else is tried changes nothing, and the winner can be fitted again.
    assert alone.table[0] == by_int[0].table[4]
    seed = by_state[0].best_estimator.random_state
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        again = select_n_components(X, [5], random_state=seed, **options)
    assert again.table[0] == by_state[0].table[4]


def test_threads_change_nothing(X, restore_threads):
    tables = []
    for n_threads in (1, 3):
        elbokit.set_num_threads(n_threads)
        tables.append(select_n_components(X, NUMBERS, n_init=4, random_state=0).table)
    assert tables[0] == tables[1]


def test_integer_weights_are_copies(rng):
    """From starts that are the same for both: the components are far apart."""
    X = np.concatenate([rng.standard_normal((40, 2)), rng.standard_normal((30, 2)) + 60])
    weight = rng.integers(0, 4, len(X)).astype(float)
    copies = np.repeat(X, weight.astype(int), axis=0)
    weighted = select_n_components(X, [1, 2], sample_weight=weight, random_state=0)
    repeated = select_n_components(copies, [1, 2], random_state=0)
    for got, want in zip(weighted.table, repeated.table, strict=True):
        assert_allclose(got[2:7], want[2:7], rtol=1e-9)
    assert weighted.best_n_components == 2
    # The BIC takes the sum of the weights for n: doubling them changes its penalty.
    (twice,) = select_n_components(X, [2], sample_weight=2 * weight, random_state=0).table
    row = weighted.table[1]
    penalty = row.n_parameters * math.log(2 * weight.sum())
    assert_allclose(twice.bic, -4 * row.log_likelihood + penalty, rtol=1e-9)


def test_weights_that_are_ratios_are_told_of(rng):
    X = np.concatenate([rng.standard_normal((40, 2)), rng.standard_normal((30, 2)) + 60])
    weight = rng.random(len(X))
    with pytest.warns(UserWarning, match="sample_weight sums to 1, which the criteria take for"):
        select_n_components(X, [1, 2], sample_weight=weight / weight.sum(), random_state=0)
    scaled = weight * (len(X) / weight.sum())
    assert select_n_components(X, [1, 2], sample_weight=scaled).best_n_components == 2


def test_failed_fits_do_not_stop_the_rest():
    X = np.array([[0.0, 1.0], [0.1, 1.3], [0.2, 0.7], [5.0, 3.0], [5.2, 3.3], [5.3, 2.5]])
    selection = select_n_components(X, [7, 2, 4, 1, 9], reg_covar=0.0, random_state=0)
    failed = {row.n_components: row for row in selection.table if row.error}
    assert set(failed) == {4, 7, 9}
    assert "covariance" in failed[4].error
    assert "n_samples = 6" in failed[7].error
    for row in failed.values():
        assert (row.criterion, row.bic, row.aic, row.icl) == (math.inf,) * 4
        assert row.log_likelihood == -math.inf
        assert not row.converged
    assert selection.best_n_components in (1, 2)
    text = repr(selection.table)
    assert "failed: Expected n_samples >= n_components" in text


def test_all_fits_fail(X):
    X[7, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        select_n_components(X, [1, 2])
    constant = np.ones((20, 2))
    with pytest.raises(elbokit.ops.SingularCovarianceError):
        select_n_components(constant, [1, 2], reg_covar=0.0)


def test_warns_only_of_the_best(rng):
    X = rng.standard_normal((60, 2))
    options = {"random_state": 0, "init_params": "random"}
    with pytest.warns(ConvergenceWarning, match=r"best fit \(4 components") as caught:
        select_n_components(X, [4], max_iter=1, **options)
    assert len(caught) == 1
    # One component converges, and the others' lack of it is in the table.
    selection = select_n_components(X, [1, 4, 5], max_iter=2, tol=1e-9, **options)
    assert named(selection.table, "converged") == [True, False, False]


ERRORS = [
    ({"n_components": []}, ValueError, "`n_components` is empty"),
    ({"n_components": range(3, 3)}, ValueError, "`n_components` is empty"),
    ({"n_components": [2, 0]}, ValueError, "`n_components` has 0"),
    ({"n_components": [2, 3, 2]}, ValueError, "`n_components` has 2 twice"),
    ({"n_components": [2.0]}, TypeError, "`n_components` has 2.0"),
    ({"n_components": [True]}, TypeError, "`n_components` has True"),
    ({"n_components": None}, TypeError, "`n_components` is None"),
    ({"criterion": "dic"}, ValueError, "`criterion` is 'dic', expected one of 'bic', 'aic', 'icl'"),
    ({"criterion": 3}, TypeError, "`criterion` is 3"),
    ({"criterion": lambda gm, X: "low"}, TypeError, "returned 'low' for 1 components"),
    ({"criterion": lambda gm, X: np.nan}, ValueError, "returned nan for 1 components"),
    ({"covariance_type": "round"}, ValueError, "`covariance_type` has 'round'"),
    ({"covariance_type": []}, ValueError, "`covariance_type` is empty"),
    ({"covariance_type": ["full", "full"]}, ValueError, "`covariance_type` has 'full' twice"),
    ({"covariance_type": 3}, TypeError, "`covariance_type` is 3"),
    ({"means_init": [[0.0, 0.0]]}, ValueError, "`means_init` was given"),
    ({"warm_start": True}, ValueError, "`warm_start` was given"),
    ({"max_iter": -1}, ValueError, "'max_iter' parameter of GaussianMixture"),
    ({"n_init": 0}, ValueError, "'n_init' parameter of GaussianMixture"),
    ({"maxiter": 3}, TypeError, "maxiter"),
    ({"sample_weight": [1.0]}, ValueError, r"sample_weight has shape \(1,\)"),
    ({"random_state": "x"}, ValueError, "cannot be used to seed"),
]


@pytest.mark.parametrize(("options", "kind", "message"), ERRORS)
def test_errors(X, options, kind, message):
    with pytest.raises(kind, match=message):
        select_n_components(X, **({"n_components": [1, 2]} | options))


def test_an_int_is_one_number(X):
    assert select_n_components(X, np.int64(2), random_state=0).best_n_components == 2


def test_table(X):
    import pandas as pd

    selection = select_n_components(X, [1, 2], covariance_type=["full", "tied"], random_state=0)
    frame = selection.table.to_frame()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == list(selection.table[0]._fields)
    assert frame["bic"].tolist() == named(selection.table, "bic")
    lines = repr(selection.table).splitlines()
    assert len(lines) == 5
    assert len({len(line) for line in lines}) == 1  # aligned
    (starred,) = (line.split() for line in lines if line.startswith("*"))
    assert starred[1:3] == [str(selection.best_n_components), selection.best_covariance_type]
    assert "lowest bic" in str(selection)
    with pytest.raises(AttributeError):
        selection.best_n_components = 7


def test_table_without_pandas(X, monkeypatch):
    selection = select_n_components(X, [1], random_state=0)
    load = builtins.__import__

    def without(name, *arguments, **options):
        if name == "pandas":
            raise ImportError(name)
        return load(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="to_frame needs pandas"):
        selection.table.to_frame()


def test_pickle(X):
    selection = select_n_components(X, [1, 2], random_state=0)
    again = pickle.loads(pickle.dumps(selection))
    assert again.table == selection.table
    assert repr(again.table) == repr(selection.table)
    assert_array_equal(again.best_estimator.predict(X), selection.best_estimator.predict(X))


def test_names_of_features_stay(X):
    import pandas as pd

    frame = pd.DataFrame(X, columns=["a", "b"])
    best = select_n_components(frame, [1, 3], random_state=0).best_estimator
    assert list(best.feature_names_in_) == ["a", "b"]
