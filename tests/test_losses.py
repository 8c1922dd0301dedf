"""The losses' kernels against the float64 reference, and their gradients against differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from elbokit import _core, reference

DTYPES = (np.float32, np.float64)
SHAPES = [(rows, cols) for rows in (1, 2, 3, 17) for cols in (1, 2, 3, 15, 16, 17, 100)] + [
    (252, 507),
    (1, 70_001),
    (70_001, 1),
    (0, 5),
    (5, 0),
]
RELATIVE = {np.float32: 1e-6, np.float64: 1e-14}
STEP = 1e-6


def difference(f: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """Central difference of an elementwise function."""
    return (f(x + STEP) - f(x - STEP)) / (2 * STEP)


def close(got: np.ndarray, exact: np.ndarray, dtype: type, slack: float = 0.0) -> None:
    scale = max(1.0, np.abs(exact).max(initial=0.0))
    np.testing.assert_allclose(got, exact, rtol=0, atol=(RELATIVE[dtype] + slack) * scale)


def out(shape: tuple[int, ...] | int, dtype: type) -> np.ndarray:
    return np.full(shape, np.nan, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_bernoulli(
    cpu_level: str, shape: tuple[int, int], dtype: type, weighted: bool, rng: np.random.Generator
) -> None:
    rows, cols = shape
    logits = (5 * rng.normal(size=shape)).astype(dtype)
    target = rng.uniform(size=shape).astype(dtype)
    weight = rng.uniform(size=(rows, 1)).astype(dtype) if weighted else None
    pos_weight = rng.uniform(size=(1, cols)).astype(dtype) if weighted else None
    exact = reference.bernoulli_loss(logits, target, weight, pos_weight)
    elementwise, row_loss, grad = out(shape, dtype), out(rows, dtype), out(shape, dtype)

    def spread(a: np.ndarray | None) -> np.ndarray | None:
        return None if a is None else np.broadcast_to(a, shape)

    arguments = (logits, target, spread(weight), spread(pos_weight), None, None, 1.0, 0.25)
    total, _ = _core.bernoulli_loss(*arguments, elementwise, row_loss, grad)
    close(elementwise, exact, dtype)
    close(row_loss, exact.sum(axis=1), dtype)
    np.testing.assert_allclose(total, exact.sum(), rtol=RELATIVE[dtype])
    slope = difference(
        lambda x: reference.bernoulli_loss(x, target, weight, pos_weight), logits.astype(float)
    )
    close(grad, 0.25 * slope, dtype, slack=1e-8)
    # Without the rows' sums the elements may be visited in other pieces.
    flat_grad = out(shape, dtype)
    flat, _ = _core.bernoulli_loss(*arguments, None, None, flat_grad)
    np.testing.assert_allclose(flat, exact.sum(), rtol=RELATIVE[dtype])
    np.testing.assert_array_equal(flat_grad, grad)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bernoulli_of_a_sure_prediction_keeps_its_digits(cpu_level: str, dtype: type) -> None:
    """log1p(e^-|l|) must not be the difference of two large terms."""
    logits = np.linspace(-30, 30, 61, dtype=dtype)[None]
    target = (logits > 0).astype(dtype)
    elementwise, grad = out(logits.shape, dtype), out(logits.shape, dtype)
    _core.bernoulli_loss(logits, target, None, None, None, None, 1.0, 1.0, elementwise, None, grad)
    size = np.abs(logits.astype(np.longdouble))
    np.testing.assert_allclose(elementwise, np.log1p(np.exp(-size)), rtol=RELATIVE[dtype])
    exact = np.where(logits > 0, -1, 1) / (1 + np.exp(size))
    np.testing.assert_allclose(grad, exact, rtol=RELATIVE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0.0, 1e-3, 0.7, 3.0, 8.0, 15.0, 17.5, 30.0])
@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_bernoulli_sums_keep_their_digits(
    cpu_level: str, size: float, spread: float, dtype: type, rng: np.random.Generator
) -> None:
    """A product of many 1 + e^-|l| must neither lose small powers nor overflow."""
    logits = (size + spread * rng.uniform(size=(3, 1543))).astype(dtype)
    logits[1] *= -1
    target = (logits > 0).astype(dtype)
    exact = np.log1p(np.exp(-np.abs(logits.astype(np.longdouble)))).sum(axis=1)
    if size == 0 and spread == 0:
        exact[:] = 1543 * np.log(np.longdouble(2))
    row_loss = out(3, dtype)
    arguments = (logits, target, None, None, None, None, 1.0, 1.0, None)
    _core.bernoulli_loss(*arguments, row_loss, None)
    np.testing.assert_allclose(row_loss, exact, rtol=RELATIVE[dtype])
    for grad in (None, out(logits.shape, dtype)):
        total, _ = _core.bernoulli_loss(*arguments, None, grad)
        np.testing.assert_allclose(total, exact.sum(), rtol=RELATIVE[dtype])


def test_bernoulli_rows_are_right_to_a_unit(cpu_level: str, rng: np.random.Generator) -> None:
    """Importance weights are powers of such sums: what is lost here is lost of them."""
    logits = (0.2 * rng.normal(size=(10_000, 784))).astype(np.float32)
    target = rng.random(logits.shape, dtype=np.float32)
    exact = (np.logaddexp(0, logits.astype(np.float64)) - logits * target.astype(np.float64)).sum(1)
    row_loss = out(len(logits), np.float32)
    _core.bernoulli_loss(logits, target, None, None, None, None, 1.0, 1.0, None, row_loss, None)
    assert np.abs(row_loss - exact).max() <= np.spacing(np.float32(exact.max()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_bernoulli_extreme_logits(cpu_level: str, dtype: type) -> None:
    logits = np.array([[1e4, -1e4, 1e4, -1e4, 0.0]], dtype)
    target = np.array([[1.0, 0.0, 0.0, 1.0, 0.5]], dtype)
    elementwise, grad = out((1, 5), dtype), out((1, 5), dtype)
    _core.bernoulli_loss(logits, target, None, None, None, None, 1.0, 1.0, elementwise, None, grad)
    np.testing.assert_allclose(elementwise, [[0, 0, 1e4, 1e4, np.log(2)]], rtol=RELATIVE[dtype])
    np.testing.assert_allclose(grad, [[0, 0, 1, -1, 0]], atol=RELATIVE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("prior", [False, True])
def test_gaussian_kl(
    cpu_level: str, shape: tuple[int, int], dtype: type, prior: bool, rng: np.random.Generator
) -> None:
    rows, cols = shape
    mu, logvar = rng.normal(size=(2, *shape)).astype(dtype)
    prior_mu = rng.normal(size=(1, cols)).astype(dtype) if prior else None
    prior_logvar = rng.normal(size=(1, cols)).astype(dtype) if prior else None
    free_bits = 0.5

    def spread(a: np.ndarray | None) -> np.ndarray | None:
        return None if a is None else np.broadcast_to(a, shape)

    inputs = (mu, logvar, spread(prior_mu), spread(prior_logvar))
    exact = reference.gaussian_kl(mu, logvar, prior_mu, prior_logvar)
    charged = np.maximum(exact, free_bits)
    row_kl, row_charged = out(rows, dtype), out(rows, dtype)
    totals = _core.gaussian_kl(*inputs, free_bits, None, 1.0, row_kl, row_charged, None, None, None)
    close(row_kl, exact.sum(axis=1), dtype)
    close(row_charged, charged.sum(axis=1), dtype)
    np.testing.assert_allclose(totals, [exact.sum(), charged.sum()], rtol=RELATIVE[dtype])

    factor, charged_factor = rng.normal(size=(2, rows)).astype(dtype)
    grads = [out(shape, dtype) for _ in range(4)]
    wanted = grads if prior else [*grads[:2], None, None]
    _core.gaussian_kl_backward(*inputs, free_bits, factor, charged_factor, *wanted)
    both = factor[:, None] + np.where(exact < free_bits, 0.0, charged_factor[:, None])
    # Where rounding decides which side of the floor it is, either is right.
    decided = np.abs(exact - free_bits) > 1e-5
    standard = (np.zeros((1, cols)), np.zeros((1, cols)))
    point = [mu, logvar, *((prior_mu, prior_logvar) if prior else standard)]
    point = [np.broadcast_to(np.asarray(a, float), shape) for a in point]
    for i, grad in enumerate(wanted):
        if grad is None:
            continue
        slope = difference(
            lambda x, i=i: reference.gaussian_kl(*point[:i], x, *point[i + 1 :]), point[i]
        )
        close(np.where(decided, grad, 0), np.where(decided, both * slope, 0), dtype, slack=1e-7)


def laid_out(a: np.ndarray, apart: bool) -> np.ndarray:
    """Return a copy, whose rows touch or lie apart."""
    rows, cols = a.shape
    held = np.full((rows, cols + 3 * apart), np.nan, a.dtype)
    held[:, :cols] = a
    return held[:, :cols]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("apart", range(-1, 6))
def test_rows_that_touch_are_one_and_others_are_not(
    cpu_level: str, apart: int, dtype: type, rng: np.random.Generator
) -> None:
    """Without a number for each row a kernel may run over its end; the numbers are the same."""
    shape = 13, 21
    mu, logvar, prior_mu, prior_logvar = rng.normal(size=(4, *shape)).astype(dtype)
    exact = reference.gaussian_kl(mu, logvar, prior_mu, prior_logvar)
    by_row = [out(shape, dtype), out(shape, dtype)]
    inputs = mu, logvar, prior_mu, prior_logvar
    _core.gaussian_kl(*inputs, 0.3, None, 0.5, out(13, dtype), None, *by_row, None)
    grads = [laid_out(out(shape, dtype), apart == 4 + i) for i in range(2)]
    inputs = tuple(laid_out(a, apart == i) for i, a in enumerate(inputs))
    totals = _core.gaussian_kl(*inputs, 0.3, None, 0.5, None, None, *grads, None)
    expected = [exact.sum(), np.maximum(exact, 0.3).sum()]
    np.testing.assert_allclose(totals, expected, rtol=RELATIVE[dtype])
    np.testing.assert_array_equal(grads, by_row)

    logits = 3 * rng.normal(size=shape).astype(dtype)
    target, weight, mask = rng.uniform(size=(3, *shape)).astype(dtype)
    given = logits, target, weight, None, (mask > 0.4).astype(dtype)
    grad, grad_by_row = laid_out(out(shape, dtype), apart == 5), out(shape, dtype)
    exact_total = (reference.bernoulli_loss(logits, target, weight) * given[4]).sum()
    for used in (given, (logits, target, None, None, None)):
        if used[2] is None:
            exact_total = reference.bernoulli_loss(logits, target).sum()
        _core.bernoulli_loss(*used, None, 1.0, 0.5, None, out(13, dtype), grad_by_row)
        spaced = [None if a is None else laid_out(a, apart == i) for i, a in enumerate(used)]
        total, _ = _core.bernoulli_loss(*spaced, None, 1.0, 0.5, None, None, grad)
        np.testing.assert_allclose(total, exact_total, rtol=RELATIVE[dtype])
        np.testing.assert_array_equal(grad, grad_by_row)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gaussian_kl_near_the_prior_keeps_its_gradient(cpu_level: str, dtype: type) -> None:
    """Rounding can leave a tiny divergence below 0; without free bits it must not be floored."""
    mu = np.linspace(-1e-4, 1e-4, 41, dtype=dtype)[None]
    logvar = np.linspace(1e-4, -1e-4, 41, dtype=dtype)[None]
    one, zero = np.ones(1, dtype), np.zeros(1, dtype)
    grad_mu, grad_logvar = out(mu.shape, dtype), out(mu.shape, dtype)
    _core.gaussian_kl_backward(
        mu, logvar, None, None, 0.0, zero, one, grad_mu, grad_logvar, None, None
    )
    np.testing.assert_array_equal(grad_mu, mu)
    np.testing.assert_allclose(
        grad_logvar, 0.5 * np.expm1(logvar.astype(np.float64)), rtol=RELATIVE[dtype]
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("logvar", [-200.0, -80.0, 80.0])
def test_gaussian_kl_extreme_logvar(cpu_level: str, dtype: type, logvar: float) -> None:
    mu, logvar = np.array([[0.5]], dtype), np.array([[logvar]], dtype)
    total, _ = _core.gaussian_kl(mu, logvar, None, None, 0.0, None, 1.0, *[None] * 5)
    np.testing.assert_allclose(
        total, reference.gaussian_kl(mu, logvar).sum(), rtol=5 * RELATIVE[dtype]
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "cols", "latent"), [(1, 1, 1), (3, 17, 2), (252, 507, 3), (40, 2000, 100), (0, 3, 2)]
)
@pytest.mark.parametrize("free_bits", [0.0, 0.3])
def test_vae_loss_is_its_two_terms(
    cpu_level: str,
    rows: int,
    cols: int,
    latent: int,
    dtype: type,
    free_bits: float,
    rng: np.random.Generator,
) -> None:
    logits = rng.normal(size=(rows, cols)).astype(dtype)
    target = rng.uniform(size=(rows, cols)).astype(dtype)
    mu, logvar = rng.normal(size=(2, rows, latent)).astype(dtype)
    decoder = (logits, target, None, None, 1.0, mu, logvar, None, None)
    shapes = (rows, cols), (rows, latent), (rows, latent)
    terms, grads = [out(rows, dtype) for _ in range(3)], [out(shape, dtype) for shape in shapes]
    _core.vae_loss(*decoder, None, free_bits, 0.5, True, *terms, *grads, None)
    charged, rec, kl = (term.copy() for term in terms)
    alone, alone_grads = [out(rows, dtype) for _ in range(3)], [out(s, dtype) for s in shapes]
    _core.bernoulli_loss(logits, target, *[None] * 4, 1.0, 0.5, None, alone[0], alone_grads[0])
    prior = (mu, logvar, None, None)
    _core.gaussian_kl(*prior, free_bits, None, 0.5, *alone[1:], *alone_grads[1:], None)
    for got, expected in zip((rec, kl, charged, *grads), (*alone, *alone_grads), strict=True):
        np.testing.assert_array_equal(got, expected)
    factor = np.full(rows, 0.5, dtype)
    backward = [out((rows, latent), dtype) for _ in range(2)]
    _core.gaussian_kl_backward(*prior, free_bits, 0 * factor, factor, *backward, None, None)
    np.testing.assert_array_equal(grads[1:], backward)
    # Weighed by beta, row by row and summed up.
    _core.vae_loss(*decoder, 0.7, free_bits, 0.5, True, *terms, None, None, None, None)
    np.testing.assert_allclose(terms[0], rec + dtype(0.7) * charged, rtol=RELATIVE[dtype])
    if rows:
        sums = [out(1, dtype) for _ in range(3)]
        _core.vae_loss(*decoder, 0.7, free_bits, 0.5, False, *sums, None, None, None, None)
        exact = [0.5 * a.sum(dtype=np.float64) for a in alone]
        expected = exact[0] + 0.7 * exact[2], exact[0], exact[1]
        np.testing.assert_allclose(np.ravel(sums), expected, rtol=2 * RELATIVE[dtype])


def test_nothing_is_read_or_written_where_there_is_nothing() -> None:
    nothing = np.empty((2, 64, 0), np.float32)
    flat = np.empty((2, 0), np.float32)
    _core.logsumexp(nothing, flat)
    _core.logsumexp_backward(nothing, flat, flat, nothing.copy())


def test_same_bits_for_any_number_of_threads(
    restore_threads: None, rng: np.random.Generator
) -> None:
    logits = rng.normal(size=(700, 501)).astype(np.float32)
    target = rng.uniform(size=logits.shape).astype(np.float32)
    mu, logvar = rng.normal(size=(2, 700, 64)).astype(np.float32)
    results = []
    for threads in (1, 2, 5, 2):
        _core.set_num_threads(threads)
        grad = out(logits.shape, np.float32)
        terms, latent = [out(1, np.float32) for _ in range(3)], [out(mu.shape, np.float32)] * 2
        sums = np.zeros((3, 64))
        decoder = (logits, target, None, None, 1.0)
        options = (1.0, 0.1, 1.0, False)
        _core.vae_loss(*decoder, mu, logvar, None, None, *options, *terms, grad, *latent, sums)
        flat = _core.bernoulli_loss(logits, target, *[None] * 4, 1.0, 1.0, None, None, None)
        results.append((flat, *(a.tobytes() for a in (*terms, grad, *latent, sums))))
    assert all(result == results[0] for result in results)


F32 = np.zeros((2, 3), np.float32)
BAD = [
    (dict(logits=np.zeros((2, 3), int)), TypeError, "`logits` has dtype int64, expected float16"),
    (dict(target=np.zeros((2, 3))), TypeError, "`target` has dtype float64, expected float32"),
    (dict(target=F32[:1]), ValueError, r"`target` has shape \(1, 3\), expected \(2, 3\)"),
    (dict(logits=np.zeros((2, 3, 1), np.float32)), ValueError, "`logits` has 3 dimensions"),
    (dict(target=np.zeros((2, 6), np.float32)[:, ::2]), ValueError, "`target` has a column stride"),
    (dict(row_out=np.zeros(3, np.float32)), ValueError, r"`row_out` has shape \(3, 1\)"),
    (dict(grad_out=np.broadcast_to(F32, (2, 3))), ValueError, "`grad_out` is read-only"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_the_border_checks_what_crosses_it(
    change: dict, error: type[Exception], message: str
) -> None:
    arguments = dict(
        logits=F32, target=F32, weight=None, pos_weight=None, mask=None, row_weight=None,
        target_scale=1.0, scale=1.0, elementwise_out=None, row_out=None, grad_out=None,
    )  # fmt: skip
    with pytest.raises(error, match=message):
        _core.bernoulli_loss(**arguments | change)
