"""Arrays of torch and other libraries in the estimator: the same numbers, the same kind back."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.datasets import make_blobs

from elbokit import GaussianMixture

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

DTYPES = [np.float32, np.float64]
COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")
ARRAYS = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")
BLOBS = make_blobs(200, centers=3, n_features=4, cluster_std=2.0, random_state=0)[0]


def mixture(**arguments):
    return GaussianMixture(3, random_state=0, max_iter=5, **arguments)


def assert_same(tensor, array):
    assert type(tensor) is torch.Tensor
    assert tensor.device.type == "cpu"
    assert tensor.numpy().dtype == array.dtype
    assert_array_equal(tensor.numpy(), array)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_tensors_get_the_numbers_of_arrays(covariance_type, dtype):
    X = BLOBS.astype(dtype)
    tensor = torch.from_numpy(X)
    expected = mixture(covariance_type=covariance_type).fit(X)
    gm = mixture(covariance_type=covariance_type).fit(tensor)
    for name in ARRAYS:
        assert type(getattr(gm, name)) is np.ndarray
        assert_array_equal(getattr(gm, name), getattr(expected, name))
    for method in ("predict", "predict_proba", "score_samples"):
        assert_same(getattr(gm, method)(tensor), getattr(expected, method)(X))
        assert type(getattr(gm, method)(X)) is np.ndarray
    labels = mixture(covariance_type=covariance_type).fit_predict(tensor)
    assert_same(labels, expected.predict(X))
    for method in ("score", "bic", "aic"):
        value = getattr(gm, method)(tensor)
        assert type(value) is float
        assert value == getattr(expected, method)(X)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_sample_is_of_the_kind_that_fit_saw(covariance_type, dtype):
    X = BLOBS.astype(dtype)
    of_array = mixture(covariance_type=covariance_type).fit(X)
    of_tensor = mixture(covariance_type=covariance_type).fit(torch.from_numpy(X))
    rows, labels = of_array.sample(20)
    assert type(rows) is type(labels) is np.ndarray
    assert rows.dtype == np.float64  # as scikit-learn's
    tensor, tensor_labels = of_tensor.sample(20)
    assert_same(tensor, rows.astype(dtype))
    assert_same(tensor_labels, labels)
    # The last fit counts.
    assert type(of_tensor.fit(X).sample(2)[0]) is np.ndarray


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.clone().requires_grad_(),
        lambda t: torch.nn.Parameter(t.clone()),
        lambda t: torch.cat([t, t], dim=1)[:, : t.shape[1]],
        lambda t: t.T.contiguous().T,
        lambda t: torch._neg_view(-t),
        lambda t: t.flip(0).flip(0),
    ],
    ids=["requires_grad", "parameter", "strided", "transposed", "lazy negative", "flipped"],
)
def test_tensors_of_any_layout(change):
    expected = mixture().fit(BLOBS)
    tensor = change(torch.from_numpy(BLOBS))
    gm = mixture().fit(tensor)
    assert_array_equal(gm.means_, expected.means_)
    proba = gm.predict_proba(tensor)
    assert_same(proba, expected.predict_proba(BLOBS))
    assert not proba.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_computes_in_float32(dtype):
    half = torch.from_numpy(BLOBS).to(dtype)
    expected = mixture().fit(half.float().numpy())
    gm = mixture().fit(half)
    assert gm.means_.dtype == np.float32
    assert_array_equal(gm.means_, expected.means_)
    assert_same(gm.score_samples(half), expected.score_samples(half.float().numpy()))
    assert gm.sample(3)[0].dtype == torch.float32


def test_integers_become_float64():
    counts = torch.from_numpy(BLOBS.round()).to(torch.int16)
    gm = mixture().fit(counts)
    assert gm.means_.dtype == np.float64
    assert_array_equal(gm.means_, mixture().fit(BLOBS.round()).means_)
    assert gm.sample()[0].dtype == torch.float64


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_weights_and_starts_may_be_tensors(covariance_type):
    weight = np.random.default_rng(0).uniform(size=len(BLOBS))
    start = mixture(covariance_type=covariance_type).fit(BLOBS)
    given = {
        "weights_init": start.weights_,
        "means_init": start.means_,
        "precisions_init": start.precisions_,
    }
    tensors = {name: torch.from_numpy(array) for name, array in given.items()}
    expected = mixture(covariance_type=covariance_type, **given).fit(BLOBS, sample_weight=weight)
    gm = clone(mixture(covariance_type=covariance_type, **tensors))
    gm.fit(BLOBS, sample_weight=torch.from_numpy(weight))
    assert_array_equal(gm.means_, expected.means_)
    assert_array_equal(gm.covariances_, expected.covariances_)
    score = gm.score(torch.from_numpy(BLOBS), sample_weight=torch.from_numpy(weight))
    assert score == expected.score(BLOBS, sample_weight=weight)


class OnADevice:
    """What an array in a GPU's memory looks like."""

    dtype, shape, ndim = np.dtype(np.float32), (4, 2), 2

    def __dlpack__(self, **_):
        raise AssertionError("the device is to be asked first")

    def __dlpack_device__(self):
        return 2, 0

    def __array_namespace__(self):
        return np

    def __len__(self):
        return 4


