"""The example on digits: its probabilities are probabilities, and a short run works."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from threadpoolctl import threadpool_limits

from elbokit import GaussianMixture

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def digits_data():
    if not EXAMPLES.is_dir():
        pytest.skip("the examples are not beside the tests")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        import digits_data

        yield digits_data


def test_bits_are_a_binomial_pixel(digits_data):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 17, size=(5, 64)).astype(float)
    X[0, :2] = 0, 16
    bits = digits_data.to_bits(X)
    assert_array_equal(bits.sum(axis=1), X)
    logits = rng.normal(size=(5, 64))
    p = 1 / (1 + np.exp(-logits))[:, None, :]
    log_bits = np.where(bits == 1, np.log(p), np.log1p(-p)).sum(axis=(1, 2))
    expected = stats.binom.logpmf(X, 16, p[:, 0]).sum(axis=1)
    assert_allclose(log_bits + digits_data.log_arrangements(X), expected, rtol=1e-10)


def test_mixture_probabilities_sum_to_one(digits_data):
    rng = np.random.default_rng(0)
    points = np.vstack([rng.normal(3, 2, size=(100, 2)), rng.normal([12, 17], 1.5, size=(80, 2))])
    gm = GaussianMixture(2, covariance_type="diag", random_state=0).fit(points)
    images = np.array(list(itertools.product(range(17), repeat=2)), dtype=float)
    log_probability = digits_data.mixture_log_probability(gm, images)
    assert np.exp(log_probability).sum() == pytest.approx(1.0, abs=1e-12)
    bound = digits_data.mixture_bound(gm, images, n_draws=200, seed=0)
    inner = ((images > 0) & (images < 16)).all(axis=1)
    # The noise's mean is estimated, to about 0.01 here; the bound itself holds everywhere.
    assert (bound[inner] < log_probability[inner] + 0.05).all()
    assert bound.mean() < log_probability.mean()


def test_normal_mass_in_the_tails(digits_data):
    lower = np.array([-np.inf, -1.0, 0.5, 30.0, -31.0, 5.0, -np.inf])
    upper = np.array([0.0, 2.0, np.inf, 31.0, -30.0, np.inf, np.inf])
    tail = stats.norm.logsf(30.0) + np.log1p(-np.exp(stats.norm.logsf(31.0) - stats.norm.logsf(30)))
    expected = [
        np.log(0.5),
        np.log(stats.norm.cdf(2) - stats.norm.cdf(-1)),
        stats.norm.logsf(0.5),
        tail,
        tail,
        stats.norm.logsf(5.0),
        0.0,
    ]
    assert_allclose(digits_data.log_normal_mass(lower, upper), expected, rtol=1e-12, atol=1e-15)


def test_quick_run(digits_data, tmp_path, capsys):
    for module in ("lightning_fabric", "matplotlib"):
        pytest.importorskip(module)
    torch = pytest.importorskip("torch")
    import digits

    # One thread each: spinning pools on a busy machine turn seconds into minutes.
    n_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with threadpool_limits(1):
            out = digits.main(["--quick", "--out", str(tmp_path / "results")])
    finally:
        torch.set_num_threads(n_threads)
    assert str(out.resolve()) in capsys.readouterr().out
    pictures = {path.name for path in out.glob("*.png")}
    assert pictures == {
        "mixture_bound.png",
        "mixture_means.png",
        "samples.png",
        "vae_bound.png",
        "vae_interpolation.png",
        "vae_latent.png",
        "vae_manifold.png",
    }
    assert all((out / name).stat().st_size > 5000 for name in pictures)
    report = (out / "digits.md").read_text(encoding="utf-8")
    rows = re.findall(r"\| ([\w -]+),.*?\| (-[\d.]+) ± [\d.]+ \| (-[\d.]+) ±", report)
    assert [name for name, *_ in rows] == ["Gaussian mixture", "VAE", "VAE"]
    assert all(float(bound) < float(log_p) for _, bound, log_p in rows)
