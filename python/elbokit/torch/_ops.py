"""The operators ``torch.ops.elbokit.*``: schemas, fake kernels, implementations per device.

Each operator is opaque to autograd (the ``autograd.Function`` sits outside, in the file of its
stem) and to ``torch.compile``, which sees the schema and the fake kernel. No operator returns
an alias of an input. An output that a call does not ask for is a tensor of shape (0,).

The implementations for CUDA tensors are another package like ``_cpu``, with the same names.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch

from elbokit.torch import _fake
from elbokit.torch._backends import implementation
from elbokit.torch._threads import share_threads

__all__: list[str] = []

_library: Any = torch.library  # parts of it have no types
_LIBRARY = _library.Library("elbokit", "FRAGMENT")

share_threads()

# `reduction` is one of those of _reduction.py, and the grad of a loss is of the reduced loss;
# `dim` is sorted and counted from 0.
_SCHEMAS = (
    "bernoulli_loss(Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight, Tensor? mask, "
    "Tensor? row_weight, float target_scale, str reduction, bool need_grad) "
    "-> (Tensor loss, Tensor grad)",
    "categorical_loss(Tensor logits, Tensor target, Tensor? mask, Tensor? weight, str reduction, "
    "bool need_grad) -> (Tensor loss, Tensor grad)",
    "gaussian_loss(Tensor mean, Tensor target, Tensor? logvar, Tensor? mask, Tensor? row_weight, "
    "float low, float high, float target_scale, str reduction, bool need_mean, bool need_logvar) "
    "-> (Tensor loss, Tensor grad_mean, Tensor grad_logvar)",
    "gaussian_kl(Tensor mu, Tensor logvar, Tensor? prior_mu, Tensor? prior_logvar, "
    "Tensor? row_weight, float free_bits, str reduction, bool need_grad) "
    "-> (Tensor kl, Tensor charged, Tensor grad_mu, Tensor grad_logvar)",
    "gaussian_kl_backward(Tensor? grad, Tensor? grad_charged, Tensor mu, Tensor logvar, "
    "Tensor? prior_mu, Tensor? prior_logvar, Tensor? row_weight, float free_bits, str reduction, "
    "bool need_prior) "
    "-> (Tensor grad_mu, Tensor grad_logvar, Tensor grad_prior_mu, Tensor grad_prior_logvar)",
    "gaussian_kl_full(Tensor mu, Tensor scale_tril, Tensor? row_weight, str reduction, "
    "bool need_grad) -> (Tensor kl, Tensor grad_mu, Tensor grad_scale_tril)",
    "multi_sample_loss(Tensor logits, Tensor target, Tensor? mask, Tensor? row_weight, Tensor mu, "
    "Tensor logvar, Tensor z, float target_scale, str bound, str reduction, bool need_logits, "
    "bool need_latent) -> (Tensor loss, Tensor grad_logits, Tensor grad_mu, Tensor grad_logvar, "
    "Tensor grad_z)",
    "vae_loss(Tensor logits, Tensor target, Tensor? mask, Tensor? row_weight, Tensor mu, "
    "Tensor logvar, Tensor? prior_mu, Tensor? prior_logvar, float? beta, float target_scale, "
    "float free_bits, str reduction, bool need_logits, bool need_latent, bool need_statistics) "
    "-> (Tensor total, Tensor reconstruction, Tensor kl, Tensor grad_logits, "
    "Tensor grad_mu, Tensor grad_logvar, Tensor statistics, Tensor out_of_range)",
    "linear_bernoulli_loss(Tensor hidden, Tensor weight, Tensor? bias, Tensor target, "
    "ScalarType product, SymInt? chunk_size, str reduction, bool need_hidden, bool need_weight, "
    "bool need_bias) "
    "-> (Tensor loss, Tensor grad_hidden, Tensor grad_weight, Tensor grad_bias)",
    "linear_bernoulli_loss_backward(Tensor grad, Tensor hidden, Tensor weight, Tensor? bias, "
    "Tensor target, ScalarType product, SymInt? chunk_size, bool need_hidden, bool need_weight, "
    "bool need_bias) "
    "-> (Tensor grad_hidden, Tensor grad_weight, Tensor grad_bias)",
    "gmm_log_prob(Tensor x, Tensor weights, Tensor means, Tensor precisions_cholesky, "
    "str covariance_type) -> Tensor",
    "gmm_log_prob_backward(Tensor grad, Tensor x, Tensor weights, Tensor means, "
    "Tensor precisions_cholesky, str covariance_type, bool need_x, bool need_parameters) "
    "-> (Tensor grad_x, Tensor grad_weights, Tensor grad_means, Tensor grad_precisions_cholesky)",
    "logsumexp(Tensor input, int[] dim, bool keepdim) -> Tensor",
    "logsumexp_backward(Tensor grad, Tensor input, Tensor output, int[] dim) -> Tensor",
)


def _by_device(name: str) -> Callable[..., Any]:
    """Return what calls the implementation for the device of the first tensor."""

    def call(*arguments: Any) -> Any:
        return implementation(name, _first(arguments))(*arguments)

    return call


def _first(arguments: Iterable[Any]) -> torch.Tensor:
    return next(a for a in arguments if isinstance(a, torch.Tensor))


def _without_none(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a tensor of shape (0,) for an output that was not asked for."""

    @functools.wraps(function)
    def operator(*arguments: Any) -> Any:
        outputs = function(*arguments)
        if isinstance(outputs, torch.Tensor):
            return outputs
        like = _first(arguments)
        return tuple(like.new_empty(0) if o is None else o for o in outputs)

    return operator


for _schema in _SCHEMAS:
    _LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))
    _name = _schema.partition("(")[0]
    for _device in ("CPU", "CUDA"):
        _LIBRARY.impl(_name, _without_none(_by_device(_name)), _device)
    _fake_kernel = _without_none(getattr(_fake, _name))
    _library.register_fake(f"elbokit::{_name}", _fake_kernel, lib=_LIBRARY)