@pytest.mark.parametrize("name", ["sample_weight", "means_init"])
def test_an_array_on_a_gpu_is_refused_by_name(name):
    gm = mixture().fit(BLOBS)
    before = dict(vars(gm))
    message = rf"`{name}` is on DLPack device \(2, 0\), expected the CPU .* in torch by \.cpu\(\)"
    weight = None
    if name == "sample_weight":
        weight = OnADevice()
    else:
        gm.set_params(means_init=OnADevice())
    with pytest.raises(ValueError, match=message):
        gm.fit(BLOBS, sample_weight=weight)
    assert all(vars(gm)[key] is before[key] for key in before if key != name)


@pytest.mark.parametrize("dtype", [np.float16, *DTYPES])
def test_pinned_memory_is_the_cpus(dtype):
    class Pinned(Foreign):
        def __dlpack_device__(self):
            return 3, 0  # what torch says of a tensor in pinned memory

    rows = BLOBS.astype(dtype)
    expected = mixture().fit(rows.astype(np.float32) if dtype == np.float16 else rows)
    gm = mixture().fit(Pinned(rows))
    assert_array_equal(gm.means_, expected.means_)
    assert_array_equal(gm.predict(Pinned(rows)).array, expected.predict(rows))


def test_a_library_that_takes_nothing_from_the_cpu(monkeypatch):
    """As CuPy: what a fit to its arrays samples is copied to the GPU."""

    class Refusing:
        @staticmethod
        def from_dlpack(a):
            raise ValueError("CPU arrays cannot be directly imported")

        @staticmethod
        def asarray(a):
            return Foreign(a)

    monkeypatch.setitem(sys.modules, "refusing", Refusing)
    gm = mixture().fit(BLOBS)
    expected = gm.sample(5)
    gm._library, gm._device = "refusing", "cuda:0"
    for ours, theirs in zip(gm.sample(5), expected, strict=True):
        assert_array_equal(ours.array, theirs)


def test_rows_on_a_gpu_that_torch_cannot_read():
    gm = mixture().fit(BLOBS)
    before = dict(vars(gm))
    for method in (gm.fit, gm.predict_proba):
        with pytest.raises(RuntimeError, match="`X` is in a GPU's memory, which the installed"):
            method(OnADevice())
    assert all(vars(gm)[key] is before[key] for key in before)


@pytest.mark.parametrize(
    ("tensor", "error", "text"),
    [
        (torch.from_numpy(BLOBS).to_sparse(), TypeError, "`X` is torch.Tensor of dtype torch.fl"),
        (torch.from_numpy(BLOBS).to("meta"), ValueError, "`X` is in no memory that can be read"),
        (torch.from_numpy(BLOBS[:, 0]), ValueError, "Expected 2D array, got 1D array"),
        (torch.from_numpy(BLOBS[:0]), ValueError, "0 sample(s)"),
        (torch.full((5, 4), torch.nan), ValueError, "Input X contains NaN"),
        (torch.from_numpy(BLOBS) + 1j, ValueError, "Complex data not supported"),
    ],
    ids=["sparse", "meta", "1D", "empty", "NaN", "complex"],
)
def test_bad_tensors(tensor, error, text):
    gm = mixture().fit(BLOBS)
    means = gm.means_
    with pytest.raises(error, match=re.escape(text)):
        gm.fit(tensor)
    with pytest.raises(error, match=re.escape(text)):
        gm.predict(tensor)
    assert gm.means_ is means
    assert type(gm.sample()[0]) is np.ndarray  # the failed fit left no trace


