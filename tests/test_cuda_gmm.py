"""The mixture's kernels on the GPU against NumPy in float64 and the CPU's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from elbokit import _cuda_library, reference
from elbokit.torch import _cpu, _cuda
from elbokit.torch._cuda import _gmm_kernels as kernels
from gmm_kernel_checks import CHUNK_BYTES, check, chunks_of, drawn, near, parameters
from gmm_torch_cases import COVARIANCE_TYPES, mixture
from gpu import SCHEDULES, emulated_kernels, emulation

# Rows, components, features: around the tiles of 8, 16, 32 and 64, and of 128 and 256 rows.
SHAPES = [
    (1, 1, 1),
    (2, 3, 2),
    (33, 5, 3),
    (130, 2, 5),
    (257, 17, 8),
    (70, 33, 16),
    (64, 65, 9),
    (300, 3, 17),
    (40, 2, 33),
    (513, 129, 2),
    (31, 4, 64),
    (35, 2, 65),
    (20, 2, 129),
    (40, 530, 5),
    (33, 1030, 5),
]


@pytest.fixture(params=["one chunk", "chunks"])
def chunks(request: pytest.FixtureRequest, gpu: torch.device) -> Iterator[None]:
    """Run with all rows in a chunk, and with 256 in one."""
    with chunks_of(request.param):
        yield


@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_sizes(gpu: torch.device, chunks: None, shape: tuple[int, int, int], kind: str) -> None:
    operands = mixture(kind, *shape, spread=shape[2] ** -0.5, seed=sum(shape))
    weight = 3 * torch.rand(shape[0], dtype=torch.float64, generator=drawn(sum(shape)))
    weight[::3] = 0
    weight[-1] = 1
    check(gpu, operands[0], operands, kind, None)
    check(gpu, operands[0].float(), operands, kind, weight)


@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
@pytest.mark.parametrize(
    ("dtype", "wide"),
    [(torch.bfloat16, False), (torch.float16, False), (torch.float32, True), (torch.float16, True)],
)
def test_dtypes(gpu: torch.device, dtype: torch.dtype, wide: bool, kind: str) -> None:
    operands = mixture(kind, 70, 3, 9)
    check(gpu, operands[0].to(dtype), operands, kind, None, wide)


@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
def test_float32_far_from_the_origin(gpu: torch.device, kind: str) -> None:
    x, *rest = mixture(kind, 300, 4, 6)
    rest[1] = rest[1] + 1e4
    check(gpu, (x + 1e4).float(), (x, *rest), kind, None)


def test_many_components_and_features_that_shared_memory_does_not_hold() -> None:
    with emulation(schedule=1):
        for kind, shape in (("diag", (33, 530, 2)), ("full", (33, 2, 130)), ("tied", (9, 2, 260))):
            operands = mixture(kind, *shape, spread=0.1)
            check(torch.device("cpu"), operands[0], operands, kind, None)


@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
def test_schedules_give_the_same_bits(kind: str) -> None:
    operands = mixture(kind, 300, 5, 19, dtype=torch.float32)
    results = []
    for schedule in SCHEDULES:
        with emulation(schedule):
            given = parameters(torch.device("cpu"), operands, kind)
            sums = kernels.statistics(operands[0][None], None, given)
            results.append([*sums, *kernels.estep(operands[0][None], given, responsibilities=True)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert (a is None) == (b is None)
            assert a is None or torch.equal(a, b)


@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
def test_weights_of_zero_and_rows_out_of_reach(gpu: torch.device, kind: str) -> None:
    x, weights, means, factors = mixture(kind, 100, 5, 3, dtype=torch.float32)
    weights[2] = 0
    means[2] = 1e6
    x[1, 0] = 1e30
    given = parameters(gpu, (x, weights, means, factors), kind)
    log_prob, r, _ = kernels.estep(x[None].to(gpu), given, responsibilities=True)
    assert log_prob is not None
    assert r is not None
    assert log_prob[0, 1] == -np.inf
    assert not r[0, 1].any()
    assert not r[0, :, 2].any()
    row_weight = torch.ones(1, 100, dtype=torch.float64)
    row_weight[0, 1] = 0
    sums = kernels.statistics(x[None].to(gpu), row_weight.to(gpu), given)
    kept = torch.arange(100) != 1
    exact = reference.gmm_statistics(
        *(t.double().numpy() for t in (x[kept], weights, means, factors)), kind
    )
    for ours, truth in zip(sums, exact, strict=True):
        near(ours[0].cpu(), truth, 1e-5)
    assert sums.counts[0, 2] == 0


@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
def test_batches_and_strides(gpu: torch.device, kind: str) -> None:
    library = _cuda_library.cuda_kernels()
    x, weights, means, factors = mixture(kind, 40, 3, 4, batch=(5,))
    given = kernels.parameters_of(kind, *(t.to(gpu) for t in (weights, means, factors)))
    sums = kernels.statistics(x.to(gpu), None, given)
    layouts = [
        x.to(gpu).mT.contiguous().mT,
        torch.cat([x, x], 2).to(gpu)[..., :4],
        x.to(gpu).flip(1).flip(1),
    ]
    for layout in layouts:
        for a, b in zip(sums, kernels.statistics(layout, None, given), strict=True):
            assert torch.equal(a, b)
    library.set_gmm_chunk_bytes(2 * 256 * 3 * 8)  # two mixtures at a time
    several = kernels.statistics(x.to(gpu), None, given)
    library.set_gmm_chunk_bytes(CHUNK_BYTES)
    for m in range(5):
        exact = reference.gmm_statistics(
            *(t[m].numpy() for t in (x, weights, means, factors)), kind
        )
        for all_at_once, by_two, truth in zip(sums, several, exact, strict=True):
            near(all_at_once[m].cpu(), truth, 1e-12)
            near(by_two[m].cpu(), truth, 1e-12)
    shared = kernels.statistics(x[:1].expand(5, -1, -1).to(gpu), None, given)
    assert torch.equal(shared.counts[0], sums.counts[0])


def test_not_a_number_stays_one(gpu: torch.device) -> None:
    for kind in COVARIANCE_TYPES:
        operands = mixture(kind, 40, 3, 4)
        operands[0][7, 2] = np.nan
        given = parameters(gpu, operands, kind)
        log_prob, r, _ = kernels.estep(operands[0][None].to(gpu), given, responsibilities=True)
        assert log_prob is not None
        assert r is not None
        assert torch.equal(log_prob[0].isnan().nonzero(), torch.tensor([[7]], device=gpu))
        assert r[0, 7].isnan().all()
        sums = kernels.statistics(operands[0][None].to(gpu), None, given)
        assert all(s.isnan().any() for s in sums)


@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (150, 3, 5), (70, 9, 19), (300, 2, 33)])
def test_gradients(gpu: torch.device, chunks: None, shape: tuple[int, int, int], kind: str) -> None:
    operands = [t[None] for t in mixture(kind, *shape, seed=shape[0])]
    grad = torch.randn(1, shape[0], dtype=torch.float64, generator=drawn(1))
    for dtype, rtol in ((torch.float64, 1e-11), (torch.float32, 3e-5)):
        rounded = [t.to(dtype) for t in operands]
        upstream = grad.to(dtype)
        ours = _cuda.gmm_log_prob(*(t.to(gpu) for t in rounded), kind)
        near(ours.cpu(), _cpu.gmm_log_prob(*(t.double() for t in rounded), kind), rtol)
        moved = (t.to(gpu) for t in (upstream, *rounded))
        ours = _cuda.gmm_log_prob_backward(*moved, kind, True, True)
        wide = (t.double() for t in (upstream, *rounded))
        for a, b in zip(ours, _cpu.gmm_log_prob_backward(*wide, kind, True, True), strict=True):
            assert a is not None
            assert a.dtype == dtype
            near(a.cpu(), b, rtol)


@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
@pytest.mark.parametrize("scale", [1.0, 1e-60, 1e60])  # beyond the powers of float32
def test_gradients_of_small_weights(gpu: torch.device, scale: float, kind: str) -> None:
    operands = [t[None] for t in mixture(kind, 50, 4, 3)]
    operands[1][0, 1] = 0
    operands[1][0, 3] = 1e-30
    grad = scale * torch.randn(1, 50, dtype=torch.float64, generator=drawn(2))
    moved = (t.to(gpu) for t in (grad, *operands))
    ours = _cuda.gmm_log_prob_backward(*moved, kind, True, True)
    theirs = _cpu.gmm_log_prob_backward(grad, *operands, kind, True, True)
    for a, b in zip(ours, theirs, strict=True):
        near(a.cpu(), b, 1e-11)


def test_empty(gpu: torch.device) -> None:
    operands = [t[None].to(gpu) for t in mixture("full", 4, 3, 2)]
    operands[0] = operands[0][:, :0]
    assert _cuda.gmm_log_prob(*operands, "full").shape == (1, 0)
    grads = _cuda.gmm_log_prob_backward(operands[0][..., 0], *operands, "full", True, True)
    assert [g.shape for g in grads if g is not None] == [t.shape for t in operands]
    assert not any(g.any() for g in grads if g is not None)


def test_a_workspace_that_is_too_small_is_refused(gpu: torch.device) -> None:
    assert emulated_kernels() is not None
    x, *rest = mixture("diag", 4, 3, 2)
    given = parameters(gpu, (x, *rest), "diag")
    from elbokit.torch._cuda._queue import queue

    rows = kernels._rows(x[None].to(gpu))
    with pytest.raises(ValueError, match="workspace has 16 bytes, expected at least"):
        _cuda_library.cuda_kernels().gmm_estep(
            queue(x.to(gpu), 16), rows, given.described(), True, 0, 0, 0
        )
