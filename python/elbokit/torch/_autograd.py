"""What the autograd functions of this package share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = [
    "direct",
    "direct_apply",
    "eager_twin",
    "is_batched",
    "passes_on",
    "scaled",
    "to_differentiate",
    "with_signature",
]

_F = TypeVar("_F", bound=Callable[..., Any])
_PLAIN = (Tensor, torch.nn.Parameter)


def with_signature(forward: _F) -> _F:
    """Store the signature of the forward of an autograd function with it.

    ``Function.apply`` asks `inspect` for it in every call, which without this takes as long as
    a small loss.
    """
    forward.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    return forward


def direct(*tensors: Tensor | None) -> bool:
    """Whether these tensors may go to the kernels without torch's dispatcher.

    True for plain CPU tensors that nothing traces, transforms or intercepts. The way through the
    dispatcher takes longer than a small loss.
    """
    if (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._get_tracing_state() is not None
    ):
        return False
    for t in tensors:  # all() takes twice the time
        if t is not None and not (type(t) in _PLAIN and t.is_cpu and t.layout is torch.strided):
            return False
    return True


def direct_apply(function: type[torch.autograd.Function], forward: Callable[..., Any]) -> Any:
    """Return the ``apply`` of a function like `function` for operands that are `direct`.

    `forward` takes the context first and saves what the backward needs: the form that torch calls
    without looking at its signature, and cannot transform.
    """
    body = {"forward": staticmethod(forward), "backward": staticmethod(function.backward)}
    twin = type(function.__name__, (torch.autograd.Function,), body)
    # Without the wrapper that looks for transforms.
    return super(torch.autograd.Function, twin).apply  # type: ignore[misc]


def eager_twin(function: type[torch.autograd.Function], implementation: Callable[..., Any]) -> Any:
    """Return `direct_apply` of `function` with `implementation` in place of its operator.

    Shorter to write than a forward of one's own, and slower by some microseconds: the gradients
    that the implementation returns pass as outputs.
    """

    def forward(ctx: Any, *inputs: Any) -> Any:
        output = implementation(*inputs)
        function.setup_context(ctx, inputs, output)
        return output

    return direct_apply(function, forward)


def to_differentiate() -> bool:
    """Whether the running backward will itself be differentiated (``create_graph=True``).

    A compiled backward is never differentiated, although it is traced with gradients enabled.
    """
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def is_batched(grad: Tensor) -> bool:
    """Whether `grad` stands for several, as of ``torch.autograd.grad(is_grads_batched=True)``."""
    return bool(torch._C._functorch.is_legacy_batchedtensor(grad))


def passes_on(grad: Tensor) -> bool:
    """Whether gradients that were saved for an upstream one of 1 may be handed out as they are.

    That a CPU scalar is exactly one can be seen for free; the check would stop a GPU. What is
    handed out must die with the graph in this backward, for its next owner may write to it.
    """
    return (
        not torch.compiler.is_compiling()
        and type(grad) is Tensor
        and grad.dim() == 0
        and grad.is_cpu
        and not torch._C._functorch.peek_interpreter_stack()
        and not is_batched(grad)
        and not torch._C._autograd._get_current_graph_task_keep_graph()
        and grad.item() == 1.0
    )


def scaled(saved: Tensor, grad: Tensor) -> Tensor:
    """Return ``saved * grad``, without a pass over `saved` if it `passes_on`."""
    return saved if passes_on(grad) else saved * grad
