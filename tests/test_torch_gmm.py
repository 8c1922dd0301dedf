"""elbokit.torch.gmm_log_prob against torch's distributions in float64."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch._dynamo.testing
from torch.autograd import gradcheck, gradgradcheck

from elbokit import _core, ops
from elbokit.torch import gmm_log_prob
from gmm_torch_cases import COVARIANCE_TYPES, full_factors, mixture, true_log_prob
from torch_cases import DTYPES, assert_differentiable_backward_agrees, draw

# Around the vector widths; small full factors have code of their own up to 4 features, sums are
# compensated above 64, and rows past 1024 are another block.
SHAPES = ((1, 1, 1), (3, 2, 2), (17, 5, 3), (33, 3, 4), (65, 6, 5), (70, 9, 19), (1100, 4, 13))
WIDE = ((40, 3, 70),)


def grads(
    value: torch.Tensor, operands: Sequence[torch.Tensor], upstream: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(value, operands, upstream)


def tracked(operands: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return tuple(t.detach().clone().requires_grad_() for t in operands)


def assert_near(ours: torch.Tensor, truth: torch.Tensor, rtol: float) -> None:
    """Assert that the error is small against the largest entry."""
    error = (ours.double() - truth).abs().max()
    assert error <= rtol * truth.abs().max(), f"{error:g} of {truth.abs().max():g}"


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES + WIDE)
def test_value_and_gradients(
    cpu_level: str, shape: tuple[int, int, int], dtype: torch.dtype, covariance_type: str
) -> None:
    operands = tracked(mixture(covariance_type, *shape, dtype=dtype))
    ours = gmm_log_prob(*operands, covariance_type)
    truth = true_log_prob(*operands, covariance_type)
    assert ours.dtype == dtype
    rtol = 2e-6 if dtype == torch.float32 else 1e-12
    assert_near(ours, truth, rtol)
    # Of either sign, of one sign, and all alike.
    for upstream in (draw(shape[0], seed=1), -draw(shape[0], seed=2).abs(), torch.ones(shape[0])):
        upstream = upstream.to(dtype)
        for got, expected in zip(
            torch.autograd.grad(ours, operands, upstream, retain_graph=True),
            torch.autograd.grad(truth, operands, upstream.double(), retain_graph=True),
            strict=True,
        ):
            assert got.dtype == dtype
            assert got.shape == expected.shape
            assert_near(got, expected.double(), 10 * rtol)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_float32_far_from_the_origin(cpu_level: str, covariance_type: str) -> None:
    x, weights, means, factors = mixture(covariance_type, 300, 4, 8)
    operands = tracked(t.float() for t in (x + 1e4, weights, means + 1e4, factors))
    exact = tracked(t.detach().double() for t in operands)
    upstream = draw(300, seed=3)
    ours = grads(gmm_log_prob(*operands, covariance_type), operands, upstream.float())
    truth = grads(true_log_prob(*exact, covariance_type), exact, upstream)
    for got, expected in zip(ours, truth, strict=True):
        assert_near(got, expected, 1e-5)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_separated_components(cpu_level: str, dtype: torch.dtype, covariance_type: str) -> None:
    """Where the statistics leave rows out, and the rows' own gradient must not."""
    _, weights, means, factors = mixture(covariance_type, 1, 9, 26, spread=20.0)
    x = means[torch.arange(2000) % 9] + draw(2000, 26, seed=4)
    operands = tracked(t.to(dtype) for t in (x, weights, means, factors))
    upstream = draw(2000, seed=5).abs().exp().to(dtype)
    upstream[::7] *= 2.0**-30
    ours = grads(gmm_log_prob(*operands, covariance_type), operands, upstream)
    exact = tracked(t.detach().double() for t in operands)
    truth = grads(true_log_prob(*exact, covariance_type), exact, upstream.double())
    rtol = 1e-5 if dtype == torch.float32 else 1e-12
    for got, expected in zip(ours, truth, strict=True):
        assert_near(got, expected, rtol)
    small = slice(None, None, 7)
    assert_near(ours[0][small], truth[0][small], rtol)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_far_from_all_components(cpu_level: str, dtype: torch.dtype) -> None:
    x, weights, means, factors = mixture("diag", 5, 3, 4)
    operands = tracked(t.to(dtype) for t in (x * 1e6, weights, means, factors))
    exact = tracked(t.detach().double() for t in operands)
    upstream = torch.ones(5, dtype=dtype)
    ours = grads(gmm_log_prob(*operands, "diag"), operands, upstream)
    truth = grads(true_log_prob(*exact, "diag"), exact, upstream.double())
    for got, expected in zip(ours, truth, strict=True):
        assert_near(got, expected, 1e-5)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("scale", [1e-22, 1e15])
