"""The registered operators: schemas, fake kernels, torch.compile, what importing costs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from elbokit import torch as losses
from gmm_torch_cases import COVARIANCE_TYPES, mixture
from torch_cases import draw, targets

# Of torch's own making: dynamo instantiates every autograd.Function that it traces, and inductor
# imports torch.jit.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]


def samples() -> Iterator[tuple[str, tuple[Any, ...]]]:
    logits, target = draw(3, 4, 2), targets(3, 4, 2)
    mu, logvar, m, s = (draw(3, 5, seed=i) for i in range(4))
    x = draw(2, 3, 4)
    no_weights = (None, None, None, None)
    for reduction in ("none", "rows", "sum", "mean", "batchmean"):
        yield "bernoulli_loss", (logits, target, *no_weights, 1.0, reduction, True)
    mask, rows = targets(3, 1, 2) > 0, targets(3)
    weights = (m[:1, :2], s[:, :1, None], mask, rows)
    yield "bernoulli_loss", (logits, target, *weights, 0.5, "mean", False)
    yield "bernoulli_loss", (logits, target, *weights, 0.5, "rows", True)
    yield "bernoulli_loss", (logits[0, 0, 0], target[0, 0, 0], *no_weights, 1.0, "mean", True)
    yield "bernoulli_loss", (logits[:0], target[:0], *no_weights, 1.0, "sum", True)
    images = (draw(2, 3, 4, 5), targets(2, 3, 4, 5))
    last = [x.to(memory_format=torch.channels_last) for x in images]
    for reduction in ("none", "sum"):
        yield "bernoulli_loss", (*last, *no_weights, 1.0, reduction, True)
        yield "bernoulli_loss", (last[0], images[1], *no_weights, 1.0, reduction, True)
    low = (logits.bfloat16(), (255 * target).byte())
    yield "bernoulli_loss", (*low, *no_weights, 1 / 255, "sum", True)
    yield "gaussian_kl", (mu, logvar, None, None, None, 0.0, "rows", True)
    yield "gaussian_kl", (mu, logvar, m[0], s, rows, 0.1, "batchmean", False)
    kl = (mu, logvar, None, None, None, 0.0, "rows", False)
    yield "gaussian_kl_backward", (m[:, 0], None, *kl)
    g = torch.tensor(2.0, dtype=torch.float64)
    yield "gaussian_kl_backward", (None, g, mu, logvar, m[0], s, rows, 0.1, "batchmean", True)
    latent, asked = (mu, logvar, None, None), (True, True, False)
    yield "vae_loss", (logits, target, None, None, *latent, 1.0, 1.0, 0.0, "batchmean", *asked)
    narrow = (m.float(), s.float(), None, None)
    given = (low[0], low[1], mask, rows.float())
    yield "vae_loss", (*given, *narrow, None, 1 / 255, 0.5, "rows", False, False, True)
    yield "vae_loss", (*last, None, None, *(x[:2] for x in latent[:2]), None, None, 2.0, 1.0, 0.5,
                       "rows", *asked)  # fmt: skip
    scale = draw(3, 5, 5).tril(-1) + torch.eye(5, dtype=torch.float64)
    yield "gaussian_kl_full", (mu, scale, m[:, 0], "rows", True)
    yield "gaussian_kl_full", (mu.float(), scale.float(), None, "batchmean", False)
    z = draw(4, 3, 5, seed=5)
    several = logits.expand(4, 3, 4, 2).contiguous()
    for bound, mask, reduction in (("iwae", None, "rows"), ("elbo", target > 0.5, "batchmean")):
        given = several, target, mask, m[:, 0], mu, logvar, z, 1.0, bound, reduction
        yield "multi_sample_loss", (*given, True, True)
        yield "multi_sample_loss", (*given, False, bound == "elbo")
    for kind in COVARIANCE_TYPES:
        points, *parameters = mixture(kind, 3, 2, 4, batch=(2,))
        yield "gmm_log_prob", (points, *parameters, kind)
        for needs in ((True, True), (True, False), (False, True)):
            yield "gmm_log_prob_backward", (m[:2, :3], points, *parameters, kind, *needs)
    yield "gmm_log_prob", (points[:, :0].float(), *(t.float() for t in parameters), kind)
    yield "logsumexp", (x, (1,), False)
    yield "logsumexp", (x, (0, 2), True)
    for dims in ((1,), (0, 2)):
        y = torch.logsumexp(x, dims)
        yield "logsumexp_backward", (y.exp(), x, y, dims)


def decoder_samples() -> Iterator[tuple[str, tuple[Any, ...]]]:
    mean, target, logvar = (draw(3, 4, 2, seed=i) for i in range(3))
    weight, mask = draw(3, seed=3).exp(), draw(4, 2, seed=4) > 0
    for reduction in ("rows", "sum", "batchmean"):
        options = (-1.0, 1.0, 1.0, reduction, True, True)
        yield "gaussian_loss", (mean, target, logvar, None, None, *options)
        yield "gaussian_loss", (mean, target, logvar[:, :1, :1], mask, weight, *options)
    for noise in (logvar[0], logvar[:1, :, :1], logvar[:, 0:1], logvar[0, 0, 0]):
        yield "gaussian_loss", (mean, target, noise, None, weight, *options)
    yield "gaussian_loss", (mean.float(), target.float(), None, mask, None, *options)
    yield (
        "gaussian_loss",
        (mean[:0], target[:0], logvar[0], None, None, *options[:3], "sum", True, True),
    )
    yield "gaussian_loss", (mean, target, logvar, None, None, *options[:4], False, False)
    images = [draw(2, 3, 4, 5, seed=i).to(memory_format=torch.channels_last) for i in range(3)]
    yield "gaussian_loss", (*images, None, None, *options)
    yield "gaussian_loss", (*images[:2], logvar[:1, :1, :1, None], None, None, *options)
    classes = torch.tensor([[0, 3], [1, 2], [3, 3]])
    for reduction in ("rows", "sum", "batchmean"):
        yield "categorical_loss", (mean, classes, mask[:2, :1].t(), weight, reduction, True)
    yield "categorical_loss", (mean[..., 0].float(), classes[:, 0], None, None, "sum", False)
    yield "categorical_loss", (mean[:0], classes[:0], None, None, "sum", True)
    yield "categorical_loss", (images[0], classes[:2, 0, None, None].expand(2, 4, 5) % 3, None,
                               None, "batchmean", True)  # fmt: skip


@pytest.mark.parametrize(("name", "arguments"), [*samples(), *decoder_samples()])
def test_opcheck(name: str, arguments: tuple[Any, ...]) -> None:
    # Batch sizes that tracing may make symbolic must not be specialised, nor inputs returned.
    operator = getattr(torch.ops.elbokit, name).default
    torch.library.opcheck(operator, arguments)
    outputs = operator(*arguments)
    outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    tensors = [a for a in arguments if isinstance(a, torch.Tensor) and a.numel()]
    storages = {a.untyped_storage().data_ptr() for a in tensors}
    assert storages.isdisjoint(o.untyped_storage().data_ptr() for o in outputs if o.numel())
    on_meta = operator(*(a.to("meta") if isinstance(a, torch.Tensor) else a for a in arguments))
    on_meta = (on_meta,) if isinstance(on_meta, torch.Tensor) else on_meta
    for real, fake in zip(outputs, on_meta, strict=True):
        assert (real.shape, real.dtype, real.stride()) == (fake.shape, fake.dtype, fake.stride())


def everything(
    logits: torch.Tensor,
    target: torch.Tensor,
    mu: torch.Tensor,
    logvar: torch.Tensor,
    weight: torch.Tensor,
    prior_mu: torch.Tensor,
) -> torch.Tensor:
    """Call every loss once, on results of other operators, to one number."""
    out = losses.vae_loss(2 * logits, target, mu + 1, logvar, beta=0.5, free_bits=0.1)
    rows = losses.vae_loss(logits, target, mu, 2 * logvar, reduction="none")
    kl = losses.gaussian_kl(mu, logvar, prior_mu, reduction="none")
    each = losses.binary_cross_entropy_with_logits(logits, target, weight, reduction="none")
    mean = losses.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)
    free = losses.gaussian_kl(mu, logvar, free_bits=0.1, weight=mu[:, 0], logvar_range=(-1, 1))
    deviation, rest = (0.5 * logvar).exp(), (mu[:, :, None] * logvar[:, None]).tril(-1)
    scale = torch.eye(3, dtype=mu.dtype) * deviation[:, None] + rest
    full = losses.gaussian_kl_full(mu, scale, prior_mu, scale[0].exp(), weight=mu[:, 1])
    z = torch.stack([mu, mu + logvar, logvar])
    several = torch.stack([logits, 2 * logits, -logits])
    own = {"reduction": "none", "weight": logvar[:, 0], "mask": weight > 1}
    iwae = losses.multi_sample_loss(several, target, mu, logvar, z, **own).sum()
    elbo = losses.multi_sample_loss(several, target, mu, logvar, z, bound="elbo")
    bound = losses.importance_bound(several[..., 0]) + iwae + elbo + full + free
    pooled = losses.logsumexp(mu * logvar, (0, 1)) + losses.logsumexp(logits, 1).sum()
    terms = out.loss * out.kl, (rows.loss * kl).sum(), each.square().sum(), mean, pooled, bound
    return torch.stack(terms).sum() + decoders(logits, target, mu, logvar, weight, prior_mu)


def decoders(
    logits: torch.Tensor,
    target: torch.Tensor,
    mu: torch.Tensor,
    logvar: torch.Tensor,
    weight: torch.Tensor,
    prior_mu: torch.Tensor,
) -> torch.Tensor:
    """Call every decoder's loss, and in it each kind of noise."""
    bits = losses.bernoulli_loss(logits - 1, target, weight=mu[:, 0].exp(), reduction="none")
    shared = losses.gaussian_loss(logits, target, weight, mask=target > 0.1)
    rows = losses.gaussian_loss(logits, 2 * target, weight.sum(), reduction="none")
    own = losses.gaussian_loss(mu, logvar * 2, mu * logvar, logvar_range=(-1.0, 1.0))
    features = losses.gaussian_loss(mu, logvar, prior_mu, reduction="none", weight=mu[:, 1])
    classes = (7 * target[:, 0]).long().clamp(0, 6)
    words = losses.categorical_loss(logits, classes, weight=logvar[:, 0], reduction="none")
    planes = losses.categorical_loss(
        logits[:, :, None] * mu[:, None], classes[:, None].expand(-1, 3)
    )
    terms = (bits * rows).sum(), shared, own, (features * words).sum(), planes
    return torch.stack(terms).sum()


