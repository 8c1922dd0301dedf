"""KL divergence of Gaussians with full covariance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from elbokit.torch import _backends, _ops  # noqa: F401  (registers the operators)
from elbokit.torch._autograd import (
    direct,
    eager_twin,
    save,
    scaled,
    to_differentiate,
    unpacked,
    with_signature,
)
from elbokit.torch._checks import check_broadcast, check_reduction, check_tensors, check_weight
from elbokit.torch._formulas import gaussian_kl_full_grads
from elbokit.torch._gaussian_kl import BATCH_REDUCTIONS, MEAN_HINT
from elbokit.torch._reduction import spread
from elbokit.torch._transforms import apply_of

__all__ = ["gaussian_kl_full"]


class _GaussianKLFull(torch.autograd.Function):
    """KL from N(0, I), and the gradients that the same pass computed."""

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(
        mu: Tensor, scale_tril: Tensor, row_weight: Tensor | None, reduction: str, need_grad: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        outputs: tuple[Tensor, Tensor, Tensor]
        outputs = torch.ops.elbokit.gaussian_kl_full.default(
            mu, scale_tril, row_weight, reduction, need_grad
        )
        return outputs

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *operands, ctx.reduction, need_grad = inputs
        grads = output[1:]
        ctx.mark_non_differentiable(*(g for g in grads if g is not None))
        ctx.set_materialize_grads(False)
        save(ctx, *operands, *(grads if need_grad else (None, None)))

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        mu, scale_tril, row_weight, *saved = unpacked(ctx, 3)
        if grad is None:
            return (None,) * 5
        if saved[0] is None or to_differentiate() or ctx.needs_input_grad[2]:
            by_formula = gaussian_kl_full_grads(mu, scale_tril, row_weight, grad, ctx.reduction)
            return *by_formula, None, None
        each = [
            scaled(s, spread(grad, s.shape, "rows") if ctx.reduction == "rows" else grad)
            for s in saved
        ]
        return *each, None, None, None


_direct_gaussian_kl_full = eager_twin(_GaussianKLFull, "gaussian_kl_full")


def _check_shapes(
    mu: Tensor, scale_tril: Tensor, prior_mu: Tensor | None, prior_scale_tril: Tensor | None
) -> None:
    if mu.dim() != 2:
        raise ValueError(f"`mu` has shape {tuple(mu.shape)}, expected (n_samples, k)")
    full = (*mu.shape, mu.shape[1])
    if scale_tril.shape != full:
        raise ValueError(
            f"`scale_tril` has shape {tuple(scale_tril.shape)}, expected {tuple(full)} to go with "
            f"`mu` of shape {tuple(mu.shape)}"
        )
    check_broadcast("prior_mu", prior_mu, "mu", mu)
    if prior_scale_tril is None:
        return
    # Not `in`, which misjudges traced sizes.
    if prior_scale_tril.shape != full and prior_scale_tril.shape != full[1:]:
        raise ValueError(
            f"`prior_scale_tril` has shape {tuple(prior_scale_tril.shape)}, expected "
            f"{tuple(full[1:])} or {tuple(full)}"
        )


def _relative(
    mu: Tensor, scale_tril: Tensor, prior_mu: Tensor | None, prior_scale_tril: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Mean and factor in coordinates in which the prior is N(0, I); they have the same KL."""
    if prior_mu is not None:
        mu = mu - prior_mu
    if prior_scale_tril is None:
        return mu, scale_tril
    if direct(prior_scale_tril) and _backends.on_cpu(prior_scale_tril):
        diagonal = prior_scale_tril.detach().diagonal(dim1=-2, dim2=-1)
        if not bool((diagonal > 0).all()):
            raise ValueError(
                f"`prior_scale_tril` has {diagonal.min().item():g} on its diagonal, expected "
                "positive numbers"
            )
    both = torch.cat([mu[..., None], scale_tril.tril()], -1)
    both = torch.linalg.solve_triangular(prior_scale_tril, both, upper=False)
    return both[..., 0], both[..., 1:]


def gaussian_kl_full(
    mu: Tensor,
    scale_tril: Tensor,
    prior_mu: Tensor | None = None,
    prior_scale_tril: Tensor | None = None,
    reduction: str = "batchmean",
    *,
    weight: Tensor | None = None,
) -> Tensor:
    r"""KL divergence of a Gaussian with full covariance from another, by default from N(0, I).

    Parameters
    ----------
    mu : Tensor of shape (n_samples, k)
        Means. float64, float32, bfloat16 or float16; low precision is computed in float32.
    scale_tril : Tensor of shape (n_samples, k, k)
        Cholesky factors :math:`L` of the covariances :math:`L L^T`, with a positive diagonal. What
        lies above the diagonal is ignored, and has gradient 0.
    prior_mu : Tensor broadcasting to the shape of `mu`, optional
        Means of the other Gaussian; 0 if not given.
    prior_scale_tril : Tensor of shape (k, k) or (n_samples, k, k), optional
        Its Cholesky factor, or factors; the identity if not given.
    reduction : {"batchmean", "sum", "none"}
        Average over the batch, sum, or one value per sample.
    weight : Tensor of shape (n_samples,), optional
        Factor of each sample's divergence. The average is still over the number of samples.

    Returns
    -------
    Tensor
        In nats, of shape (), or (n_samples,) for ``reduction="none"``. float32 if the operands are
        of low precision.

    Raises
    ------
    TypeError
        An argument is no tensor, is not floating-point, or float64 meets another dtype.
    ValueError
        Shapes, devices or `reduction` do not fit, an argument is sparse, or a diagonal holds a
        number that is not positive. (That is not looked for in a GPU's memory, which would take
        waiting for it: there the result is not finite.)

    Notes
    -----
    .. math:: \tfrac12 \left( \|L\|_F^2 + \|\mu\|^2 - k - 2 \sum_i \log L_{ii} \right),

    value and both gradients in one pass over :math:`L`. For a prior with mean :math:`m` and factor
    :math:`P`, the same of :math:`P^{-1} L` and :math:`P^{-1} (\mu - m)`, see [1]_, section 8.5: a
    divergence does not depend on the coordinates. Differentiable in all tensors, any number of
    times. Sums are accumulated in float64.

    References
    ----------
    .. [1] T. M. Cover and J. A. Thomas, "Elements of Information Theory", 2nd edition, 2006.
    """
    dtype = check_tensors(
        mu=mu,
        scale_tril=scale_tril,
        prior_mu=prior_mu,
        prior_scale_tril=prior_scale_tril,
        weight=weight,
    )
    _check_shapes(mu, scale_tril, prior_mu, prior_scale_tril)
    check_weight(weight, mu.shape[0])
    check_reduction(reduction, tuple(BATCH_REDUCTIONS), MEAN_HINT if reduction == "mean" else "")
    mu, scale_tril = _relative(
        mu.to(dtype),
        scale_tril.to(dtype),
        None if prior_mu is None else prior_mu.to(dtype),
        None if prior_scale_tril is None else prior_scale_tril.to(dtype),
    )
    operands = mu, scale_tril, None if weight is None else weight.to(dtype)
    need_grad = (mu.requires_grad or scale_tril.requires_grad) and torch.is_grad_enabled()
    apply = _direct_gaussian_kl_full if direct(*operands) else apply_of(_GaussianKLFull)
    kl: Tensor = apply(*operands, BATCH_REDUCTIONS[reduction], need_grad)[0]
    return kl
