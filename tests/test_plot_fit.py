"""Pictures of fits: the artists say what the parameters say."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import trapezoid
from scipy.stats import norm
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.mixture import GaussianMixture as SklearnMixture

from elbokit import GaussianMixture, select_n_components
from gmm_starts import COVARIANCE_TYPES, clusters

pytest.importorskip("matplotlib")

from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from elbokit.plot import new_figure, plot_fit
from elbokit.plot._ellipses import Components, covariance_ellipse
from elbokit.plot._style import style_of


def fitted(X, k, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianMixture(k, random_state=0, **options).fit(X)


def ellipses(ax):
    return [p for p in ax.get_children() if isinstance(p, Ellipse)]


def scatters(ax):
    return [c for c in ax.collections if isinstance(c, PathCollection)]


def lines(ax):
    return ax.get_lines()


def dense(gm):
    """Return the covariances as matrices."""
    k, d = gm.means_.shape
    c = gm.covariances_.astype(np.float64)
    return {
        "full": lambda: c,
        "tied": lambda: np.tile(c, (k, 1, 1)),
        "diag": lambda: np.stack([np.diag(row) for row in c]),
        "spherical": lambda: c[:, None, None] * np.eye(d),
    }[gm.covariance_type]()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_ellipses_are_the_marginal_covariances(covariance_type, dtype, rng):
    """A point of the outline at n_std lies n_std standard deviations from the mean."""
    X = clusters(rng, 300, 5, 3).astype(dtype)
    gm = fitted(X, 3, covariance_type=covariance_type)
    features = [3, 1]
    figure = plot_fit(gm, X, features=features, n_std=[2.5, 0.5])
    drawn = ellipses(figure.axes[0])
    assert len(drawn) == 6
    for i, (mean, covariance) in enumerate(zip(gm.means_, dense(gm), strict=True)):
        marginal = covariance[np.ix_(features, features)]
        values, vectors = np.linalg.eigh(marginal)
        for patch, n_std in zip(drawn[2 * i : 2 * i + 2], (0.5, 2.5), strict=True):
            assert_allclose(patch.get_center(), mean[features], rtol=1e-6)
            axes = patch.get_width(), patch.get_height()
            assert_allclose(axes, 2 * n_std * np.sqrt(values[::-1]), rtol=1e-6)
            long = np.array([np.cos(np.radians(patch.angle)), np.sin(np.radians(patch.angle))])
            if values[1] > 1.01 * values[0]:
                assert abs(long @ vectors[:, 1]) == pytest.approx(1.0, abs=1e-6)
            outline = patch.get_patch_transform().transform(patch.get_path().vertices)
            out = outline - mean[features]
            on_curve = np.sqrt(np.einsum("ni,ij,nj->n", out, np.linalg.inv(marginal), out))
            # Bezier arcs are good to 3e-4; their control points lie outside.
            assert on_curve.min() == pytest.approx(n_std, rel=1e-3)


def test_angle_is_anticlockwise():
    assert covariance_ellipse([[4.0, 0.0], [0.0, 1.0]], 1.0)[:2] == (4.0, 2.0)
    up = covariance_ellipse([[1.0, 0.9], [0.9, 1.0]], 1.0)[2] % 180
    down = covariance_ellipse([[1.0, -0.9], [-0.9, 1.0]], 1.0)[2] % 180
    assert (up, down) == (pytest.approx(45.0), pytest.approx(135.0))


def test_points_have_the_colour_of_their_component(rng):
    X = clusters(rng, 200, 2, 3)
    gm = fitted(X, 3)
    drawn = scatters(plot_fit(gm, X).axes[0])
    labels = gm.predict(X)
    assert len(drawn) == 3
    for k, collection in enumerate(drawn):
        assert_array_equal(collection.get_offsets(), X[labels == k])
        assert to_hex(collection.get_facecolor()[0]) == style_of(k).color.lower()


def test_max_points(rng):
    X = clusters(rng, 1000, 2, 2)
    gm = fitted(X, 2)
    shown = [
        np.concatenate([c.get_offsets() for c in scatters(plot_fit(gm, X, max_points=n).axes[0])])
        for n in (100, 100, 1000)
    ]
    assert [len(rows) for rows in shown] == [100, 100, 1000]
    assert_array_equal(shown[0], shown[1])
    rows = {tuple(row) for row in X}
    assert len({tuple(row) for row in shown[0]} & rows) == 100


def test_weights(rng):
    """Integer weights are copies, in the histogram, and a row of weight 0 is none."""
    X = clusters(rng, 200, 1, 2)
    gm, copies = fitted(X, 2), rng.integers(0, 4, len(X))

    def bars(*given, **options):
        ax = plot_fit(gm, *given, **options).axes[0]
        return [(bar.get_x(), bar.get_height()) for bar in ax.patches]

    ends = [np.argmin(X), np.argmax(X)]
    copies[ends] = 1
    # As many bins: their number is that of the rows.
    kept = X[copies > 0]
    weighted = bars(X, sample_weight=copies)
    assert_allclose(weighted, bars(kept, sample_weight=copies[copies > 0]))
    counts, _ = np.histogram(
        np.repeat(X, copies), bins=len(weighted), range=(X.min(), X.max()), density=True
    )
    assert_allclose([height for _, height in weighted], counts, rtol=1e-6)
    with pytest.raises(ValueError, match=r"sample_weight has shape \(3,\), expected \(200,\)"):
        plot_fit(gm, X, sample_weight=np.ones(3))


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_densities_of_one_feature(covariance_type, rng):
    X = clusters(rng, 400, 3, 3)
    gm = fitted(X, 3, covariance_type=covariance_type)
    ax = plot_fit(gm, X, features=1).axes[0]
    *parts, mixture = lines(ax)
    deviations = np.sqrt(dense(gm)[:, 1, 1])
    total = 0.0
    for k, line in enumerate(parts):
        at, density = line.get_data()
        want = gm.weights_[k] * norm.pdf(at, gm.means_[k, 1], deviations[k])
        assert_allclose(density, want, rtol=1e-9, atol=1e-12)
        total = total + want
    assert_allclose(mixture.get_ydata(), total, rtol=1e-9, atol=1e-12)
    bars = [p for p in ax.patches if hasattr(p, "get_height")]
    area = sum(p.get_width() * p.get_height() for p in bars)
    assert area == pytest.approx(1.0)


def test_a_narrow_component_is_not_lost_between_the_points_of_the_grid(rng):
    X = np.concatenate([rng.uniform(0, 1000, 300), 500 + 1e-3 * rng.standard_normal(300)])[:, None]
    gm = GaussianMixture(2, means_init=[[500.0], [400.0]], precisions_init=[[[1e6]], [[1e-5]]])
    gm.fit(X)
    mixture = lines(plot_fit(gm, X).axes[0])[-1]
    assert trapezoid(mixture.get_ydata(), mixture.get_xdata()) == pytest.approx(1.0, abs=0.02)


def test_matrix_of_pairs(rng):
    X = clusters(rng, 200, 6, 2)
    gm = fitted(X, 2)
    figure = plot_fit(gm, X, features=[5, 0, 2])
    panels = {
        (s.rowspan.start, s.colspan.start): ax for ax in figure.axes for s in [ax.get_subplotspec()]
    }
    names = ["feature 5", "feature 0", "feature 2"]
    for i, j in [(1, 0), (2, 0), (2, 1)]:
        centers = [e.get_center() for e in ellipses(panels[i, j])]
        columns = [[5, 0, 2][j], [5, 0, 2][i]]
        assert_allclose(centers[::2], gm.means_[:, columns])
        assert panels[i, j].get_shared_x_axes().joined(panels[i, j], panels[j, j])
    assert [panels[2, j].get_xlabel() for j in range(3)] == names
    assert [panels[i, 0].get_ylabel() for i in range(3)] == ["density", *names[1:]]
    assert all(not ellipses(panels[i, i]) and len(lines(panels[i, i])) == 3 for i in range(3))


def test_default_features(rng):
    X = clusters(rng, 100, 7, 2)
    labels = {ax.get_xlabel() for ax in plot_fit(fitted(X, 2), X).axes}
    assert labels == {"", "feature 0", "feature 1", "feature 2", "feature 3"}


def test_names(rng):
    import pandas as pd

    frame = pd.DataFrame(clusters(rng, 80, 3, 2), columns=["a", "b", "c"])
    gm = fitted(frame, 2)
    ax = plot_fit(gm, frame, features=["c", "a"], max_points=50).axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("c", "a")
    assert_allclose(ellipses(ax)[0].get_center(), gm.means_[0, [2, 0]])
    with pytest.raises(ValueError, match="`features` has 'd', expected some of 'a', 'b', 'c'"):
        plot_fit(gm, frame, features="d")


def convergence_panel(figure):
    (found,) = (
        ax
        for parent in figure.axes
        for ax in (parent, *parent.child_axes)
        if "iterations" in ax.get_title()
    )
    return found


@pytest.mark.parametrize("d", [1, 2, 3])
def test_convergence(d, rng):
    X = clusters(rng, 200, d, 3, spread=1.0)
    gm = fitted(X, 3)
    del gm.history_  # as scikit-learn's
    ax = convergence_panel(plot_fit(gm, X))
    (line,) = lines(ax)
    assert_array_equal(line.get_xdata(), np.arange(1, gm.n_iter_ + 1))
    assert_array_equal(line.get_ydata(), gm.lower_bounds_)
    assert ax.get_title() == f"converged, {gm.n_iter_} iterations"


def test_half_steps(rng):
    X = clusters(rng, 100, 2, 2)
    gm = fitted(X, 2, max_iter=3, tol=0.0)
    assert not gm.converged_
    _, e, m = gm.history_
    ax = convergence_panel(plot_fit(gm, X))
    path, after_e, after_m = lines(ax)
    assert_array_equal(path.get_xdata(), [1, 1.5, 2, 2.5, 3, 3.5])
    assert_array_equal(path.get_ydata(), np.column_stack([e, m]).ravel())
    assert_array_equal(after_e.get_xydata(), np.column_stack([[1, 2, 3], e]))
    assert_array_equal(after_m.get_xydata(), np.column_stack([[1.5, 2.5, 3.5], m]))
    assert ax.get_title() == "not converged, 3 iterations"


def test_without_bounds(rng):
    X = clusters(rng, 60, 2, 2)
    figure = plot_fit(fitted(X, 2, max_iter=0), X)
    texts = [t.get_text() for ax in figure.axes for t in ax.texts]
    assert "no bounds recorded" in texts


def empty_one(rng):
    X = np.concatenate([rng.standard_normal((60, 2)), rng.standard_normal((60, 2)) + 5])
    gm = GaussianMixture(3, means_init=[[0, 0], [300, 300], [5, 5]], random_state=0).fit(X)
    assert gm.weights_[1] == 0.0
    return gm, X


def test_an_empty_component_is_grey_and_does_not_set_the_limits(rng):
    gm, X = empty_one(rng)
    ax = plot_fit(gm, X).axes[0]
    drawn = ellipses(ax)
    assert [to_hex(e.get_edgecolor()) for e in drawn[2:4]] == ["#999999"] * 2
    assert ax.get_xlim()[1] < 20
    assert ax.get_ylim()[1] < 20
    line = plot_fit(gm, X, features=[0]).axes[0]
    assert line.get_xlim()[1] < 20
    assert len(lines(line)) == 3  # two components and the mixture


def drawn_boxes(figure):
    """Return the extent of each panel with its labels, and of the key."""
    figure.draw_without_rendering()
    axes = [ax for parent in figure.axes for ax in (parent, *parent.child_axes)]
    panels = [ax.get_tightbbox(for_layout_only=False) for ax in axes if ax.axison]
    return panels + [
        ax.get_legend().get_window_extent() for ax in axes if not ax.axison and ax.get_legend()
    ]


@pytest.mark.parametrize(("d", "k"), [(1, 3), (2, 25), (3, 25), (4, 25)])
def test_nothing_is_clipped_or_overlaps(d, k, rng):
    X = 1e4 + clusters(rng, 400, d, 20).astype(np.float32)
    figure = plot_fit(fitted(X, k), X)
    boxes = drawn_boxes(figure)
    width, height = figure.bbox.size
    for i, box in enumerate(boxes):
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) > -1.0
        for other in boxes[:i]:
            common_x = min(box.x1, other.x1) - max(box.x0, other.x0)
            common_y = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert min(common_x, common_y) < 1.0
    for ax in figure.axes:
        for e in ellipses(ax):
            corners = e.get_path().transformed(e.get_patch_transform()).get_extents()
            assert ax.get_xlim()[0] <= corners.x0
            assert corners.x1 <= ax.get_xlim()[1]
            assert ax.get_ylim()[0] <= corners.y0
            assert corners.y1 <= ax.get_ylim()[1]


def test_constant_column_and_one_component():
    X = np.column_stack([np.arange(10.0), np.full(10, 7.0), np.full(10, 1e9)])
    gm = fitted(X, 1)
    for features in (None, [1], [0, 1], [2]):
        plot_fit(gm, X, features=features).draw_without_rendering()


def test_axes_and_figures_given(rng):
    X = clusters(rng, 100, 2, 2)
    gm = fitted(X, 2)
    own = new_figure(8, 4)
    left, right = own.subplots(1, 2)
    assert plot_fit(gm, X, ax=left) is own
    assert plot_fit(gm, X, features=0, ax=right) is own
    assert len(own.axes) == 2
    assert len(ellipses(left)) == 4
    other = new_figure(8, 4)
    assert plot_fit(gm, X, figure=other) is other
    part = Figure().subfigures(1, 2)[0]
    assert plot_fit(gm, X, figure=part) is part
    assert len(part.axes) == 3


def test_scikit_learns_mixture(rng):
    X = clusters(rng, 100, 2, 2)
    gm = SklearnMixture(2, random_state=0).fit(X)
    assert_allclose(ellipses(plot_fit(gm, X).axes[0])[0].get_center(), gm.means_[0])


def test_pyplot_is_left_alone():
    code = (
        "import sys, numpy as np, matplotlib\n"
        "from elbokit import GaussianMixture, plot, select_n_components\n"
        "X = np.random.default_rng(0).standard_normal((50, 3))\n"
        "plot.plot_fit(GaussianMixture(2).fit(X), X)\n"
        "select_n_components(X, [1, 2]).plot()\n"
        "print('matplotlib.pyplot' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


ERRORS = [
    ({"features": [0, 0]}, ValueError, "expected each feature once"),
    ({"features": []}, ValueError, "`features` is empty"),
    ({"features": [3]}, ValueError, "`features` has 3, expected numbers from 0 to 2"),
    ({"features": [-1]}, ValueError, "`features` has -1"),
    ({"features": [1.0]}, TypeError, r"`features` has 1\.0"),
    ({"features": "a"}, ValueError, "`features` has 'a', expected some of numbers"),
    ({"n_std": [1, 0]}, ValueError, "`n_std` has 0"),
    ({"n_std": ["a"]}, TypeError, "`n_std` has 'a'"),
    ({"n_std": np.inf}, ValueError, "`n_std` has inf"),
    ({"max_points": 0}, ValueError, "`max_points` is 0"),
    ({"max_points": 2.5}, TypeError, r"`max_points` is 2\.5"),
]


@pytest.mark.parametrize(("options", "kind", "message"), ERRORS)
def test_errors(options, kind, message, rng):
    X = clusters(rng, 50, 3, 2)
    with pytest.raises(kind, match=message):
        plot_fit(fitted(X, 2), X, **options)


def test_errors_of_the_rest(rng):
    X = clusters(rng, 50, 3, 2)
    gm = fitted(X, 2)
    with pytest.raises(NotFittedError):
        plot_fit(GaussianMixture(2), X)
    with pytest.raises(TypeError, match="`gm` is a KMeans, expected a GaussianMixture"):
        plot_fit(KMeans(2, n_init=1).fit(X), X)
    with pytest.raises(ValueError, match="2 features, but GaussianMixture is expecting 3"):
        plot_fit(gm, X[:, :2])
    figure = new_figure(4, 4)
    ax = figure.subplots()
    with pytest.raises(ValueError, match="`ax` and `figure` were both given"):
        plot_fit(gm, X, ax=ax, figure=figure)
    with pytest.raises(ValueError, match="`ax` holds one or two features, but 3"):
        plot_fit(gm, X, ax=ax)


def test_styles_are_distinct():
    assert len({style_of(i) for i in range(24)}) == 24


def test_marginal_covariances_of_all_types(rng):
    X = clusters(rng, 100, 4, 2)
    for kind in COVARIANCE_TYPES:
        gm = fitted(X, 2, covariance_type=kind)
        components = Components(gm.weights_, gm.means_, gm.covariances_, kind)
        got = components.marginal_covariances([2, 0, 3])
        assert_array_equal(got, dense(gm)[:, [2, 0, 3]][:, :, [2, 0, 3]])


def test_plot_of_a_selection(rng):
    X = np.array([[0.0, 1.0], [0.1, 1.3], [0.2, 0.7], [5.0, 3.0], [5.2, 3.3], [5.3, 2.5]])
    X = np.concatenate([X, X + 0.05 * rng.standard_normal(X.shape)])
    selection = select_n_components(
        X, [20, 3, 1, 2], covariance_type=["diag", "tied"], random_state=0
    )
    ax = selection.plot()
    curves = {line.get_label(): line for line in lines(ax)}
    for kind in ("diag", "tied"):
        rows = {row.n_components: row.bic for row in selection.table if row.covariance_type == kind}
        line = curves[kind]
        assert line.get_xdata().tolist() == [1, 2, 3, 20]
        assert_array_equal(line.get_ydata()[:3], [rows[k] for k in (1, 2, 3)])
        assert np.isnan(line.get_ydata()[3])
        assert list(curves[f"{kind}: failed"].get_xdata()) == [20]
        assert min(curves[f"{kind}: failed"].get_ydata()) > 0.8  # of the axes: infinitely bad
    best = min(selection.table, key=lambda row: row.bic)
    ring = curves[f"best: {best.n_components}, {best.covariance_type}"]
    assert_array_equal(ring.get_xydata(), [[best.n_components, best.bic]])
    assert ax.get_ylabel() == "BIC"
    given = new_figure(3, 3).subplots()
    assert selection.plot(ax=given) is given


@pytest.mark.parametrize("n_features", [1, 3])
def test_data_far_from_the_origin(n_features, rng):
    X = rng.standard_normal((300, n_features)) + 1.7e9
    figure = plot_fit(GaussianMixture(2, random_state=0).fit(X), X)
    panels = [ax for ax in figure.axes if "iteration" not in ax.get_xlabel()]
    spans = [np.ptp(ax.get_xlim()) for ax in panels if ax.has_data()]
    assert spans
    assert max(spans) < 20
