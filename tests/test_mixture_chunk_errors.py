"""Chunks that cannot be fitted: what they raise, and that the estimator stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from elbokit import GaussianMixture, select_n_components

PARTS = np.array_split(np.random.default_rng(0).normal(size=(60, 2)), 3)


class Passes:
    """Gives other chunks from the second pass on."""

    def __init__(self, first: list[Any], later: list[Any]) -> None:
        self.passes = [first, later]

    def __iter__(self) -> Iterator[Any]:
        chunks = self.passes[0]
        self.passes = self.passes[1:] or self.passes
        return iter(chunks)


class OnceOnly:
    """Forgets to start anew."""

    def __init__(self) -> None:
        self.rest = iter(PARTS)

    def __iter__(self) -> Iterator[Any]:
        return self.rest


def with_value(value: float) -> list[np.ndarray]:
    parts = [part.copy() for part in PARTS]
    parts[1][4, 1] = value
    return parts


ONES = [np.ones(20)] * 3
# chunks, weights, exception, text that the message must have
CASES = [
    ((part for part in PARTS), None, TypeError, "generator, which can be read only once"),
    (iter(PARTS), None, TypeError, "list_iterator, which can be read only once"),
    (PARTS, "ab", TypeError, "sample_weight is a str, expected an array"),
    (PARTS, ["a"] * 60, TypeError, "sample_weight has dtype <U1 for chunk 0 of X"),
    (with_value(np.nan), None, ValueError, "nan in chunk 1, row 4, column 1"),
    (with_value(-np.inf), None, ValueError, "-inf in chunk 1, row 4, column 1"),
    ([PARTS[0], PARTS[1][:, :1]], None, ValueError, "chunk 1 of X: X has 1 features"),
    (Passes([PARTS[0], np.zeros(3)], []), None, ValueError, "chunk 1 of X: Expected 2D array"),
    ([PARTS[0], np.array([["a", "b"]])], None, ValueError, "chunk 1 of X: "),
    ([(PARTS[0], np.ones(20))], None, ValueError, "chunk 0 of X is a tuple of 2 items"),
    (Passes([], []), None, ValueError, "X has no rows"),
    ([PARTS[0][:1], PARTS[1][:0]], None, ValueError, "Found 1 sample(s)"),
    (Passes(PARTS, PARTS[:2]), None, ValueError, "40 rows in a later pass, but 60 rows"),
    (Passes(PARTS, [*PARTS, PARTS[0]]), None, ValueError, "or more in a later pass, but 60 rows"),
    (OnceOnly(), None, ValueError, "0 rows in a later pass, but 60 rows"),
    (Passes(PARTS, with_value(np.nan)), None, ValueError, "NaN or infinity in a later pass"),
    (Passes(PARTS, [a[:, :1] for a in PARTS]), None, ValueError, "1 features in a later pass"),
    (PARTS, ONES[:2], ValueError, "sample_weight has shape (0,) for chunk 2 of X, expected (20,)"),
    (PARTS, np.ones(59), ValueError, "sample_weight has shape (19,) for chunk 2"),
    (PARTS, np.ones(61), ValueError, "more weights than X has rows"),
    (PARTS, [*ONES, np.ones(1)], ValueError, "more weights than X has rows"),
    (PARTS, [ONES[0], -ONES[1], ONES[2]], ValueError, "-1.0 for row 0 of chunk 1"),
    (PARTS, [ONES[0], np.nan * ONES[1], ONES[2]], ValueError, "nan for row 0 of chunk 1"),
    (PARTS, np.zeros(60), ValueError, "no rows with a positive weight"),
    (PARTS, iter(ONES), TypeError, "sample_weight is a list_iterator"),
    (PARTS, 3.0, TypeError, "sample_weight is a float"),
    (
        PARTS,
        Passes([np.arange(1.0, 21.0)] * 3, [np.arange(2.0, 22.0)] * 3),
        ValueError,
        "other weights in a later pass",
    ),
]


@pytest.mark.parametrize(("chunks", "weight", "error", "text"), CASES)
def test_errors(chunks, weight, error, text):
    gm = GaussianMixture(2, random_state=0).fit(np.arange(30.0).reshape(10, 3) % 7)
    before = {name: id(value) for name, value in vars(gm).items()}
    with pytest.raises(error) as raised:
        gm.fit(chunks, sample_weight=weight)
    assert text in str(raised.value)
    assert {name: id(value) for name, value in vars(gm).items()} == before


def test_too_few_rows():
    with pytest.raises(ValueError, match="n_components = 61, n_samples = 60"):
        GaussianMixture(61).fit(PARTS)


def test_a_singular_covariance_names_its_component():
    constant = [np.column_stack([part[:, 0], np.ones(20)]) for part in PARTS]
    with pytest.raises(ValueError, match="not positive definite: component 0"):
        GaussianMixture(1, reg_covar=0.0).fit(constant)


@pytest.mark.parametrize(
    "method", ["predict", "predict_proba", "score", "score_samples", "bic", "aic", "impute"]
)
def test_answers_take_one_array(method: str) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 2))
    gm = GaussianMixture(2, random_state=0).fit(rows)
    with pytest.raises(TypeError, match="takes one array, got list with chunks of rows; call it"):
        getattr(gm, method)([rows[:20], rows[20:]])


def test_choosing_takes_one_array() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 2))
    with pytest.raises(TypeError, match="select_n_components takes one array, got tuple with"):
        select_n_components((rows[:20], rows[20:]), [1, 2])


@pytest.mark.parametrize("method", ["fit_predict", "partial_fit"])
def test_methods_that_take_one_array(method):
    gm = GaussianMixture(2)
    with pytest.raises(TypeError, match=f"{method} takes one array, got list with chunks of rows"):
        getattr(gm, method)(PARTS)
    assert not hasattr(gm, "weights_")


def test_what_is_no_chunks_gets_scikit_learns_messages():
    for X in ([], "text", {"a": 1}, 5, [1.0, 2.0], [[1.0, 2.0]]):
        with pytest.raises((TypeError, ValueError)) as raised:
            GaussianMixture().fit(X)
        assert "chunk" not in str(raised.value)
