"""The elementary functions on the GPU, where float32 has the machine's own powers and reciprocals.

The model of a GPU runs the portable formulas: there the limits are those of the CPU.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from elbokit._cuda_library import cuda_kernels
from elbokit.torch._cuda._queue import queue
from elbokit.torch._operands import vector
from test_elementary import DTYPES, EXP_LIMIT, LIMIT, LOG1P_LIMIT, grid, ulps


def evaluate(function: str, x: np.ndarray, device: torch.device) -> np.ndarray:
    given = torch.from_numpy(x).to(device)
    out = torch.empty_like(given)
    cuda_kernels().elementary(queue(given, 0), function, vector(given), vector(out))
    result: np.ndarray = out.cpu().numpy()
    return result


# Of float32 on a GPU. The PTX ISA puts ex2.approx within 2 units of the correctly rounded result,
# rcp.approx within 1. With every one of them as far off as that, the largest errors against the
# true value are 3.50, 2.50, 3.73, 2.82, 2.85 and 4.44.
ON_GPU = {
    "exp_nonpositive": 3.6,
    "exp2_nonpositive": 2.6,
    "logistic_share": 3.8,
    "log": 4.0,
    "log1p": 6.0,
    "log1p_unit": 6.0,
}
CASES = {
    "exp": (-80.0, 80.0, np.exp),
    "expm1": (-1.0, 1.0, np.expm1),
    "exp_nonpositive": (-87.0, 0.0, np.exp),
    "exp2_nonpositive": (-125.0, 0.0, np.exp2),
    "log": (1e-3, 1e3, np.log),
    "log1p": (0.0, 1e3, np.log1p),
    "log1p_unit": (0.0, 1.0, np.log1p),
    "logistic_share": (0.0, 1.0, lambda x: x / (1 + x)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", CASES)
def test_accuracy(gpu: torch.device, function: str, dtype: type, rng: np.random.Generator) -> None:
    low, high, exact = CASES[function]
    x = grid(low, high, dtype, rng)
    limit = {"exp": EXP_LIMIT, "exp_nonpositive": EXP_LIMIT, "exp2_nonpositive": EXP_LIMIT}.get(
        function, LOG1P_LIMIT[dtype] if function.startswith("log1p") else LIMIT
    )
    if gpu.type == "cuda" and dtype == np.float32:
        limit = ON_GPU.get(function, limit)
    assert ulps(evaluate(function, x, gpu), exact(x.astype(np.longdouble))).max() < limit


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", ["exp_nonpositive", "exp2_nonpositive"])
def test_ends_of_the_range(gpu: torch.device, function: str, dtype: type) -> None:
    below = dtype(-88 if dtype == np.float32 else -709)
    if function == "exp2_nonpositive":
        below = np.nextafter(dtype(np.log2(np.finfo(dtype).tiny)), dtype(-np.inf))
    x = np.array([0.0, -0.0, below, 10 * below, np.finfo(dtype).min, -np.inf, np.nan], dtype)
    expected = np.array([1, 1, 0, 0, 0, 0, np.nan], dtype)
    np.testing.assert_array_equal(evaluate(function, x, gpu), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_nonpositive_of_small_numbers(gpu: torch.device, dtype: type) -> None:
    """Where e^x is 1 + x, what rounding takes from x log2(e) would show most."""
    x = -np.geomspace(1e-30, 0.1, 10_001).astype(dtype)
    got = evaluate("exp_nonpositive", x, gpu)
    limit = ON_GPU["exp_nonpositive"] if gpu.type == "cuda" else EXP_LIMIT
    assert ulps(got, np.exp(x.astype(np.longdouble))).max() < limit


def test_unknown_function(gpu: torch.device) -> None:
    with pytest.raises(ValueError, match="`function` is 'sin', which is not an elementary"):
        evaluate("sin", np.ones(3), gpu)
