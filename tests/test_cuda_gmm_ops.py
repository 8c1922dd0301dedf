"""elbokit.ops for mixtures on arrays in a GPU's memory, against the same functions on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from elbokit import _gpu_gmm, ops
from gmm_torch_cases import COVARIANCE_TYPES, mixture


def on_cpu(*operands: Tensor) -> list[np.ndarray]:
    """Copies that are not taken for arrays on the GPU."""
    return [t.detach().cpu().numpy() for t in operands]


def uniform(n: int) -> Tensor:
    return torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))


def close(ours: Any, theirs: Any, rtol: float = 1e-11) -> None:
    ours = ours.cpu().numpy() if isinstance(ours, Tensor) else ours
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol * np.abs(theirs).max())


@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
@pytest.mark.parametrize("batch", [(), (3,), (2, 2)])
def test_against_the_cpu(gpu: torch.device, batch: tuple[int, ...], kind: str) -> None:
    operands = [t.to(gpu) for t in mixture(kind, 40, 3, 4, batch=batch)]
    weight = uniform(40).to(gpu)
    theirs = on_cpu(*operands)
    for a, b in zip(ops.gmm_estep(*operands, kind), ops.gmm_estep(*theirs, kind), strict=True):
        assert a.device.type == gpu.type
        close(a, b)
    close(ops.gmm_log_prob(*operands, kind), ops.gmm_log_prob(*theirs, kind))
    for given, same in ((None, None), (weight, weight.cpu().numpy()), (weight.cpu().numpy(),) * 2):
        ours = ops.gmm_statistics(*operands, kind, given)
        exact = ops.gmm_statistics(*theirs, kind, same)
        for a, b in zip(ours, exact, strict=True):
            close(a, b)
        assert isinstance(ours.log_likelihood, Tensor if batch else float)


def test_parameters_broadcast_and_may_be_of_numpy(gpu: torch.device) -> None:
    x, weights, means, factors = mixture("diag", 30, 3, 2)
    x = torch.stack([x, x + 1])
    ours = ops.gmm_log_prob(x.to(gpu), weights.numpy(), means.to(gpu), factors.numpy(), "diag")
    close(ours, ops.gmm_log_prob(*on_cpu(x, weights, means, factors), "diag"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_rows(gpu: torch.device, dtype: torch.dtype) -> None:
    x, *rest = mixture("full", 50, 3, 5)
    log_prob, r = ops.gmm_estep(x.to(gpu, dtype), *(t.to(gpu) for t in rest))
    assert log_prob.dtype == r.dtype == torch.float32
    wide = on_cpu(x.to(dtype).double(), *rest)
    for a, b in zip((log_prob, r), ops.gmm_estep(*wide), strict=True):
        close(a, b, 1e-5)


@pytest.mark.parametrize("scale", [1e-200, 1e300])
def test_sample_weights_of_any_size(gpu: torch.device, scale: float) -> None:
    x, *rest = mixture("diag", 30, 3, 2, dtype=torch.float32)
    weight = uniform(30)
    ours = ops.gmm_statistics(*(t.to(gpu) for t in (x, *rest)), "diag", scale * weight.to(gpu))
    exact = ops.gmm_statistics(*on_cpu(x.double(), *rest), "diag", scale * weight.numpy())
    for a, b in zip(ours, exact, strict=True):
        close(a, b, 1e-5)


def test_squares_that_underflow_are_summed_up_in_float64(gpu: torch.device) -> None:
    x, weights, means, _ = mixture("diag", 40, 2, 3, seed=4)
    operands = (1e-25 * x).float(), weights, 1e-25 * means, torch.full((2, 3), 1e24)
    ours = ops.gmm_statistics(*(t.to(gpu) for t in operands), "diag")
    exact = ops.gmm_statistics(*on_cpu(*(t.double() for t in operands)), "diag")
    close(ours.second_moments, exact.second_moments, 1e-5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"X": torch.ones(5, dtype=torch.float64)}, ValueError, r"`X` has shape \(5,\)"),
        ({"X": torch.ones(5, 2, dtype=torch.int64)}, TypeError, "`X` has dtype torch.int64"),
        ({"weights": torch.ones(4)}, ValueError, r"`means` has shape \(3, 2\)"),
        ({"weights": torch.tensor([1.0, -1.0, 1.0])}, ValueError, "`weights` has minimum -1"),
        ({"means": torch.full((3, 2), np.nan)}, ValueError, r"`means` has nan at \(0, 0\)"),
        ({"precisions_cholesky": torch.zeros(3, 2)}, ValueError, "diagonal entry 0.0"),
        ({"covariance_type": "round"}, ValueError, "`covariance_type` is 'round'"),
        (
            {"X": torch.tensor([[0.0, 0.0], [1.0, np.inf]], dtype=torch.float64)},
            ValueError,
            "`X` has NaN or infinity in row 1",
        ),
    ],
)
@pytest.mark.parametrize("function", [ops.gmm_estep, ops.gmm_statistics, ops.gmm_log_prob])
def test_errors(
    gpu: torch.device, function: Any, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    names = ("X", "weights", "means", "precisions_cholesky")
    arguments: dict[str, Any] = dict(zip(names, mixture("diag", 5, 3, 2), strict=True))
    arguments = {"covariance_type": "diag", **arguments, **change}
    moved = {k: v.to(gpu) if isinstance(v, Tensor) else v for k, v in arguments.items()}
    with pytest.raises(error, match=message):
        function(**moved)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.ones(4), r"`sample_weight` has shape \(4,\), expected \(5,\)"),
        (torch.tensor([1.0, 1.0, np.nan, 1.0, 1.0]), "`sample_weight` has NaN .* row 2"),
        (torch.tensor([1.0, 1.0, -2.0, 1.0, 1.0]), "`sample_weight` has the value -2"),
    ],
)
def test_bad_sample_weights(gpu: torch.device, weight: Tensor, message: str) -> None:
    operands = [t.to(gpu) for t in mixture("diag", 5, 3, 2)]
    with pytest.raises(ValueError, match=message):
        ops.gmm_statistics(*operands, "diag", weight.to(gpu))


def test_one_look_at_the_results(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is fine costs no further pass over the arguments."""
    monkeypatch.setattr(_gpu_gmm, "_explain", lambda *_: pytest.fail("looked again"))
    operands = [t.to(gpu) for t in mixture("tied", 20, 3, 2, dtype=torch.float32)]
    ops.gmm_estep(*operands, "tied")
    ops.gmm_statistics(*operands, "tied", torch.ones(20, device=gpu))
