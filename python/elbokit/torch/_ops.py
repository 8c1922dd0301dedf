"""The operators ``torch.ops.elbokit.*``: schemas, fake kernels, implementations per device.

Each operator is opaque to autograd (the ``autograd.Function`` sits outside, in the file of its
stem) and to ``torch.compile``, which sees the schema and the fake kernel. No operator returns
an alias of an input. An output that a call does not ask for is a tensor of shape (0,).

An implementation for another device is another file like ``_cpu.py``, with the same names.
"""

from __future__ import annotations

from typing import Any

import torch

from elbokit.torch import _cpu, _fake

__all__: list[str] = []

_library: Any = torch.library  # parts of it have no types
_LIBRARY = _library.Library("elbokit", "FRAGMENT")

# `reduction` is one of those of _reduction.py, and the grad of a loss is of the reduced loss;
# `dim` is sorted and counted from 0.
_SCHEMAS = (
    "bernoulli_loss(Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight, "
    "str reduction, bool need_grad) -> (Tensor loss, Tensor grad)",
    "gaussian_kl(Tensor mu, Tensor logvar, Tensor? prior_mu, Tensor? prior_logvar, "
    "str reduction) -> Tensor",
    "gaussian_kl_backward(Tensor? grad, Tensor? grad_charged, Tensor mu, Tensor logvar, "
    "Tensor? prior_mu, Tensor? prior_logvar, float free_bits, str reduction, bool need_prior) "
    "-> (Tensor grad_mu, Tensor grad_logvar, Tensor grad_prior_mu, Tensor grad_prior_logvar)",
    "vae_loss(Tensor logits, Tensor target, Tensor mu, Tensor logvar, float free_bits, "
    "str reduction, bool need_grad) "
    "-> (Tensor reconstruction, Tensor kl, Tensor charged, Tensor grad_logits)",
    "logsumexp(Tensor input, int[] dim, bool keepdim) -> Tensor",
    "logsumexp_backward(Tensor grad, Tensor input, Tensor output, int[] dim) -> Tensor",
)

for _schema in _SCHEMAS:
    _LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))
    _name = _schema.partition("(")[0]
    _LIBRARY.impl(_name, getattr(_cpu, _name), "CPU")
    _library.register_fake(f"elbokit::{_name}", getattr(_fake, _name), lib=_LIBRARY)