def operands(n: int) -> tuple[torch.Tensor, ...]:
    return (
        draw(n, 7, grad=True),
        targets(n, 7, grad=True),
        draw(n, 3, seed=1, grad=True),
        draw(n, 3, seed=2, grad=True),
        draw(7, seed=3).exp().requires_grad_(),
        draw(3, seed=4, grad=True),
    )


def values_and_grads(
    function: Callable[..., torch.Tensor], given: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, ...]:
    value = function(*given)
    return value, *torch.autograd.grad(value, given)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_to_one_graph(backend: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(everything, fullgraph=True, backend=backend)
    # The second batch size makes the shapes dynamic: one more compilation, and none for the third.
    for n in (4, 6, 9)[: 1 if backend == "inductor" else 3]:
        given = operands(n)
        torch.testing.assert_close(
            values_and_grads(compiled, given), values_and_grads(everything, given)
        )
    with torch.no_grad():
        torch.testing.assert_close(compiled(*given), everything(*given))


def test_one_compilation_serves_all_batch_sizes() -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(everything, fullgraph=True, backend=counter, dynamic=True)
    counts = []
    for n in (4, 6, 9):
        torch.autograd.backward(compiled(*operands(n)))
        counts.append(counter.frame_count)
    assert counts[0] > 0
    assert counts == counts[:1] * 3


def test_compiled_vae() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    vae = losses.VAE(6, 2, (4,))
    x = targets(5, 6, dtype=torch.float32)

    def step(x: torch.Tensor) -> torch.Tensor:
        return vae.loss(x, beta=0.5).loss

    results = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(1)
        results.append(torch.autograd.grad(function(x), list(vae.parameters())))
    torch.testing.assert_close(*results)


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_elbokit_alone_imports_no_torch() -> None:
    done = run("import sys, elbokit; assert 'torch' not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_import_without_torch_says_how_to_install_it() -> None:
    done = run(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'torch':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import elbokit\n"
        "try:\n"
        "    import elbokit.torch\n"
        "except ImportError as error:\n"
        "    assert 'pip install elbokit[torch]' in str(error), error\n"
        "else:\n"
        "    raise AssertionError('no error')\n"
    )
    assert done.returncode == 0, done.stderr


def test_losses_need_neither_fabric_nor_tqdm() -> None:
    done = run(
        "import sys\n"
        "sys.modules['lightning_fabric'] = None\n"
        "import elbokit.torch as et\n"
        "trainer = et.VAETrainer(et.VAE(3))\n"
        "try:\n"
        "    trainer.fit([[0.0, 1.0, 0.5]])\n"
        "except ImportError as error:\n"
        "    assert 'lightning_fabric' in str(error), error\n"
        "    assert 'elbokit[train]' in str(error), error\n"
        "else:\n"
        "    raise AssertionError('no error')\n"
    )
    assert done.returncode == 0, done.stderr
