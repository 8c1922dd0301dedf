"""VAETrainer's schedules, early stopping, precision, processes, workers: and resuming with each."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from elbokit.torch import (
    VAE,
    CategoricalLikelihood,
    GaussianMixturePrior,
    VAETrainer,
    cosine_decay,
    cyclical,
    linear_warmup,
)
from torch_cases import draw, targets

KINDS = torch.tensor([[1.0, 1, 0, 0, 1, 0], [0, 0, 1, 1, 0, 1]])
X = 0.8 * KINDS[torch.arange(37) % 2] + 0.2 * targets(37, 6, dtype=torch.float32)
X_VAL = 0.8 * KINDS[torch.arange(11) % 2] + 0.2 * targets(11, 6, seed=1, dtype=torch.float32)
IMAGES, IMAGES_VAL = X.view(37, 1, 2, 3), X_VAL.view(11, 1, 2, 3)
QUIET = {"max_epochs": 4, "batch_size": 8, "progress": False}


def dense(**parts: Any) -> VAE:
    torch.manual_seed(0)
    return VAE(6, 2, (5,), **parts)


def conv() -> VAE:
    torch.manual_seed(0)
    vae = VAE.convolutional((1, 2, 3), 2, (3, 4), batch_norm=True, posterior="full")
    vae.encoder.insert(0, nn.Dropout(0.2))  # type: ignore[operator]
    return vae


def trained(vae: VAE, *data: torch.Tensor, resume: bool = False, **options: Any) -> VAETrainer:
    return VAETrainer(vae, **{**QUIET, **options}).fit(*data, resume=resume)


def assert_same(a: VAETrainer, b: VAETrainer) -> None:
    assert a.history == b.history
    assert (a.epoch, a.step) == (b.epoch, b.step)
    first, second = a.vae.state_dict(), b.vae.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_schedules() -> None:
    warmup = linear_warmup(4, end=0.5)
    assert [warmup(step) for step in range(7)] == [0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    cycle = cyclical(4, ratio=0.5)
    assert [cycle(step) for step in range(9)] == [0, 0.5, 1, 1, 0, 0.5, 1, 1, 0]
    assert cyclical(5, 1.0, 2.0)(4) == pytest.approx(1.6)
    decay = cosine_decay(4, end=0.2)
    half = 0.4 * 0.5**0.5  # of (1 - end) / 2, at an eighth of the circle
    expected = [1, 0.6 + half, 0.6, 0.6 - half, 0.2, 0.2]
    assert [decay(step) for step in range(6)] == pytest.approx(expected)
    for call, message in (
        (lambda: linear_warmup(0), "`steps` is 0"),
        (lambda: linear_warmup(3, -1.0), "`end` is -1.0"),
        (lambda: cosine_decay(0), "`steps` is 0"),
        (lambda: cyclical(0, 0.5), "`period` is 0"),
        (lambda: cyclical(3, 0.0), "`ratio` is 0.0, expected a number in"),
        (lambda: cyclical(3, 1.5), "`ratio` is 1.5, expected a number in"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_schedule_sets_the_weight_of_each_step() -> None:
    seen = []

    def schedule(step: int) -> float:
        seen.append(step)
        return 0.1 * step

    trainer = trained(dense(), X, beta=schedule, max_epochs=2)
    assert seen == list(range(10))
    assert trainer.history["beta"] == pytest.approx([0.4, 0.9])
    constant = [trained(dense(), X, beta=beta) for beta in (0.3, lambda step: 0.3)]
    assert_same(*constant)
    assert trained(dense(), X).history["kl"] != constant[0].history["kl"]
    with pytest.raises(ValueError, match="`beta` is nan"):
        trained(dense(), X, beta=lambda step: math.nan)


VARIANTS: dict[str, tuple[Any, tuple[torch.Tensor, ...], dict[str, Any]]] = {
    "schedule": (dense, (X,), {"beta": linear_warmup(17)}),
    "cycles": (dense, (X,), {"beta": cyclical(7, 0.5)}),
    "decay": (dense, (X,), {"lr_schedule": cosine_decay(15), "lr": 0.1}),
    "accumulated": (dense, (X,), {"accumulate": 2, "beta": linear_warmup(7)}),
    "capacity": (dense, (X,), {"capacity": linear_warmup(20, 2.0), "beta": 5.0}),
    "early stopping": (dense, (X, X_VAL), {"early_stopping": 3}),
    "stops early": (dense, (X, X_VAL), {"early_stopping": 1, "lr": 0.5, "max_epochs": 9}),
    "convolutions": (conv, (IMAGES, IMAGES_VAL), {"clip_grad_norm": 0.5}),
    "mixture": (lambda: dense(prior="mixture", likelihood="gaussian"), (X, X_VAL), {}),
    "bf16": (dense, (X, X_VAL), {"precision": "bf16-mixed"}),
}


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_resumed_run_equals_the_uninterrupted_one(
    tmp_path: Path, variant: str, in_memory: bool
) -> None:
    make, data, options = VARIANTS[variant]
    whole = trained(make(), *data, **options)
    if in_memory:
        resumed = trained(make(), *data, **{**options, "max_epochs": 2})
        resumed.max_epochs = options.get("max_epochs", 4)
        resumed.fit(*data, resume=True)
    else:
        trained(make(), *data, **{**options, "max_epochs": 2}, checkpoint_dir=tmp_path)
        torch.manual_seed(7)
        resumed = trained(make(), *data, **options, checkpoint_dir=tmp_path, resume=True)
    assert_same(whole, resumed)
    assert_same(whole, resumed.fit(*data, resume=True))


def test_settings_of_the_checkpoint(tmp_path: Path) -> None:
    first = {"beta": linear_warmup(9), "clip_grad_norm": 2.0, "early_stopping": 3}
    first |= {"capacity": 2.0, "lr_schedule": cosine_decay(9)}
    trained(dense(), X, X_VAL, checkpoint_dir=tmp_path, max_epochs=1, **first)
    for changed, message in (
        ({"beta": 1.0}, r"`beta` is 1\.0, expected linear_warmup\(9, 1\.0\) as in the checkpoint"),
        ({"beta": linear_warmup(8)}, r"`beta` is linear_warmup\(8, 1\.0\), expected"),
        ({"clip_grad_norm": None}, r"`clip_grad_norm` is 0\.0, expected 2\.0"),
        ({"early_stopping": 2}, "`early_stopping` is 2, expected 3"),
        ({"capacity": None}, r"`capacity` is none, expected 2\.0"),
        ({"accumulate": 2}, "`accumulate` is 2, expected 1"),
        ({"lr_schedule": None}, r"`lr_schedule` is none, expected cosine_decay\(9, 0\.0\)"),
        ({"precision": "bf16-mixed"}, "`precision` is bf16-mixed, expected 32-true"),
    ):
        with pytest.raises(ValueError, match=message):
            trained(dense(), X, X_VAL, checkpoint_dir=tmp_path, resume=True, **{**first, **changed})


@pytest.mark.parametrize(
    ("name", "aliases"),
    [("32-true", (32, "32", None)), ("64-true", (64, "64")), ("bf16-mixed", ("bf16",))],
)
@pytest.mark.filterwarnings("ignore:`precision=bf16`")
def test_other_names_of_a_precision(tmp_path: Path, name: str, aliases: tuple[Any, ...]) -> None:
    trained(dense(), X, max_epochs=1, precision=aliases[0], checkpoint_dir=tmp_path)
    saved = torch.load(tmp_path / "last.ckpt")
    # Even where the checkpoint has such a name.
    saved["settings"]["precision"] = str(aliases[0])
    torch.save(saved, tmp_path / "last.ckpt")
    for epochs, precision in enumerate((*aliases, name), 2):
        options = {"max_epochs": epochs, "precision": precision, "checkpoint_dir": tmp_path}
        assert trained(dense(), X, resume=True, **options).epoch == epochs


def test_held_out_data_of_the_checkpoint(tmp_path: Path) -> None:
    for data, other, message in (
        ((X, X_VAL), (X,), "`X_val` is None, expected held-out data as in the checkpoint"),
        ((X,), (X, X_VAL), "`X_val` is given, expected None as in the checkpoint to resume"),
    ):
        trained(dense(), *data, max_epochs=1, checkpoint_dir=tmp_path)
        with pytest.raises(ValueError, match=message):
            trained(dense(), *other, checkpoint_dir=tmp_path, resume=True)


def test_early_stopping_keeps_the_best_weights() -> None:
    options = {"lr": 0.3, "batch_size": 37, "max_epochs": 40}
    trainer = trained(dense(), X, X_VAL, early_stopping=3, **options)
    bounds = trainer.history["val_bound"]
    assert trainer.best is not None
    best = int(np.argmax(bounds)) + 1
    assert trainer.best["epoch"] == best
    assert trainer.best["bound"] == max(bounds)
    assert len(bounds) == trainer.epoch == best + 3 < 40
    # They are the weights of a run of that many epochs.
    shorter = trained(dense(), X, X_VAL, **{**options, "max_epochs": best})
    assert shorter.best is None
    first, second = trainer.vae.state_dict(), shorter.vae.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(ValueError, match="`X_val` is None, expected held-out data"):
        trained(dense(), X, early_stopping=3)


def test_clipping() -> None:
    def sgd(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=1.0)

    for limit in (0.01, 1e6):
        trainer = trained(
            dense(), X, clip_grad_norm=limit, optimizer=sgd, batch_size=37, max_epochs=1
        )
        steps = [
            (a - b).square().sum()
            for a, b in zip(trainer.vae.parameters(), dense().parameters(), strict=True)
        ]
        length = torch.stack(steps).sum().sqrt().item()
        assert (length == pytest.approx(limit, rel=1e-3)) == (limit == 0.01)
    plain = trained(dense(), X)
    assert_same(trained(dense(), X, clip_grad_norm=1e6), plain)
    with pytest.raises(ValueError, match="`clip_grad_norm` is -1"):
        VAETrainer(dense(), clip_grad_norm=-1)
    with pytest.raises(ValueError, match="`early_stopping` is 0"):
        VAETrainer(dense(), early_stopping=0)


def test_active_units() -> None:
    class Encoder(nn.Module):
        """One mean that varies, one that varies a little, one that does not."""

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            varying = x[:, :1] - 0.5
            mu = torch.cat([varying, 0.1 * varying, 3 + 0 * varying], 1)
            return mu, torch.zeros_like(mu)

    vae = VAE(latent_dim=3, encoder=Encoder(), decoder=nn.Linear(3, 6))
    assert 0.01 < X[:, 0].var() < 1
    history = trained(vae, X, X_VAL).history
    assert history["active_units"] == history["val_active_units"] == [1.0] * 4
    # The threshold is of the variance over all data, not within a batch.
    order = X[:, 0].argsort()
    sorted_rows = DataLoader(X[order], batch_size=2)  # type: ignore[arg-type]
    assert trained(vae, sorted_rows).history["active_units"] == [1.0] * 4  # type: ignore[arg-type]


def test_mixed_precision() -> None:
    exact = trained(dense(), X, X_VAL, max_epochs=20, lr=0.02)
    mixed = trained(dense(), X, X_VAL, max_epochs=20, lr=0.02, precision="bf16-mixed")
    assert all(p.dtype == torch.float32 for p in mixed.vae.parameters())
    assert mixed.history["val_bound"] != exact.history["val_bound"]
    assert mixed.history["val_bound"][-1] == pytest.approx(exact.history["val_bound"][-1], rel=0.1)
    true = trained(dense(prior="learned"), X, X_VAL, precision="bf16-true")
    assert all(p.dtype == torch.bfloat16 for p in true.vae.parameters())
    double = dense(prior="learned", posterior="full", likelihood="gaussian")
    history = trained(double, X, X_VAL, precision="64-true").history
    single = dense(prior="learned", posterior="full", likelihood="gaussian")
    assert history["val_bound"] == pytest.approx(
        trained(single, X, X_VAL).history["val_bound"], rel=0.2
    )


@pytest.mark.parametrize("prior", ["standard", "learned", "mixture"])
@pytest.mark.parametrize("likelihood", ["gaussian", "categorical"])
def test_other_data(likelihood: str, prior: str) -> None:
    classes = likelihood == "categorical"
    part: Any = CategoricalLikelihood(3) if classes else likelihood
    data = (3 * X).long().clamp_max(2) if classes else 5 * draw(37, 1).float() + X
    trainer = trained(dense(likelihood=part, prior=prior), data, data, max_epochs=30, lr=0.03)
    bound = trainer.history["val_bound"]
    assert bound[-1] > bound[0] + 0.5
    if prior == "mixture":
        assert isinstance(trainer.vae.prior, GaussianMixturePrior)
        trainer.vae.prior = GaussianMixturePrior.init_from(trainer.vae, data, 2, random_state=0)
        trainer.fit(data, data)
        assert trainer.history["val_bound"][-1] > bound[0] + 0.5


@pytest.mark.parametrize(
    ("likelihood", "data", "error", "message"),
    [
        ("gaussian", X + torch.inf, ValueError, "has the value inf in row 0, expected finite"),
        ("gaussian", X * torch.nan, ValueError, "has the value nan in row 0, expected finite"),
        (CategoricalLikelihood(2), X, TypeError, "has dtype torch.float32, expected integers"),
        (
            CategoricalLikelihood(2),
            torch.full((3, 6), 2),
            ValueError,
            r"has the value 2 in row 0, expected values in \[0, 1\]",
        ),
        (CategoricalLikelihood(2), -(X > 0.5).long(), ValueError, "has the value -1 in row"),
    ],
)
def test_bad_data(likelihood: Any, data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        trained(dense(likelihood=likelihood), data)


def test_workers() -> None:
    """A loader's processes, forked from one that has used the kernels, change nothing."""
    runs = [
        trained(
            dense(),
            DataLoader(  # type: ignore[arg-type]
                X,  # type: ignore[arg-type]
                batch_size=8,
                shuffle=True,
                num_workers=workers,
                multiprocessing_context="fork" if workers else None,
            ),
        )
        for workers in (0, 2)
    ]
    assert_same(*runs)


