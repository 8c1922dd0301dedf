"""The terms of a VAE's bound as one autograd function, with the short way for plain tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, is_grad_enabled

from elbokit import _core
from elbokit.torch import _ops  # noqa: F401  (registers the operators)
from elbokit.torch._autograd import (
    direct_apply,
    passes_on,
    save,
    scaled_on_gpu,
    to_differentiate,
    unpacked,
    with_signature,
)
from elbokit.torch._backends import implementation
from elbokit.torch._bernoulli import bernoulli_backward
from elbokit.torch._gaussian_kl import kl_grads
from elbokit.torch._plain import plain_track
from elbokit.torch._reduction import computed_dtype

__all__ = ["VAETerms", "direct_vae_terms", "plain_vae_terms"]


class VAETerms(torch.autograd.Function):
    """Total, reconstruction, KL; and the gradients that the same pass computed.

    The total is the loss, or without a number `beta` the charged KL alone.
    """

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(
        logits: Tensor,
        target: Tensor,
        mask: Tensor | None,
        row_weight: Tensor | None,
        mu: Tensor,
        logvar: Tensor,
        prior_mu: Tensor | None,
        prior_logvar: Tensor | None,
        beta: float | None,
        target_scale: float,
        free_bits: float,
        reduction: str,
        need_logits: bool,
        need_latent: bool,
        need_statistics: bool,
    ) -> tuple[Tensor, ...]:
        operands = logits, target, mask, row_weight, mu, logvar, prior_mu, prior_logvar
        asked = need_logits, need_latent, need_statistics
        outputs: tuple[Tensor, ...] = torch.ops.elbokit.vae_loss.default(
            *operands, beta, target_scale, free_bits, reduction, *asked
        )
        return outputs

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *operands, beta, target_scale, free_bits, reduction, need_logits, need_latent, _ = inputs
        *terms, d_logits, d_mu, d_logvar, sums, count = output
        constant = _constant(ctx.needs_input_grad, beta, terms)
        ctx.mark_non_differentiable(d_logits, d_mu, d_logvar, sums, count, *constant)
        ctx.set_materialize_grads(False)
        saved = [d_logits if need_logits else None]
        saved += [d_mu, d_logvar] if need_latent else [None, None]
        save(ctx, *operands, *saved)
        ctx.beta, ctx.target_scale = beta, target_scale
        ctx.free_bits, ctx.reduction = free_bits, reduction

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        options = ctx.beta, ctx.target_scale, ctx.free_bits, ctx.reduction
        return _gradients(unpacked(ctx, 8), ctx.needs_input_grad, options, grads[:3])


def _gradients(
    saved: Sequence[Tensor | None],
    needs: Sequence[bool],
    options: tuple[float | None, float, float, str],
    grads: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """Return the gradients of `VAETerms`: ``saved`` are its operands, then its own gradients."""
    beta, target_scale, free_bits, reduction = options
    grad, grad_reconstruction, grad_kl = grads
    if (
        grad is not None
        and grad_reconstruction is None
        and grad_kl is None
        and not (needs[1] or needs[3] or needs[6] or needs[7])
        and beta is not None
        and not to_differentiate()
    ):
        own: Sequence[Tensor | None] | None = saved[8:]
        if beta != 1 or not passes_on(grad):
            own = scaled_on_gpu(saved[8:], (1.0, beta, beta), grad)
        if own is not None:
            return own[0], None, None, None, *own[1:], *(None,) * 9
    logits, target, mask, row_weight, *latent = saved[:8]
    # A GPU's kernel of the forward alone takes narrow ones.
    latent = [None if t is None else t.to(computed_dtype(t)) for t in latent]
    grad_charged = grad
    if beta is not None and grad is not None:
        grad_charged = grad * beta
        grad_reconstruction = _sum(grad, grad_reconstruction)
    decoder = bernoulli_backward(
        grad_reconstruction,
        (logits, target, None, None, mask, row_weight),
        target_scale,
        saved[8],
        reduction,
        (*needs[:2], False, False, False, needs[3]),
    )
    encoder = kl_grads(
        (*latent, row_weight),
        grad_kl,
        grad_charged,
        free_bits,
        saved[9:],
        reduction,
        (*needs[4:8], needs[3]),
    )
    d_row_weight = _sum(decoder[5], encoder[4])
    return *decoder[:2], None, d_row_weight, *encoder[:4], *(None,) * 7


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _constant(
    needs: Sequence[bool], beta: float | None, terms: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Return the terms of no tracked operand.

    They have no gradient: one of None would pass for it in silence.
    """
    decoder, latent = needs[0] or needs[1] or needs[3], any(needs[3:8])
    total, reconstruction, kl = terms
    constant = [] if decoder else [reconstruction]
    constant += [] if latent else [kl]
    return constant if latent or (decoder and beta is not None) else [total, *constant]


def _forward(ctx: Any, *inputs: Any) -> tuple[Tensor | None, ...]:
    *terms, d_logits, d_mu, d_logvar, sums, count = implementation("vae_loss", inputs[0])(*inputs)
    *operands, ctx.beta, ctx.target_scale, ctx.free_bits, ctx.reduction, _, _, _ = inputs
    ctx.set_materialize_grads(False)
    save(ctx, *operands, d_logits, d_mu, d_logvar)
    constant = _constant(ctx.needs_input_grad, ctx.beta, terms)
    if constant or sums is not None:
        ctx.mark_non_differentiable(*constant, *(t for t in (sums, count) if t is not None))
    return *terms, sums, count


direct_vae_terms = direct_apply("VAETerms", _forward, VAETerms.backward)


def _plain_backward(
    grads: Sequence[Tensor | None],
    operands: Sequence[Tensor | None],
    gradients: Sequence[Tensor | None],
    options: tuple[float, float, float, str],
    needs: Sequence[bool],
) -> Sequence[Tensor | None]:
    logits, *latent, target, mask, weight = operands
    target_scale, beta, free_bits, reduction = options
    if beta != 1:  # those of the KL have it in them, and the KL itself may be asked for
        gradients = gradients[0], *(None,) * 4
    d_logits, d_target, _, _, *d_latent = _gradients(
        (logits, target, mask, weight, *latent, *gradients),
        (needs[0], needs[5], False, False, *needs[1:5], *(False,) * 7),
        # A tensor takes no integer of any size.
        (float(beta), float(target_scale), float(free_bits), reduction),
        grads,
    )
    return d_logits, *d_latent[:4], d_target, None, None


_track = plain_track("VAETerms", _plain_backward)


def plain_vae_terms(
    operands: Sequence[Tensor | None],
    target_scale: float,
    beta: float | Tensor,
    free_bits: float,
    reduction: str,
) -> Sequence[Tensor] | None:
    """Return total, reconstruction and KL of plain operands, else None.

    The operands are logits, target, mu, logvar, prior_mu, prior_logvar, mask and weight.
    """
    options = target_scale, beta, free_bits, reduction
    given: tuple[Any, ...] = (*operands, *options, is_grad_enabled())
    found = _core.plain_vae_loss(*given)
    logits, target, *latent, mask, weight = operands
    terms: Sequence[Tensor] | None = _track(found, options, logits, *latent, target, mask, weight)
    return terms