def test_scales(scale: float, covariance_type: str) -> None:
    x, weights, means, factors = mixture(covariance_type, 60, 3, 5)
    operands = tracked(t.float() for t in (scale * x, weights, scale * means, factors / scale))
    exact = tracked(t.detach().double() for t in operands)
    # Neither may the size of the gradient that comes in cost digits.
    for size in (1e-15, 1.0, 1e15):
        upstream = size * draw(60, seed=11)
        ours = grads(gmm_log_prob(*operands, covariance_type), operands, upstream.float())
        truth = grads(gmm_log_prob(*exact, covariance_type), exact, upstream)
        for got, expected in zip(ours, truth, strict=True):
            if expected.abs().max() < torch.finfo(torch.float32).max:
                assert_near(got, expected, 1e-5)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("weight", [0.0, 1e-30])
@pytest.mark.parametrize("dtype", DTYPES)
def test_small_weights(dtype: torch.dtype, weight: float, covariance_type: str) -> None:
    x, weights, means, factors = mixture(covariance_type, 50, 3, 5, dtype=dtype)
    weights[1] = weight
    operands = tracked((x, weights, means, factors))
    upstream = draw(50, seed=6).to(dtype)
    value = gmm_log_prob(*operands, covariance_type)
    ours = torch.autograd.grad(value, operands, upstream, retain_graph=True)
    plain = torch.autograd.grad(value, operands, upstream, create_graph=True)
    # N_k / p, which torch's logarithm of the weights cannot give.
    alone = [t.double() for t in (x, torch.ones(1), means[1:2], factors)]
    if covariance_type != "tied":
        alone[3] = factors[1:2].double()
    ratio = (true_log_prob(*alone, covariance_type) - value.detach().double()).exp()
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    for got in (ours, plain):
        expected = (upstream.double() * ratio).sum()
        torch.testing.assert_close(got[1][1].double(), expected, rtol=tolerance, atol=tolerance)
        assert all(torch.isfinite(g).all() for g in got)
    if weight == 0:
        assert not ours[2][1].any()


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_no_weight_at_all(covariance_type: str) -> None:
    x, weights, means, factors = mixture(covariance_type, 9, 3, 6)
    operands = tracked((x, torch.zeros_like(weights), means, factors))
    value = gmm_log_prob(*operands, covariance_type)
    assert (value == -math.inf).all()
    for create_graph in (False, True):
        got = torch.autograd.grad(
            value.sum(), operands, retain_graph=True, create_graph=create_graph
        )
        assert not any(g.any() for g in got)
        assert not any(g.isnan().any() for g in got)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_gradients_of_any_order(covariance_type: str) -> None:
    operands = tracked(mixture(covariance_type, 3, 2, 2, batch=(2,)))

    def function(*given: torch.Tensor) -> torch.Tensor:
        return gmm_log_prob(*given, covariance_type)

    assert gradcheck(function, operands)
    assert gradgradcheck(function, operands)
    assert_differentiable_backward_agrees(function(*operands), operands)


@pytest.mark.parametrize("needed", [(0,), (1,), (2, 3), (0, 3)])
def test_only_what_is_needed(needed: tuple[int, ...]) -> None:
    operands = mixture("full", 20, 3, 6)
    every = tracked(operands)
    upstream = draw(20, seed=7)
    whole = grads(gmm_log_prob(*every), every, upstream)
    some = [t.clone().requires_grad_(i in needed) for i, t in enumerate(operands)]
    got = grads(gmm_log_prob(*some), [some[i] for i in needed], upstream)
    for i, g in zip(needed, got, strict=True):
        torch.testing.assert_close(g, whole[i])


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_batches_of_mixtures(covariance_type: str) -> None:
    x, weights, means, factors = mixture(covariance_type, 7, 3, 2, batch=(4, 2))
    operands = tracked((x[0], weights, means[:, :1], factors[0, 0]))
    upstream = draw(4, 2, 7, seed=8)
    value = gmm_log_prob(*operands, covariance_type)
    assert value.shape == (4, 2, 7)
    got = grads(value, operands, upstream)
    single = torch.stack(
        [
            torch.stack(
                [
                    gmm_log_prob(
                        operands[0][j], operands[1][i, j], operands[2][i, 0], operands[3],
                        covariance_type,
                    )
                    for j in range(2)
                ]
            )
            for i in range(4)
        ]
    )  # fmt: skip
    assert torch.equal(single, value)
    torch.testing.assert_close(got, grads(single, operands, upstream))


