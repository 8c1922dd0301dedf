"""torch's own sample inputs for its binary cross-entropy, given to ours."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from elbokit.torch import binary_cross_entropy_with_logits
from torch_cases import assert_as_good_as

# It imports expecttest, which the extra [test] brings. Other versions may have it elsewhere.
methods = pytest.importorskip("torch.testing._internal.common_methods_invocations")
NAME = "nn.functional.binary_cross_entropy_with_logits"


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
def test_samples_of_torch(dtype: torch.dtype) -> None:
    (info,) = (op for op in methods.op_db if op.name == NAME)
    samples = list(info.sample_inputs("cpu", dtype, requires_grad=True))
    assert len(samples) > 20
    for sample in samples:
        given = sample.input, *sample.args
        ours = binary_cross_entropy_with_logits(*given, **sample.kwargs)
        theirs = F.binary_cross_entropy_with_logits(*given, **sample.kwargs)
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        exact_given = [x.double() for x in given]
        exact_kwargs = {
            k: v.double() if isinstance(v, torch.Tensor) else v for k, v in sample.kwargs.items()
        }
        exact = F.binary_cross_entropy_with_logits(*exact_given, **exact_kwargs)
        eps = torch.finfo(dtype).eps
        assert_as_good_as(ours, theirs, exact.detach(), rtol=16 * eps, atol=16 * eps)
        if dtype in (torch.float32, torch.float64):
            operands = [*given, *sample.kwargs.values()]
            tracked = [x for x in operands if isinstance(x, torch.Tensor) and x.requires_grad]
            grads = [torch.autograd.grad(loss.sum(), tracked) for loss in (ours, theirs)]
            torch.testing.assert_close(*grads)
