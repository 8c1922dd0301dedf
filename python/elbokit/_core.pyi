from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

_Array = npt.NDArray[np.floating[Any]]
_Operand = npt.NDArray[Any] | tuple[Any, ...]
_Float64 = npt.NDArray[np.float64]
_PlainLoss = tuple[Tensor, tuple[Tensor | None, ...] | None] | None
_Prior = tuple[_Float64, float, _Float64, float, _Float64, float]

version: str
compiler: str
build_type: str
without_cuda: str

def built_cpu_levels() -> list[str]: ...
def cpu_levels() -> list[str]: ...
def cpu_level() -> str: ...
def set_cpu_level(level: str) -> None: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def lend_team(run: int, size: int) -> None: ...

class Buffer:
    def __init__(self, bytes: int) -> None: ...
    def __buffer__(self, flags: int) -> memoryview: ...

def set_pool_limit(bytes: int) -> None: ...
def pool_limit() -> int: ...
def pooled_bytes() -> int: ...
def elementary(function: str, x: _Array, out: _Array) -> None: ...
def logsumexp(a: _Array, out: _Array) -> None: ...
def logsumexp_backward(a: _Array, lse: _Array, grad: _Array, out: _Array) -> None: ...
def bernoulli_loss(
    logits: _Operand,
    target: _Operand,
    weight: _Operand | None,
    pos_weight: _Operand | None,
    mask: _Operand | None,
    row_weight: _Operand | None,
    target_scale: float,
    scale: float,
    elementwise_out: _Operand | None,
    row_out: _Operand | None,
    grad_out: _Operand | None,
    count: bool = False,
) -> tuple[float, int]: ...
def plain_bernoulli_loss(
    logits: Tensor,
    target: Tensor,
    reduction: str,
    grad_enabled: bool,
    /,
) -> _PlainLoss: ...
def categorical_loss(
    logits: _Operand,
    target: npt.NDArray[np.int64],
    mask: npt.NDArray[np.uint8] | None,
    weight: _Operand | None,
    n_samples: int,
    n_classes: int,
    scale: float,
    sample_out: _Operand | None,
    grad_out: _Operand | None,
) -> tuple[float, int]: ...
def plain_categorical_loss(
    logits: Tensor,
    target: Tensor,
    reduction: str,
    grad_enabled: bool,
    /,
) -> _PlainLoss: ...
def gaussian_kl(
    mu: _Operand,
    logvar: _Operand,
    prior_mu: _Operand | None,
    prior_logvar: _Operand | None,
    free_bits: float,
    row_weight: _Operand | None,
    scale: float,
    row_out: _Operand | None,
    charged_out: _Operand | None,
    grad_mu: _Operand | None,
    grad_logvar: _Operand | None,
    dimensions: _Operand | None,
) -> tuple[float, float]: ...
def plain_gaussian_kl(
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
    weight: Tensor | None,
    free_bits: float,
    reduction: str,
    grad_enabled: bool,
    /,
) -> _PlainLoss: ...
def gaussian_kl_backward(
    mu: _Operand,
    logvar: _Operand,
    prior_mu: _Operand | None,
    prior_logvar: _Operand | None,
    free_bits: float,
    factor: _Operand,
    charged_factor: _Operand,
    grad_mu: _Operand,
    grad_logvar: _Operand,
    grad_prior_mu: _Operand | None,
    grad_prior_logvar: _Operand | None,
) -> None: ...
def gaussian_kl_full(
    mu: _Operand,
    scale_tril: _Operand,
    row_weight: _Operand | None,
    scale: float,
    row_out: _Operand | None,
    grad_mu: _Operand | None,
    grad_scale_tril: _Operand | None,
) -> tuple[float, int]: ...
def multi_sample(
    logits: _Operand,
    target: _Operand,
    mask: _Operand | None,
    row_weight: _Operand | None,
    target_scale: float,
    mu: _Operand,
    logvar: _Operand,
    z: _Operand,
    importance: bool,
    scale: float,
    row_out: _Operand | None,
    grad_logits: _Operand | None,
    grad_mu: _Operand | None,
    grad_logvar: _Operand | None,
    grad_z: _Operand | None,
) -> float: ...
def gaussian_loss(
    mean: _Operand,
    target: _Operand,
    logvar: _Operand | None,
    mask: _Operand | None,
    row_weight: _Operand | None,
    low: float,
    high: float,
    target_scale: float,
    scale: float,
    row_out: _Operand | None,
    grad_mean: _Operand | None,
    grad_logvar: _Operand | None,
    row_grad_logvar: _Operand | None,
    col_grad_logvar: _Operand | None,
) -> tuple[float, float]: ...
def plain_gaussian_loss(
    mean: Tensor,
    target: Tensor,
    logvar: Tensor | None,
    low: float,
    high: float,
    reduction: str,
    grad_enabled: bool,
    /,
) -> _PlainLoss: ...
def vae_loss(
    logits: _Operand,
    target: _Operand,
    mask: _Operand | None,
    row_weight: _Operand | None,
    target_scale: float,
    mu: _Operand,
    logvar: _Operand,
    prior_mu: _Operand | None,
    prior_logvar: _Operand | None,
    beta: float | None,
    free_bits: float,
    scale: float,
    by_row: bool,
    total_out: _Operand,
    reconstruction_out: _Operand,
    kl_out: _Operand,
    grad_logits: _Operand | None,
    grad_mu: _Operand | None,
    grad_logvar: _Operand | None,
    dimensions: _Operand | None,
) -> int: ...
def plain_vae_loss(
    logits: Tensor,
    target: Tensor,
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
    mask: Tensor | None,
    weight: Tensor | None,
    target_scale: float,
    beta: float | Tensor,
    free_bits: float,
    reduction: str,
    grad_enabled: bool,
    /,
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor | None, ...] | None] | None: ...
def plain_vae_parts(
    logits: Tensor,
    target: Tensor,
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
    mask: Tensor | None,
    weight: Tensor | None,
    target_scale: float,
    beta: float | None,
    free_bits: float,
    reduction: str,
    need_logits: bool,
    need_latent: bool,
    /,
) -> tuple[Tensor | None, ...] | None: ...
def is_one_tensor(tensor: Tensor) -> bool: ...
def set_torch_table(table: object | None) -> None: ...
def precision_cholesky(covariances: _Float64, factors: _Float64) -> int: ...
def precision_product(factors: _Float64, precisions: _Float64) -> None: ...
def kmeans(
    X: _Array,
    offsets: npt.NDArray[np.int64] | None,
    sample_weight: _Array | None,
    n_clusters: int,
    n_trials: int,
    max_iter: int,
    tol: float,
    weigh_tol: bool,
    uniforms: _Float64,
    seeds: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int32] | None,
    centers: _Float64 | None,
    inertia: _Float64 | None,
    n_iter: npt.NDArray[np.int64] | None,
) -> list[bool]: ...
def label_moments(
    X: _Array,
    offsets: npt.NDArray[np.int64] | None,
    sample_weight: _Array | None,
    labels: npt.NDArray[np.int32] | None,
    full: bool,
    centers: _Float64,
    counts: _Float64,
    second_moments: _Float64,
) -> None: ...
def gmm_estep(
    X: _Array,
    weights: _Float64,
    means: _Float64,
    precisions_cholesky: _Float64,
    covariance_type: str,
    log_prob: _Array | None,
    responsibilities: _Array | None,
    labels: npt.NDArray[np.int64] | None = None,
) -> None: ...
def gmm_statistics(
    X: _Array,
    sample_weight: _Array | None,
    weights: _Float64,
    means: _Float64,
    precisions_cholesky: _Float64,
    covariance_type: str,
    counts: _Float64,
    first_moments: _Float64,
    second_moments: _Float64,
    log_likelihood: _Float64,
) -> None: ...
def gmm_gradient(
    X: _Array,
    grad: _Array,
    weights: _Float64,
    means: _Float64,
    precisions_cholesky: _Float64,
    covariance_type: str,
    grad_X: _Array | None,
    grad_weights: _Array | None,
    grad_means: _Array | None,
    grad_precisions_cholesky: _Array | None,
) -> None: ...
def plain_logsumexp(input: Tensor, dim: object, keepdim: bool, /) -> Tensor | None: ...
def plain_logsumexp_backward(
    grad: Tensor, input: Tensor, output: Tensor, dim: int, /
) -> Tensor | None: ...