@pytest.mark.parametrize("shape", [(0, 2), (3, 0, 2), (0, 5, 2)])
def test_empty(shape: tuple[int, ...]) -> None:
    _, *parameters = mixture("full", 1, 3, 2)
    operands = tracked((torch.empty(shape, dtype=torch.float64), *parameters))
    value = gmm_log_prob(*operands)
    assert value.shape == shape[:-1]
    for create_graph in (False, True):
        got = torch.autograd.grad(
            value.sum(), operands, retain_graph=True, create_graph=create_graph
        )
        assert not any(g.any() for g in got)
        assert all(g.shape == t.shape for g, t in zip(got, operands, strict=True))


def test_below_the_diagonal_nothing_counts() -> None:
    x, weights, means, factors = mixture("full", 9, 3, 5)
    noisy = factors + torch.ones(5, 5, dtype=torch.float64).tril(-1)
    operands = tracked((x, weights, means, noisy))
    value = gmm_log_prob(*operands)
    assert torch.equal(value, gmm_log_prob(x, weights, means, factors))
    (got,) = torch.autograd.grad(value.sum(), operands[3:])
    assert not got.tril(-1).any()
    assert got.triu().any()


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_the_gradient_is_made_of_the_statistics(covariance_type: str) -> None:
    """One gradient's counts and first moments are those of an EM iteration."""
    x, weights, means, factors = mixture(covariance_type, 400, 3, 5)
    operands = tracked((x, weights, means, factors))
    got = grads(gmm_log_prob(*operands, covariance_type), operands, torch.ones(400))
    statistics = ops.gmm_statistics(x, weights, means, factors, covariance_type)
    counts = torch.as_tensor(statistics.counts)
    torch.testing.assert_close(weights * got[1], counts)
    # Where the gradient in the means is 0 is the mean of the M-step.
    roots = full_factors(factors, covariance_type, 3, 5)
    step = torch.linalg.solve(roots @ roots.mT, got[2][..., None])[..., 0]
    torch.testing.assert_close(step, torch.as_tensor(statistics.first_moments))


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.usefixtures("restore_threads")
def test_same_bits_for_any_number_of_threads(covariance_type: str) -> None:
    operands = tracked(mixture(covariance_type, 20_000, 5, 6, dtype=torch.float32))
    upstream = draw(20_000, seed=9).float()
    results = []
    for threads in (1, 3):
        _core.set_num_threads(threads)
        value = gmm_log_prob(*operands, covariance_type)
        results.append((value, *grads(value, operands, upstream)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    operands = tracked(mixture("diag", 30, 3, 4, dtype=dtype))
    value = gmm_log_prob(*operands, "diag")
    assert value.dtype == dtype
    wide = tracked(t.detach().float() for t in operands)
    exact = gmm_log_prob(*wide, "diag")
    assert torch.equal(value, exact.to(dtype))
    upstream = draw(30, seed=10, dtype=dtype)
    for got, expected in zip(
        grads(value, operands, upstream), grads(exact, wide, upstream.float()), strict=True
    ):
        assert torch.equal(got, expected.to(dtype))
    with torch.autocast("cpu"):
        assert gmm_log_prob(*operands, "diag").dtype == torch.float32
    assert gmm_log_prob(operands[0], *wide[1:], "diag").dtype == torch.float32


def test_strides() -> None:
    x, *parameters = mixture("full", 12, 3, 6)
    plain = gmm_log_prob(x, *parameters)
    for view in (x.t().contiguous().t(), torch.cat((x, x), 1)[:, :6], x.repeat(2, 1)[12:]):
        view = view.detach().requires_grad_()
        value = gmm_log_prob(view, *parameters)
        assert torch.equal(value, plain)
        expected = grads(
            gmm_log_prob(x.requires_grad_(), *parameters), (x,), torch.ones(12, dtype=x.dtype)
        )
        assert torch.equal(torch.autograd.grad(value.sum(), view)[0], expected[0])


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_function_transforms() -> None:
    x, weights, means, factors = mixture("full", 5, 2, 3)
    operands = tracked((x, weights, means, factors))

    def loss(row: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
        return gmm_log_prob(row[None], weights, means, factors).sum()

    each = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)), (0, None))(x, means)
    whole = grads(gmm_log_prob(*operands), operands, torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(each[0], whole[0])
    torch.testing.assert_close(each[1].sum(0), whole[2])
    hessian = torch.func.jacrev(torch.func.grad(loss))(x[0], means)
    expected = torch.autograd.functional.hessian(lambda row: loss(row, means), x[0])
    torch.testing.assert_close(hessian, expected)


# Of torch's own making: dynamo instantiates every autograd.Function that it traces, and inductor
# imports torch.jit.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_to_one_graph(backend: str) -> None:
    def both(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        weights, means, factors = parameters
        one = gmm_log_prob(2 * x, weights, means, factors.tril().mT)
        each = gmm_log_prob(x[:, None], weights, means, factors[:, 0].exp(), "diag")
        return one.square().sum() + each.sum()

    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend(backend)
    compiled = torch.compile(both, fullgraph=True, backend=counter)
    counts = []
    # The second size makes the shapes dynamic, and serves the third.
    for n in (4, 6, 9):
        operands = tracked(mixture("full", n, 2, 3))
        torch.testing.assert_close(
            torch.autograd.grad(compiled(*operands), operands),
            torch.autograd.grad(both(*operands), operands),
        )
        counts.append(counter.frame_count)
    assert counts[1] == counts[2]


def test_not_a_number_stays_one() -> None:
    operands = tracked(mixture("full", 4, 3, 6))
    with torch.no_grad():
        operands[0][2, 1] = math.nan
    value = gmm_log_prob(*operands)
    assert value.isnan().tolist() == [False, False, True, False]
    got = grads(value, operands, torch.ones(4, dtype=torch.float64))
    assert got[0].isnan().any(1).tolist() == [False, False, True, False]
    assert got[2].isnan().any()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"covariance_type": "round"}, ValueError, "`covariance_type` is 'round', expected one of"),
        ({"x": torch.zeros(3)}, ValueError, r"`x` has shape \(3,\), expected \(\.\.\., n_samples"),
        ({"x": np.zeros((3, 2))}, TypeError, "`x` must be a torch.Tensor, got ndarray"),
        ({"weights": torch.zeros(0)}, ValueError, r"`weights` has shape \(0,\)"),
        ({"means": torch.zeros(3, 2)}, ValueError, r"`means` .* expected \(\.\.\., 2, 2\)"),
        ({"precisions_cholesky": torch.ones(2)}, ValueError, "`precisions_cholesky` has shape"),
        ({"means": torch.zeros(2, 2).double()}, TypeError, "`means` has dtype torch.float64"),
        (
            {"x": torch.zeros(4, 3, 2), "weights": torch.ones(5, 2)},
            ValueError,
            r"do not broadcast: `x` has \(4,\), `weights` has \(5,\)",
        ),
    ],
)
def test_errors(change: dict[str, object], error: type[Exception], message: str) -> None:
    given = {
        "x": torch.zeros(3, 2),
        "weights": torch.ones(2),
        "means": torch.zeros(2, 2),
        "precisions_cholesky": torch.ones(2, 2),
        "covariance_type": "diag",
    }
    with pytest.raises(error, match=message):
        gmm_log_prob(**(given | change))  # type: ignore[arg-type]


