"""Full and tied covariances on the matrix units, against float64."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from elbokit import reference
from elbokit.torch._cuda import _gmm_kernels as kernels
from gmm_kernel_checks import check, chunks_of, drawn, near, parameters
from gmm_torch_cases import mixture
from gpu import SCHEDULES, emulation

KINDS = ("full", "tied")

# Rows, components, features: around the units' sixteens of features and eights of rows, a block's
# 64, 128 and 256 rows, a warp's tile of 32 features and a block's twelve of them, a batch of 32
# rows and a list of 1,024. Of 400 features and more a block has fewer rows.
SHAPES = [
    (1, 1, 25),
    (8, 3, 32),
    (33, 2, 33),
    (65, 5, 48),
    (257, 3, 49),
    (130, 4, 64),
    (1030, 2, 40),
    (70, 2, 65),
    (40, 2, 97),
    (66, 2, 161),
    (30, 1, 230),
    (9, 1, 420),
    (9, 1, 610),
]


@pytest.fixture(params=["one chunk", "chunks"])
def chunks(request: pytest.FixtureRequest, matrix_units: torch.device) -> Iterator[None]:
    with chunks_of(request.param):
        yield


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_sizes(
    matrix_units: torch.device, chunks: None, shape: tuple[int, int, int], kind: str
) -> None:
    spread = shape[2] ** -0.5
    operands = mixture(kind, *shape, spread=spread, seed=sum(shape))
    x = (operands[0] / spread).float()  # as far from the centers as components expect
    weight = 3 * torch.rand(shape[0], dtype=torch.float64, generator=drawn(sum(shape)))
    weight[::3] = 0
    weight[-1] = -1  # as a gradient may be
    check(matrix_units, x, operands, kind, None)
    check(matrix_units, x, operands, kind, weight)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_rows(matrix_units: torch.device, dtype: torch.dtype, kind: str) -> None:
    operands = mixture(kind, 70, 3, 41, spread=0.2)
    check(matrix_units, operands[0].to(dtype), operands, kind, None)


def statistics(device: torch.device, operands: tuple[Tensor, ...], kind: str) -> list[Tensor]:
    x = operands[0]
    given = parameters(device, operands, kind)
    sums = kernels.statistics(x[None].to(device), None, given)
    log_prob, r, labels = kernels.estep(
        x[None].to(device), given, responsibilities=True, labels=True
    )
    assert log_prob is not None
    assert r is not None
    assert labels is not None
    return [*sums, log_prob, r, labels]


@pytest.mark.parametrize("kind", KINDS)
def test_schedules_give_the_same_bits(kind: str) -> None:
    operands = mixture(kind, 300, 5, 70, spread=0.1, dtype=torch.float32)
    results = []
    for schedule in SCHEDULES:
        with emulation(schedule, hopper=True):
            results.append(statistics(torch.device("cpu"), operands, kind))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("d", [32, 50])
def test_rows_at_any_address_and_distance(matrix_units: torch.device, d: int) -> None:
    operands = mixture("full", 90, 3, d, spread=0.2, dtype=torch.float32)
    x, *rest = (t.to(matrix_units) for t in operands)
    expected = statistics(matrix_units, (x, *rest), "full")
    apart = torch.zeros(90, d + 3, device=matrix_units)
    apart[:, 1:-2] = x
    off = torch.zeros(90 * d + 1, device=matrix_units)
    off[1:] = x.ravel()
    for layout in (apart[:, 1:-2], off[1:].view(90, d)):
        for a, b in zip(expected, statistics(matrix_units, (layout, *rest), "full"), strict=True):
            assert torch.equal(a, b)


def test_several_mixtures(matrix_units: torch.device) -> None:
    operands = mixture("full", 50, 3, 36, batch=(4,), spread=0.2, dtype=torch.float32)
    x, *rest = (t.to(matrix_units) for t in operands)
    sums = kernels.statistics(x, None, kernels.parameters_of("full", *rest))
    for m in range(4):
        exact = reference.gmm_statistics(*(t[m].double().numpy() for t in operands), "full")
        for ours, truth in zip(sums, exact, strict=True):
            near(ours[m].cpu(), truth, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_components_far_apart(matrix_units: torch.device, kind: str) -> None:
    """Differences from the center are exact: distance takes no digits, and has no limit."""
    _, weights, means, factors = mixture(kind, 1, 6, 40, spread=1e4)
    x = means[torch.arange(300) % 6] + torch.randn(300, 40, generator=drawn(1))
    check(matrix_units, x.float(), (x, weights, means, factors), kind, None)
    if kind == "tied":
        return  # so far away all components are at the same distance, to float32
    far = torch.cat([x.float(), torch.full((1, 40), 1e12)])
    given = parameters(matrix_units, (far, weights, means, factors), kind)
    _, r, _ = kernels.estep(far[None].to(matrix_units), given, responsibilities=True)
    assert r is not None
    assert r[0, -1].max() == 1


@pytest.mark.parametrize("kind", KINDS)
def test_features_in_units_of_their_own(matrix_units: torch.device, kind: str) -> None:
    x, weights, means, factors = mixture(kind, 300, 4, 40, spread=0.2)
    unit = 10 ** torch.linspace(-9, 9, 40, dtype=torch.float64)
    x = (x * unit).float().double()
    scaled = x, weights, means * unit, factors / unit[:, None]
    given = parameters(matrix_units, scaled, kind)
    _, r, _ = kernels.estep(x.float()[None].to(matrix_units), given, responsibilities=True)
    assert r is not None
    _, exact = reference.gmm_estep(*(t.numpy() for t in scaled), kind)
    assert np.abs(r[0].cpu().numpy() - exact).max() <= 1e-5


def test_sums_over_many_rows_are_hardly_cut_off(matrix_units: torch.device) -> None:
    """The units round toward zero: sums of squares would shrink with their number of terms."""
    operands = mixture("full", 20_000, 1, 26)
    given = parameters(matrix_units, operands, "full")
    sums = kernels.statistics(operands[0].float()[None].to(matrix_units), None, given)
    arrays = [operands[0].float().double().numpy(), *(t.numpy() for t in operands[1:])]
    exact = reference.gmm_statistics(*arrays, "full")
    near(sums.second_moments[0].cpu(), exact.second_moments, 5e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_zero_and_rows_out_of_reach(matrix_units: torch.device, kind: str) -> None:
    x, weights, means, factors = mixture(kind, 100, 5, 33, spread=0.2, dtype=torch.float32)
    weights[2] = 0
    means[2] = 1e6
    x[1, 0] = 1e30
    x[2, 1] = -torch.finfo(x.dtype).max  # rounded to eleven bits it would be infinite
    given = parameters(matrix_units, (x, weights, means, factors), kind)
    log_prob, r, _ = kernels.estep(x[None].to(matrix_units), given, responsibilities=True)
    assert log_prob is not None
    assert r is not None
    assert (log_prob[0, 1:3] == -np.inf).all()
    assert not r[0, 1:3].any()
    assert not r[0, :, 2].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_a_number_stays_one(matrix_units: torch.device, bad: float) -> None:
    operands = mixture("full", 70, 3, 40, spread=0.2, dtype=torch.float32)
    operands[0][17, 39] = bad
    given = parameters(matrix_units, operands, "full")
    log_prob, r, _ = kernels.estep(operands[0][None].to(matrix_units), given, responsibilities=True)
    assert log_prob is not None
    assert r is not None
    rows = (~log_prob[0].isfinite()).nonzero().cpu()
    assert torch.equal(rows, torch.tensor([[17]]))
    if np.isnan(bad):
        assert r[0, 17].isnan().all()
        sums = kernels.statistics(operands[0][None].to(matrix_units), None, given)
        assert all(s.isnan().any() for s in sums)
