"""GaussianMixture and ops.gmm_fit on arrays of a GPU: the CPU's trajectory, answers and errors."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from elbokit import GaussianMixture, MixturePrior, _gpu_arrays, _gpu_fit, ops

TYPES = ("full", "tied", "diag", "spherical")
INITS = ("kmeans", "k-means++", "random", "random_from_data")
PARAMETERS = ("weights_", "means_", "covariances_", "precisions_cholesky_", "precisions_")


def rows(n=240, d=3, k=3, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    centers = 4.0 * rng.normal(size=(k, d))
    return (centers[rng.integers(k, size=n)] + rng.normal(size=(n, d))).astype(dtype)


def both(gpu, X, sample_weight=None, **options):
    """Fit on the CPU and on the GPU."""
    options = {"random_state": 3, "max_iter": 15, "tol": 1e-4, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        expected = GaussianMixture(3, **options).fit(X, sample_weight=sample_weight)
        found = GaussianMixture(3, **options).fit(
            torch.from_numpy(X).to(gpu), sample_weight=sample_weight
        )
    return expected, found


def same_fit(expected, found, rtol=1e-9):
    assert found.n_iter_ == expected.n_iter_
    assert found.converged_ == expected.converged_
    assert found.n_features_in_ == expected.n_features_in_
    np.testing.assert_allclose(found.lower_bounds_, expected.lower_bounds_, rtol=rtol)
    for name in ("before", "after_e", "after_m"):
        given = getattr(found.history_, name), getattr(expected.history_, name)
        # The gain of an M-step is a difference of sums that a start from single rows makes large.
        np.testing.assert_allclose(*given, rtol=10 * rtol)
    for name in PARAMETERS:
        a, e = getattr(found, name), getattr(expected, name)
        assert type(a) is np.ndarray
        assert a.dtype == e.dtype
        np.testing.assert_allclose(a, e, rtol=rtol, atol=rtol * np.abs(e).max())
    for name in ("lower_bound", "n_iter", "converged", "dropped"):
        np.testing.assert_allclose(found.restarts_[name], expected.restarts_[name], rtol=rtol)


@pytest.mark.parametrize("init_params", INITS)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_same_trajectory(gpu, covariance_type, init_params):
    options = {"covariance_type": covariance_type, "init_params": init_params}
    same_fit(*both(gpu, rows(), **options))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_float32(gpu, covariance_type):
    expected, found = both(gpu, rows(dtype=np.float32), covariance_type=covariance_type)
    assert found.means_.dtype == np.float32
    same_fit(expected, found, rtol=1e-4)


@pytest.mark.parametrize("weights", ["copies", "shares", "zeros"])
@pytest.mark.parametrize("init_params", INITS)
def test_sample_weight(gpu, init_params, weights):
    rng = np.random.default_rng(1)
    sample_weight = {
        "copies": rng.integers(1, 4, size=240).astype(np.float64),
        "shares": rng.uniform(0.1, 2.0, size=240),
        "zeros": rng.integers(0, 3, size=240).astype(np.float64),
    }[weights]
    for covariance_type in ("full", "tied"):
        options = {"init_params": init_params, "covariance_type": covariance_type}
        expected, found = both(gpu, rows(), sample_weight, **options)
        same_fit(expected, found)
    again = GaussianMixture(3, random_state=3, max_iter=15, tol=1e-4, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        again.fit(torch.from_numpy(rows()).to(gpu), None, torch.from_numpy(sample_weight).to(gpu))
    np.testing.assert_array_equal(again.means_, found.means_)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_what_is_given_may_be_on_the_gpu(gpu, covariance_type):
    X = rows()
    start = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(X)
    given = {
        "weights_init": start.weights_,
        "means_init": start.means_,
        "precisions_init": start.precisions_,
    }
    number = np.random.default_rng(1).integers(0, 3, size=240)  # copies, of dtype int64
    expected, _ = both(gpu, X, number, covariance_type=covariance_type, **given)
    tensors = {name: torch.from_numpy(a).to(gpu) for name, a in given.items()}
    found = GaussianMixture(**{**expected.get_params(), **tensors})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found.fit(torch.from_numpy(X).to(gpu), sample_weight=torch.from_numpy(number).to(gpu))
    same_fit(expected, found)


def test_many_rows_are_shared_in_blocks(gpu, monkeypatch):
    monkeypatch.setattr("elbokit.mixture._gpu_scatter._BLOCK_ROWS", 77)
    same_fit(*both(gpu, rows(), init_params="random"))


@pytest.mark.parametrize(
    "options",
    [
        {"n_init": 3, "init_params": "random"},
        {"n_init": 2, "drop_restarts": None},
        {"relative_reg_covar": 1e-2, "covariance_type": "spherical"},
        {"relative_reg_covar": 1e-2, "reg_covar": 1e-3},
        {"prior": MixturePrior()},
        {"max_iter": 0},
        {
            "weights_init": np.full(3, 1 / 3),
            "means_init": rows()[:3],
            "precisions_init": np.broadcast_to(np.eye(3), (3, 3, 3)),
        },
        {"means_init": rows()[:3]},
    ],
    ids=lambda o: "-".join(o),
)
def test_options(gpu, options):
    same_fit(*both(gpu, rows(), **options))


def test_warm_start(gpu):
    X = rows()
    expected = GaussianMixture(3, random_state=0, max_iter=3, warm_start=True, tol=0.0)
    found = GaussianMixture(3, random_state=0, max_iter=3, warm_start=True, tol=0.0)
    for _ in range(2):
        with pytest.warns(ConvergenceWarning):
            expected.fit(X)
        with pytest.warns(ConvergenceWarning):
            found.fit(torch.from_numpy(X).to(gpu))
    same_fit(expected, found)


@pytest.mark.parametrize("verbose", [1, 2])
def test_verbose(gpu, capsys, verbose):
    options = {"verbose": verbose, "verbose_interval": 2, "max_iter": 5}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        GaussianMixture(2, random_state=0, **options).fit(rows())
        expected = capsys.readouterr().out.splitlines()
        GaussianMixture(2, random_state=0, **options).fit(torch.from_numpy(rows()).to(gpu))
    found = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0][:16] for line in found] == [
        line.split("\t")[0][:16] for line in expected
    ]


def test_one_read_back_per_iteration(gpu, monkeypatch):
    calls = []

    def counted(tensor):
        calls.append(tuple(tensor.shape))
        return _gpu_arrays.read_back(tensor)

    def begun(tensor):
        calls.append(tuple(tensor.shape))
        return begin(tensor)

    begin = _gpu_arrays.begin_read_back
    monkeypatch.setattr("elbokit._gpu_m_step.begin_read_back", begun)
    for module in ("elbokit.mixture._gpu_fit", "elbokit.mixture._gpu_scatter"):
        monkeypatch.setattr(f"{module}.read_back", counted)
    X = torch.from_numpy(rows()).to(gpu)
    counts = []
    for max_iter in (1, 11):
        calls.clear()
        with pytest.warns(ConvergenceWarning):
            GaussianMixture(3, random_state=3, tol=0.0, max_iter=max_iter).fit(X)
        counts.append(len(calls))
        assert max(np.prod(shape, dtype=int) for shape in calls) < len(X)
    assert counts[1] - counts[0] == 10


def test_what_float32_cannot_resolve_is_done_again(gpu, monkeypatch):
    wide = []
    sums = _gpu_fit.statistics
    monkeypatch.setattr(
        "elbokit._gpu_fit.statistics",
        lambda *a, **how: (wide.append(how["wide"]), sums(*a, **how))[1],
    )
    X = rows(dtype=np.float32)
    X[:, 2] = X[:, 0] + 1e-5 * X[:, 1]  # nearly dependent
    expected, found = both(gpu, X, reg_covar=1e-12, max_iter=4)
    assert wide[:2] == [False, True]
    same_fit(expected, found, rtol=2e-3)
    wide.clear()
    monkeypatch.setattr("elbokit._gpu_gmm_fit.takes_fit_many", lambda *shape: False)
    start = np.array([1.0]), np.array([[1e39]]), np.array([[1e-20]])
    ops.gmm_fit(torch.from_numpy(X[:, :1].copy()).to(gpu).double(), *start, "diag", max_iter=1)
    assert wide == [True]


def test_bfloat16(gpu):
    X = torch.from_numpy(rows()).to(gpu).bfloat16()
    found = GaussianMixture(3, random_state=3).fit(X)
    expected = GaussianMixture(3, random_state=3).fit(X.float().cpu().numpy())
    same_fit(expected, found, rtol=1e-4)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_answers(gpu, covariance_type, dtype):
    X = rows(dtype=dtype)
    expected, found = both(gpu, X, covariance_type=covariance_type)
    tensor, tolerance = torch.from_numpy(X).to(gpu), 1e-9 if dtype == np.float64 else 1e-4
    weight = np.random.default_rng(0).uniform(size=len(X))
    for name in ("score_samples", "predict_proba", "predict"):
        answer = getattr(found, name)(tensor)
        assert answer.device.type == torch.device(gpu).type
        given = getattr(expected, name)(X)
        assert answer.cpu().numpy().dtype == given.dtype
        np.testing.assert_allclose(answer.cpu().numpy(), given, rtol=tolerance, atol=tolerance)
    for given in (None, weight):
        on_gpu = None if given is None else torch.from_numpy(given).to(gpu)
        a, e = found.score(tensor, sample_weight=on_gpu), expected.score(X, sample_weight=given)
        assert a == pytest.approx(e, rel=tolerance)
        for name in ("aic", "bic"):
            a, e = getattr(found, name)(tensor, on_gpu), getattr(expected, name)(X, given)
            assert a == pytest.approx(e, rel=tolerance)
    sample, labels = found.sample(5)
    assert sample.device == labels.device == tensor.device
    assert sample.dtype == tensor.dtype
    assert pickle.loads(pickle.dumps(found)).predict(tensor).equal(found.predict(tensor))


def test_fit_predict(gpu):
    X = torch.from_numpy(rows()).to(gpu)
    labels = GaussianMixture(3, random_state=3).fit_predict(X)
    assert labels.dtype == torch.int64
    expected = GaussianMixture(3, random_state=3).fit_predict(rows())
    np.testing.assert_array_equal(labels.cpu().numpy(), expected)


def test_far_rows(gpu):
    X = rows(dtype=np.float32)
    _, found = both(gpu, X)
    far = torch.from_numpy(np.float32([[3e38, 0, 0], [1, 2, 3]])).to(gpu)
    log_prob = found.score_samples(far).cpu().numpy()
    assert log_prob[0] == -np.inf
    assert np.isfinite(log_prob[1])
    assert found.predict(far)[0] == found.predict(far.double())[0]
    with pytest.raises(ValueError, match="row 1 of X is so far"):
        found.predict(torch.tensor([[0.0, 0, 0], [1e300, 0, 0]], dtype=torch.float64, device=gpu))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X: X[0], "Expected 2D array"),
        (lambda X: X[:0], "0 sample"),
        (lambda X: X[:1], "minimum of 2"),
        (lambda X: X[:2], "n_samples >= n_components"),
        (
            lambda X: X.index_fill(0, torch.tensor([7], device=X.device), torch.nan),
            "NaN.*row 7, col",
        ),
        (
            lambda X: X.index_fill(0, torch.tensor([7], device=X.device), torch.inf),
            "infinity.*row 7",
        ),
    ],
)
def test_bad_rows(gpu, change, message):
    X = torch.from_numpy(rows()).to(gpu)
    estimator = GaussianMixture(3, random_state=0)
    with pytest.raises(ValueError, match=message):
        estimator.fit(change(X))
    assert not hasattr(estimator, "weights_")


def test_other_errors(gpu):
    X = torch.from_numpy(rows()).to(gpu)
    with pytest.raises(ValueError, match="move X"):
        GaussianMixture(3, missing="integrate").fit(
            X.index_fill(0, X.new_tensor([7]).long(), torch.nan)
        )
    with pytest.raises(ValueError, match="sample_weight has shape"):
        GaussianMixture(3).fit(X, None, X[:5, 0].abs())
    with pytest.raises(TypeError, match="complex"):
        GaussianMixture(3).fit(X.to(torch.complex128))
    with pytest.raises(ops.SingularCovarianceError, match="component"):
        GaussianMixture(3, reg_covar=0.0, random_state=0).fit(X * X.new_tensor([1.0, 1.0, 0.0]))
    fitted = GaussianMixture(3, random_state=0).fit(X)
    with pytest.raises(ValueError, match="X has 2 features, but GaussianMixture is expecting 3"):
        fitted.predict(X[:, :2])
    with pytest.raises(ValueError, match="NaN"):
        fitted.score_samples(X * torch.nan)


@pytest.mark.parametrize("case", ["plain", "converges", "in float64", "fails"])
def test_running_ahead_changes_nothing(gpu, monkeypatch, case):
    X = rows(dtype=np.float32)
    options = {"random_state": 3, "tol": 0.0, "max_iter": 9}
    if case == "converges":
        options["tol"] = 1e-2
    elif case == "in float64":
        X[:, 2] = X[:, 0] + 1e-5 * X[:, 1]
        options["reg_covar"] = 1e-12
    elif case == "fails":
        X[:, 2] = np.where(X[:, 0] > X[:, 0].mean(), X[:, 2], 0.0)
        options["reg_covar"] = 0.0
    begun = []
    begin = _gpu_fit.GpuMixture.begin
    monkeypatch.setattr(
        _gpu_fit.GpuMixture, "begin", lambda *a, **how: (begun.append(1), begin(*a, **how))[1]
    )

    def fitted(below):
        begun.clear()
        monkeypatch.setattr(_gpu_fit, "_AHEAD_BELOW", below)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            try:
                return GaussianMixture(3, **options).fit(torch.from_numpy(X).to(gpu))
            except ops.SingularCovarianceError as error:
                return str(error)

    one_by_one, n = fitted(-1.0), len(begun)
    ahead = fitted(np.inf)
    if isinstance(one_by_one, str):
        assert ahead == one_by_one
        return
    assert len(begun) >= n
    assert ahead.n_iter_ == one_by_one.n_iter_
    assert ahead.lower_bounds_ == one_by_one.lower_bounds_
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        np.testing.assert_array_equal(getattr(ahead, name), getattr(one_by_one, name))


@pytest.mark.parametrize("below", [-1.0, np.inf])
def test_interrupt_keeps_the_last_iteration(gpu, monkeypatch, below):
    monkeypatch.setattr(_gpu_fit, "_AHEAD_BELOW", below)
    update, left = _gpu_fit.gmm_update, [4]

    def interrupted(*args, **options):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return update(*args, **options)

    X = torch.from_numpy(rows()).to(gpu)
    estimator = GaussianMixture(3, random_state=3, tol=0.0)
    with monkeypatch.context() as patch:
        patch.setattr("elbokit._gpu_fit.gmm_update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            estimator.fit(X)
    with pytest.warns(ConvergenceWarning):
        expected = GaussianMixture(3, random_state=3, tol=0.0, max_iter=3).fit(rows())
    same_fit(expected, estimator)
