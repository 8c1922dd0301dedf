"""VAETrainer's steps: learning rates, batches that make one step, capacity; and its callback."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from elbokit.torch import VAE, VAETrainer, cosine_decay
from elbokit.torch._progress import make_optimizer
from torch_cases import targets

X = targets(37, 6, dtype=torch.float32)


class Certain(nn.Module):
    """An encoder whose posterior is as good as a point, so that the noise does not matter."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu = self.mean(x)
        return mu, torch.full_like(mu, -60.0)


def new_vae(**options: Any) -> VAE:
    torch.manual_seed(0)
    return VAE(6, 2, (5,), **options)


def trained(vae: VAE, **options: Any) -> VAETrainer:
    options = {"max_epochs": 3, "batch_size": 8, "progress": False, **options}
    return VAETrainer(vae, **options).fit(X)


def weights(vae: VAE) -> Tensor:
    return nn.utils.parameters_to_vector(vae.parameters()).detach()


@pytest.mark.parametrize("as_tensor", [False, True])
def test_learning_rates_of_each_step(as_tensor: bool) -> None:
    used = []

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        first, *others = parameters
        rates = (torch.tensor(0.2), torch.tensor(0.4)) if as_tensor else (0.2, 0.4)
        groups = [{"params": [first], "lr": rates[0]}, {"params": others, "lr": rates[1]}]
        made = torch.optim.Adam(groups, capturable=False, foreach=False)
        made.register_step_pre_hook(
            lambda each, *_: used.append([float(group["lr"]) for group in each.param_groups])
        )
        return made

    trainer = trained(new_vae(), optimizer=optimizer, lr_schedule=lambda step: 1 / (1 + step))
    factors = 1 / (1 + np.arange(15))
    np.testing.assert_allclose(used, np.outer(factors, [0.2, 0.4]), rtol=1e-6)
    np.testing.assert_allclose(trainer.history["lr"], 0.2 * factors[4::5], rtol=1e-6)


def test_learning_rate_is_that_of_the_schedule() -> None:
    halved = trained(new_vae(), lr=0.02, lr_schedule=lambda step: 0.5)
    plain = trained(new_vae(), lr=0.01)
    assert torch.equal(weights(halved.vae), weights(plain.vae))
    assert halved.history.pop("lr") == [0.01] * 3
    assert halved.history == plain.history  # which has no "lr"
    still = new_vae()
    before = weights(still)
    trained(still, lr_schedule=lambda step: 0.0)
    assert torch.equal(weights(still), before)
    with pytest.raises(ValueError, match="`lr_schedule` is nan, expected"):
        trained(new_vae(), lr_schedule=lambda step: math.nan)


def test_every_fit_starts_from_the_given_learning_rate() -> None:
    trainer = trained(new_vae(), lr=0.01, lr_schedule=cosine_decay(15))
    assert trainer.history["lr"][-1] < 0.001
    assert trainer.fit(X).history["lr"][0] > 0.008


def test_a_learning_rate_in_a_tensor_is_the_callers() -> None:
    rate = torch.tensor(0.01)

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=rate)

    trainer = trained(new_vae(), optimizer=optimizer, lr_schedule=cosine_decay(15))
    assert rate == torch.tensor(0.01)
    first = trainer.history["lr"]
    trainer.max_epochs += 1
    assert trainer.fit(X, resume=True).history["lr"][:-1] == first
    assert trainer.fit(X).history["lr"][: len(first)] == first


@pytest.mark.parametrize("precision", [None, "64-true", "bf16-mixed"])
def test_adam_is_torchs(precision: str | None) -> None:
    options: dict[str, Any] = {"precision": precision, "max_epochs": 2, "clip_grad_norm": 5.0}
    found = trained(new_vae(), lr=0.01, **options)
    adam = lambda parameters: torch.optim.Adam(parameters, lr=0.01)  # noqa: E731
    plain = trained(new_vae(), optimizer=adam, **options)
    assert found._last is not None
    assert found._last["optimizer"]["param_groups"][0]["fused"]
    torch.testing.assert_close(weights(found.vae), weights(plain.vae), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["16-mixed", 16])
def test_adam_that_leaves_scaled_gradients_alone(precision: Any) -> None:
    """The fused one unscales them itself, so that Fabric would refuse to clip them."""
    trainer = VAETrainer(new_vae(), precision=precision)
    assert not make_optimizer(trainer, torch.device("cuda")).defaults["fused"]