LARGEST_PRECISION: float

def plain_gmm_log_prob(
    x: Tensor,
    weights: Tensor,
    means: Tensor,
    precisions_cholesky: Tensor,
    covariance_type: str,
    /,
) -> Tensor | None: ...
def plain_gmm_gradient(
    grad: Tensor,
    x: Tensor,
    weights: Tensor,
    means: Tensor,
    precisions_cholesky: Tensor,
    covariance_type: str,
    need_x: bool,
    need_parameters: bool,
    /,
) -> tuple[Tensor | None, ...] | None: ...
def gmm_fit(
    X: _Array,
    offsets: npt.NDArray[np.int64] | None,
    sample_weight: _Float64 | None,
    covariance_type: str,
    weights: _Float64,
    means: _Float64,
    covariances: _Float64,
    precisions_cholesky: _Float64,
    tol: float,
    reg_covar: float | _Float64,
    max_iter: int,
    lower_bound: _Float64,
    outcome: npt.NDArray[np.int64],
    lower_bounds: list[list[float]] | None = None,
    after_m: list[list[float]] | None = None,
    progress: Callable[[int, float, float], object] | None = None,
    progress_interval: int = 0,
    prior: _Prior | None = None,
) -> None: ...
def gmm_empty_below(mass: npt.ArrayLike, n_samples: npt.ArrayLike) -> _Float64: ...
def gmm_update(
    covariance_type: str,
    counts: _Float64,
    first_moments: _Float64,
    second_moments: _Float64,
    weights: _Float64,
    means: _Float64,
    covariances: _Float64,
    precisions_cholesky: _Float64,
    reg_covar: float | _Float64,
    empty_below: float,
    prior: _Prior | None = None,
) -> tuple[int, int, bool, float, float]: ...
def gmm_regularise(
    covariance_type: str, means: _Float64, reg_covar: float | _Float64, covariances: _Float64
) -> None: ...
def gmm_factors(
    covariance_type: str,
    n_components: int,
    n_features: int,
    covariances: _Float64,
    precisions_cholesky: _Float64,
    failed: npt.NDArray[np.int64],
) -> None: ...
def gmm_covariances(
    covariance_type: str,
    n_components: int,
    n_features: int,
    precisions_cholesky: _Float64,
    covariances: _Float64,
) -> None: ...
def gmm_split(
    factors: _Float64,
    order: npt.NDArray[np.int64],
    n_observed: int,
    observed: _Float64,
    hidden: _Float64,
    regression: _Float64,
    covariances: _Float64,
) -> None: ...