def test_memory_stays_below_samples_times_components() -> None:
    code = (
        "import resource, torch\n"
        "from elbokit.torch import gmm_log_prob\n"
        "n, k, d = 100_000, 200, 16\n"
        "x = torch.randn(n, d, requires_grad=True)\n"
        "w = torch.full((k,), 1 / k, requires_grad=True)\n"
        "m, p = torch.randn(k, d, requires_grad=True), torch.ones(k, d, requires_grad=True)\n"
        "gmm_log_prob(x[:99], w, m, p, 'diag').sum().backward()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "gmm_log_prob(x, w, m, p, 'diag').sum().backward()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # An N x K matrix would be 78 MiB; the gradient in x is 6.
    assert int(done.stdout) < 32 * 1024


def test_weight_of_none_on_the_nearest_component() -> None:
    """Differentiable or not, the gradient is as large as the dtype holds."""
    weights = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[40.0, 0.0]], dtype=torch.float64)
    means = torch.tensor([[0.0, 0.0], [5.0, 5.0]], dtype=torch.float64)
    log_prob = gmm_log_prob(x, weights, means, torch.ones_like(means), "diag").sum()
    (plain,) = torch.autograd.grad(log_prob, weights, retain_graph=True)
    (differentiable,) = torch.autograd.grad(log_prob, weights, create_graph=True)
    torch.testing.assert_close(differentiable, plain)
    assert plain[1] > 1e75
