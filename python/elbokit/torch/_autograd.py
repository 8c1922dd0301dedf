"""What the autograd functions of this package share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["scaled", "to_differentiate", "with_signature"]

_F = TypeVar("_F", bound=Callable[..., Any])


def with_signature(forward: _F) -> _F:
    """Store the signature of the forward of an autograd function with it.

    ``Function.apply`` asks `inspect` for it in every call, which without this takes as long as
    a small loss.
    """
    forward.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    return forward


def to_differentiate() -> bool:
    """Whether the running backward will itself be differentiated (``create_graph=True``).

    A compiled backward is never differentiated, although it is traced with gradients enabled.
    """
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def scaled(saved: Tensor, grad: Tensor) -> Tensor:
    """Return ``saved * grad``, without a pass over `saved` if `grad` is one, as it usually is.

    That a CPU scalar is exactly one can be seen for free; the check would stop a GPU. `saved` is
    handed out only when the graph dies with this backward, for its next owner may write to it.
    """
    if (
        not torch.compiler.is_compiling()
        and type(grad) is Tensor
        and grad.dim() == 0
        and grad.device.type == "cpu"
        and not torch._C._functorch.peek_interpreter_stack()
        and not torch._C._autograd._get_current_graph_task_keep_graph()
        and grad.item() == 1.0
    ):
        return saved
    return saved * grad