@pytest.mark.parametrize("batch_size", [10, 13])
def test_accumulated_batches_are_one_batch(batch_size: int) -> None:
    """Also of unequal sizes: the last has seven or eleven samples."""
    found = []
    for options in ({"batch_size": 37}, {"batch_size": batch_size, "accumulate": 4}):
        torch.manual_seed(0)
        vae = VAE(encoder=Certain(), decoder=nn.Linear(2, 6))
        sgd = lambda parameters: torch.optim.SGD(parameters, lr=0.05)  # noqa: E731
        trainer = trained(vae, optimizer=sgd, **options)
        assert trainer.step == 3
        found.append((weights(vae), trainer.history["bound"]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-6)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-5)


def test_steps_of_accumulated_batches() -> None:
    """The last step of an epoch takes what is left."""
    seen = []

    def schedule(step: int) -> float:
        seen.append(step)
        return 1.0

    assert trained(new_vae(), accumulate=2, beta=schedule).step == 9
    assert seen == list(range(9))


@pytest.mark.parametrize("posterior", ["diagonal", "full"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("reduction", ["batchmean", "sum", "none"])
@pytest.mark.parametrize("capacity", [0.3, 50.0, torch.tensor(2.0)])
def test_loss_with_capacity(
    capacity: float | Tensor, reduction: str, likelihood: str, posterior: str
) -> None:
    vae = new_vae(posterior=posterior, likelihood=likelihood)
    options: dict[str, Any] = {"reduction": reduction, "beta": 3.0}
    generator = torch.Generator()
    with torch.no_grad():
        plain = vae.loss(X, generator=generator.manual_seed(1), **options)
        found = vae.loss(X, generator=generator.manual_seed(1), capacity=capacity, **options)
    held = 37 * capacity if reduction == "sum" else capacity
    expected = plain.reconstruction + 3.0 * (plain.kl - held).abs()
    torch.testing.assert_close(found.loss, expected, rtol=1e-6, atol=1e-6)
    for a, b in zip(found[1:], plain[1:], strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(ValueError, match=r"`capacity` is -1\.0"):
        vae.loss(X, capacity=-1.0)


def test_capacity_draws_the_kl_to_it() -> None:
    options: dict[str, Any] = {"lr": 0.02, "beta": 30.0, "max_epochs": 60}
    for capacity in (0.7, 3.0):
        trainer = trained(new_vae(), capacity=capacity, **options)
        assert trainer.history["kl"][-1] == pytest.approx(capacity, rel=0.3)
        assert trainer.history["capacity"] == [capacity] * 60
    assert "capacity" not in trained(new_vae(), max_epochs=1).history


def test_callback_sees_each_epoch() -> None:
    seen = []

    def callback(trainer: VAETrainer) -> None:
        trainer.vae.eval()
        seen.append((trainer.epoch, trainer.step, len(trainer.history["bound"])))
        torch.rand(5)  # noise of its own changes nothing

    watched, plain = trained(new_vae(), callback=callback), trained(new_vae())
    assert seen == [(1, 5, 1), (2, 10, 2), (3, 15, 3)]
    assert torch.equal(weights(watched.vae), weights(plain.vae))


def test_callback_ends_training() -> None:
    whole = trained(new_vae())
    trainer = trained(new_vae(), callback=lambda trainer: np.equal(trainer.epoch, 2))
    assert trainer.epoch == len(trainer.history["bound"]) == 2
    # Not for good.
    trainer.fit(X, resume=True)
    assert trainer.history == whole.history
    assert torch.equal(weights(trainer.vae), weights(whole.vae))


def test_callback_that_fails_loses_nothing() -> None:
    def callback(trainer: VAETrainer) -> None:
        if trainer.epoch == 2:
            raise OSError("disk full")

    trainer = VAETrainer(new_vae(), max_epochs=3, batch_size=8, progress=False, callback=callback)
    with pytest.raises(OSError, match="disk full"):
        trainer.fit(X)
    assert trainer.epoch == 2
    trainer.callback = None
    whole = trained(new_vae())
    assert trainer.fit(X, resume=True).history == whole.history


def test_wrong_options() -> None:
    for options, error, message in (
        ({"accumulate": 0}, ValueError, "`accumulate` is 0"),
        ({"accumulate": 2.5}, TypeError, "`accumulate` has type float"),
        ({"capacity": -1.0}, ValueError, "`capacity` is -1.0"),
        ({"lr_schedule": 0.5}, TypeError, "`lr_schedule` has type float, expected a function"),
        ({"callback": 3}, TypeError, "`callback` has type int, expected a function"),
    ):
        with pytest.raises(error, match=message):
            VAETrainer(new_vae(), **options)
