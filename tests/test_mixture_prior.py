"""Fits at the mode of the posterior."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from elbokit import GaussianMixture, MixturePrior, ops, set_num_threads
from elbokit.mixture._em_steps import em_steps
from elbokit.mixture._parameters import GmmParameters
from elbokit.mixture._update import maximise
from gmm_starts import COVARIANCE_TYPES, clusters, start
from mixture_bounds import (
    log_density,
    log_joint,
    moments,
    resolved,
    responsibilities,
    some_prior,
)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

PARAMETERS = ("weights_", "means_", "covariances_")


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_the_bound_is_the_posterior_and_never_falls(rng, covariance_type, dtype):
    X = clusters(rng, 301, 3, 4).astype(dtype)
    prior = some_prior(covariance_type, 4, 3)
    options = {"covariance_type": covariance_type, "reg_covar": 0.0, "tol": 0.0, "prior": prior}
    one, two = (GaussianMixture(4, max_iter=n, random_state=1, **options).fit(X) for n in (14, 15))
    wide = X.astype(np.float64)
    parameters = [getattr(one, name).astype(np.float64) for name in PARAMETERS]
    parameters[0] /= parameters[0].sum()  # scipy's Dirichlet asks for it
    joint = log_joint(wide, *parameters, covariance_type)
    objective = np.logaddexp.reduce(joint, axis=1).sum()
    objective += log_density(prior, *parameters, covariance_type)
    exact = dtype == np.float64
    assert two.lower_bound_ == pytest.approx(objective / 301, rel=1e-10 if exact else 1e-6)
    rises = np.diff(two.lower_bounds_)
    assert rises.min() >= (-1e-12 if exact else -1e-6)
    assert rises.max() > 1e-3


def test_the_fit_is_expectation_maximisation_written_out(rng):
    X = clusters(rng, 203, 3, 3)
    prior = some_prior("full", 3, 3)
    q = np.eye(3)[rng.integers(3, size=203)]
    about = np.zeros((3, 3))
    core = resolved(prior, "full", 3, 3)
    parameters = GmmParameters(np.full(3, 1 / 3), about, *[np.tile(np.eye(3), (3, 1, 1))] * 2)
    options = {"reg_covar": 0.0, "threshold": 0.0, "prior": core}
    first = maximise(moments(X, q, about, "full"), parameters, "full", **options).parameters
    fitted = GaussianMixture(
        3,
        weights_init=first.weights,
        means_init=first.means,
        precisions_init=np.linalg.inv(first.covariances),
        prior=prior,
        reg_covar=0.0,
        tol=0.0,
        max_iter=6,
    )
    fitted.fit(X)
    parameters = first
    for _ in range(6):
        q = responsibilities(X, *parameters[:3], "full")
        parameters = maximise(
            moments(X, q, about, "full"), parameters._replace(means=about), "full", **options
        ).parameters
    for name, expected in zip(PARAMETERS, parameters[:3], strict=True):
        np.testing.assert_allclose(getattr(fitted, name), expected, rtol=1e-8, atol=1e-10)


def degenerate(dtype) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    constant = rng.normal(size=(40, 3))
    constant[:, 1] = 0.1
    zeros = constant.copy()
    zeros[:, 2] = 0.0
    data = {
        "two points, five components": np.repeat([[0.0, 1.0, 3.0], [4.0, 1.5, 2.0]], 10, axis=0),
        "a constant column": constant,
        "a column of zeros": zeros,
        "far from the origin": np.repeat([[0.0, 1.0], [4.0, 1.5]], 10, axis=0) + 1e6,
        "fewer rows than features": rng.normal(size=(6, 9)),
        "one value": np.full((12, 2), 7.5),
    }
    return {name: X.astype(dtype) for name, X in data.items()}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("name", degenerate(np.float64))
def test_covariances_stay_regular_without_reg_covar(name, covariance_type, dtype):
    X = degenerate(dtype)[name]
    for init_params in ("kmeans", "k-means++", "random", "random_from_data"):
        gm = GaussianMixture(
            5,
            covariance_type=covariance_type,
            init_params=init_params,
            reg_covar=0.0,
            prior=MixturePrior(),
            random_state=0,
        ).fit(X)
        factors = np.linalg.eigvalsh(gm.precisions_) if gm.precisions_.ndim > 2 else gm.precisions_
        if covariance_type != "tied":
            assert np.min(factors) > 0
        assert np.isfinite(gm.covariances_).all()
        assert np.isfinite(gm.score_samples(X)).all()
        assert np.diff(gm.lower_bounds_).min(initial=0.0) >= -1e-6


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_a_scale_below_the_rounding_of_the_means_counts(covariance_type):
    X = np.full((20, 2), 1e8)
    scale = {"diag": np.full(2, 1e-18), "spherical": 1e-18}.get(covariance_type, 1e-18 * np.eye(2))
    prior = MixturePrior(mean_precision=0.0, degrees_of_freedom=4.0, covariance=scale)
    gm = GaussianMixture(covariance_type=covariance_type, reg_covar=0.0, prior=prior).fit(X)
    divisor = {"diag": 4 + 20 + 2, "spherical": 4 + 2 * 20 + 2}.get(covariance_type, 4 + 20 + 2 + 1)
    np.testing.assert_allclose(np.squeeze(gm.covariances_), scale / divisor, rtol=1e-12)


# So many iterations, since in float32 rounding may decide when the bound stands still.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("weights", ["all three", "various"])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_integer_weights_are_repeated_rows(rng, covariance_type, weights, dtype):
    X = clusters(rng, 90, 3, 2).astype(dtype)
    weight = np.full(90, 3) if weights == "all three" else rng.integers(0, 5, size=90)
    repeated = np.repeat(X, weight, axis=0)
    given = start(rng, X.astype(np.float64), 2, covariance_type)
    factor = given[2]
    options = {
        "covariance_type": covariance_type,
        "weights_init": given[0],
        "means_init": given[1],
        "precisions_init": factor,
        "tol": 0.0,
        "max_iter": 20,
        "prior": MixturePrior(weight_concentration=6.0, mean_precision=4.0),
    }
    ours = GaussianMixture(2, **options).fit(X, sample_weight=weight)
    copies = GaussianMixture(2, **options).fit(repeated)
    tolerance = 1e-10 if dtype == np.float64 else 2e-5
    for name in PARAMETERS:
        np.testing.assert_allclose(
            getattr(ours, name), getattr(copies, name), rtol=tolerance, atol=tolerance
        )
    assert ours.lower_bound_ == pytest.approx(copies.lower_bound_, rel=1e-6)
    # The prior must not be lost in it: with the plain rows the answer is another.
    once = GaussianMixture(2, **options).fit(X)
    assert not np.allclose(once.means_, ours.means_, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_components_and_features_may_change_places(rng, covariance_type):
    X, k = clusters(rng, 151, 4, 3), 3
    given = start(rng, X, k, covariance_type)
    prior = some_prior(covariance_type, k, 4)
    order, columns = rng.permutation(k), rng.permutation(4)

    def fit(data, weights, means, prior):
        return GaussianMixture(
            k,
            covariance_type=covariance_type,
            weights_init=weights,
            means_init=means,
            precisions_init=given[2],
            prior=prior,
            tol=1e-6,
            max_iter=500,
        ).fit(data)

    plain = fit(X, given[0], given[1], prior)
    scale = prior.covariance
    if covariance_type != "spherical":
        scale = scale[columns] if covariance_type == "diag" else scale[np.ix_(columns, columns)]
    moved = fit(
        X[:, columns],
        given[0][order],
        given[1][order][:, columns],
        MixturePrior(
            prior.weight_concentration[order],
            prior.mean_precision,
            prior.mean[columns],
            prior.degrees_of_freedom,
            scale,
        ),
    )
    np.testing.assert_allclose(moved.weights_, plain.weights_[order], rtol=1e-7)
    np.testing.assert_allclose(moved.means_, plain.means_[order][:, columns], rtol=1e-6, atol=1e-8)
    assert moved.lower_bound_ == pytest.approx(plain.lower_bound_, rel=1e-10)


def test_the_default_scales_with_the_features(rng):
    X, factor = clusters(rng, 150, 3, 2), np.array([1e3, 1.0, 1e-4])
    options = {"reg_covar": 0.0, "prior": MixturePrior(), "init_params": "random"}
    for covariance_type in ("full", "tied", "diag"):
        a, b = (
            GaussianMixture(2, covariance_type=covariance_type, random_state=3, **options).fit(data)
            for data in (X, X * factor)
        )
        np.testing.assert_allclose(b.means_, a.means_ * factor, rtol=1e-8)
        scale = np.outer(factor, factor) if covariance_type != "diag" else factor**2
        np.testing.assert_allclose(b.covariances_, a.covariances_ * scale, rtol=1e-7)


def test_the_default_is_weak(rng):
    X = np.concatenate([rng.normal(size=(2000, 2)), rng.normal(size=(2000, 2)) + 6])
    for covariance_type in COVARIANCE_TYPES:
        plain, ours = (
            GaussianMixture(2, covariance_type=covariance_type, random_state=0, prior=p).fit(X)
            for p in (None, MixturePrior())
        )
        for name in PARAMETERS:
            np.testing.assert_allclose(getattr(ours, name), getattr(plain, name), atol=0.01)


def test_the_best_of_several_runs_is_that_of_the_posterior(rng):
    X = clusters(rng, 120, 2, 5, spread=1.0)
    options = {"prior": MixturePrior(weight_concentration=20.0), "init_params": "random"}
    draws = np.random.RandomState(4)
    single = [GaussianMixture(5, random_state=draws, **options).fit(X) for _ in range(4)]
    best = max(single, key=lambda gm: gm.lower_bound_)
    ours = GaussianMixture(5, n_init=4, random_state=4, **options).fit(X)
    assert ours.lower_bound_ == best.lower_bound_
    assert len({gm.lower_bound_ for gm in single}) > 1
    np.testing.assert_array_equal(ours.means_, best.means_)


def test_steps_from_statistics_are_those_of_the_fit(rng):
    X = clusters(rng, 211, 3, 3)
    prior = some_prior("full", 3, 3)
    weights, means, factors = start(rng, X, 3, "full")
    gm = GaussianMixture(
        3,
        weights_init=weights,
        means_init=means,
        precisions_init=factors,
        prior=prior,
        tol=1e-5,
    ).fit(X)

    def statistics_of(p, wide):
        return ops.gmm_statistics(X, p.weights, p.means, p.precisions_cholesky)

    *_, last = em_steps(
        statistics_of,
        GmmParameters(weights, means, factors, factors),
        "full",
        mass=211,
        n_samples=211,
        tol=1e-5,
        reg_covar=1e-6,
        max_iter=100,
        prior=resolved(prior, "full", 3, 3),
    )
    np.testing.assert_allclose(last.lower_bounds, gm.lower_bounds_, rtol=1e-10)
    np.testing.assert_allclose(last.after_m, gm.history_.after_m, rtol=1e-10)
    np.testing.assert_allclose(last.parameters.means, gm.means_, rtol=1e-8)


def test_the_bits_do_not_depend_on_the_threads(rng, restore_threads):
    X = clusters(rng, 400, 64, 4)
    fits = []
    for threads in (1, 3):
        set_num_threads(threads)
        fits.append(GaussianMixture(4, prior=MixturePrior(), random_state=0).fit(X))
    for name in (*PARAMETERS, "lower_bounds_"):
        np.testing.assert_array_equal(*(getattr(gm, name) for gm in fits))
    np.testing.assert_array_equal(*(gm.history_.after_m for gm in fits))


def test_a_prior_is_a_value():
    prior = MixturePrior(weight_concentration=[1.0, 2.0], mean=np.zeros(2))
    assert pickle.loads(pickle.dumps(prior)) == prior
    assert prior != MixturePrior()
    assert prior != "prior"
    assert clone(GaussianMixture(prior=prior)).prior == prior
    with pytest.raises(AttributeError):
        prior.mean = None


BAD = [
    ({"weight_concentration": 0.5}, ValueError, "weight_concentration. has the value 0.5"),
    ({"weight_concentration": [1.0, 2.0, 3.0]}, ValueError, r"shape \(3,\), expected \(2,\)"),
    ({"weight_concentration": np.nan}, ValueError, "NaN"),
    ({"weight_concentration": "x"}, TypeError, "weight_concentration. is 'x'"),
    ({"mean_precision": -1.0}, ValueError, "mean_precision. is -1.0"),
    ({"mean_precision": True}, TypeError, "mean_precision. is True"),
    ({"mean": [0.0]}, ValueError, r"mean. has shape \(1,\), expected \(3,\)"),
    ({"degrees_of_freedom": 2.0}, ValueError, "degrees_of_freedom. is 2.0.* above 2"),
    ({"degrees_of_freedom": np.inf}, ValueError, "degrees_of_freedom. is inf"),
    ({"covariance": np.ones(3)}, ValueError, r"covariance. has shape \(3,\), expected \(3, 3\)"),
    ({"covariance": -np.eye(3)}, ValueError, "covariance. is not symmetric and positive definite"),
    ({"covariance": np.tri(3)}, ValueError, "covariance. is not symmetric and positive definite"),
]


@pytest.mark.parametrize(("fields", "error", "message"), BAD)
def test_bad_priors_are_refused_and_leave_the_estimator(rng, fields, error, message):
    X = rng.normal(size=(20, 3))
    gm = GaussianMixture(2, random_state=0).fit(X)
    before = gm.means_
    gm.set_params(prior=MixturePrior(**fields))
    with pytest.raises(error, match=message):
        gm.fit(X + 1)
    assert gm.means_ is before


def test_bad_scales_of_variances(rng):
    X = rng.normal(size=(20, 3))
    for covariance_type, scale in (("diag", [1.0, 0.0, 1.0]), ("spherical", -1.0)):
        prior = MixturePrior(covariance=scale)
        with pytest.raises(ValueError, match=r"covariance. has the value"):
            GaussianMixture(2, covariance_type=covariance_type, prior=prior).fit(X)
    with pytest.raises(ValueError, match="'prior' parameter"):
        GaussianMixture(prior="weak").fit(X)


def test_values_that_overflow_are_told(rng):
    X = rng.normal(size=(20, 2)) * 1e200
    with pytest.raises(ValueError, match="overflow"):
        GaussianMixture(2, prior=MixturePrior()).fit(X)


@pytest.mark.parametrize("size", [1e-3, 5e307])
def test_weights_of_any_size_count_beside_the_prior(rng, size):
    X, weight = rng.normal(size=(50, 2)), size * rng.uniform(0.2, 1.0, size=50)
    gm = GaussianMixture(prior=MixturePrior(mean_precision=1.0, mean=[5.0, 5.0]), reg_covar=0.0)
    average = np.average(X, axis=0, weights=weight / size)
    share = 1.0 / (1.0 + weight.sum(dtype=np.longdouble))
    expected = average + float(share) * (5.0 - average)
    np.testing.assert_allclose(gm.fit(X, sample_weight=weight).means_[0], expected, rtol=1e-9)


def test_fields_are_parameters_for_searches(rng):
    X, prior = clusters(rng, 90, 2, 2), MixturePrior(mean_precision=0.5)
    gm = GaussianMixture(2, prior=prior, random_state=0)
    assert gm.get_params()["prior__mean_precision"] == 0.5
    assert "prior__mean_precision" not in gm.get_params(deep=False)
    assert "prior__mean_precision" not in GaussianMixture().get_params()
    changed = clone(gm).set_params(prior__mean_precision=2.0, tol=1e-5)
    assert changed.prior == MixturePrior(mean_precision=2.0)
    assert changed.tol == 1e-5
    assert prior.mean_precision == 0.5
    both = clone(gm).set_params(prior=MixturePrior(3.0), prior__mean_precision=1.0)
    assert both.prior == MixturePrior(3.0, mean_precision=1.0)
    grid = {"prior__mean_precision": [0.01, 50.0], "n_components": [1, 2]}
    search = GridSearchCV(gm, grid, cv=2).fit(X)
    best = GaussianMixture(random_state=0).set_params(
        n_components=search.best_params_["n_components"],
        prior=MixturePrior(mean_precision=search.best_params_["prior__mean_precision"]),
    )
    np.testing.assert_array_equal(search.best_estimator_.means_, best.fit(X).means_)
    with pytest.raises(ValueError, match="`prior__strength` is no parameter, expected one of"):
        gm.set_params(prior__strength=1.0)
    with pytest.raises(ValueError, match="a field of `prior`, which is None, expected a Mixture"):
        GaussianMixture().set_params(prior__mean_precision=1.0)
