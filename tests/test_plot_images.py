"""Pictures of images and of latent points: what they hold, and errors that name the argument."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from elbokit.plot import image_rows, latent_map


def test_image_rows_of_different_lengths() -> None:
    rng = np.random.default_rng(0)
    rows = {"data": rng.random((3, 5, 4)), "samples": rng.random((2, 5, 4))}
    figure = image_rows(rows, titles=["a", "b", "c"])
    drawn = [ax for ax in figure.axes if ax.images]
    assert len(drawn) == 5
    assert [ax.get_title() for ax in drawn] == ["a", "b", "c", "", ""]
    top = max(images.max() for images in rows.values())
    assert all(ax.images[0].get_clim() == (0.0, top) for ax in drawn)


def test_image_rows_errors() -> None:
    with pytest.raises(ValueError, match="`rows` is empty"):
        image_rows({})
    with pytest.raises(ValueError, match=r"`rows` has images of shape \(5, 4\) in 'one'"):
        image_rows({"one": np.zeros((5, 4))})
    with pytest.raises(ValueError, match=r"`rows` has images of shape \(0, 5, 4\) in 'none'"):
        image_rows({"none": np.zeros((0, 5, 4))})
    with pytest.raises(ValueError, match="`titles` has 1 entries, expected one for each of 2"):
        image_rows({"two": np.zeros((2, 5, 4))}, titles=["a"])


def test_latent_map_draws_each_class() -> None:
    z = np.array([[0.0, 0.0], [2.0, 0.0], [5.0, 5.0]])
    ax = latent_map(z, [7, 7, 1])
    counts = {p.get_label(): len(p.get_offsets()) for p in ax.collections}
    assert counts == {"1": 1, "7": 2}
    middles = {t.get_text(): t.xy for t in ax.texts}
    assert middles == {"1": (5.0, 5.0), "7": (1.0, 0.0)}


def test_latent_map_of_what_a_model_returns() -> None:
    torch = pytest.importorskip("torch")
    ax = latent_map(torch.randn(6, 2, requires_grad=True), torch.arange(6) % 2)
    assert len(ax.collections) == 2


def test_latent_map_errors() -> None:
    with pytest.raises(ValueError, match=r"`z` has shape \(4, 3\), expected \(n_samples, 2\)"):
        latent_map(np.zeros((4, 3)), np.zeros(4))
    with pytest.raises(ValueError, match=r"`labels` has shape \(3,\), expected \(4,\)"):
        latent_map(np.zeros((4, 2)), np.zeros(3))
