"""`ops.gmm_fit` for arrays of a GPU against the CPU's."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch

from elbokit import ops

TYPES = ("full", "tied", "diag", "spherical")
FIELDS = ops.GmmFit._fields


def start(covariance_type, k, d, batch=(), seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"full": (k, d, d), "tied": (d, d), "diag": (k, d), "spherical": (k,)}
    factors = np.ones(batch + shapes[covariance_type])
    if covariance_type in ("full", "tied"):
        factors = np.broadcast_to(np.eye(d), factors.shape).copy()
    return np.full((*batch, k), 1 / k), 2.0 * rng.normal(size=(*batch, k, d)), factors


def check(gpu, X, given, covariance_type, rtol=1e-9, **options):
    expected = ops.gmm_fit(X, *given, covariance_type, **options)
    options = {
        name: torch.from_numpy(value).to(gpu) if name == "sample_weight" else value
        for name, value in options.items()
    }
    tensors = (torch.from_numpy(a).to(gpu) for a in given)
    found = ops.gmm_fit(torch.from_numpy(X).to(gpu), *tensors, covariance_type, **options)
    for name, a, e in zip(FIELDS, found, expected, strict=True):
        if isinstance(e, np.ndarray):
            assert isinstance(a, torch.Tensor), name
            assert a.device.type == torch.device(gpu).type
            a = a.cpu().numpy()
            assert a.dtype == e.dtype
            assert a.shape == e.shape
        np.testing.assert_allclose(a, e, rtol=rtol, atol=1e-12, err_msg=name)
    return found


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("max_iter", [0, 1, 7])
def test_one_mixture(gpu, covariance_type, max_iter):
    X = np.random.default_rng(1).normal(size=(100, 4)) * 3.0
    check(gpu, X, start(covariance_type, 3, 4), covariance_type, max_iter=max_iter)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_batches_that_broadcast(gpu, covariance_type):
    rng = np.random.default_rng(1)
    X = 3.0 * rng.normal(size=(2, 1, 60, 5))
    given = start(covariance_type, 2, 5, (3,))
    weight = rng.uniform(0.5, 4.0, size=(2, 1, 60))
    check(gpu, X, given, covariance_type, max_iter=5, sample_weight=weight)
    check(gpu, X.astype(np.float32), given, covariance_type, rtol=2e-3, max_iter=3)


def test_offsets_and_failures(gpu):
    rng = np.random.default_rng(1)
    X = 3.0 * rng.normal(size=(90, 3))
    X[30:60] = 1.0
    weight = rng.uniform(0.5, 4.0, size=90)
    offsets = np.array([0, 30, 60, 90])
    given = start("full", 2, 3, (3,))
    fit = check(
        gpu, X, given, "full", offsets=offsets, reg_covar=0.0, sample_weight=weight, max_iter=9
    )
    assert fit.status.tolist() == [0, ops.FitStatus.SINGULAR_COVARIANCE, 0]
    assert fit.means[1].isnan().all()
    same = ops.gmm_fit(
        torch.from_numpy(X).to(gpu),
        *(torch.from_numpy(a).to(gpu) for a in given),
        offsets=torch.from_numpy(offsets).to(gpu),
        sample_weight=torch.from_numpy(weight).to(gpu),
        reg_covar=0.0,
        max_iter=9,
    )
    assert torch.equal(same.means[::2], fit.means[::2])


def test_errors(gpu):
    X = torch.from_numpy(np.random.default_rng(1).normal(size=(50, 2))).to(gpu)
    given = start("diag", 2, 2)
    with pytest.raises(ops.SingularCovarianceError):
        ops.gmm_fit(X * 0.0, *given, "diag", reg_covar=0.0)
    bad = X.clone()
    bad[3, 1] = torch.nan
    with pytest.raises(ValueError, match="`X` has NaN or infinity in row 3"):
        ops.gmm_fit(bad, *given, "diag")
    with pytest.raises(ValueError, match="`means` has shape"):
        ops.gmm_fit(X, given[0], given[1][:, :1], given[2], "diag")
    with pytest.raises(ValueError, match="expected \\(n_rows, n_features\\) with `offsets`"):
        ops.gmm_fit(X[None], *given, "diag", offsets=[0, 50])
    with pytest.raises(TypeError, match="`X` has dtype torch"):
        ops.gmm_fit(X.int(), *given, "diag")


def test_what_many_small_ones_leave_is_not_read_back(gpu):
    rng = np.random.default_rng(1)
    X = torch.from_numpy(3.0 * rng.normal(size=(20, 50, 2))).to(gpu)
    given = [torch.from_numpy(a).to(gpu) for a in start("full", 3, 2, (20,))]
    with mock.patch("elbokit._gpu_gmm_fit.read_back", side_effect=AssertionError):
        fit = ops.gmm_fit(X, *given, "full", max_iter=4)
    assert fit.n_iter.tolist() == [4] * 20


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize(
    ("which", "value"),
    [(0, -1.0), (0, 0.0), (0, np.nan), (1, np.inf), (1, 1e39), (2, 0.0), (2, -2.0), (2, np.nan)],
)
def test_values_of_parameters(gpu, covariance_type, batch, which, value):
    """The error of the CPU, word for word."""
    X = np.random.default_rng(1).normal(size=(*batch, 30, 2)).astype(np.float32)
    given = start(covariance_type, 2, 2, batch)
    given[which][(*[-1] * len(batch), ...)] = value
    with pytest.raises(ValueError, match="`") as expected:
        ops.gmm_fit(X, *given, covariance_type)
    tensors = [torch.from_numpy(a).to(gpu) for a in (X, *given)]
    with pytest.raises(ValueError, match="`") as found:
        ops.gmm_fit(*tensors, covariance_type)
    assert str(found.value) == str(expected.value)


def test_entries_below_the_diagonal(gpu):
    X = torch.ones(30, 2).to(gpu)
    weights, means, factors = start("full", 2, 2)
    factors[1, 1, 0] = 0.1
    with pytest.raises(ValueError, match="below the diagonal"):
        ops.gmm_fit(X, weights, means, factors, "full")