def test_pickles_need_no_torch():
    X = torch.from_numpy(BLOBS)
    gm = mixture().fit(X)
    again = pickle.loads(pickle.dumps(gm))
    assert_same(again.sample(5)[0], gm.sample(5)[0].numpy())
    code = """
import pickle, sys


class NotInstalled:
    @staticmethod
    def find_spec(name, *_):
        if name == "torch":
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, NotInstalled)
gm = pickle.load(sys.stdin.buffer)
print(gm.predict([[0.0] * 4]).tolist(), type(gm.sample(2)[0]).__module__)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(gm), capture_output=True, check=False
    )
    assert result.returncode == 0, result.stderr.decode()
    expected = gm.predict(np.zeros((1, 4))).tolist()
    assert result.stdout.decode().split("\n")[0] == f"{expected} numpy"


class Foreign:
    """An array of a library that knows the array API, as little of it as is promised to do."""

    def __init__(self, array):
        self.array, self.dtype = array, array.dtype

    def __dlpack__(self, **keywords):
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __array_namespace__(self):
        return Library

    def __array__(self, *_, **__):
        raise AssertionError("to be read through DLPack")


class Library:
    float32 = np.dtype(np.float32)

    @staticmethod
    def astype(a, dtype):
        return Foreign(a.array.astype(dtype))

    @staticmethod
    def from_dlpack(a):
        return Foreign(np.from_dlpack(a))


@pytest.mark.parametrize("dtype", [np.float16, *DTYPES])
def test_any_library_with_dlpack(dtype):
    X = BLOBS.astype(dtype)
    gm = mixture().fit(Foreign(X))
    seen = X.astype(np.float32) if dtype is np.float16 else X
    assert_array_equal(gm.means_, mixture().fit(seen).means_)
    proba = gm.predict_proba(Foreign(X))
    assert type(proba) is Foreign
    assert_array_equal(proba.array, gm.predict_proba(seen))


def test_tensors_are_read_in_place():
    X = torch.zeros(200_000, 8)
    X[::2] = torch.arange(8.0)
    start = {"weights_init": [0.5, 0.5], "means_init": X[:2], "precisions_init": np.ones((2, 8))}
    gm = GaussianMixture(2, covariance_type="diag", max_iter=1, **start)
    gm.fit(X[:100]).score(X[:100])
    tracemalloc.start()
    gm.fit(X).score(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < X.nbytes / 2


MASKED = np.ma.masked_greater(np.random.default_rng(0).normal(size=(60, 2)), 1.0)


def test_masked_entries_are_missing():
    options = {"n_components": 2, "missing": "integrate", "random_state": 0}
    masked = GaussianMixture(**options).fit(MASKED)
    gaps = MASKED.filled(np.nan)
    assert_array_equal(masked.means_, GaussianMixture(**options).fit(gaps).means_)
    for method in ("score_samples", "impute"):
        answer = getattr(masked, method)
        assert_array_equal(np.asarray(answer(MASKED)), answer(gaps))


@pytest.mark.parametrize(
    "use",
    {
        "fit": lambda gm: gm.fit(MASKED),
        "chunks": lambda gm: gm.fit([MASKED[:30], MASKED[30:]]),
        "partial_fit": lambda gm: gm.partial_fit(MASKED),
        "predict": lambda gm: gm.fit(MASKED.data).predict(MASKED),
    }.values(),
)
def test_masked_entries_are_no_values(use):
    with pytest.raises(ValueError, match="X is an array with masked entries, expected all of"):
        use(GaussianMixture(2, random_state=0))


def test_a_mask_of_nothing_is_none():
    gm = GaussianMixture(2, random_state=0).fit(np.ma.masked_array(MASKED.data))
    assert_array_equal(gm.means_, GaussianMixture(2, random_state=0).fit(MASKED.data).means_)
