"""What the autograd functions of this package share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._C import (
    _are_functorch_transforms_active,
    _get_tracing_state,
    _len_torch_dispatch_stack,
)

from elbokit import _core
from elbokit.torch import _backends, _cuda
from elbokit.torch._reduction import storage_order
from elbokit.torch._transforms import has_dual_numbers

__all__ = [
    "all_scaled",
    "direct",
    "direct_apply",
    "eager_twin",
    "in_backward",
    "is_batched",
    "keep",
    "kept",
    "own_multiples",
    "passes_on",
    "products",
    "save",
    "scaled",
    "scaled_on_gpu",
    "to_differentiate",
    "undisturbed",
    "unpacked",
    "with_signature",
]

# The default hooks of saved tensors, or None. Before 2.8 torch does not tell: there may be some.
_saved_tensors_hooks: Callable[[bool], Any] = getattr(
    torch._C._autograd, "_top_saved_tensors_default_hooks", lambda ignore_tracing: ()
)

# Whether there may be another backward after the one that is running.
_keeps_graph: Callable[[], bool] = torch._C._autograd._get_current_graph_task_keep_graph

_F = TypeVar("_F", bound=Callable[..., Any])
_PLAIN = (Tensor, torch.nn.Parameter)


def with_signature(forward: _F) -> _F:
    """Store the signature of the forward of an autograd function with it.

    ``Function.apply`` asks `inspect` for it in every call, which without this takes as long as
    a small loss.
    """
    forward.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    return forward


def undisturbed() -> bool:
    """Whether nothing traces, transforms or intercepts what is done to tensors."""
    return not (
        torch.compiler.is_compiling()
        or _are_functorch_transforms_active()
        or _len_torch_dispatch_stack()
        or _get_tracing_state() is not None
        or has_dual_numbers()
    )


def direct(*tensors: Tensor | None) -> bool:
    """Whether these tensors may go to the kernels without torch's dispatcher.

    True for plain tensors, all on the CPU or all on one GPU, that are `undisturbed`. The way
    through the dispatcher takes longer than a small loss.
    """
    if not undisturbed():
        return False
    for t in tensors:  # all() takes twice the time
        if t is not None and not (type(t) in _PLAIN and t.is_cpu and t.layout is torch.strided):
            return t.is_cuda and _on_one_gpu(tensors)
    return True


def _on_one_gpu(tensors: Sequence[Tensor | None]) -> bool:
    given = [t for t in tensors if t is not None]
    device = given[0].device
    return all(
        type(t) in _PLAIN and t.is_cuda and t.device == device and t.layout is torch.strided
        for t in given
    )


def direct_apply(name: str, forward: Callable[..., Any], backward: Callable[..., Any]) -> Any:
    """Return the ``apply`` of an autograd function for operands that are `direct`.

    `forward` takes the context first and saves what `backward` needs: the form that torch calls
    without looking at its signature, and cannot transform.
    """
    body = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    twin = type(name, (torch.autograd.Function,), body)
    # Without the wrapper that looks for transforms.
    return super(torch.autograd.Function, twin).apply  # type: ignore[misc]


def eager_twin(function: type[torch.autograd.Function], operator: str) -> Any:
    """Return `direct_apply` of `function` with the implementation in place of its operator.

    Shorter to write than a forward of one's own, and slower by some microseconds: the gradients
    that the implementation returns pass as outputs.
    """

    def forward(ctx: Any, *inputs: Any) -> Any:
        output = _backends.implementation(operator, inputs[0])(*inputs)
        function.setup_context(ctx, inputs, output)
        return output

    return direct_apply(function.__name__, forward, function.backward)


def save(ctx: Any, *tensors: Tensor | None) -> None:
    """Save for the backward, which takes them by `unpacked`."""
    ctx.save_for_backward(*tensors)
    ctx.owned = torch.compiler.is_compiling() or _saved_tensors_hooks(False) is None


def unpacked(ctx: Any, n_operands: int) -> tuple[Any, ...]:
    """Return what was saved: operands, then gradients that are this backward's own to write to.

    What hooks of saved tensors hand out may be kept, or shared, by their owner.
    """
    saved: tuple[Any, ...] = ctx.saved_tensors  # once: a checkpoint's hooks ask for that
    if ctx.owned:
        return saved
    return *saved[:n_operands], *_copies(saved[n_operands:])


def _copies(gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [None if g is None else g.clone() for g in gradients]


def keep(ctx: Any, operands: Sequence[Tensor | None], gradients: Sequence[Tensor | None]) -> None:
    """Save operands for the backward, and gradients that nothing but `kept` has to do with.

    As an attribute these take less time than as saved tensors, which they are where hooks ask for
    what is saved.
    """
    alone = _saved_tensors_hooks(False) is None
    ctx.save_for_backward(*operands, *(() if alone else gradients))
    ctx.count, ctx.gradients = len(operands), gradients if alone else None


def kept(ctx: Any, saved: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """Return operands and gradients of `saved`, the saved tensors; as of `unpacked`."""
    gradients, count = ctx.gradients, ctx.count
    if gradients is None:
        return saved[:count], _copies(saved[count:])
    if not (torch.compiler.is_compiling() or _keeps_graph()):
        ctx.gradients = None  # who gets them is then the only owner
    return saved, gradients


def to_differentiate() -> bool:
    """Whether the running backward will itself be differentiated (``create_graph=True``).

    Or is, where numbers may be dual. A compiled backward is never differentiated, although it is
    traced with gradients enabled.
    """
    differentiable = torch.is_grad_enabled() or has_dual_numbers()
    return differentiable and not torch.compiler.is_compiling()


def is_batched(grad: Tensor) -> bool:
    """Whether `grad` stands for several, as of ``torch.autograd.grad(is_grads_batched=True)``."""
    return bool(torch._C._functorch.is_legacy_batchedtensor(grad))


def in_backward(operator: str, grad: Tensor, *operands: Tensor | None) -> Callable[..., Any]:
    """Return what a backward calls: the implementation for operands that are `direct`."""
    if direct(grad, *operands) and not is_batched(grad):
        short: Callable[..., Any] = _backends.implementation(operator, grad)
        return short
    run: Callable[..., Any] = getattr(torch.ops.elbokit, operator).default
    return run


def _is_last() -> bool:
    """Whether what was saved dies in the running backward, which is not recorded itself."""
    return not (
        torch.compiler.is_compiling()
        or torch.is_grad_enabled()
        or has_dual_numbers()
        or _are_functorch_transforms_active()
        or _keeps_graph()
    )


def passes_on(grad: Tensor) -> bool:
    """Whether gradients that were saved for an upstream one of 1 may be handed out as they are.

    That a CPU scalar is exactly one can be seen for free; the check would stop a GPU. What is
    handed out must die with the graph in this backward, for its next owner may write to it, and
    not be differentiated.
    """
    return _is_last() and _core.is_one_tensor(grad)


def own_multiples(
    gradients: Sequence[Tensor | None], grad: Tensor
) -> Sequence[Tensor | None] | None:
    """Return gradients that `keep` kept times `grad`, in their memory; None where that cannot be.

    The usual case of `products`, with nothing asked that is known of what `keep` keeps.
    """
    if not _is_last():
        return None
    if not _core.is_one_tensor(grad):
        if type(grad) is not Tensor or not grad.is_cpu or is_batched(grad):
            return None
        for gradient in gradients:
            if gradient is not None:
                gradient.mul_(grad)
    return gradients


def _frees_graph(grad: Tensor) -> bool:
    """Whether this is a plain backward on the CPU after which what was saved is no more."""
    return (
        not torch.compiler.is_compiling()
        and type(grad) is Tensor
        and _backends.on_cpu(grad)
        and not torch._C._functorch.peek_interpreter_stack()
        and not is_batched(grad)
        and not _keeps_graph()
    )


def scaled(saved: Tensor, grad: Tensor) -> Tensor:
    """Return ``saved * grad``: `all_scaled` for one."""
    product = all_scaled((saved,), grad)[0]
    assert product is not None
    return product


def all_scaled(saved: Sequence[Tensor | None], grad: Tensor) -> tuple[Tensor | None, ...]:
    """Return each of `saved` times `grad`, without a pass if that is 1 (see `passes_on`)."""
    return tuple(saved) if passes_on(grad) else products(saved, grad)


def products(saved: Sequence[Tensor | None], grad: Tensor) -> tuple[Tensor | None, ...]:
    """Return each of `saved` times `grad`.

    In a backward that frees its graph, the memory of `saved` is that of the results: fresh pages
    would take longer than the products.
    """
    on_gpu = scaled_on_gpu(saved, (1.0,) * len(saved), grad)
    if on_gpu is not None:
        return tuple(on_gpu)
    dies = _frees_graph(grad)
    return tuple(None if s is None else _product(s, grad, dies) for s in saved)


def _product(saved: Tensor, grad: Tensor, dies: bool) -> Tensor:
    in_place = dies and type(saved) is Tensor and _fills_its_memory(saved)
    return saved.mul_(grad) if in_place else saved * grad


def scaled_on_gpu(
    saved: Sequence[Tensor | None], factors: Sequence[float], grad: Tensor
) -> list[Tensor | None] | None:
    """Return each of `saved` times its factor and `grad`, in one launch; None where that cannot be.

    What dies with the graph in this backward is overwritten, or left as it is where it is
    multiplied by 1: only the GPU need see the numbers.
    """
    if (
        torch.compiler.is_compiling()
        or _backends.on_cpu(grad)
        or grad.dim() > 0
        or grad.dtype not in (torch.float32, torch.float64)
        or not direct(grad, *saved)
        or is_batched(grad)
        or not all(s is None or _fills_its_memory(s) for s in saved)
    ):
        return None
    dies = not _keeps_graph()
    return _cuda.scale(saved, factors, grad, dies)


def _fills_its_memory(tensor: Tensor) -> bool:
    # One that came through the hooks of saved tensors may be anything.
    dense = tensor.is_contiguous() or storage_order(tensor) is not None
    return dense and tensor.is_floating_point() and not tensor.is_neg()
