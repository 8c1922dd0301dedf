"""What the autograd functions of this package share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["direct", "eager_twin", "scaled", "to_differentiate", "with_signature"]

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
    return all(t is None or (type(t) in _PLAIN and t.is_cpu) for t in tensors)


def eager_twin(function: type[torch.autograd.Function], forward: Callable[..., Any]) -> Any:
    """Return the ``apply`` of a function like `function` with another forward.

    It has the forward of one step that torch takes without looking at its signature, and cannot
    be transformed: it is for operands that are `direct`.
    """

    def forward_and_save(ctx: Any, *inputs: Any) -> Any:
        output = forward(*inputs)
        function.setup_context(ctx, inputs, output)  # type: ignore[arg-type]
        return output

    body = {"forward": staticmethod(forward_and_save), "backward": function.backward}
    twin = type(function.__name__, (torch.autograd.Function,), body)
    # Without the wrapper that looks for transforms.
    return super(torch.autograd.Function, twin).apply  # type: ignore[misc]


def to_differentiate() -> bool:
    """Whether the running backward will itself be differentiated (``create_graph=True``).

    A compiled backward is never differentiated, although it is traced with gradients enabled.
    """
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def scaled(saved: Tensor, grad: Tensor, factor: float = 1.0) -> Tensor:
    """Return ``saved * grad * factor``, without a pass over `saved` if it stays as it is.

    That a CPU scalar is exactly one can be seen for free; the check would stop a GPU. `saved` is
    handed out only when the graph dies with this backward, for its next owner may write to it.
    """
    if (
        factor == 1.0
        and not torch.compiler.is_compiling()
        and type(grad) is Tensor
        and grad.dim() == 0
        and grad.is_cpu
        and not torch._C._functorch.peek_interpreter_stack()
        and not torch._C._autograd._get_current_graph_task_keep_graph()
        and grad.item() == 1.0
    ):
        return saved
    return saved * (grad if factor == 1.0 else grad * factor)
