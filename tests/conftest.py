from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

from elbokit import _core

# What tests build stays in the checkout.
os.environ["ELBOKIT_CACHE_DIR"] = str(Path(__file__).parent.parent / "build" / "cache")

# One profile everywhere: CI must not be luckier than a developer.
hypothesis.settings.register_profile(
    "elbokit", deadline=None, derandomize=True, max_examples=60, print_blob=True
)
hypothesis.settings.load_profile("elbokit")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--emulate-cuda",
        action="store_true",
        help="run elbokit.torch through its CUDA kernels, on the CPU's model of a GPU",
    )


@pytest.fixture(scope="session", autouse=True)
def _emulated_cuda(request: pytest.FixtureRequest) -> Iterator[None]:
    if not request.config.getoption("--emulate-cuda"):
        yield
        return
    import gpu as where  # imports torch

    with where.emulated_dispatch():
        yield


@pytest.fixture(params=_core.cpu_levels())
def cpu_level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once per CPU level that this machine has."""
    before = _core.cpu_level()
    _core.set_cpu_level(request.param)
    yield request.param
    _core.set_cpu_level(before)


@pytest.fixture
def restore_threads() -> Iterator[None]:
    before = _core.get_num_threads()
    yield
    _core.set_num_threads(before)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240229)


@pytest.fixture(params=["emulated", *(["cuda"] if glob.glob("/dev/nvidia[0-9]*") else [])])
def gpu(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The device of tensors that the CUDA implementations take: the CPU where they are emulated."""
    import torch

    import gpu as where  # imports torch

    if request.param == "cuda":
        if not where.has_gpu():
            pytest.skip("no GPU")
        yield torch.device("cuda")
    else:
        with where.emulation(schedule=5):
            yield torch.device("cpu")


@pytest.fixture
def matrix_units(gpu: Any) -> Iterator[Any]:
    """As `gpu`, with units for products of matrices."""
    import torch

    import gpu as where

    if gpu.type == "cuda":
        if torch.cuda.get_device_capability() < (8, 0):
            pytest.skip("no matrix units that the kernels know")
        yield gpu
    else:
        with where.emulation(schedule=5, hopper=True):
            yield gpu


@pytest.fixture
def dispatched(gpu: Any) -> Iterator[Any]:
    """As `gpu`, for what users call: it comes to the CUDA implementations of itself."""
    import gpu as where

    if gpu.type == "cuda":
        yield gpu
    else:
        with where.emulated_dispatch(schedule=5):
            yield gpu
