"""Schedules of the KL's weight over the steps of training.

A schedule is any function of the number of steps already taken; that it has no state of its own
makes a resumed run continue as if it had not been interrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from elbokit.torch._checks import check_non_negative, check_positive_int

__all__ = ["Schedule", "cyclical", "is_schedule", "linear_warmup"]

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


def linear_warmup(steps: int, end: float = 1.0) -> Schedule:
    """Return a schedule that rises from 0 to `end` in `steps` steps, and stays there [1]_.

    Parameters
    ----------
    steps : int
        Number of the optimizer's steps.
    end : float, default=1.0
        The weight from then on.

    Returns
    -------
    callable
        For ``VAETrainer(beta=...)``.

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
        Greatest weight.

    Returns
    -------
    callable
        For ``VAETrainer(beta=...)``.

    References
    ----------
    .. [1] H. Fu et al., "Cyclical Annealing Schedule: A Simple Approach to Mitigating KL
       Vanishing", 2019, arXiv:1903.10145.
    """
    ratio = check_non_negative("ratio", ratio)
    if not 0 < ratio <= 1:
        raise ValueError(f"`ratio` is {ratio}, expected a number in (0, 1]")
    return _Cyclical(check_positive_int("period", period), ratio, check_non_negative("end", end))


def is_schedule(beta: object) -> bool:
    """Whether `beta` is one of this module's schedules, which their text identifies."""
    return isinstance(beta, (_LinearWarmup, _Cyclical))
