"""The reference against independent implementations: scipy, torch, plain loops, integration."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal
from scipy import integrate, special, stats
from sklearn.mixture import GaussianMixture

from elbokit import reference

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")


def random_mixture(rng, covariance_type, n_components, n_features, batch=()):
    """Return weights, means, precisions_cholesky and the covariances as (..., k, d, d)."""
    k, d = n_components, n_features
    weights = rng.dirichlet(np.ones(k), size=batch)
    means = rng.normal(size=(*batch, k, d))
    if covariance_type in ("full", "tied"):
        shape = (*batch, k) if covariance_type == "full" else batch
        factor = np.triu(rng.normal(size=(*shape, d, d)))
        diagonal = np.arange(d)
        factor[..., diagonal, diagonal] = rng.uniform(0.5, 2.0, size=(*shape, d))
        inverse = np.linalg.inv(factor)
        covariance = inverse.swapaxes(-1, -2) @ inverse
        if covariance_type == "tied":
            covariance = np.repeat(covariance[..., None, :, :], k, axis=-3)
    elif covariance_type == "diag":
        factor = rng.uniform(0.5, 2.0, size=(*batch, k, d))
        covariance = np.eye(d) / factor[..., None] ** 2
    else:
        factor = rng.uniform(0.5, 2.0, size=(*batch, k))
        covariance = np.eye(d) / factor[..., None, None] ** 2
    return weights, means, factor, covariance


@given(
    hnp.arrays(np.float64, hnp.array_shapes(min_dims=1, max_dims=3), elements=st.floats(-1e3, 1e3)),
    st.data(),
)
@settings(max_examples=30, deadline=None)
def test_logsumexp_against_scipy(a, data):
    axis = data.draw(st.integers(-a.ndim, a.ndim - 1))
    expected = special.logsumexp(a, axis=axis)
    # The result can cancel, e.g. -0.7 + log 2: it is accurate on the scale of the input.
    atol = 1e-15 * np.abs(a).max()
    assert_allclose(reference.logsumexp(a, axis), expected, rtol=1e-14, atol=atol)


def test_logsumexp_infinities():
    inf = np.inf
    rows = np.array([[-inf, -inf], [-inf, 2.0], [inf, 0.0], [1000.0, 1000.0]])
    expected = [-inf, 2.0, inf, 1000.0 + np.log(2.0)]
    assert_allclose(reference.logsumexp(rows), expected, rtol=1e-15)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("n_features", [1, 3])
def test_density_against_scipy(covariance_type, n_features):
    rng = np.random.default_rng(0)
    weights, means, factor, covariance = random_mixture(rng, covariance_type, 4, n_features)
    X = rng.normal(size=(7, n_features))
    expected = np.stack(
        [stats.multivariate_normal(m, c).logpdf(X) for m, c in zip(means, covariance, strict=True)],
        axis=1,
    )
    got = reference.gmm_log_density(X, means, factor, covariance_type)
    assert_allclose(got, expected, rtol=1e-12, atol=1e-12)

    joint = np.exp(expected) * weights
    log_prob, responsibilities = reference.gmm_estep(X, weights, means, factor, covariance_type)
    assert_allclose(log_prob, np.log(joint.sum(axis=1)), rtol=1e-12, atol=1e-12)
    assert_allclose(responsibilities, joint / joint.sum(axis=1, keepdims=True), atol=1e-13)


def test_density_integrates_to_one():
    weights, means, factor, _ = random_mixture(np.random.default_rng(1), "diag", 3, 1)

    def density(x):
        return float(np.exp(reference.gmm_estep([[x]], weights, means, factor, "diag")[0][0]))

    assert integrate.quad(density, -20, 20)[0] == pytest.approx(1.0, abs=1e-9)


def test_unknown_covariance_type():
    with pytest.raises(ValueError, match=r"covariance_type must be one of.*'circular'"):
        reference.gmm_log_density(np.ones((2, 1)), [[0.0]], [1.0], "circular")


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_statistics_against_loops(covariance_type, weighted):
    rng = np.random.default_rng(2)
    n, k, d = 9, 3, 2
    weights, means, factor, _ = random_mixture(rng, covariance_type, k, d)
    X = rng.normal(size=(n, d))
    sample_weight = rng.uniform(0, 2, size=n) if weighted else None
    log_prob, r = reference.gmm_estep(X, weights, means, factor, covariance_type)
    counts, first, second = np.zeros(k), np.zeros((k, d)), np.zeros((k, d, d))
    log_likelihood = 0.0
    for i in range(n):
        w = sample_weight[i] if weighted else 1.0
        log_likelihood += w * log_prob[i]
        for j in range(k):
            difference = X[i] - means[j]
            counts[j] += w * r[i, j]
            first[j] += w * r[i, j] * difference
            second[j] += w * r[i, j] * np.outer(difference, difference)
    diagonals = np.diagonal(second, axis1=1, axis2=2)
    expected = {
        "full": second,
        "tied": second.sum(axis=0),
        "diag": diagonals,
        "spherical": diagonals.sum(axis=1),
    }[covariance_type]
    got = reference.gmm_statistics(X, weights, means, factor, covariance_type, sample_weight)
    assert isinstance(got.log_likelihood, float)
    assert got.log_likelihood == pytest.approx(log_likelihood, rel=1e-13)
    assert_allclose(got.counts, counts, rtol=1e-12)
    assert_allclose(got.first_moments, first, rtol=1e-12, atol=1e-14)
    assert_allclose(got.second_moments, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_batch_of_mixtures_equals_a_loop(covariance_type):
    rng = np.random.default_rng(3)
    weights, means, factor, _ = random_mixture(rng, covariance_type, 3, 2, batch=(2, 4))
    X = rng.normal(size=(4, 6, 2))  # broadcasts over the leading batch axis
    sample_weight = rng.uniform(size=(4, 6))
    log_prob, r = reference.gmm_estep(X, weights, means, factor, covariance_type)
    batch = reference.gmm_statistics(X, weights, means, factor, covariance_type, sample_weight)
    assert log_prob.shape == (2, 4, 6)
    assert r.shape == (2, 4, 6, 3)
    for i in np.ndindex(2, 4):
        one = (X[i[1]], weights[i], means[i], factor[i], covariance_type)
        single = reference.gmm_statistics(*one, sample_weight[i[1]])
        for got, expected in zip(batch, single, strict=True):
            assert_allclose(got[i], expected, rtol=1e-12, atol=1e-14)
        assert_allclose(log_prob[i], reference.gmm_estep(*one)[0], rtol=1e-13)


@pytest.mark.parametrize("zero", [0, 1, 2])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_zero_weight_component_is_as_if_absent(covariance_type, zero):
    rng = np.random.default_rng(4)
    _, means, factor, _ = random_mixture(rng, covariance_type, 3, 2)
    weights = np.array([0.5, 0.25, 0.25])
    weights[zero] = 0.0
    X = rng.normal(size=(5, 2))
    rest = np.delete(np.arange(3), zero)
    factor_rest = factor if covariance_type == "tied" else factor[rest]
    log_prob, r = reference.gmm_estep(X, weights, means, factor, covariance_type)
    expected, r_rest = reference.gmm_estep(
        X, weights[rest], means[rest], factor_rest, covariance_type
    )
    assert_allclose(log_prob, expected, rtol=1e-14)
    assert_allclose(r[:, rest], r_rest, rtol=1e-14)
    assert_array_equal(r[:, zero], 0.0)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_fit_against_scikit_learn(covariance_type):
    rng = np.random.default_rng(5)
    X = rng.normal(size=(200, 3)) + 2.0 * rng.integers(0, 3, size=(200, 1))
    weights, means, factors, _ = random_mixture(rng, covariance_type, 3, 3)
    square = covariance_type in ("full", "tied")
    precisions = factors @ factors.swapaxes(-1, -2) if square else factors**2
    theirs = GaussianMixture(
        3,
        covariance_type=covariance_type,
        weights_init=weights,
        means_init=means,
        precisions_init=precisions,
        tol=1e-4,
    ).fit(X)
    ours = reference.gmm_fit(X, weights, means, factors, covariance_type, tol=1e-4)
    assert (ours.n_iter, ours.converged) == (theirs.n_iter_, theirs.converged_)
    assert ours.lower_bound == pytest.approx(theirs.lower_bound_, rel=1e-10)
    for name in ("weights", "means", "covariances", "precisions_cholesky"):
        want = getattr(theirs, name + "_")
        assert_allclose(getattr(ours, name), want, rtol=1e-7, atol=1e-9, err_msg=name)


def test_unreachable_sample_counts_for_nothing():
    X = np.array([[0.0], [1e200]])  # the square overflows: p(x) is zero
    with np.errstate(over="ignore"):
        log_prob, r = reference.gmm_estep(X, [1.0], [[0.0]], [1.0], "spherical")
        ignored = reference.gmm_statistics(X, [1.0], [[0.0]], [1.0], "spherical", [1.0, 0.0])
    assert log_prob[1] == -np.inf
    assert_array_equal(r, [[1.0], [0.0]])
    assert np.isfinite(ignored.log_likelihood)


@pytest.mark.parametrize("with_weight", [False, True])
@pytest.mark.parametrize("with_pos_weight", [False, True])
def test_bernoulli_loss_against_torch(with_weight, with_pos_weight):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    logits = np.concatenate([rng.normal(size=(4, 3)) * 5, np.full((1, 3), 300.0), -np.ones((1, 3))])
    target = rng.uniform(size=logits.shape)
    target[0], target[1] = 0.0, 1.0
    weight = rng.uniform(size=3) if with_weight else None
    pos_weight = rng.uniform(0.5, 3, size=3) if with_pos_weight else None
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(logits),
        torch.from_numpy(target),
        weight=None if weight is None else torch.from_numpy(weight),
        pos_weight=None if pos_weight is None else torch.from_numpy(pos_weight),
        reduction="none",
    ).numpy()
    got = reference.bernoulli_loss(logits, target, weight, pos_weight)
    assert_allclose(got, expected, rtol=1e-12, atol=1e-13)


@given(st.floats(-700, 700), st.sampled_from([0.0, 1.0]))
@settings(max_examples=50, deadline=None)
def test_bernoulli_loss_is_accurate_in_both_tails(logit, target):
    # -log sigma(l) = log1p(e^-l), to full relative precision also where it is tiny.
    sign = 1.0 if target == 1.0 else -1.0
    expected = -special.log_expit(sign * logit)
    assert_allclose(reference.bernoulli_loss(logit, target), expected, rtol=1e-13)


@given(*(st.floats(-3, 3) for _ in range(4)))
@settings(max_examples=20, deadline=None)
def test_gaussian_kl_against_integration(mu, logvar, prior_mu, prior_logvar):
    q = stats.norm(mu, np.exp(0.5 * logvar))
    p = stats.norm(prior_mu, np.exp(0.5 * prior_logvar))
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(60)
    x = mu + np.exp(0.5 * logvar) * nodes
    expected = node_weights @ (q.logpdf(x) - p.logpdf(x)) / np.sqrt(2 * np.pi)
    got = reference.gaussian_kl(mu, logvar, prior_mu, prior_logvar)
    assert_allclose(got, expected, rtol=1e-9, atol=1e-11)


def test_gaussian_kl_defaults_to_the_standard_normal():
    mu, logvar = np.array([0.0, 1.0, -2.0]), np.array([0.0, -1.0, 0.5])
    expected = 0.5 * (np.exp(logvar) + mu**2 - 1.0 - logvar)
    assert_allclose(reference.gaussian_kl(mu, logvar), expected, rtol=1e-14)
    assert_array_equal(reference.gaussian_kl(mu, logvar, mu, logvar), 0.0)


def test_vae_loss_sums_events_and_averages_the_batch():
    rng = np.random.default_rng(6)
    logits, target = rng.normal(size=(5, 2, 3)), rng.uniform(size=(5, 2, 3))
    mu, logvar = rng.normal(size=(5, 4)), rng.normal(size=(5, 4))
    kl = reference.gaussian_kl(mu, logvar)
    row_kl = kl.sum(axis=1)
    row_reconstruction = reference.bernoulli_loss(logits, target).sum(axis=(1, 2))
    rows = reference.vae_loss(logits, target, mu, logvar, beta=0.5, reduction="none")
    assert_allclose(rows.reconstruction, row_reconstruction)
    assert_allclose(rows.kl, row_kl)
    assert_allclose(rows.loss, row_reconstruction + 0.5 * row_kl)
    mean = reference.vae_loss(logits, target, mu, logvar, beta=0.5)
    total = reference.vae_loss(logits, target, mu, logvar, beta=0.5, reduction="sum")
    assert mean.loss == pytest.approx(rows.loss.mean())
    assert total.loss == pytest.approx(5 * mean.loss)
    floor = reference.vae_loss(logits, target, mu, logvar, free_bits=0.4)
    assert floor.kl == pytest.approx(row_kl.mean())
    assert floor.loss == pytest.approx((row_reconstruction + np.maximum(kl, 0.4).sum(1)).mean())
    with pytest.raises(ValueError, match=r"reduction must be .* got 'mode'"):
        reference.vae_loss(logits, target, mu, logvar, reduction="mode")


def test_far_from_all_components_they_share_alike() -> None:
    X, means = np.array([[1e12]]), np.zeros((3, 1))
    _, responsibilities = reference.gmm_estep(X, np.full(3, 1 / 3), means, np.ones((3, 1)), "diag")
    assert_allclose(responsibilities, np.full((1, 3), 1 / 3))
