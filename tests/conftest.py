from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest

from elbokit import _core

# One profile everywhere: CI must not be luckier than a developer.
hypothesis.settings.register_profile(
    "elbokit", deadline=None, derandomize=True, max_examples=60, print_blob=True
)
hypothesis.settings.load_profile("elbokit")


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