SCRIPT = """
import os
import sys
import warnings

import torch

from elbokit.torch import VAE, VAETrainer

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    folder, strategy = sys.argv[1:]
    torch.manual_seed(0)
    X = (torch.rand(65, 6) > 0.5).float()
    vae = VAE(6, 2, (5,), prior="learned", likelihood="gaussian")
    trainer = VAETrainer(
        vae, max_epochs=2, batch_size=8, devices=2, strategy=strategy, checkpoint_dir=folder,
        early_stopping=5, accumulate=2, progress=False,
    )
    trainer.fit(X, X)  # held-out rows: 33 in five batches, 32 in four
    trainer.max_epochs = 3
    trainer.fit(X, X, resume=True)
    state = {"model": vae.state_dict(), "history": trainer.history, "last": trainer._last}
    torch.save(state, os.path.join(folder, f"{os.environ.get('LOCAL_RANK', '0')}.pt"))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # both files are there when this process ends
"""


@pytest.mark.parametrize("strategy", ["ddp", "ddp_fork"])
def test_two_processes(tmp_path: Path, strategy: str) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), strategy],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ranks = ("0", "1") if strategy == "ddp" else ("0",)
    states = [torch.load(tmp_path / f"{rank}.pt") for rank in ranks]
    saved = torch.load(tmp_path / "last.ckpt")
    for state in states:
        assert state["history"] == states[0]["history"]
        assert len(state["history"]["val_bound"]) == 3
        last = state["last"]["model"]
        assert all(torch.equal(last[name], x) for name, x in saved["model"].items())
        best = saved["best"]["model"]
        assert all(torch.equal(state["model"][name], x) for name, x in best.items())
    # Both processes took part: half of the data are five batches, which make three steps.
    assert saved["step"] == 3 * 3
