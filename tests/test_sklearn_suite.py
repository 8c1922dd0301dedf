"""scikit-learn's own tests of GaussianMixture, with the name bound to the class of this package.

The two modules come from the installed scikit-learn and are executed anew under other names, so
that tests and their parameters see this package's class from the start; scikit-learn's own modules
stay as they are. What cannot pass is listed with its reason, and must fail.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from types import ModuleType
from unittest.mock import patch

import numpy as np
import pytest
import sklearn.mixture
from sklearn.mixture import tests as suite

import elbokit

MODULES = ("test_gaussian_mixture", "test_mixture")

_PRIVATE = "calls or patches private methods of scikit-learn's class"

# What cannot pass, by the test's name with or without its parameters, and why.
EXCEPTIONS = {
    "test_gaussian_mixture_precisions_init": _PRIVATE,
    "test_gaussian_mixture_all_init_does_not_estimate_gaussian_parameters": _PRIVATE,
    "test_gaussian_mixture_setting_best_params": (
        "a component has one sample and reg_covar=0, so its variance is zero, which is an error "
        "here; scikit-learn goes on with what rounding leaves of it, some 1e-16"
    ),
    "test_score[float32]": (
        "compares the score with a mean taken in float32; here log-densities are summed in float64"
    ),
}

# Skipped by scikit-learn itself unless SCIPY_ARRAY_API is set: they test its own switch
# `array_api_dispatch`, which this package does not have.
LEFT_OUT = {
    "test_gaussian_mixture_array_api_compliance",
    "test_gaussian_mixture_raises_where_array_api_not_implemented",
}

# As in scikit-learn's own runs a warning is no failure, unless a test asks for it.
pytestmark = pytest.mark.filterwarnings("ignore")


def load(name: str) -> ModuleType:
    """Execute one of scikit-learn's test modules with our class for theirs."""
    path = os.path.join(os.path.dirname(suite.__file__), f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"sklearn_suite_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with patch.object(sklearn.mixture, "GaussianMixture", elbokit.GaussianMixture):
        spec.loader.exec_module(module)
    assert module.GaussianMixture is elbokit.GaussianMixture
    return module


TESTS: dict[str, Callable[..., None]] = {
    name: test
    for module in map(load, MODULES)
    for name, test in vars(module).items()
    if name.startswith("test_") and name not in LEFT_OUT
}
globals().update(TESTS)


@pytest.fixture(autouse=True)
def expected_failure(request: pytest.FixtureRequest) -> None:
    """Mark the tests of the table; the project's settings make one that passes an error."""
    name = request.node.name
    reason = EXCEPTIONS.get(name, EXCEPTIONS.get(name.split("[")[0]))
    if reason is not None:
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))


@pytest.fixture(params=[42])
def global_random_seed(request: pytest.FixtureRequest) -> int:
    """Return the seed that scikit-learn takes unless an environment variable asks for others."""
    return int(request.param)


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def global_dtype(request: pytest.FixtureRequest) -> type:
    """Return a type of the data; scikit-learn's own runs leave out float32 unless asked."""
    return request.param


def test_the_suite_was_found_and_every_exception_is_in_it():
    assert len(TESTS) >= 40
    for name in EXCEPTIONS:
        assert name.split("[")[0] in TESTS
    for name in ("test_gaussian_mixture_fit", "test_warm_start", "test_init", "test_sample"):
        assert TESTS[name].__globals__["GaussianMixture"] is elbokit.GaussianMixture
    assert sklearn.mixture.GaussianMixture is not elbokit.GaussianMixture
