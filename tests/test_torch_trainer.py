"""VAETrainer: history, determinism, resuming, failures."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from elbokit.torch import VAE, VAETrainer
from elbokit.torch._batches import EpochSampler
from torch_cases import targets

# Two kinds of rows, and noise.
KINDS = torch.tensor([[1.0, 1, 0, 0, 1, 0], [0, 0, 1, 1, 0, 1]])
X = 0.8 * KINDS[torch.arange(37) % 2] + 0.2 * targets(37, 6, dtype=torch.float32)
X_VAL = 0.8 * KINDS[torch.arange(11) % 2] + 0.2 * targets(11, 6, seed=1, dtype=torch.float32)


def new_vae(dropout: bool = False, **options: Any) -> VAE:
    torch.manual_seed(0)
    if dropout:  # needs a random state of its own
        encoder = torch.nn.Sequential(torch.nn.Dropout(0.3), torch.nn.Linear(6, 4))
        return VAE(encoder=encoder, decoder=torch.nn.Linear(2, 6))
    return VAE(6, 2, (5,), **options)


def new_trainer(vae: VAE | None = None, **options: Any) -> VAETrainer:
    options = {"max_epochs": 4, "batch_size": 8, "progress": False, **options}
    return VAETrainer(new_vae() if vae is None else vae, **options)


def weights(trainer: VAETrainer) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in trainer.vae.state_dict().items()}


def assert_same(a: VAETrainer, b: VAETrainer) -> None:
    """Assert two trainers are in the same state, bit for bit."""
    assert a.history == b.history
    assert a.epoch == b.epoch
    first, second = weights(a), weights(b)
    assert all(torch.equal(first[name], second[name]) for name in first)


class Interrupt:
    """Raises an error in the n-th forward pass."""

    def __init__(self, vae: VAE, n: int, error: type[BaseException]) -> None:
        self.left, self.error = n, error
        self.handle = vae.register_forward_hook(self)

    def __call__(self, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            self.handle.remove()
            raise self.error("stopped")


def test_history() -> None:
    trainer = new_trainer(max_epochs=30, lr=0.02)
    assert trainer.fit(X, X_VAL) is trainer
    terms = ("bound", "reconstruction", "kl")
    expected = {*terms, "active_units"}
    assert set(trainer.history) == {*expected, *(f"val_{t}" for t in expected), "beta"}
    assert trainer.history["beta"] == [1.0] * 30
    assert trainer.step == 30 * 5
    assert trainer.epoch == 30
    for prefix in ("", "val_"):
        bound, reconstruction, kl = (trainer.history[prefix + t] for t in terms)
        assert len(bound) == 30
        np.testing.assert_allclose(bound, -(np.array(reconstruction) + kl), rtol=1e-12)
        assert bound[-1] > bound[0] + 0.5
        assert min(kl) >= 0


def test_averages_are_over_samples() -> None:
    """The last batch is smaller, and counts for less."""
    trainer = new_trainer(max_epochs=1, lr=0.0, batch_size=36)
    trainer.fit(X, X)
    one = new_trainer(max_epochs=1, lr=0.0, batch_size=37)
    one.fit(X)
    np.testing.assert_allclose(trainer.history["kl"], one.history["kl"], rtol=1e-5)
    np.testing.assert_allclose(trainer.history["val_kl"], one.history["kl"], rtol=1e-5)


def test_history_is_the_bound_whatever_the_loss() -> None:
    plain = new_trainer(max_epochs=1, lr=0.0).fit(X)
    other = new_trainer(max_epochs=1, lr=0.0, beta=4.0, free_bits=2.0).fit(X)
    assert other.history.pop("beta") == [4.0]
    assert plain.history.pop("beta") == [1.0]
    assert plain.history == other.history


def test_order_is_drawn_on_the_cpu() -> None:
    """Whatever device new tensors are on by default."""
    with torch.device("meta"):
        orders = [list(EpochSampler(7, seed)) for seed in (0, None)]
    assert [sorted(order) for order in orders] == [list(range(7))] * 2


@pytest.mark.parametrize("dropout", [False, True])
def test_seed_determines_the_run(dropout: bool) -> None:
    first, second, other = (new_trainer(new_vae(dropout), seed=seed) for seed in (3, 3, 4))
    first.fit(X, X_VAL)
    # Neither the caller's random state nor the form of the data plays a part.
    torch.manual_seed(99)
    second.fit(X.double().numpy(), X_VAL.tolist())
    other.fit(X, X_VAL)
    assert_same(first, second)
    assert first.history != other.history


@pytest.mark.parametrize("dropout", [False, True])
def test_noise_is_new_in_training_and_the_same_in_validation(dropout: bool) -> None:
    same_rows = X[:1].expand(37, 6)  # so that their order does not matter
    trainer = new_trainer(new_vae(dropout), lr=0.0).fit(same_rows, X_VAL)
    assert len(set(trainer.history["bound"])) == 4
    assert len(set(trainer.history["val_bound"])) == 1


def test_random_state_of_the_caller_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    random_state, numpy_state = random.getstate(), repr(np.random.get_state())  # noqa: NPY002
    new_trainer(vae := VAE(6, 2, (5,))).fit(X)
    assert vae.training
    torch.manual_seed(5)
    trainer = new_trainer(VAE(6, 2, (5,)).eval())
    torch.manual_seed(5)
    trainer.fit(X)
    assert torch.equal(torch.rand(3), expected)
    assert not trainer.vae.training
    assert random.getstate() == random_state
    assert repr(np.random.get_state()) == numpy_state  # noqa: NPY002


def test_modes_of_all_modules_are_restored() -> None:
    vae = new_vae(dropout=True)
    vae.encoder.eval()
    modes = [module.training for module in vae.modules()]
    assert len(set(modes)) == 2
    trainer = new_trainer(vae).fit(X, X_VAL)
    assert [module.training for module in vae.modules()] == modes
    with pytest.raises(ValueError, match="`X_train` has the value nan"):
        trainer.fit(TensorDataset(NAN))
    assert [module.training for module in vae.modules()] == modes


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    options = {"max_epochs": np.int64(2), "batch_size": np.int32(8), "lr": np.float32(0.5**10)}
    options |= {"beta": np.float32(1), "free_bits": np.int64(0), "seed": np.int64(3)}
    trainer = new_trainer(**options, checkpoint_dir=tmp_path).fit(X)
    assert_same(trainer, new_trainer(max_epochs=2, lr=0.5**10, seed=3).fit(X))
    assert_same(new_trainer(**options, checkpoint_dir=tmp_path).fit(X, resume=True), trainer)


@pytest.mark.parametrize("dropout", [False, True])
def test_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, dropout: bool) -> None:
    whole = new_trainer(new_vae(dropout)).fit(X, X_VAL)
    new_trainer(new_vae(dropout), max_epochs=2, checkpoint_dir=tmp_path).fit(X, X_VAL)
    torch.manual_seed(99)
    other_weights = VAE(6, 2, (5,)) if not dropout else new_vae(dropout)
    resumed = new_trainer(other_weights, checkpoint_dir=tmp_path)
    resumed.fit(X, X_VAL, resume=True)
    assert_same(whole, resumed)
    assert os.listdir(tmp_path) == ["last.ckpt"]
    # Complete: nothing is left to do.
    assert_same(resumed.fit(X, X_VAL, resume=True), whole)


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_run_keeps_its_last_epoch(
    tmp_path: Path, error: type[BaseException], in_memory: bool
) -> None:
    folder = None if in_memory else tmp_path
    whole = new_trainer().fit(X)
    two_epochs = new_trainer(max_epochs=2).fit(X)
    trainer = new_trainer(checkpoint_dir=folder)
    Interrupt(trainer.vae, 13, error)  # 5 batches an epoch: in the third
    with pytest.raises(error, match="stopped"):
        trainer.fit(X)
    assert_same(trainer, two_epochs)
    # Again: the state that was resumed from must not have gone on with the training.
    Interrupt(trainer.vae, 4, error)
    with pytest.raises(error, match="stopped"):
        trainer.fit(X, resume=True)
    assert_same(trainer, two_epochs)
    trainer.fit(X, resume=True)
    assert_same(trainer, whole)


@pytest.mark.parametrize("n", [1, 3])
def test_failure_in_the_first_epoch_changes_nothing(n: int) -> None:
    trainer = new_trainer(max_epochs=1).fit(X)
    before, history = weights(trainer), trainer.history
    trainer.max_epochs = 2
    Interrupt(trainer.vae, n, RuntimeError)
    with pytest.raises(RuntimeError, match="stopped"):
        trainer.fit(X)
    assert trainer.history == history
    assert trainer.epoch == 1
    assert all(torch.equal(before[name], x) for name, x in weights(trainer).items())


def test_fit_again_goes_on_from_the_weights() -> None:
    trainer = new_trainer(max_epochs=20, lr=0.02).fit(X)
    last = trainer.history["bound"][-1]
    trainer.fit(X)
    assert len(trainer.history["bound"]) == 20
    assert trainer.history["bound"][0] > last - 0.2


def test_failed_write_leaves_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = new_trainer(max_epochs=1, checkpoint_dir=tmp_path).fit(X)
    saved = (tmp_path / "last.ckpt").read_bytes()

    def full_disk(state: Any, file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError("no space left")

    trainer.max_epochs = 3
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_disk)
        with pytest.raises(OSError, match="no space left"):
            trainer.fit(X, resume=True)
    assert trainer.epoch == 1
    assert os.listdir(tmp_path) == ["last.ckpt"]
    assert (tmp_path / "last.ckpt").read_bytes() == saved
    assert_same(trainer.fit(X, resume=True), new_trainer(max_epochs=3).fit(X))


def test_resume_without_a_checkpoint_starts_afresh(tmp_path: Path) -> None:
    assert_same(
        new_trainer(checkpoint_dir=tmp_path / "new").fit(X, resume=True), new_trainer().fit(X)
    )


def test_unusable_checkpoints(tmp_path: Path) -> None:
    new_trainer(checkpoint_dir=tmp_path, max_epochs=1).fit(X)
    path = tmp_path / "last.ckpt"
    for options, message in (
        ({"seed": 1}, "`seed` is 1, expected 0 as in the checkpoint"),
        ({"batch_size": 9}, "`batch_size` is 9, expected 8 as in the checkpoint"),
        ({"beta": 2.0}, "`beta` is 2.0, expected 1.0 as in the checkpoint"),
        ({"vae": VAE(6, 2, (7,))}, "the checkpoint does not fit vae"),
    ):
        trainer = new_trainer(**options, checkpoint_dir=tmp_path)
        before = weights(trainer)
        with pytest.raises(ValueError, match=message):
            trainer.fit(X, resume=True)
        assert (trainer.epoch, trainer.history) == (0, {})
        assert all(torch.equal(before[name], x) for name, x in weights(trainer).items())
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"x" * 100):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"last\.ckpt cannot be read"):
            new_trainer(checkpoint_dir=tmp_path).fit(X, resume=True)
    torch.save({"format": 99}, path)
    with pytest.raises(ValueError, match="has format 99, expected 1"):
        new_trainer(checkpoint_dir=tmp_path).fit(X, resume=True)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=torch.tensor(0.5))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({}, {"optimizer": sgd}, "`optimizer` is SGD, expected Adam as in the checkpoint"),
        ({"optimizer": sgd}, {}, "`optimizer` is Adam, expected SGD as in the checkpoint"),
        ({}, {"lr": 0.0}, r"`lr` is 0\.0, expected 0\.001 as in the checkpoint"),
        ({}, {"optimizer": adam}, r"`lr` is 0\.5, expected 0\.001 as in the checkpoint"),
    ],
)
def test_resuming_with_another_optimizer_is_refused(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], message: str
) -> None:
    new_trainer(checkpoint_dir=tmp_path, max_epochs=1, **first).fit(X)
    trainer = new_trainer(checkpoint_dir=tmp_path, **second)
    before = weights(trainer)
    with pytest.raises(ValueError, match=message):
        trainer.fit(X, resume=True)
    assert all(torch.equal(before[name], x) for name, x in weights(trainer).items())
    assert new_trainer(checkpoint_dir=tmp_path, **first).fit(X, resume=True).epoch == 4


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("data", [X[:36], TensorDataset(X[:36])])
def test_resuming_with_data_of_another_size_is_refused(
    tmp_path: Path, data: Any, in_memory: bool
) -> None:
    trainer = new_trainer(max_epochs=1, checkpoint_dir=None if in_memory else tmp_path).fit(X)
    trainer.max_epochs = 2
    with pytest.raises(ValueError, match="`X_train` has 36 samples, expected 37 as in the check"):
        trainer.fit(data, resume=True)
    # A loader's own batches are not counted.
    assert trainer.fit(loader(X, batch_size=8), resume=True).epoch == 2


def test_checkpoints_that_lack_something(tmp_path: Path) -> None:
    new_trainer(checkpoint_dir=tmp_path, max_epochs=1).fit(X)
    path = tmp_path / "last.ckpt"
    whole = torch.load(path, weights_only=True)
    partial = {**whole, "settings": {**whole["settings"]}}
    del partial["settings"]["lr"]
    for state, message in (
        ({"format": 1}, r"last\.ckpt has no epoch, history, model, optimizer, settings"),
        ({**whole, "settings": None}, r"last\.ckpt has no settings\['seed'\]"),
        (partial, r"last\.ckpt has no settings\['lr'\]"),
    ):
        torch.save(state, path)
        with pytest.raises(ValueError, match=message):
            new_trainer(checkpoint_dir=tmp_path).fit(X, resume=True)


def loader(rows: Any, **options: Any) -> DataLoader[Any]:
    """Anything with a length and rows is a data set."""
    return DataLoader(rows, **options)


class Rows(IterableDataset[torch.Tensor]):
    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(X)


def test_forms_of_the_data() -> None:
    arrays = new_trainer().fit(X, X_VAL)
    labelled = TensorDataset(X, torch.arange(37))
    assert_same(new_trainer().fit(labelled, loader(X_VAL, batch_size=8)), arrays)
    binary = (X > 0.5).numpy()
    assert_same(new_trainer().fit(binary), new_trainer().fit(binary.astype(np.float32)))
    read_only = X.numpy()[::-1].copy()[::-1]
    read_only.flags.writeable = False
    assert_same(new_trainer().fit(read_only, X_VAL), arrays)
    loaders = [
        new_trainer().fit(DataLoader(labelled, batch_size=8, shuffle=True)) for _ in range(2)
    ]
    assert_same(*loaders)
    streams = [new_trainer(progress=True).fit(Rows()) for _ in range(2)]
    assert_same(*streams)


NAN = X.clone()
NAN[5, 2] = torch.nan
GREY = (255 * X).round()

DATA: dict[str, tuple[Any, type[Exception], str]] = {
    "NaN": (NAN, ValueError, "`X_train` has the value nan in row 5, expected values in"),
    "range": (GREY, ValueError, r"`X_train` has the value \d+ in row 0, expected values in"),
    "negative": (-X - 0.1, ValueError, r"`X_train` has the value -[\d.]+ in row 0"),
    "empty": (X[:0], ValueError, r"`X_train` has shape \(0, 6\), expected \(n_samples, ...\)"),
    "one row": (X[0], ValueError, r"`X_train` has shape \(6,\), expected \(n_samples, 6\)"),
    "columns": (X[:, :5], ValueError, r"`X_train` has shape \(37, 5\), expected \(n_samples, 6\)"),
    "text": ([["a", "b"]], TypeError, "`X_train` has dtype <U1, expected numbers"),
    "complex": (X.to(torch.complex64), TypeError, "`X_train` has dtype torch.complex64"),
    "sparse": (X.to_sparse(), ValueError, r"`X_train` has layout torch\.sparse_coo, expected"),
    "mkldnn": (X.to_mkldnn(), ValueError, r"`X_train` has layout torch\._mkldnn"),
    "sparse batches": (
        loader([X.to_sparse()], batch_size=None),
        ValueError,
        r"`X_train` has layout torch\.sparse_coo",
    ),
    "dataset": (TensorDataset(NAN), ValueError, r"`X_train` has the value nan in row \d+"),
    "loader": (loader(NAN, batch_size=2), ValueError, "`X_train` has the value nan in row 5,"),
    "no batches": (
        loader(X, batch_size=64, drop_last=True),
        ValueError,
        "`X_train` gives no batches",
    ),
    "no samples": (TensorDataset(X[:0]), ValueError, "`X_train` is empty"),
    "dicts": (loader([{"x": 1.0}]), TypeError, "`X_train` gives batches of dict"),
}


@pytest.mark.parametrize("case", DATA)
def test_bad_data(case: str) -> None:
    data, error, message = DATA[case]
    trainer = new_trainer()
    before = weights(trainer)
    with pytest.raises(error, match=message):
        trainer.fit(data)
    assert all(torch.equal(before[name], x) for name, x in weights(trainer).items())
    assert trainer.epoch == 0


def test_bad_validation_data() -> None:
    with pytest.raises(ValueError, match="`X_val` has the value nan in row 5"):
        new_trainer().fit(X, NAN)


@pytest.mark.parametrize(
    ("posterior", "what"),
    # The full one's factor, not positive any more, would be an error of its argument.
    [("diagonal", r"the bound of `X_train` is .*"), ("full", "what the networks return is not .*")],
)
def test_divergence_is_an_error(posterior: str, what: str) -> None:
    trainer = new_trainer(new_vae(posterior=posterior), lr=1e30)
    before = weights(trainer)
    with pytest.raises(FloatingPointError, match=f"{what} in epoch 0"):
        trainer.fit(X)
    assert all(torch.equal(before[name], x) for name, x in weights(trainer).items())


def test_own_optimizer() -> None:
    trainer = new_trainer(optimizer=lambda p: torch.optim.SGD(p, lr=1e-2)).fit(X)
    assert trainer.history["bound"][-1] > trainer.history["bound"][0]
    with pytest.raises(TypeError, match="`optimizer` returned generator"):
        new_trainer(optimizer=lambda p: p).fit(X)


def test_precision() -> None:
    trainer = new_trainer(precision="64-true").fit(X)
    assert all(p.dtype == torch.float64 for p in trainer.vae.parameters())
    np.testing.assert_allclose(
        trainer.history["bound"][0], new_trainer().fit(X).history["bound"][0], rtol=0.05
    )


def test_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    new_trainer(progress=True).fit(X, X_VAL)
    shown = capsys.readouterr().err
    assert "20/20" in shown
    for name in ("bound=-", "reconstruction=", "kl=", "active_units=", "val_bound=-"):
        assert name in shown
    new_trainer(progress=False).fit(X)
    assert capsys.readouterr().err == ""


def test_no_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new_trainer(progress=True).fit(X, X_VAL)
