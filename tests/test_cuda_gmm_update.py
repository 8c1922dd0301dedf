"""The M-step on the GPU against the CPU's, from the same statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from elbokit import _core
from elbokit._gpu_m_step import GpuEstimate, gmm_update
from elbokit._types import FitStatus
from elbokit.mixture._parameters import (
    covariance_shape,
    covariances_from_cholesky,
)
from elbokit.torch._cuda._gmm_kernels import Statistics
from gpu import SCHEDULES, emulation

TYPES = ("full", "tied", "diag", "spherical")


def problem(covariance_type, k, d, n=None, seed=0, scale=1.0):
    """Return a mixture's parameters, and its statistics on rows that it is about right for."""
    rng = np.random.default_rng(seed)
    n = 3 * k * (d + 1) if n is None else n
    means = 3.0 * rng.normal(size=(k, d))
    X = scale * (means[rng.integers(k, size=n)] + rng.normal(size=(n, d)))
    weights = rng.dirichlet(np.full(k, 5.0))
    factors = np.broadcast_to(0.9, covariance_shape(covariance_type, k, d)).copy()
    if covariance_type in ("full", "tied"):
        factors = 0.9 * np.eye(d) + 0.1 * np.triu(rng.normal(size=factors.shape), 1)
    factors = factors / scale
    previous = (
        weights,
        scale * means,
        covariances_from_cholesky(factors, covariance_type),
        factors,
    )
    sums = (np.empty(k), np.empty((k, d)), np.empty(factors.shape), np.empty(1))
    batch = [a[None] for a in (weights, scale * means, factors)]
    leading = [a[None] for a in sums[:3]]
    _core.gmm_statistics(X[None], None, *batch, covariance_type, *leading, sums[3])
    return previous, sums


def on_cpu(covariance_type, previous, sums, reg_covar, threshold):
    estimate = [a.copy()[None] for a in previous]
    outcome = _core.gmm_update(
        covariance_type, *(a[None] for a in sums[:3]), *estimate, reg_covar, threshold, None
    )
    return estimate, outcome


def on_device(gpu, covariance_type, problems, reg_covar, threshold):
    """Make the M-steps of a batch."""
    d = problems[0][0][1].shape[1]

    def stacked(arrays):
        return tuple(torch.from_numpy(np.stack(a)).to(gpu) for a in zip(*arrays, strict=True))

    previous = GpuEstimate(*stacked([p for p, _ in problems]))
    sums = list(stacked([s for _, s in problems]))
    sums[3] = sums[3][:, 0].contiguous()
    into = GpuEstimate(*(torch.full_like(a, torch.nan) for a in previous))
    added = np.broadcast_to(reg_covar, (1 if covariance_type == "spherical" else d,))
    outcomes = gmm_update(
        Statistics(*sums),
        previous,
        into,
        covariance_type,
        reg_covar=torch.tensor(added.copy(), dtype=torch.float64, device=gpu),
        empty_below=torch.full((len(problems),), threshold, dtype=torch.float64, device=gpu),
    )()
    return [a.cpu().numpy() for a in into], outcomes


def check(gpu, covariance_type, problems, reg_covar=1e-6, threshold=1e-12):
    found, outcomes = on_device(gpu, covariance_type, problems, reg_covar, threshold)
    for b, ((previous, sums), outcome) in enumerate(zip(problems, outcomes, strict=True)):
        expected, (status, component, coarse, _, gain) = on_cpu(
            covariance_type, previous, sums, reg_covar, threshold
        )
        assert (outcome.status, outcome.component) == (status, component)
        assert outcome.below_resolution == coarse
        assert outcome.log_likelihood == sums[3][0]
        for a, e in zip(found, expected, strict=True):
            np.testing.assert_allclose(a[b], e[0], rtol=1e-9, atol=1e-12 * np.abs(e).max())
        if status == FitStatus.OK:
            assert outcome.gain == pytest.approx(gain, rel=1e-8, abs=1e-8)
    return outcomes


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(
    ("k", "d"), [(1, 1), (2, 2), (3, 5), (5, 16), (2, 31), (2, 33), (1, 64), (1, 95)]
)
def test_m_step(gpu, covariance_type, k, d):
    # 64 KiB of shared memory hold a matrix of 89 rows; that of 95 is factored in place.
    check(gpu, covariance_type, [problem(covariance_type, k, d)])


@pytest.mark.parametrize("covariance_type", TYPES)
def test_more_components_than_threads(gpu, covariance_type):
    check(gpu, covariance_type, [problem(covariance_type, 300, 2)])


