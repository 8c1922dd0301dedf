"""Fits in two Python threads at once and in forked processes equal the serial ones, bit for bit."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from elbokit import GaussianMixture

ARRAYS = ("weights_", "means_", "covariances_", "precisions_cholesky_")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def fit(seed):
    """Fit one mixture from a given start (no k-means: this is about our own threads)."""
    X = np.random.default_rng(seed).normal(size=(4000, 5))
    gm = GaussianMixture(
        4,
        weights_init=np.full(4, 0.25),
        means_init=X[:4],
        precisions_init=np.tile(np.eye(5), (4, 1, 1)),
        max_iter=15,
        tol=0.0,
    ).fit(X)
    return [getattr(gm, name) for name in ARRAYS] + [np.array(gm.lower_bounds_), gm.predict(X)]


def assert_equal(results, expected):
    for got, want in zip(results, expected, strict=True):
        assert_array_equal(got, want)


def test_run_to_run():
    assert_equal(fit(0), fit(0))


def test_python_threads():
    seeds = list(range(6))
    serial = [fit(seed) for seed in seeds]
    with ThreadPoolExecutor(2) as pool:
        for got, expected in zip(pool.map(fit, seeds), serial, strict=True):
            assert_equal(got, expected)


def send(connection, seed):
    connection.send(fit(seed))
    connection.close()


# Python 3.12 warns of a fork beside threads; that is the case under test.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this platform"
)
def test_after_fork():
    expected = [fit(seed) for seed in (0, 1)]  # starts the parent's threads first
    context = multiprocessing.get_context("fork")
    children = []
    for seed in (0, 1):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=send, args=(sender, seed), daemon=True)
        process.start()
        sender.close()
        children.append((process, receiver))
    for (process, receiver), want in zip(children, expected, strict=True):
        try:
            assert receiver.poll(60), "the forked process did not answer"
            assert_equal(receiver.recv(), want)
        finally:
            process.join(10)
            process.kill()
        assert process.exitcode == 0
    assert_equal(fit(0), expected[0])  # and the parent still works
