"""Models under torch.compile: batches of any size, weights of the KL that change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from elbokit.torch import VAE, VAETrainer, vae_loss
from torch_cases import draw, targets

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    # Where a graph goes on behind a break, dynamo looks at what the first part computed.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]
D, K = 12, 3
PRIORS = ("standard", "learned", "mixture")


def new_vae(posterior: str, prior: str) -> VAE:
    torch.manual_seed(0)
    return VAE(D, K, (8,), posterior=posterior, prior=prior)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("posterior", ["diagonal", "full"])
def test_batches_of_other_sizes(posterior: str, prior: str) -> None:
    vae, x = new_vae(posterior, prior), targets(10, D).float()
    ways: dict[str, Any] = {"loss": vae.loss, "elbo": vae.elbo, "sample": vae.sample, "": vae}
    for name, way in ways.items():
        torch.compiler.reset()
        compiled = torch.compile(way, backend="eager")
        for n in (10, 7, 5):
            given = n if name == "sample" else x[:n]
            torch.manual_seed(n)
            ours = compiled(given)
            torch.manual_seed(n)
            torch.testing.assert_close(ours, way(given))
    torch.compiler.reset()


@pytest.mark.parametrize("prior", PRIORS)
def test_missing_elements_and_weights(prior: str) -> None:
    vae, x = new_vae("diagonal", prior), targets(10, D).float()
    mask, weight = torch.rand(10, D) < 0.5, torch.rand(10)
    torch.compiler.reset()
    compiled = torch.compile(vae.loss, backend="eager")
    for n in (10, 7, 5):
        given = {"mask": mask[:n], "weight": weight[:n]}
        torch.manual_seed(n)
        ours = compiled(x[:n], **given)
        torch.manual_seed(n)
        torch.testing.assert_close(ours, vae.loss(x[:n], **given))
    torch.compiler.reset()


def test_training_a_compiled_model() -> None:
    vae = new_vae("diagonal", "standard")
    vae.compile(backend="eager")
    trainer = VAETrainer(vae, max_epochs=2, batch_size=4, progress=False).fit(targets(10, D))
    assert len(trainer.history["bound"]) == 2
    torch.compiler.reset()


def test_a_beta_that_changes_is_one_more_graph() -> None:
    given = [draw(4, 7, grad=True), targets(4, 7), *(draw(4, 2, seed=s, grad=True) for s in (1, 2))]
    counter = CompileCounter()
    torch.compiler.reset()

    def loss(*operands: torch.Tensor, beta: float) -> torch.Tensor:
        return vae_loss(*operands, beta=beta).loss

    compiled = torch.compile(loss, fullgraph=True, backend=counter)
    leaves = [given[0], *given[2:]]
    for i in range(12):
        ours, theirs = (f(*given, beta=0.05 + 0.07 * i) for f in (compiled, loss))
        torch.testing.assert_close(ours, theirs)
        pairs = zip(
            torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True
        )
        for a, b in pairs:
            torch.testing.assert_close(a, b)
    assert counter.frame_count == 2  # the first number is a constant, the others are a symbol
    torch.compiler.reset()
