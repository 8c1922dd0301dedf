"""Accuracy of the vector elementary functions, in units in the last place, at every level."""

from __future__ import annotations

import numpy as np
import pytest

from elbokit import _core

# Units in the last place, as cpp/math/elementary.h says.
EXP_LIMIT, LIMIT = 1.5, 2.2
LOG1P_LIMIT = {np.float32: 3.5, np.float64: LIMIT}
DTYPES = (np.float32, np.float64)


def evaluate(function: str, x: np.ndarray) -> np.ndarray:
    out = np.empty_like(x)
    _core.elementary(function, x, out)
    return out


def ulps(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    rounded = exact.astype(got.dtype)
    return np.abs(got.astype(np.longdouble) - exact) / np.spacing(np.abs(rounded))


def grid(low: float, high: float, dtype: type, rng: np.random.Generator) -> np.ndarray:
    return np.concatenate([np.linspace(low, high, 20_001), rng.uniform(low, high, 20_000)]).astype(
        dtype
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 80.0])
def test_exp(cpu_level: str, dtype: type, scale: float, rng: np.random.Generator) -> None:
    x = grid(-scale, scale, dtype, rng)
    assert ulps(evaluate("exp", x), np.exp(x.astype(np.longdouble))).max() < EXP_LIMIT


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 80.0])
def test_expm1(cpu_level: str, dtype: type, scale: float, rng: np.random.Generator) -> None:
    x = grid(-scale, scale, dtype, rng)
    assert ulps(evaluate("expm1", x), np.expm1(x.astype(np.longdouble))).max() < LIMIT


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp2_nonpositive(cpu_level: str, dtype: type, rng: np.random.Generator) -> None:
    # Where a table of eighths is looked up, the argument is cut at the sixteenths between them.
    sixteenths = np.arange(-125 * 16, 0, dtype=dtype) / 16
    beside = [np.nextafter(sixteenths, dtype(to)) for to in (-np.inf, np.inf)]
    x = np.concatenate([grid(-125.0, 0.0, dtype, rng), sixteenths, *beside])
    assert ulps(evaluate("exp2_nonpositive", x), np.exp2(x.astype(np.longdouble))).max() < EXP_LIMIT


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_nonpositive(cpu_level: str, dtype: type, rng: np.random.Generator) -> None:
    x = np.concatenate([grid(-87.0, 0.0, dtype, rng), grid(-1e-3, 0.0, dtype, rng)])
    assert ulps(evaluate("exp_nonpositive", x), np.exp(x.astype(np.longdouble))).max() < EXP_LIMIT


@pytest.mark.parametrize("dtype", DTYPES)
def test_logistic_share(cpu_level: str, dtype: type, rng: np.random.Generator) -> None:
    x = grid(0.0, 1.0, dtype, rng)
    exact = x.astype(np.longdouble) / (1 + x.astype(np.longdouble))
    assert ulps(evaluate("logistic_share", x), exact).max() < EXP_LIMIT


@pytest.mark.parametrize("dtype", DTYPES)
def test_log(cpu_level: str, dtype: type, rng: np.random.Generator) -> None:
    info = np.finfo(dtype)
    x = np.concatenate(
        [
            np.exp(grid(np.log(info.tiny) + 0.01, np.log(info.max) - 0.01, np.float64, rng)),
            grid(0.5, 2.0, np.float64, rng),
            1 + grid(-1e-3, 1e-3, np.float64, rng),
        ]
    ).astype(dtype)
    exact = np.log(x.astype(np.longdouble))
    assert ulps(evaluate("log", x), exact).max() < LIMIT


@pytest.mark.parametrize("dtype", DTYPES)
def test_log1p_unit(cpu_level: str, dtype: type, rng: np.random.Generator) -> None:
    x = np.concatenate([grid(0, 1, dtype, rng), np.geomspace(1e-30, 1, 10_001, dtype=dtype)])
    exact = np.log1p(x.astype(np.longdouble))
    assert ulps(evaluate("log1p_unit", x), exact).max() < LOG1P_LIMIT[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_log1p(cpu_level: str, dtype: type, rng: np.random.Generator) -> None:
    high = np.finfo(dtype).max / 4
    x = np.concatenate([grid(0, 4, dtype, rng), np.geomspace(1e-30, high, 10_001, dtype=dtype)])
    exact = np.log1p(x.astype(np.longdouble))
    assert ulps(evaluate("log1p", x), exact).max() < LOG1P_LIMIT[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values(cpu_level: str, dtype: type) -> None:
    inf, nan = np.inf, np.nan
    cases = {
        "exp": {inf: inf, -inf: 0.0, nan: nan, 1e4: inf, -1e4: 0.0, 0.0: 1.0},
        "expm1": {inf: inf, -inf: -1.0, nan: nan, 1e4: inf, -1e4: -1.0, 0.0: 0.0},
        "exp_nonpositive": {nan: nan, -inf: 0.0, -1e4: 0.0, 0.0: 1.0},
        "exp2_nonpositive": {nan: nan, -inf: 0.0, -2000.0: 0.0, 0.0: 1.0, -1.0: 0.5},
        "log1p_unit": {0.0: 0.0, 1.0: np.log(2)},
        "log1p": {0.0: 0.0, 1.0: np.log(2), nan: nan},
        "log": {1.0: 0.0, 2.0: np.log(2)},
    }
    for function, table in cases.items():
        x = np.array(list(table) * 8, dtype)  # whole vectors and a rest
        expected = np.array(list(table.values()) * 8, dtype)
        np.testing.assert_array_equal(evaluate(function, x), expected, err_msg=function)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_reaches_the_ends_of_the_range(cpu_level: str, dtype: type) -> None:
    info = np.finfo(dtype)
    top = np.nextafter(np.log(info.max).astype(dtype), dtype(0))
    bottom = np.log(info.tiny).astype(dtype)
    x = np.array([top, bottom], dtype)
    assert ulps(evaluate("exp", x), np.exp(x.astype(np.longdouble))).max() < EXP_LIMIT
    assert ulps(evaluate("expm1", x), np.expm1(x.astype(np.longdouble))).max() < LIMIT
    subnormal = np.array([bottom - 5], dtype)
    np.testing.assert_allclose(
        evaluate("exp", subnormal),
        np.exp(subnormal.astype(np.longdouble)),
        atol=info.smallest_subnormal,
    )
