"""Images and labels from files in the IDX format, such as MNIST's."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from elbokit.torch._checks import check_path

__all__ = ["load_idx", "read_idx"]

# The third byte of the magic number; all numbers are big-endian.
_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_PREFIXES = {"train": "train", "test": "t10k"}


def load_idx(folder: str | os.PathLike[str], split: str = "train") -> tuple[Tensor, Tensor]:
    """Read a data set of labelled images in the format of MNIST [1]_.

    Nothing is downloaded. The files may be compressed, with the ending ``.gz``.

    Parameters
    ----------
    folder : path
        Where ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte`` are, or for the test data
        ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte``.
    split : {"train", "test"}, default="train"
        Which of the two.

    Returns
    -------
    images : Tensor of shape (n_samples, height, width)
        uint8, or another dtype if the file has it. `VAETrainer` scales uint8 to [0, 1].
    labels : Tensor of shape (n_samples,)
        As the file has them.

    Raises
    ------
    TypeError
        `folder` is no path.
    FileNotFoundError
        A file is missing; the error names those looked for.
    ValueError
        `split` is unknown, or a file is damaged or is not of the format.

    References
    ----------
    .. [1] Y. LeCun, C. Cortes and C. J. C. Burges, "The MNIST database of handwritten digits",
       1998, section "File formats".
    """
    if split not in _PREFIXES:
        raise ValueError(f"`split` is {split!r}, expected one of {', '.join(_PREFIXES)}")
    path = check_path("folder", folder)
    names = (f"{_PREFIXES[split]}-{name}-ubyte" for name in ("images-idx3", "labels-idx1"))
    images, labels = (read_idx(_existing(path, name)) for name in names)
    if len(images) != len(labels):
        raise ValueError(
            f"{folder} has {len(images)} images, expected as many as {len(labels)} labels"
        )
    return images, labels


def _existing(folder: Path, name: str) -> Path:
    candidates = [folder / name, folder / f"{name}.gz"]
    for path in candidates:
        if path.is_file():
            return path
    raise FileNotFoundError(f"found neither {candidates[0]} nor {candidates[1]}")


def read_idx(path: Path) -> Tensor:
    """Return the array in one IDX file, compressed if its name ends in ``.gz``.

    Raises
    ------
    ValueError
        The file is not of the format, or does not hold as many numbers as it says.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be decompressed: {error}") from error
    magic = content[:4]
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES or magic[3] == 0:
        raise ValueError(
            f"{path} begins with the bytes {magic.hex(' ') or '(none)'}, expected those of an IDX "
            "file: 00 00, a type (08, 09, 0b, 0c, 0d or 0e) and the number of dimensions"
        )
    start = 4 + 4 * magic[3]
    if len(content) < start:
        raise ValueError(f"{path} has {len(content)} bytes, expected a header of {start}")
    shape = [int(size) for size in np.frombuffer(content, ">i4", magic[3], 4)]
    dtype = np.dtype(_DTYPES[magic[2]])
    expected = start + math.prod(shape) * dtype.itemsize
    if min(shape) < 0 or len(content) != expected:
        raise ValueError(
            f"{path} has {len(content)} bytes, expected {expected} for shape {tuple(shape)} of "
            f"{dtype.newbyteorder('=')}"
        )
    array = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return torch.from_numpy(array.astype(dtype.newbyteorder("=")))  # a copy, to be written to
