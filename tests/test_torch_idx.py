"""Files in the IDX format: every type, compressed or not, damaged or missing."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from elbokit.torch import VAE, VAETrainer, load_idx

CODES = {"u1": 0x08, "i1": 0x09, ">i2": 0x0B, ">i4": 0x0C, ">f4": 0x0D, ">f8": 0x0E}


def idx(array: np.ndarray, dtype: str = "u1") -> bytes:
    header = struct.pack(">BBBB", 0, 0, CODES[dtype], array.ndim)
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(dtype).tobytes()


def write(folder: Path, images: bytes, labels: bytes, prefix: str = "train") -> None:
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(images)
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)


IMAGES = np.random.default_rng(0).integers(0, 256, (7, 4, 5))
LABELS = np.arange(7)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("compressed", [False, True])
def test_images_and_labels(tmp_path: Path, split: str, compressed: bool) -> None:
    write(tmp_path, idx(IMAGES), idx(LABELS), {"train": "train", "test": "t10k"}[split])
    if compressed:
        for path in list(tmp_path.iterdir()):
            Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    images, labels = load_idx(tmp_path, split)
    assert images.dtype == labels.dtype == torch.uint8
    assert torch.equal(images, torch.from_numpy(IMAGES).byte())
    assert labels.tolist() == LABELS.tolist()
    images[0] = 0  # not a view of read-only memory


@pytest.mark.parametrize("dtype", CODES)
def test_types(tmp_path: Path, dtype: str) -> None:
    images = np.array([[[-3, 2]], [[100, -128]]]) if dtype[-2] != "u" else IMAGES
    if "f" in dtype:
        images = images / 3
    write(tmp_path, idx(images, dtype), idx(LABELS[: len(images)]))
    read, _ = load_idx(str(tmp_path))
    assert read.numpy().dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(read.numpy(), images.astype(dtype))


def test_missing_files_are_named(tmp_path: Path) -> None:
    name = r"t10k-images-idx3-ubyte nor .*t10k-images-idx3-ubyte\.gz"
    with pytest.raises(FileNotFoundError, match=name):
        load_idx(tmp_path, "test")
    with pytest.raises(ValueError, match="`split` is 'val', expected one of train, test"):
        load_idx(tmp_path, "val")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (b"", r"begins with the bytes \(none\), expected those of an IDX file"),
        (b"\x89PNG", "begins with the bytes 89 50 4e 47"),
        (b"\0\0\x0a\x03" + bytes(12), "begins with the bytes 00 00 0a 03"),
        (b"\0\0\x08\0", "begins with the bytes 00 00 08 00"),
        (idx(IMAGES)[:10], "has 10 bytes, expected a header of 16"),
        (idx(IMAGES)[:-1], r"has 155 bytes, expected 156 for shape \(7, 4, 5\) of uint8"),
        (idx(IMAGES) + b"\0", "has 157 bytes, expected 156"),
        (idx(IMAGES[:6]), "has 6 images, expected as many as 7 labels"),
    ],
)
def test_damaged_files(tmp_path: Path, images: bytes, message: str) -> None:
    write(tmp_path, images, idx(LABELS))
    with pytest.raises(ValueError, match=message):
        load_idx(tmp_path)


def test_damaged_compressed_file(tmp_path: Path) -> None:
    for damaged in (b"no gzip", gzip.compress(idx(IMAGES))[:-9]):
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"idx3-ubyte\.gz cannot be decompressed"):
            load_idx(tmp_path)


def test_the_trainer_scales_bytes(tmp_path: Path) -> None:
    """Bytes, and the same numbers scaled by hand, train alike, as arrays and from a loader."""
    write(tmp_path, idx(IMAGES), idx(LABELS))
    images, _ = load_idx(tmp_path)
    histories = []
    for data in (
        images.unsqueeze(1),
        images.unsqueeze(1).numpy(),
        images.unsqueeze(1) / 255,
        torch.utils.data.TensorDataset(images.unsqueeze(1)),
    ):
        torch.manual_seed(0)
        vae = VAE.convolutional((1, 4, 5), 2, (3,))
        trainer = VAETrainer(vae, max_epochs=2, batch_size=4, progress=False).fit(data, data)
        histories.append(trainer.history)
    assert histories[1:] == histories[:1] * 3