@pytest.mark.parametrize("covariance_type", ["diag", "spherical"])
def test_more_features_than_threads(gpu, covariance_type):
    check(gpu, covariance_type, [problem(covariance_type, 2, 300, n=60)])


@pytest.mark.parametrize("covariance_type", TYPES)
def test_batch_with_failures(gpu, covariance_type):
    well, singular, overflow, none, again = (
        problem(covariance_type, 3, 4, seed=s) for s in range(5)
    )
    for a in singular[1][2:3]:
        a[...] = 0.0
    singular[1][1][...] = 0.0
    none[1][0][...] = 0.0
    problems = [well, singular, none, again]
    outcomes = check(gpu, covariance_type, problems, reg_covar=0.0)
    assert [o.status for o in outcomes] == [
        FitStatus.OK,
        FitStatus.SINGULAR_COVARIANCE,
        FitStatus.NO_COMPONENT,
        FitStatus.OK,
    ]
    for part in range(3):
        previous, sums = overflow
        broken = [a.copy() for a in sums]
        broken[part].reshape(-1)[-1] = [np.nan, np.inf, np.nan][part]
        found, (outcome,) = on_device(gpu, covariance_type, [(previous, broken)], 1e-6, 1e-12)
        assert outcome.status == FitStatus.OVERFLOW
        for a, e in zip(found, previous, strict=True):
            np.testing.assert_array_equal(a[0], e)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_first_singular_component_is_named(gpu, covariance_type):
    previous, sums = problem(covariance_type, 4, 3)
    if covariance_type != "tied":
        sums[2][2:] = 0.0
        sums[1][2:] = 0.0
        (outcome,) = check(gpu, covariance_type, [(previous, sums)], reg_covar=0.0)
        assert outcome.component == 2


@pytest.mark.parametrize("covariance_type", TYPES)
def test_empty_component_is_kept(gpu, covariance_type):
    previous, sums = problem(covariance_type, 3, 4)
    sums[0][1] = 1e-13
    (outcome,) = check(gpu, covariance_type, [(previous, sums)])
    assert outcome.status == FitStatus.OK


@pytest.mark.parametrize("covariance_type", TYPES)
def test_constant_columns_have_no_variance(gpu, covariance_type):
    previous, sums = problem(covariance_type, 2, 3)
    previous[1][...] += 1e6
    tiny = 1e-20 if covariance_type != "spherical" else 1e-22
    sums[2][...] = tiny
    sums[1][...] = 0.0
    (outcome,) = check(gpu, covariance_type, [(previous, sums)], reg_covar=0.0)
    assert outcome.status == FitStatus.SINGULAR_COVARIANCE
    if covariance_type in ("diag", "spherical"):
        (outcome,) = check(gpu, covariance_type, [(previous, sums)], reg_covar=1e-3)
        assert outcome.status == FitStatus.OK


@pytest.mark.parametrize("covariance_type", TYPES)
def test_what_float32_cannot_resolve_or_hold(gpu, covariance_type):
    previous, sums = problem(covariance_type, 2, 3, n=200)
    (outcome,) = check(gpu, covariance_type, [(previous, sums)])
    assert not outcome.below_resolution
    assert not outcome.beyond_float
    sums[1][...] = 1e4 * sums[0][:, None]  # nearly all of the second moment is that of the shift
    for k in range(2):
        outer = sums[0][k] * np.full((3, 3), 1e8)
        part = {"full": outer, "diag": outer[0], "spherical": 3 * outer[0, 0]}
        if covariance_type != "tied":
            sums[2][k] += part[covariance_type]
        else:
            sums[2][...] += outer
    (outcome,) = check(gpu, covariance_type, [(previous, sums)])
    assert outcome.below_resolution
    (outcome,) = check(gpu, covariance_type, [problem(covariance_type, 2, 3, scale=1e39)])
    assert outcome.beyond_float
    (outcome,) = check(
        gpu, covariance_type, [problem(covariance_type, 2, 3, scale=1e-39)], reg_covar=0.0
    )
    assert outcome.beyond_float


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_same_bits_in_any_order_of_threads(covariance_type):
    given = [problem(covariance_type, 3, 35)]
    results = []
    for schedule in SCHEDULES:
        with emulation(schedule):
            found, outcomes = on_device(torch.device("cpu"), covariance_type, given, 1e-6, 1e-12)
            results.append((found, outcomes))
    for found, outcomes in results[1:]:
        assert outcomes == results[0][1]
        for a, e in zip(found, results[0][0], strict=True):
            np.testing.assert_array_equal(a, e)
