"""Schedules over the steps of training: of the KL's weight or capacity, of the learning rate.

A schedule is any function of the number of steps already taken; that it has no state of its own
makes a resumed run continue as if it had not been interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from elbokit.torch._checks import check_non_negative, check_positive_int

__all__ = [
    "LearningRates",
    "Schedule",
    "cosine_decay",
    "cyclical",
    "is_schedule",
    "linear_warmup",
    "value_at",
]

Schedule = Callable[[int], float]


@dataclass(frozen=True, repr=False)
class _LinearWarmup:
    steps: int
    end: float

    def __call__(self, step: int) -> float:
        return self.end * min(1.0, step / self.steps)

    def __repr__(self) -> str:
        return f"linear_warmup({self.steps}, {self.end})"


@dataclass(frozen=True, repr=False)
class _Cyclical:
    period: int
    ratio: float
    end: float

    def __call__(self, step: int) -> float:
        return self.end * min(1.0, step % self.period / (self.ratio * self.period))

    def __repr__(self) -> str:
        return f"cyclical({self.period}, {self.ratio}, {self.end})"


@dataclass(frozen=True, repr=False)
class _CosineDecay:
    steps: int
    end: float

    def __call__(self, step: int) -> float:
        part = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps)))
        return self.end + (1 - self.end) * part

    def __repr__(self) -> str:
        return f"cosine_decay({self.steps}, {self.end})"


def linear_warmup(steps: int, end: float = 1.0) -> Schedule:
    """Return a schedule that rises from 0 to `end` in `steps` steps, and stays there [1]_.

    Parameters
    ----------
    steps : int
        Number of the optimizer's steps.
    end : float, default=1.0
        The value from then on.

    Returns
    -------
    callable
        For `VAETrainer`'s `beta`, `capacity` or `lr_schedule`.

    References
    ----------
    .. [1] S. R. Bowman et al., "Generating Sentences from a Continuous Space", 2016,
       arXiv:1511.06349.
    """
    return _LinearWarmup(check_positive_int("steps", steps), check_non_negative("end", end))


def cyclical(period: int, ratio: float = 0.5, end: float = 1.0) -> Schedule:
    """Return a schedule that rises from 0 to `end` again in every period [1]_.

    Parameters
    ----------
    period : int
        Length of a cycle, in the optimizer's steps.
    ratio : float, default=0.5
        Part of the cycle in which the weight rises, in (0, 1]; it stays at `end` for the rest.
    end : float, default=1.0
        Greatest value.

    Returns
    -------
    callable
        For `VAETrainer`'s `beta`, `capacity` or `lr_schedule`.

    References
    ----------
    .. [1] H. Fu et al., "Cyclical Annealing Schedule: A Simple Approach to Mitigating KL
       Vanishing", 2019, arXiv:1903.10145.
    """
    ratio = check_non_negative("ratio", ratio)
    if not 0 < ratio <= 1:
        raise ValueError(f"`ratio` is {ratio}, expected a number in (0, 1]")
    return _Cyclical(check_positive_int("period", period), ratio, check_non_negative("end", end))


def cosine_decay(steps: int, end: float = 0.0) -> Schedule:
    """Return a schedule that falls from 1 to `end` in `steps` steps, by half a cosine [1]_.

    Parameters
    ----------
    steps : int
        Number of the optimizer's steps.
    end : float, default=0.0
        The value from then on.

    Returns
    -------
    callable
        For `VAETrainer`'s `lr_schedule`.

    References
    ----------
    .. [1] I. Loshchilov and F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts",
       2017, arXiv:1608.03983.
    """
    return _CosineDecay(check_positive_int("steps", steps), check_non_negative("end", end))


def is_schedule(value: object) -> bool:
    """Whether `value` is one of this module's schedules, which their text identifies."""
    return isinstance(value, (_LinearWarmup, _Cyclical, _CosineDecay))


def value_at(name: str, value: float | Schedule, step: int) -> float:
    """Return a number, or what a schedule says before step `step`, checked."""
    return check_non_negative(name, value(step)) if callable(value) else value


class LearningRates:
    """The learning rates of an optimizer's groups, each times a schedule.

    Those that the groups have at first are what is multiplied, so make it before a checkpoint is
    loaded.

    Parameters
    ----------
    optimizer : Optimizer
        Its groups are changed.
    schedule : callable or None
        Gives the factor; without one nothing is changed.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: Schedule | None) -> None:
        self._optimizer, self._schedule = optimizer, schedule
        self._given = [float(group.get("lr", math.nan)) for group in optimizer.param_groups]
        if schedule is not None:
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):  # that of the caller stays as it is
                    group["lr"] = group["lr"].clone()

    def set(self, step: int) -> dict[str, float]:
        """Set them for the step; return that of the first group, for the history."""
        if self._schedule is None:
            return {}
        factor = value_at("lr_schedule", self._schedule, step)
        # Anew each time: a loaded state brings groups of its own.
        for group, given in zip(self._optimizer.param_groups, self._given, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(factor * given)
            else:
                group["lr"] = factor * given
        return {"lr": factor * self._given[0]}
