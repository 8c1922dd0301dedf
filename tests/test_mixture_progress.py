"""Progress bars: over the iterations of a fit, and over the fits of a comparison."""

from __future__ import annotations

import builtins
import re
import warnings
from time import time

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from elbokit import GaussianMixture, select_n_components
from elbokit.mixture import _progress_bar

tqdm = pytest.importorskip("tqdm")


@pytest.fixture
def X(rng):
    return rng.standard_normal((200, 2)) + 3 * rng.integers(0, 3, (200, 1))


def fit(X, n_components=3, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianMixture(n_components, **({"random_state": 0} | options)).fit(X)


def last_states(text):
    """Return what each line of the terminal shows in the end."""
    return [line.split("\r")[-1] for line in text.split("\n")]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_bar_for_each_run(X, dtype, capsys):
    options = {"n_init": 3, "init_params": "random", "max_iter": 12, "tol": 1e-2}
    gm = fit(X.astype(dtype), verbose="bar", **options)
    out, err = capsys.readouterr()
    assert out == ""
    lines = last_states(err)
    assert lines.pop() == ""
    assert [line[: len("EM 1/3")] for line in lines] == ["EM 1/3", "EM 2/3", "EM 3/3"]
    bounds = [float(re.search(r"bound=([-\d.e+]+)", line)[1]) for line in lines]
    assert max(bounds) == pytest.approx(gm.lower_bound_, rel=1e-5)
    kept = lines[int(np.argmax(bounds))]
    assert f"{gm.n_iter_}/" in kept
    assert kept.rstrip(" ]").endswith("did not converge" if not gm.converged_ else "converged")
    change = float(re.search(r"change=([-\d.e+]+)", kept)[1])
    assert change == pytest.approx(np.diff(gm.lower_bounds_)[-1], rel=0.06)
    # What is shown changes nothing.
    silent = fit(X.astype(dtype), **options)
    assert_array_equal(gm.means_, silent.means_)
    assert gm.lower_bounds_ == silent.lower_bounds_


def test_how_a_run_ended(X, capsys):
    gm = fit(X, verbose="bar", max_iter=5000)
    line = last_states(capsys.readouterr().err)[0]
    assert line.startswith("EM: 100%")
    assert f" {gm.n_iter_}/{gm.n_iter_} " in line
    assert "converged" in line
    fit(X, verbose="bar", max_iter=2, tol=0.0)
    line = last_states(capsys.readouterr().err)[0]
    assert " 2/2 " in line
    assert "did not converge" in line


def test_no_iterations_and_a_warm_start(X, capsys):
    fit(X, verbose="bar", max_iter=0, n_init=2)
    assert "EM 2/2" in capsys.readouterr().err
    gm = GaussianMixture(3, random_state=0, warm_start=True, verbose="bar").fit(X).fit(X)
    assert gm.n_iter_ == 1
    assert " 1/1 " in last_states(capsys.readouterr().err)[1]


def test_seldom_drawn(X, capsys):
    """Thousands of quick iterations: a drawing every 50 ms at most, but for the ends."""
    start = time()
    gm = fit(X, verbose="bar", max_iter=20_000, tol=0.0)
    text = capsys.readouterr().err
    assert gm.n_iter_ > 1000
    # On a busy machine they take longer.
    assert text.count("\r") < 4 + 20 * (time() - start)


def test_slow_iterations_are_each_drawn(capsys):
    """Quick iterations first must not make a bar that waits for many of them."""
    with _progress_bar.BarMonitor(0.0, max_iter=1000) as bar:
        bar.begin(0)
        now = [bar._bar.last_print_t]
        bar._bar._time = lambda: now[0]
        for n in range(1, 501):
            now[0] += 1e-4
            bar.progress(n, 0.1, -1.0)
        capsys.readouterr()
        for n in range(501, 511):
            now[0] += 3.0
            bar.progress(n, 0.1, -1.0)
        assert capsys.readouterr().err.count("\r") == 10


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_an_error_wipes_the_bar(X, kind, monkeypatch, capsys):
    progress = _progress_bar.BarMonitor.progress

    def broken(self, n_iter, change, lower_bound):
        progress(self, n_iter, change, lower_bound)
        self._bar.refresh()
        if n_iter == 3:
            raise kind

    gm = fit(X)
    before = gm.means_
    monkeypatch.setattr(_progress_bar.BarMonitor, "progress", broken)
    with pytest.raises(kind):
        gm.set_params(verbose="bar", tol=0.0).fit(X)
    if kind is KeyboardInterrupt:  # the last complete iteration stays
        assert gm.n_iter_ == 3
    else:
        assert gm.means_ is before
    (line,) = [part for part in capsys.readouterr().err.split("\n")]
    *drawn, wiped, end = line.split("\r")
    assert "3/100" in drawn[-1]
    assert wiped.strip() == end == ""
    assert not tqdm.tqdm._instances


def test_singular_covariance_wipes_the_bar(capsys):
    X = np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0], [0.0, 9.0]])
    with pytest.raises(ValueError, match="positive definite"):
        GaussianMixture(2, reg_covar=0.0, verbose="bar", random_state=0).fit(X)
    *_, wiped, end = capsys.readouterr().err.split("\r")
    assert wiped.strip() == end == ""


@pytest.mark.parametrize("verbose", ["Bar", "1", ""])
def test_other_words(X, verbose):
    with pytest.raises(ValueError, match="'verbose' parameter of GaussianMixture"):
        GaussianMixture(verbose=verbose).fit(X)


def test_without_tqdm(X, monkeypatch):
    load = builtins.__import__

    def without(name, *arguments, **options):
        if name == "tqdm":
            raise ImportError("no tqdm", name="tqdm")
        return load(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    gm = GaussianMixture(verbose="bar")
    with pytest.raises(ImportError, match=r"verbose='bar' needs tqdm.*elbokit\[progress\]"):
        gm.fit(X)
    assert not hasattr(gm, "means_")
    with pytest.raises(ImportError, match=r"progress=True needs tqdm.*elbokit\[progress\]"):
        select_n_components(X, [1], progress=True)
    fit(X)
    select_n_components(X, [1])


def test_bar_over_the_fits(X, capsys):
    selection = select_n_components(X, range(1, 5), random_state=0, progress=True)
    (line, rest) = last_states(capsys.readouterr().err)
    assert line.startswith("mixtures: 100%")
    assert " 4/4 " in line
    assert f"best {selection.best_n_components} full" in line
    assert rest == ""
    select_n_components(X, [1], random_state=0)
    assert capsys.readouterr().err == ""


def test_an_error_wipes_the_bar_over_the_fits(X, capsys):
    def broken(gm, X):
        raise RuntimeError("no idea")

    with pytest.raises(RuntimeError, match="no idea"):
        select_n_components(X, [1, 2], criterion=broken, progress=True)
    *_, wiped, end = capsys.readouterr().err.split("\r")
    assert wiped.strip() == end == ""
